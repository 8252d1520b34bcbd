"""SSH: keys only, modern algorithms, and never a configuration that keeps the deploy out."""

from pathlib import Path

from pyinfra.api import deploy

from operations import BundleFile, bundle, reconcile
from settings import names
from settings.render import render

COMPONENT = "ssh"
SCRIPT = "ssh_daemon.py"
FILES = Path(__file__).parent.parent / "files" / COMPONENT


@deploy("SSH")
def ssh() -> None:
    """Upload the wanted configuration, and let the host rehearse it before it replaces the old one."""
    files = bundle(
        name="Wanted configuration",
        directories=[(names.config_dir(COMPONENT), "root", "root", "0755")],
        files=[
            BundleFile(
                names.config_path(COMPONENT, "sshd.conf"), render("ssh/sshd.conf.j2"), "root", "root", "0644"
            ),
            BundleFile(f"{names.SCRIPTS_DIR}/{SCRIPT}", (FILES / SCRIPT).read_text(), "root", "root", "0644"),
        ],
    )
    reconcile(
        name="Hardened configuration in force",
        script=f"{names.SCRIPTS_DIR}/{SCRIPT}",
        triggers=[files],
    )
