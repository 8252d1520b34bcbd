"""Local droplets: like a small server from inside, and gone without a trace from outside.

All of it happens in a state directory of its own, on a wire of its own, beside whatever else runs here.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from drill import machine, network, nspawn, paths, records, rootfs, work
from drill.cgroup import SLICE, layout
from drill.scan import scan
from tests.drill.deploying import PROJECT

FIRST = "drilltest-one"
SECOND = "drilltest-two"
KILLED = "drilltest-killed"
GIB = 2**30
PATIENT_CURL = "curl -sf --retry 30 --retry-all-errors --retry-delay 1"


@pytest.fixture(scope="module", autouse=True)
def own_state(tmp_path_factory):
    """A state directory of its own; whatever the tests leave is removed."""
    directory = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("DROPLET_")]:
            patch.delenv(name)
        patch.setenv("MEMORY_DROPLET_STATE", str(directory))
        yield directory
        for name in [record.name for record in records.load_all()] or [FIRST]:
            machine.remove(name)


@pytest.fixture(scope="module")
def first():
    return machine.ensure(FIRST)


@pytest.fixture(scope="module")
def second(first):
    return machine.ensure(SECOND)


def said(droplet, command, **options):
    """What a command prints that has to succeed."""
    done = droplet.run(command, **options)
    assert done.returncode == 0, done.stderr or done.stdout
    return done.stdout.strip()


def boot_id(droplet):
    return said(droplet, "cat /proc/sys/kernel/random/boot_id")


def drill(*arguments, **options):
    """The command as a person types it."""
    return subprocess.run(
        [sys.executable, "-m", "drill.cli", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=600,
        check=False,
        **options,
    )


def test_it_is_a_booted_debian_12_with_all_units_up(first):
    assert said(first, ". /etc/os-release; echo $ID $VERSION_ID") == "debian 12"
    assert said(first, "systemctl is-system-running") == "running"
    assert said(first, "hostname; cat /proc/1/comm") == f"{FIRST}\nsystemd"


def test_it_holds_nothing_that_a_deploy_has_to_install(first):
    found = said(first, "for p in docker nft iptables gpg psql node rsyslogd; do command -v $p; done; true")
    assert found == ""
    assert said(first, "for p in python3 sudo curl ip ps; do command -v $p; done").count("\n") == 4


def test_a_second_up_changes_nothing(first):
    before = boot_id(first)
    assert drill("up", FIRST).returncode == 0
    assert boot_id(first) == before


def test_keys_are_private_and_the_host_key_is_pinned(first, tmp_path):
    for key in (first.key_file, first.state_dir / "ssh_host_ed25519_key"):
        assert key.stat().st_mode & 0o777 == 0o600
    config = tmp_path / "ssh_config"
    strange = tmp_path / "known_hosts"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "k")], check=True)
    strange.write_text(f"{first.address} {(tmp_path / 'k.pub').read_text()}")
    config.write_text(
        first.ssh_config.read_text().replace(str(first.state_dir / "known_hosts"), str(strange))
    )
    refused = subprocess.run(
        ["ssh", "-F", str(config), FIRST, "true"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 255
    assert "Host key verification failed" in refused.stderr


def test_it_trusts_what_the_laptop_trusts(first):
    laptop = set(rootfs.certificates(rootfs.LAPTOP_CERTIFICATES.read_text()))
    droplet = set(rootfs.certificates(said(first, "cat /etc/ssl/certs/ca-certificates.crt")))
    # update-ca-certificates may leave out those that the laptop's own Debian version has dropped.
    assert laptop <= droplet


def test_it_reaches_its_package_mirror(first):
    assert "Reading package lists" in said(first, "apt-get update -q")


def test_it_is_held_to_two_gib(first):
    before = first.memory()
    assert before.limit == 2 * GIB
    greedy = first.run(
        "python3 -c 'import mmap; m = mmap.mmap(-1, 3 << 30); [m.write(bytes(1 << 20)) for _ in range(3 << 10)]'"
    )
    assert greedy.returncode != 0
    after = first.memory()
    # The kernel may exceed a limit by a few pages for allocations that must not fail.
    assert after.peak <= 2 * GIB + 2**20
    assert after.failcnt > before.failcnt
    assert after.oom_kills == before.oom_kills + 1
    assert said(first, "echo still here") == "still here"


def test_systemd_in_it_enforces_limits_of_units(first):
    before = first.memory().oom_kills
    hungry = first.run(
        "systemd-run --wait --quiet -p MemoryMax=50M -p MemorySwapMax=0 python3 -c 'len(b\"x\" * (200 << 20))'"
    )
    assert hungry.returncode != 0
    assert first.memory().oom_kills == before + 1, "also counted once its control group is gone"
    assert (
        first.run(
            "systemd-run --wait --quiet -p MemoryMax=500M python3 -c 'len(b\"x\" * (200 << 20))'"
        ).returncode
        == 0
    )


def test_kernel_settings_are_its_own_and_swap_is_refused(first):
    names = ["vm.swappiness", "kernel.panic", "fs.aio-max-nr"]
    files = [Path("/proc/sys", name.replace(".", "/")) for name in names]
    before = [file.read_text() for file in files]
    changed = {name: int(text) + 7 for name, text in zip(names, before, strict=True)}
    said(first, f"sysctl -qw {' '.join(f'{name}={value}' for name, value in changed.items())}")
    assert said(first, f"sysctl -n {' '.join(names)}").split() == [str(value) for value in changed.values()]
    assert [file.read_text() for file in files] == before
    swaps = Path("/proc/swaps").read_text()
    said(first, "fallocate -l 4M /swap && chmod 600 /swap && mkswap -q /swap")
    assert "not permitted" in first.run("swapon /swap").stderr
    said(first, "rm /swap")
    assert Path("/proc/swaps").read_text() == swaps


def test_what_the_deploy_sets_survives_a_restart(first):
    said(first, "echo vm.swappiness=3 > /etc/sysctl.d/90-test.conf; timedatectl set-timezone Europe/Berlin")
    first.power_off()
    first.start()
    assert said(first, "sysctl -n vm.swappiness; date +%Z")[:1] == "3"
    assert said(first, "readlink /etc/localtime").endswith("Europe/Berlin")


def command_line(pid: int) -> bytes:
    """The command line of a process, nothing once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_docker_in_it_runs_a_container_with_its_limit_and_publishes_a_port(first):
    said(
        first,
        "export DEBIAN_FRONTEND=noninteractive; apt-get update -q; apt-get install -y -q --no-install-recommends "
        "docker.io iptables busybox-static",
        timeout_s=600,
    )
    said(first, "tar -c -C / bin/busybox | docker import - tiny")
    said(first, "docker network create --subnet 172.30.0.0/24 wire")
    said(
        first,
        "docker run -d --name web --network wire --memory 64m --pids-limit 50 --read-only --cap-drop ALL "
        "-p 127.0.0.1:8099:8099 tiny /bin/busybox httpd -f -p 8099 -h /bin",
    )
    assert "200" in said(
        first, f"{PATIENT_CURL} -o /dev/null -w '%{{http_code}}' http://127.0.0.1:8099/busybox"
    )
    limit = (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes"
        if layout().version == 1
        else "/sys/fs/cgroup/memory.max"
    )
    assert said(first, f"docker run --rm --memory 64m tiny /bin/busybox cat {limit}") == str(64 * 2**20)
    # Its processes count as the droplet's, so the droplet's limit holds them too.
    inner = int(said(first, "docker inspect -f '{{.State.Pid}}' web"))
    assert inner > 0
    commands = [command_line(pid) for pid in nspawn.group(_record(FIRST)).processes()]
    assert any(b"httpd\0-f\0-p\08099" in command for command in commands)


def test_it_pulls_by_digest_from_the_registry_of_the_laptop(first):
    said(
        first,
        f'echo \'{{"insecure-registries": ["{first.registry}"]}}\' > /etc/docker/daemon.json; '
        "systemctl restart docker",
    )
    said(
        first,
        f"docker tag tiny {first.registry}/drilltest/tiny:1; docker push -q {first.registry}/drilltest/tiny:1",
    )
    digest = said(first, "docker inspect -f '{{index .RepoDigests 0}}' tiny")
    said(first, f"docker rmi {first.registry}/drilltest/tiny:1; docker pull -q {digest}")


def test_a_neighbour_sees_the_holes_that_a_firewall_has_to_close(first):
    said(first, "docker start web; systemd-run -q --unit=everywhere python3 -m http.server 8123")
    said(first, "systemd-run -q --unit=inside python3 -m http.server --bind 127.0.0.1 8124")
    said(
        first,
        "for port in 8123 8124 8099; do until curl -so /dev/null http://127.0.0.1:$port; do sleep 0.1; done; done",
        timeout_s=120,
    )
    found = scan(FIRST)
    assert set(found.open) == {22, 8123}
    assert 22 in found.open_ipv6
    # Docker before 28 lets a neighbour in to ports published on loopback, in two ways.
    assert "172.30.0.2:8099" in found.routed
    assert 8099 in found.loopback
    said(first, "systemctl stop everywhere inside")


def test_two_droplets_meet_on_the_wire_with_their_own_addresses(first, second):
    assert first.address != second.address
    said(first, "systemd-run -q --unit=who python3 -m http.server 8123")
    said(
        second,
        f"{PATIENT_CURL} -o /dev/null http://{first.address}:8123/",
    )
    assert second.address in said(first, "journalctl -u who -o cat")
    assert sorted(droplet.name for droplet in machine.running()) == [FIRST, SECOND]


def test_status_lists_both_with_their_memory(first, second):
    rows = drill("status").stdout.splitlines()
    assert [row.split()[:3] for row in rows[1:]] == [
        [FIRST, "running", first.address],
        [SECOND, "running", second.address],
    ]
    assert "/ 2048 MiB" in rows[1]


def test_a_clean_power_off_keeps_the_disk(second):
    before = boot_id(second)
    said(second, "echo kept > /root/file")
    second.power_off()
    assert not second.is_running()
    assert drill("ssh", SECOND, "--", "true").stderr == (
        f"drill: The droplet {SECOND} is stopped; start it with `drill up {SECOND}`.\n"
    )
    second.start()
    assert said(second, "cat /root/file") == "kept"
    assert boot_id(second) != before


def test_a_pulled_plug_keeps_what_was_synced_and_ends_every_process(second):
    said(second, "echo synced > /root/file && sync; systemd-run -q sleep 1000")
    second.pull_plug()
    assert nspawn.group(_record(SECOND)).processes() == []
    second.start()
    assert said(second, "cat /root/file") == "synced"
    assert said(second, "systemctl is-system-running") in ("running", "degraded")


def test_a_reboot_from_inside_stops_it_and_up_starts_it_again(second):
    before = boot_id(second)
    second.run("systemctl reboot")
    deadline = time.monotonic() + 180
    while second.is_running() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not second.is_running()
    assert "starting it with its disk as it was" in drill("up", SECOND).stderr
    assert boot_id(second) != before


def _record(name):
    record = records.load(name)
    assert record is not None
    return record


def traces(wire, *droplets):
    """Everything on this computer that belongs to a wire and its droplets, by kind."""
    marks = [
        paths.state_dir().name,
        wire.bridge,
        *(mark for each in droplets for mark in (each.machine, each.veth)),
        *(records.tag(name) for name in ("registry", "openai-double", rootfs.WORK)),
    ]

    def mine(lines):
        return sorted({line for line in lines if any(mark in line for mark in marks)})

    def output(*argv):
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines()

    prefix = wire.subnet.removesuffix(".0/24")
    groups = Path("/sys/fs/cgroup")
    state = paths.state_dir()
    return {
        "interfaces": mine(output("ip", "-o", "link")),
        "addresses and routes": [
            line for line in output("ip", "route", "show", "table", "all") if prefix in line
        ],
        "packet filter rules": mine(output("iptables-save")),
        "control groups": mine(str(path) for path in groups.glob("*/drill*"))
        # The slice holds the groups of every wire, so it is a trace of this one only when it is empty.
        + [str(path) for path in groups.glob(SLICE) if not any(each.is_dir() for each in path.iterdir())],
        "processes": mine(_command_lines()),
        "mounts": mine(Path("/proc/mounts").read_text().splitlines()),
        "network namespaces": mine(output("ip", "netns")),
        "runtime files": mine(str(path) for path in Path("/run/systemd/nspawn").rglob("*")),
        "files": sorted(str(path) for path in state.rglob("*")) if state.is_dir() else [],
        "half made disks": [
            str(path)
            for name in ("building", "partial.tar")
            for path in (paths.cache_dir() / "rootfs").glob(name)
        ],
    }


def _command_lines():
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended while we looked
            continue


def test_down_leaves_the_other_droplet_alone(first, second):
    assert drill("down", SECOND).returncode == 0
    assert said(first, "echo still here") == "still here"
    assert network.current() is not None


def test_the_last_down_leaves_no_trace(first):
    wire = network.current()
    record = _record(FIRST)
    there = traces(wire, record)
    for kind in (
        "interfaces",
        "addresses and routes",
        "packet filter rules",
        "control groups",
        "processes",
        "files",
    ):
        assert there[kind], kind
    assert drill("down", FIRST).returncode == 0
    assert traces(wire, record) == {kind: [] for kind in there}
    assert drill("down", FIRST).stderr.endswith(f"there is no droplet named {FIRST}\n")


# The line of progress after which the run is killed, and how long after.
MOMENTS = [
    ("network: bridge", 0.0),
    ("registry serves", 0.0),
    ("unpacking the disk", 0.0),
    ("unpacking the disk", 0.7),
    ("booting", 0.0),
    ("booting", 0.05),
    ("booting", 0.3),
    ("booting", 1.0),
    ("is up at", 0.0),
]


def killed_up(line, delay_s, sig, begun=lambda: True, **environment):
    """Run `drill up` until a line appears, wait for ``begun``, then kill that one process and no child of it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "drill.cli", "up", KILLED],
        cwd=PROJECT,
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell ignores Ctrl-C for what it runs in the background, and every child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    printed = []
    assert process.stderr is not None
    for each in process.stderr:
        printed.append(each)
        if line in each:
            break
    deadline = time.monotonic() + 180
    while not begun() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(delay_s)
    if sig == signal.SIGKILL:
        os.kill(process.pid, sig)
    else:
        os.killpg(process.pid, sig)
    printed += process.stderr.readlines()
    return process.wait(180), "".join(printed)


def left_over():
    wire = network.current() or network.Wire("drill-none", "10.255.255.0/24")
    record = records.load(KILLED) or records.Record(KILLED, "", "", "")
    return wire, record


@pytest.mark.parametrize(("line", "delay_s"), MOMENTS)
def test_down_removes_what_a_killed_up_left(line, delay_s):
    code, printed = killed_up(line, delay_s, signal.SIGKILL)
    assert line in printed
    assert code in (-signal.SIGKILL, 0)
    wire, record = left_over()
    assert drill("down", KILLED).returncode == 0
    assert [kind for kind, found in traces(wire, record).items() if found] == []


@pytest.mark.parametrize(
    ("line", "delay_s"), [("unpacking the disk", 0.5), ("booting", 0.05), ("booting", 0.6)]
)
def test_up_goes_on_where_a_killed_up_stopped(line, delay_s):
    killed_up(line, delay_s, signal.SIGKILL)
    droplet = machine.ensure(KILLED)
    assert said(droplet, "systemctl is-system-running") == "running"
    wire, record = left_over()
    machine.remove(KILLED)
    assert [kind for kind, found in traces(wire, record).items() if found] == []


def test_ctrl_c_is_one_sentence_and_down_removes_the_rest():
    code, printed = killed_up("booting", 0.2, signal.SIGINT)
    assert code == 130, printed
    assert "everything made so far is written down" in printed
    assert "Traceback" not in printed
    wire, record = left_over()
    assert drill("down", KILLED).returncode == 0
    assert [kind for kind, found in traces(wire, record).items() if found] == []


def test_a_killed_down_is_finished_by_the_next():
    machine.ensure(KILLED)
    wire, record = left_over()
    process = subprocess.Popen([sys.executable, "-m", "drill.cli", "down", KILLED], cwd=PROJECT)
    deadline = time.monotonic() + 180
    while nspawn.is_running(record) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert drill("down", KILLED).returncode == 0
    assert [kind for kind, found in traces(wire, record).items() if found] == []


def test_a_disk_that_is_half_made_when_up_is_killed_is_not_used(tmp_path):
    cold = {"MEMORY_DROPLET_CACHE": str(tmp_path)}
    building = tmp_path / "rootfs" / "building"

    def begun():
        return building.is_dir() and work.group(rootfs.WORK).processes()

    killed_up("making the disk", 2, signal.SIGKILL, begun, **cold)
    assert building.is_dir()
    assert work.group(rootfs.WORK).processes(), "mmdebstrap goes on when its parent is killed"
    assert drill("down", KILLED, env={**os.environ, **cold}).returncode == 0
    assert work.group(rootfs.WORK).processes() == []
    assert not building.exists()
    assert list((tmp_path / "rootfs").iterdir()) == []


def test_a_damaged_cached_disk_is_told_and_made_again(tmp_path):
    cold = {**os.environ, "MEMORY_DROPLET_CACHE": str(tmp_path)}
    good = next((paths.cache_dir() / "rootfs").glob(f"*{rootfs.key()}.json"))
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "rootfs" / good.name).write_text(good.read_text())
    (tmp_path / "rootfs" / good.with_suffix(".tar").name).write_bytes(b"not what was recorded")
    done = drill("up", KILLED, env=cold)
    assert done.returncode == 0, done.stderr
    assert "is damaged (its sha256 is not the recorded one): making it anew" in done.stderr
    recorded = json.loads((tmp_path / "rootfs" / good.name).read_text())
    assert len(recorded["sha256"]) == 64
    assert drill("down", KILLED, env=cold).returncode == 0
