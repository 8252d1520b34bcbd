"""Docker: the distribution's engine, and the network all containers share."""

import json
from pathlib import Path

from pyinfra import host
from pyinfra.api import deploy

from operations import BundleFile, bundle, reconcile, service
from operations.packages import packages
from settings import names

COMPONENT = "docker"
SCRIPT = "docker_network.py"
FILES = Path(__file__).parent.parent / "files" / COMPONENT
DAEMON = "/etc/docker/daemon.json"


def daemon() -> dict[str, object]:
    """The engine's configuration; an own registry without TLS only if the settings allow it."""
    insecure = [host.data.image_registry] if host.data.image_registry_insecure else []
    return {
        # A port published without an address is for this machine only.
        "ip": "127.0.0.1",
        "live-restore": True,
        "log-driver": "local",
        "log-opts": {"max-size": "10m", "max-file": "3"},
        "no-new-privileges": True,
        "userland-proxy": False,
        **({"insecure-registries": insecure} if insecure else {}),
    }


@deploy("Docker")
def docker() -> None:
    """Configure before installing, so that the engine starts right the first time."""
    network = {
        "name": names.NETWORK,
        "subnet": names.NETWORK_SUBNET,
        "gateway": names.NETWORK_GATEWAY,
        "bridge": names.NETWORK_BRIDGE,
    }
    configuration = bundle(
        name="Configuration of the engine",
        directories=[("/etc/docker", "root", "root", "0755")],
        files=[BundleFile(DAEMON, json.dumps(daemon(), indent=2) + "\n", "root", "root", "0644")],
    )
    files = bundle(
        name="Wanted network",
        directories=[(names.config_dir(COMPONENT), "root", "root", "0755")],
        files=[
            BundleFile(
                names.config_path(COMPONENT, "network.json"),
                json.dumps(network, indent=2) + "\n",
                "root",
                "root",
                "0644",
            ),
            BundleFile(f"{names.SCRIPTS_DIR}/{SCRIPT}", (FILES / SCRIPT).read_text(), "root", "root", "0644"),
        ],
    )
    engine = packages(
        name="Engine",
        # The engine gives containers an AppArmor profile wherever the kernel has AppArmor on, and fails without
        # the parser, which it only recommends.
        packages=["apparmor", "docker.io", "iptables"],
    )
    service(
        name="Running",
        unit="docker.service",
        reads=[DAEMON],
        triggers=[configuration, engine],
        check=f"python3 -m json.tool {DAEMON}",
        wait_s=60,
    )
    reconcile(
        name="Shared network",
        script=f"{names.SCRIPTS_DIR}/{SCRIPT}",
        triggers=[files],
    )
