"""The machine that the tests in this directory look at, from outside and as root on it.

``$DROPLET_HOST`` names a real host; otherwise it is the local droplet ``$DROPLET_NAME``. A local droplet
that does not exist is made, deployed to, and removed again. The tests use the machine as people and other
machines do; they share no code with what deployed it.
"""

import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest
import testinfra

from drill import cycle, machine
from drill import host as drill_host
from drill.errors import NoSuchDroplet
from settings import hosts, schema

HERE = Path(__file__).parent

#: A container image made on the machine itself, of its own Python: needs no registry and no network.
PROBE_IMAGE = "droplet-test-probe:1"
MAKE_PROBE_IMAGE = f"""
set -eu
python=$(readlink -f /usr/bin/python3)
tar -chf - --exclude=__pycache__ "$python" $(ldd "$python" | grep -o '/[^ ]*') \
    /usr/lib/"$(basename "$python")" 2>/dev/null |
    docker import --change "ENTRYPOINT [\\"$python\\"]" - {PROBE_IMAGE}
"""


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.droplet)
            if item.get_closest_marker("disruptive") and hosts.remote():
                item.add_marker(
                    pytest.mark.skip(reason="stops or breaks what it looks at; a real host is spared")
                )


@dataclass(frozen=True)
class Droplet:
    """The machine under test as its user sees it: a name, an address, a way to log in, its settings."""

    name: str
    address: str
    ssh_config: Path
    local: bool
    settings: dict

    def ssh(self, *arguments, input_text="", timeout_s=60):
        """Call ssh with these arguments; the result, whatever the exit code."""
        return subprocess.run(
            ["ssh", "-F", str(self.ssh_config), *arguments],
            input=input_text,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def run(self, command, *, input_text="", timeout_s=600):
        """A shell command as root in a login of its own; the result, whatever the exit code."""
        return self.ssh(self.name, command, input_text=input_text, timeout_s=timeout_s)


@pytest.fixture(scope="session")
def droplet():
    """The machine under test."""
    made = None
    try:
        target = drill_host.existing(None)
    except NoSuchDroplet:
        made = drill_host.local_name(None)
        assert cycle.deploy(made, []) == 0, f"deploying to the new droplet {made} failed"
        target = drill_host.existing(None)
    changed = (hosts.remote() or hosts.local(target.name)).settings
    yield Droplet(
        target.name, target.address, target.ssh_config, target.local, {**schema.defaults(), **changed}
    )
    if made:
        machine.remove(made)


@pytest.fixture(scope="session")
def host(droplet):
    """The machine under test as testinfra sees it: one SSH connection for all tests."""
    return testinfra.get_host(f"paramiko://{droplet.name}", ssh_config=str(droplet.ssh_config), timeout=60)


@pytest.fixture(scope="session")
def root_certificate(droplet, host, tmp_path_factory):
    """The root of the droplet's own certificate authority, as a file."""
    if (droplet.settings["ingress"], droplet.settings["ingress_tls"]) != ("caddy", "internal"):
        pytest.skip("the ingress has no certificate authority of its own in this mode")
    path = tmp_path_factory.mktemp("ca") / "root.crt"
    path.write_text(
        host.check_output("cat /var/lib/memory-droplet/ingress/caddy/pki/authorities/local/root.crt") + "\n"
    )
    return path


@pytest.fixture(scope="session")
def probe_image(host):
    """A small image whose entry point is Python."""
    host.check_output("sh -c %s", MAKE_PROBE_IMAGE)
    yield PROBE_IMAGE
    host.run(f"docker image rm -f {PROBE_IMAGE}")


@pytest.fixture
def probe(host, probe_image):
    """Start containers of the probe image by hand, as somebody who knows nothing of the firewall would."""
    started = []

    def start(options, *arguments):
        name = f"probe-{uuid.uuid4().hex[:8]}"
        started.append(name)
        host.check_output(f"docker run --detach --name {name} {options} {probe_image} {' '.join(arguments)}")
        return name

    yield start
    for name in started:
        host.run(f"docker rm --force {name}")
