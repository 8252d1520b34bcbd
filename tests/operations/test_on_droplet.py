"""A small service on a booted droplet: bare, killed, healed, damaged, repaired."""

import base64
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from drill import machine
from tests.operations.demo_secret import SECRET

pytestmark = pytest.mark.droplet

HERE = Path(__file__).parent
EVERYTHING = ["Key", "Files", "Service", "Ready", "Script", "Reconcile"]
WATCH = """
import json, os, stat, time
seen, until = set(), time.time() + 60
directory = "/etc/memory-droplet/secrets/demo"
while time.time() < until and not os.path.exists(directory + "/KEY"):
    try:
        for entry in os.scandir(directory):
            found = entry.stat(follow_symlinks=False)
            seen.add((entry.name[:9], oct(stat.S_IMODE(found.st_mode)), found.st_size))
    except FileNotFoundError:
        pass
print(json.dumps(sorted(seen)))
"""


@dataclass(frozen=True)
class Run:
    """What a run of the demo deploy said and listed."""

    code: int
    listed: list[str]
    printed: str


@pytest.fixture(scope="module")
def droplet():
    machine.remove("operations")
    yield machine.ensure("operations")
    machine.remove("operations")


@pytest.fixture(scope="module")
def pyinfra(droplet):
    """Runs the demo deploy: ``pyinfra("--dry")``, ``pyinfra("-y", content="two")``."""

    def run(*flags, **data):
        arguments = [part for key, value in data.items() for part in ("--data", f"{key}={value}")]
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pyinfra",
                "--json",
                *flags,
                *arguments,
                "demo_inventory.py",
                "demo_deploy.py",
            ],
            cwd=HERE,
            env={**os.environ, "DEMO_SSH_CONFIG": str(droplet.ssh_config), "PYINFRA_PROGRESS": "off"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        report = json.loads(done.stdout) if done.stdout.startswith("{") else {"plan": [], "results": None}
        listed = (
            [op["name"] for op in report["results"]["operations"] if op["success"] or op["error"]]
            if report["results"]
            else [op["name"] for op in report["plan"] if op["hosts_with_change"]]
        )
        return Run(done.returncode, listed, done.stdout + done.stderr)

    return run


def test_01_a_dry_run_of_a_bare_machine_lists_everything(pyinfra):
    run = pyinfra("--dry", "--diff", plan=1)
    assert (run.code, run.listed) == (0, EVERYTHING)
    assert "demo.service restart 8" in run.printed


def test_02_the_secret_is_0600_from_its_first_byte(pyinfra, droplet):
    with subprocess.Popen(
        ["ssh", "-F", str(droplet.ssh_config), droplet.name, "python3 -"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as watcher:
        watcher.stdin.write(WATCH)
        watcher.stdin.close()
        # The run dies between the upload and the restart.
        assert pyinfra("-y", die=1).code == -9
        seen = json.loads(watcher.stdout.read())
    modes = {mode for name, mode, size in seen if name == ".incoming"}
    assert "0o600" in modes
    assert modes <= {"0o600", "0o400"}


def test_03_the_run_that_died_is_healed(pyinfra, droplet):
    healed = ["Service", "Ready", "Script", "Reconcile"]
    assert pyinfra("--dry").listed == healed
    assert pyinfra("-y").listed == healed
    assert pyinfra("--dry").listed == pyinfra("-y").listed == []
    assert droplet.run("cat /run/demo.loaded").stdout == "one\n"


def test_04_a_restart_is_not_lost_when_a_run_dies_after_the_upload(pyinfra, droplet):
    before = droplet.run("systemctl show -P MainPID demo").stdout
    assert pyinfra("-y", die=1, content="two").code == -9
    assert droplet.run("cat /run/demo.loaded; systemctl show -P MainPID demo").stdout == f"one\n{before}"
    assert pyinfra("--dry", content="two").listed == ["Service"]
    assert pyinfra("-y", content="two").listed == ["Service"]
    assert droplet.run("cat /run/demo.loaded").stdout == "two\n"
    assert pyinfra("-y", content="two").listed == []


def test_05_a_refused_configuration_leaves_the_service_and_is_reported_again(pyinfra, droplet):
    for _ in range(2):
        run = pyinfra("-y", content="refused")
        assert run.code == 1
        assert "demo.service was left as it is, because its new configuration does not pass" in run.printed
    assert droplet.run("cat /run/demo.loaded; systemctl is-active demo").stdout == "two\nactive\n"
    assert "Service" in pyinfra("--dry", content="refused").listed


def test_06_a_process_that_dies_at_once_is_a_failure_with_its_last_words(pyinfra):
    run = pyinfra("-y", content="dies")
    assert run.code == 1
    assert "but did not stay up, 8 s after systemctl restart; its last lines:" in run.printed
    assert "cannot use that" in run.printed
    assert "Service" in pyinfra("--dry", content="dies").listed
    assert pyinfra("-y", content="two").listed == ["Files", "Service"]


DAMAGE = {
    "the process was stopped": ("systemctl stop demo", ["Service", "Ready"]),
    "it will not start at boot": ("systemctl disable -q demo", ["Service"]),
    "a file was edited": ("echo x >> /etc/memory-droplet/demo/conf", ["Files", "Service"]),
    "a file was added that should be absent": (
        "mkdir -p /etc/memory-droplet/demo/old/er",
        ["Files", "Service"],
    ),
    "the unit was edited": (
        "sed -i s/RestartSec=1/RestartSec=9/ /etc/systemd/system/demo.service; systemctl daemon-reload",
        ["Files", "Service"],
    ),
    "a drop-in was added": (
        "mkdir /etc/systemd/system/demo.service.d; "
        "printf '[Service]\\nNice=5\\n' > /etc/systemd/system/demo.service.d/x.conf",
        ["Service"],
    ),
    "the secret was changed": ("echo x > /etc/memory-droplet/secrets/demo/KEY", ["Key", "Service"]),
    "an object was changed": ("echo other > /var/lib/demo.json", ["Reconcile"]),
    "edited, restarted by hand, and put back": (
        "cp -p /etc/memory-droplet/demo/conf /tmp/c; echo x > /etc/memory-droplet/demo/conf; "
        "systemctl restart demo; sleep 1; cat /tmp/c > /etc/memory-droplet/demo/conf",
        ["Service"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_07_damage_is_listed_as_exactly_that_and_repaired(pyinfra, droplet, damage):
    command, listed = DAMAGE[damage]
    assert droplet.run(command).returncode == 0
    assert pyinfra("--dry", content="two").listed == listed
    assert set(pyinfra("-y", content="two").listed) <= set(listed)
    assert pyinfra("--dry", content="two").listed == []
    assert droplet.run("cat /run/demo.loaded; systemctl is-active demo").stdout == "two\nactive\n"


def test_08_no_verbosity_shows_the_secret(pyinfra, droplet):
    droplet.run("rm -r /etc/memory-droplet/secrets")
    flags = ("-vvv", "--diff", "--debug-all")
    printed = pyinfra("--dry", *flags, plan=1, content="two").printed
    printed += pyinfra("-y", *flags, content="two").printed
    assert len(printed) > 10_000
    assert SECRET not in printed
    assert base64.b64encode(SECRET.encode()).decode()[:16] not in printed
    assert droplet.run("cat /etc/memory-droplet/secrets/demo/KEY").stdout == SECRET
