"""Firewall: nothing from outside but SSH and, if it is public, the ingress."""

from pathlib import Path

from pyinfra import host
from pyinfra.api import deploy

from operations import BundleFile, bundle, reconcile, service
from operations.packages import packages
from settings import names
from settings.render import render

COMPONENT = "firewall"
SCRIPT = "firewall.py"
UNIT = names.unit(COMPONENT)
FILES = Path(__file__).parent.parent / "files" / COMPONENT

#: New SSH connections a caller may open: enough for a deploy beside a test run, too few for guessing.
SSH_PER_MINUTE = 120
SSH_BURST = 300


@deploy("Firewall")
def firewall() -> None:
    """Upload the wanted rules, let the host rehearse and load them, and load them at every boot."""
    packages(name="Packages", packages=["nftables", "iproute2"])
    files = bundle(
        name="Wanted rules",
        directories=[(names.config_dir(COMPONENT), "root", "root", "0755")],
        files=[
            BundleFile(
                names.config_path(COMPONENT, "wanted.nft"),
                render(
                    "firewall/wanted.nft.j2",
                    sshd_port=host.data.sshd_port,
                    ssh_per_minute=SSH_PER_MINUTE,
                    ssh_burst=SSH_BURST,
                    web=host.data.ingress == "caddy",
                    bridge=names.NETWORK_BRIDGE,
                    gateway=names.NETWORK_GATEWAY,
                    memory_service_port=names.MEMORY_SERVICE_PORT,
                ),
                "root",
                "root",
                "0644",
            ),
            BundleFile(f"{names.SCRIPTS_DIR}/{SCRIPT}", (FILES / SCRIPT).read_text(), "root", "root", "0644"),
            BundleFile(
                f"/etc/systemd/system/{UNIT}",
                render(
                    "firewall/droplet-firewall.service.j2", rules=names.config_path(COMPONENT, "rules.nft")
                ),
                "root",
                "root",
                "0644",
            ),
        ],
    )
    reconcile(
        name="Rules in force",
        script=f"{names.SCRIPTS_DIR}/{SCRIPT}",
        triggers=[files],
    )
    service(name="Loaded at boot", unit=UNIT, triggers=[], reload=True)
