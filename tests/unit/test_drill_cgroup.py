"""Control groups of both kinds, from what the kernel's files say."""

import subprocess
from pathlib import Path

import pytest

from drill import cgroup
from drill.cgroup import SLICE, Group, Layout, Memory, limit_settings, parse_layout, read_memory
from drill.errors import CannotRunHere

TWO_GIB = 2 * 2**30
HYBRID = """\
tmpfs /sys/fs/cgroup tmpfs rw,relatime,mode=755 0 0
cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,name=systemd 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
"""
UNIFIED = (
    "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime,nsdelegate,memory_recursiveprot 0 0\n"
)


def test_a_hybrid_laptop_is_version_1_with_every_tree():
    layout = parse_layout(HYBRID, systemd=False)
    assert layout.version == 1
    assert layout.memory == Path("/sys/fs/cgroup/memory")
    assert {path.name for path in layout.hierarchies} == {"cpu", "memory", "systemd", "unified"}


def test_a_unified_laptop_is_version_2():
    layout = parse_layout(UNIFIED, systemd=True)
    assert (layout.version, layout.memory) == (2, Path("/sys/fs/cgroup"))


def test_a_hybrid_laptop_whose_memory_controller_is_in_version_2_is_version_2():
    text = "cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
    assert parse_layout(text, systemd=True).memory == Path("/sys/fs/cgroup/unified")


def test_without_control_groups_the_way_out_is_named():
    with pytest.raises(CannotRunHere, match="set DROPLET_HOST"):
        parse_layout("proc /proc proc rw 0 0\n", systemd=False)


def test_on_version_1_a_command_joins_every_tree_and_then_becomes_the_program(tmp_path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "memory").mkdir()
    group = Group(Layout(1, (tmp_path / "cpu", tmp_path / "memory"), tmp_path / "memory", False), "drill-x")
    for directory in group.directories:
        directory.mkdir()
    done = subprocess.run(
        group.command(["echo", "a b", "c"], TWO_GIB), capture_output=True, text=True, check=True
    )
    assert done.stdout == "a b c\n"
    joined = {(directory / "cgroup.procs").read_text() for directory in group.directories}
    assert len(joined) == 1
    assert joined.pop().strip().isdigit()


def test_a_command_does_not_run_outside_of_its_group(tmp_path):
    group = Group(Layout(1, (tmp_path,), tmp_path, False), "drill-removed")
    done = subprocess.run(
        group.command(["echo", "escaped"], None), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (97, "")


def test_with_systemd_and_version_2_a_scope_holds_the_memory():
    group = Group(Layout(2, (Path("/sys/fs/cgroup"),), Path("/sys/fs/cgroup"), True), "drill-x")
    assert group.command(["systemd-nspawn", "--quiet"], TWO_GIB) == [
        "systemd-run",
        "--scope",
        "--quiet",
        "--collect",
        "--unit=drill-x.scope",
        "--slice=drill.slice",
        "--property=Delegate=yes",
        "--property=MemoryMax=2147483648",
        "--property=MemorySwapMax=0",
        "--",
        "systemd-nspawn",
        "--quiet",
    ]
    assert group.memory_directory == Path("/sys/fs/cgroup/drill.slice/drill-x.scope")


def test_without_a_limit_a_scope_has_none():
    group = Group(Layout(2, (Path("/sys/fs/cgroup"),), Path("/sys/fs/cgroup"), True), "drill-x")
    assert not [word for word in group.command(["true"], None) if "Memory" in word]


@pytest.mark.parametrize(
    ("others", "asked"), [([], [["systemctl", "stop", "--quiet", SLICE]]), (["b.scope"], [])]
)
def test_the_last_scope_takes_the_slice_along(tmp_path, monkeypatch, others, asked):
    ran = []
    monkeypatch.setattr(cgroup, "succeeds", ran.append)
    group = Group(Layout(2, (tmp_path,), tmp_path, True), "a")
    for directory in (group.directories[0] / "payload", *(tmp_path / SLICE / other for other in others)):
        directory.mkdir(parents=True)
    group.remove()
    assert not group.directories[0].exists()
    assert ran == asked


@pytest.mark.parametrize(
    ("found", "said"), [(None, "no memory limit"), ("max\n", "no memory limit"), ("4096\n", "of 4096 bytes")]
)
def test_a_limit_that_is_not_in_force_is_told(tmp_path, found, said):
    group = Group(Layout(2, (tmp_path,), tmp_path, False), "drill-x")
    group.directories[0].mkdir()
    if found:
        (group.directories[0] / "memory.max").write_text(found)
    with pytest.raises(CannotRunHere, match=f"not held to 2048 MiB.*{said}.*cgroup_disable=memory"):
        group.check_limit(TWO_GIB)


def test_a_limit_in_force_passes(tmp_path):
    group = Group(Layout(1, (tmp_path,), tmp_path, False), "drill-x")
    group.directories[0].mkdir()
    (group.directories[0] / "memory.limit_in_bytes").write_text(f"{TWO_GIB}\n")
    group.check_limit(TWO_GIB)


def test_version_2_without_systemd_enables_controllers_and_sets_the_limit(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids rdma\n")
    (tmp_path / "cgroup.subtree_control").write_text("cpu\n")
    group = Group(Layout(2, (tmp_path,), tmp_path, False), "drill-x")
    group.directories[0].mkdir()
    for name in ("memory.max", "memory.swap.max"):
        (group.directories[0] / name).write_text("max\n")
    group.prepare(TWO_GIB)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpuset +io +memory +pids"
    assert (group.directories[0] / "memory.max").read_text() == "2147483648"
    assert (group.directories[0] / "memory.swap.max").read_text() == "0"


def test_version_1_limits_memory_before_memory_with_swap():
    assert limit_settings(1, TWO_GIB) == [
        ("memory.limit_in_bytes", "2147483648"),
        ("memory.memsw.limit_in_bytes", "2147487744"),
    ]


def test_memory_of_version_1_leaves_out_idle_cache_and_sums_the_kills_of_the_tree(tmp_path):
    (tmp_path / "docker").mkdir()
    for name, text in {
        "memory.usage_in_bytes": "1000\n",
        "memory.stat": "cache 700\ntotal_inactive_file 300\n",
        "memory.max_usage_in_bytes": "1500\n",
        "memory.limit_in_bytes": "2147483648\n",
        "memory.failcnt": "7\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        "docker/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert read_memory(tmp_path, 1) == Memory(used=700, peak=1500, limit=TWO_GIB, failcnt=7, oom_kills=3)


def test_memory_of_version_2(tmp_path):
    for name, text in {
        "memory.current": "1000\n",
        "memory.stat": "anon 500\ninactive_file 300\n",
        "memory.peak": "1500\n",
        "memory.max": "2147483648\n",
        "memory.events": "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert read_memory(tmp_path, 2) == Memory(used=700, peak=1500, limit=TWO_GIB, failcnt=7, oom_kills=2)


def test_memory_of_a_stopped_droplet_is_nothing(tmp_path):
    assert read_memory(tmp_path / "gone", 2) == Memory(0, 0, 0, 0, 0)
