"""No secret shows on a live droplet: the values themselves are looked for wherever a person could look."""

import pytest

from settings import secrets

#: Reads patterns, one a line, from stdin; prints where one of them occurs, never the pattern itself.
LOOK = r"""
import os, re, subprocess, sys
patterns = [line.encode() for line in sys.stdin.read().split("\n") if line]
def look(where, content):
    for number, pattern in enumerate(patterns):
        if pattern in content:
            print(f"{number} {where}")
def mode(path):
    try:
        return os.lstat(path).st_mode
    except OSError:  # gone meanwhile
        return 0
def content(path):
    try:
        return open(path, "rb").read() if os.path.getsize(path) < 50_000_000 else b""
    except OSError:
        return b""
place = sys.argv[1]
if place == "argv":
    for pid in filter(str.isdigit, os.listdir("/proc")):
        look(f"/proc/{pid}/cmdline", content(f"/proc/{pid}/cmdline"))
elif place == "inspect":
    ids = subprocess.run(["docker", "ps", "-aq"], capture_output=True, text=True, check=True).stdout.split()
    assert ids, "no container to inspect"
    look("docker inspect", subprocess.run(["docker", "inspect", *ids], capture_output=True, check=True).stdout)
elif place == "journal":
    look("journal", subprocess.run(["journalctl", "--no-pager", "-o", "cat"], capture_output=True, check=True).stdout)
elif place == "container logs":
    for name in subprocess.run(["docker", "ps", "-a", "--format", "{{.Names}}"], capture_output=True, text=True).stdout.split():
        done = subprocess.run(["docker", "logs", name], capture_output=True)
        look(f"docker logs {name}", done.stdout + done.stderr)
elif place == "units":
    for folder in ("/etc/systemd/system", "/run/systemd/system"):
        for root, _, files in os.walk(folder):
            for file in files:
                look(os.path.join(root, file), content(os.path.join(root, file)))
elif place == "readable files":
    for top in ("/etc", "/opt", "/srv", "/usr/local", "/home", "/root", "/tmp", "/var/lib/memory-droplet", "/var/tmp", "/var/log", "/run"):
        for root, folders, files in os.walk(top):
            folders[:] = [f for f in folders if mode(os.path.join(root, f)) & 0o001]
            for file in files:
                path = os.path.join(root, file)
                if mode(path) & 0o170004 == 0o100004:
                    look(path, content(path))
print("looked")
"""


@pytest.fixture(scope="module")
def patterns(droplet):
    """Every form of every secret that is long enough not to occur by chance, with its name."""
    found = [
        (name, form)
        for name, forms in secrets.revealed(droplet.name).items()
        for form in forms
        if len(form) >= 12
    ]
    assert len(found) > 20
    return found


def look(droplet, patterns, place):
    """Which secret was found where on the host; the values travel over SSH's stdin only."""
    values = "\n".join(form for _, form in patterns)
    quoted = LOOK.replace("'", "'\\''")
    done = droplet.run(f"python3 -c '{quoted}' '{place}'", input_text=values)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "looked"
    return sorted({f"{patterns[int(line.split()[0])][0]} in {line.split(' ', 1)[1]}" for line in lines[:-1]})


@pytest.mark.parametrize("place", ["argv", "inspect", "journal", "container logs", "units", "readable files"])
def test_no_secret_is_found(droplet, patterns, place):
    assert look(droplet, patterns, place) == []


def test_the_look_finds_a_planted_secret(droplet, patterns):
    name, value = patterns[0]
    droplet.run("umask 022; cat > /var/tmp/planted", input_text=value)
    try:
        assert look(droplet, patterns, "readable files") == [f"{name} in /var/tmp/planted"]
    finally:
        droplet.run("rm /var/tmp/planted")


def test_secrets_lie_in_a_folder_that_only_root_enters(host):
    folder = host.file("/etc/memory-droplet/secrets")
    assert (folder.user, folder.group, folder.mode) == ("root", "root", 0o700)
    loose = host.check_output("find /etc/memory-droplet/secrets -type f -perm /077")
    assert loose == ""
