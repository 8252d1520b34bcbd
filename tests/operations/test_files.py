"""Bundles and secret files, written for real on the machine that runs the tests."""

import contextlib
import getpass
import grp
import os
import stat
import subprocess
import threading

import pytest

from operations import BundleFile, bundle, secret_file
from operations.file_states import PROBE, parse_probe
from operations.file_writing import write_file
from operations.secret_text import HiddenLines
from operations.shell import script

USER, GROUP = getpass.getuser(), grp.getgrgid(os.getgid()).gr_name
SECRET = "correct horse\nbattery staple"


class Hidden:
    """A secret that refuses to become text, as ``settings.secrets.Secret`` does."""

    def reveal(self):
        return SECRET

    def __str__(self):
        raise TypeError("a secret became text")

    __repr__ = __str__

    def __format__(self, spec):
        raise TypeError("a secret was formatted")


def mode(path):
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"


@pytest.fixture
def declared(tmp_path):
    """A bundle with a bit of everything; the values may be changed."""
    return {
        "directories": [(str(tmp_path / "etc"), USER, GROUP, "0750")],
        "files": [
            BundleFile(str(tmp_path / "etc/a.conf"), "one\ntwo\n", USER, GROUP, "0640"),
            BundleFile(str(tmp_path / "etc/sp ace 'quo\"te.bin"), b"\x00\xff$HOME", USER, GROUP, "0600"),
            BundleFile(str(tmp_path / "new/parent/empty"), "", USER, GROUP, "0644"),
        ],
        "absent": [str(tmp_path / "old"), str(tmp_path / "old-directory")],
    }


def test_a_bundle_is_applied_once_and_then_clean(this_machine, declared, tmp_path):
    (tmp_path / "old").write_text("x")
    (tmp_path / "old-directory/sub").mkdir(parents=True)
    planned = this_machine.run(bundle, **declared)
    done = this_machine.run(bundle, executing=True, **declared)
    assert (done.failed, len(done.run)) == ("", 6)
    assert done.run == planned.run
    assert (tmp_path / "etc/a.conf").read_text() == "one\ntwo\n"
    assert (tmp_path / "etc/sp ace 'quo\"te.bin").read_bytes() == b"\x00\xff$HOME"
    assert (tmp_path / "new/parent/empty").read_bytes() == b""
    assert (mode(tmp_path / "etc"), mode(tmp_path / "etc/a.conf")) == ("0750", "0640")
    assert not (tmp_path / "old").exists()
    assert not (tmp_path / "old-directory").exists()
    assert this_machine.run(bundle, executing=True, **declared).run == []
    assert sorted(p.name for p in (tmp_path / "etc").iterdir()) == ["a.conf", "sp ace 'quo\"te.bin"]


def test_a_bundle_asks_for_everything_at_once(fake_host, declared):
    assert len(fake_host.run(bundle, diff=False, **declared).facts) == 1


def damage_content(root):
    (root / "etc/a.conf").write_text("one\nthree\n")


def damage_mode(root):
    (root / "etc/a.conf").chmod(0o666)


def damage_directory(root):
    (root / "etc").chmod(0o777)


def damage_link(root):
    (root / "elsewhere").write_text("keep me")
    (root / "etc/a.conf").unlink()
    (root / "etc/a.conf").symlink_to(root / "elsewhere")


def damage_missing(root):
    (root / "new/parent/empty").unlink()


def damage_old(root):
    (root / "old").symlink_to("/nowhere")


DAMAGE = {
    "content": (damage_content, ["-three", "+two"]),
    "mode": (damage_mode, ["mode 0666 -> 0640"]),
    "mode of a directory": (damage_directory, ["mode 0777 -> 0750"]),
    "a link in its place": (damage_link, ["+one", "+two"]),
    "a missing file": (damage_missing, ["create "]),
    "a thing that should be absent": (damage_old, ["remove "]),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_one_command_and_is_shown(this_machine, declared, tmp_path, case):
    this_machine.run(bundle, executing=True, **declared)
    damage, shown = DAMAGE[case]
    damage(tmp_path)
    planned = this_machine.run(bundle, **declared)
    assert len(planned.run) == 1
    assert [line for line in shown if line not in planned.said] == []
    assert this_machine.run(bundle, executing=True, **declared).run == planned.run
    assert this_machine.run(bundle, **declared).run == []
    if case == "a link in its place":
        assert (tmp_path / "elsewhere").read_text() == "keep me"


def test_without_diff_no_content_is_read_or_shown(this_machine, declared, tmp_path):
    planned = this_machine.run(bundle, diff=False, **declared)
    assert "two" not in planned.said


def test_owners_may_be_numbers(this_machine, tmp_path):
    file = BundleFile(str(tmp_path / "a"), "x", str(os.getuid()), str(os.getgid()), "644")
    this_machine.run(bundle, executing=True, files=[file])
    assert this_machine.run(bundle, files=[file]).run == []


MISTAKES = {
    "a relative path": (lambda: BundleFile("etc/a", "", "root", "root", "0644"), "must be absolute"),
    "a path of two lines": (lambda: BundleFile("/a\nb", "", "root", "root", "0644"), "must be absolute"),
    "a mode in words": (lambda: BundleFile("/a", "", "root", "root", "rw"), "must be octal digits"),
    "a mode too large": (lambda: BundleFile("/a", "", "root", "root", "77777"), "between 0000 and 7777"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_in_a_file_is_refused(case):
    make, sentence = MISTAKES[case]
    with pytest.raises(ValueError, match=sentence):
        make()


def test_a_path_that_is_named_twice_is_refused(fake_host):
    file = BundleFile("/a", "", "root", "root", "0644")
    with pytest.raises(ValueError, match="names /a more than once"):
        fake_host.run(bundle, files=[file, file])


def secret(tmp_path, **changes):
    return {"dest": str(tmp_path / "s/KEY"), "content": Hidden(), "user": USER, "group": GROUP} | changes


def test_a_secret_is_written_once_and_then_clean(this_machine, tmp_path):
    done = this_machine.run(secret_file, executing=True, **secret(tmp_path))
    assert (done.failed, len(done.run)) == ("", 1)
    assert (tmp_path / "s/KEY").read_text() == SECRET
    assert mode(tmp_path / "s/KEY") == "0400"
    again = this_machine.run(secret_file, executing=True, **secret(tmp_path))
    assert again.run == []


def test_nothing_shows_a_secret_or_its_digest(this_machine, tmp_path):
    import base64
    import hashlib

    for _ in range(2):
        for executing in (False, True):
            seen = this_machine.run(secret_file, executing=executing, **secret(tmp_path)).everything
            assert len(seen) > 200
            for form in (
                SECRET,
                "battery",
                base64.b64encode(SECRET.encode()).decode()[:12],
                hashlib.sha256(SECRET.encode()).hexdigest(),
            ):
                assert form not in seen


def test_a_secret_that_was_changed_or_opened_is_repaired(this_machine, tmp_path):
    this_machine.run(secret_file, executing=True, **secret(tmp_path))
    key = tmp_path / "s/KEY"
    key.chmod(0o644)
    opened = this_machine.run(secret_file, executing=True, **secret(tmp_path))
    assert (len(opened.run), opened.stdin, mode(key)) == (1, [""], "0400")
    key.chmod(0o600)
    key.write_text("other")
    changed = this_machine.run(secret_file, executing=True, **secret(tmp_path))
    assert (len(changed.run), key.read_text(), mode(key)) == (1, SECRET, "0400")


def test_a_link_to_a_file_with_the_right_content_is_replaced(this_machine, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "elsewhere").write_text(SECRET)
    (tmp_path / "s/KEY").symlink_to(tmp_path / "elsewhere")
    this_machine.run(secret_file, executing=True, **secret(tmp_path))
    assert not (tmp_path / "s/KEY").is_symlink()


def test_a_secret_that_the_host_rotates_keeps_its_content(this_machine, tmp_path):
    (tmp_path / "s").mkdir()
    key = tmp_path / "s/KEY"
    key.write_text("rotated")
    key.chmod(0o400)
    assert this_machine.run(secret_file, executing=True, **secret(tmp_path, keep=True)).run == []
    key.chmod(0o444)
    this_machine.run(secret_file, executing=True, **secret(tmp_path, keep=True))
    assert (key.read_text(), mode(key)) == ("rotated", "0400")


def test_an_open_directory_of_secrets_is_closed(fake_host):
    lines = [
        "same",
        "file\t-\t400\t0\troot\t0\troot\t/etc/memory-droplet/secrets/x/KEY",
        "directory\t-\t755\t0\troot\t0\troot\t/etc/memory-droplet/secrets/x",
    ]
    outcome = fake_host.run(
        secret_file,
        answers={"# compare a secret file": lines},
        dest="/etc/memory-droplet/secrets/x/KEY",
        content=Hidden(),
        user="root",
        group="root",
    )
    assert outcome.summaries == ["set owner and mode: root:root 0700 /etc/memory-droplet/secrets/x"]


def test_a_secret_on_a_bare_host_is_planned(fake_host):
    outcome = fake_host.run(
        secret_file, dest="/etc/memory-droplet/secrets/x/KEY", content=Hidden(), user="root", group="root"
    )
    assert len(outcome.run) == 1
    assert "to be created" in outcome.said


def test_an_upload_that_breaks_off_leaves_the_old_file(tmp_path):
    target = tmp_path / "f"
    target.write_text("old")
    command = write_file(str(target), b"new content", USER, GROUP, "0600")
    done = subprocess.run(
        ["sh", "-c", command.get_raw_value()],
        input=command.connector_arguments["_stdin"][:6],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode != 0
    assert "broke off" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert target.read_text() == "old"


def test_a_directory_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "d").mkdir()
    command = write_file(str(tmp_path / "d"), b"x", USER, GROUP, "0600")
    done = subprocess.run(
        ["sh", "-c", command.get_raw_value()], input="eA==\n", capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "is a directory on the host, a file was to be written" in done.stderr


def test_a_file_is_never_readable_by_others_before_it_is_in_place(tmp_path):
    """The upload is held up in the middle; what is there then is looked at."""
    command = write_file(str(tmp_path / "f"), b"x" * 300, USER, GROUP, "0644")
    encoded = command.connector_arguments["_stdin"]
    process = subprocess.Popen(["sh", "-c", command.get_raw_value()], stdin=subprocess.PIPE, text=True)
    process.stdin.write(encoded[:100])
    process.stdin.flush()
    seen = set()
    appeared = threading.Event()

    def look():
        while process.poll() is None:
            for entry in os.scandir(tmp_path):
                with contextlib.suppress(FileNotFoundError):  # it has got its name meanwhile
                    if entry.name.startswith(".incoming."):
                        seen.add(stat.S_IMODE(entry.stat().st_mode))
                        appeared.set()

    watcher = threading.Thread(target=look)
    watcher.start()
    assert appeared.wait(120)
    assert seen == {0o600}
    process.stdin.write(encoded[100:])
    process.stdin.close()
    watcher.join(120)
    assert process.returncode == 0
    assert mode(tmp_path / "f") == "0644"


def test_the_probe_tells_every_kind_of_thing(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("/nowhere")
    os.mkfifo(tmp_path / "pipe")
    paths = [str(tmp_path / name) for name in ("file", "directory", "link", "pipe", "nothing")]
    done = subprocess.run(
        ["sh", "-c", script(PROBE, *paths).get_raw_value()], capture_output=True, text=True, timeout=30
    )
    states = parse_probe(done.stdout.splitlines())
    assert [states[path].kind for path in paths] == ["file", "directory", "link", "other", "absent"]
    assert states[paths[0]].sha256 == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"


def test_hidden_lines_show_nothing_however_they_are_printed():
    lines = HiddenLines(["secret"])
    assert "secret" not in f"{lines} {lines!r} {lines!s}"
