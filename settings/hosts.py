"""Which machine a command acts on: ``$DROPLET_HOST``, or, with nothing set, a local drill droplet."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from settings.schema import HOST_NAME, SettingsError, read_settings_file

PROJECT = Path(__file__).parent.parent
LOCAL_DROPLET = "droplet"
LOCAL_DOMAIN = "droplet.test"
#: The chat model of the provider's double, which local droplets ask unless settings name a real one.
DOUBLE_MODEL: Final = "double/echo"


@dataclass(frozen=True)
class Target:
    """A host by name, how SSH reaches it, and the settings it is deployed with."""

    name: str
    address: str
    port: int
    user: str
    key_file: Path | None
    ssh_config: Path
    settings: dict[str, Any]
    local: bool

    def pyinfra_host(self) -> tuple[str, dict[str, Any]]:
        """The host as an entry of a pyinfra inventory."""
        data: dict[str, Any] = {
            "ssh_hostname": self.name,  # an alias that ssh_config resolves
            "ssh_config_file": str(self.ssh_config),
            "ssh_known_hosts_file": str(self.ssh_config.with_name("known_hosts")),
            # A busy machine may take its time to answer; pyinfra gives each attempt 10 s.
            "ssh_connect_retries": 2,
            "ssh_strict_host_key_checking": "yes" if self.local else "accept-new",
            **self.settings,
        }
        return self.name, data


def state_dir() -> Path:
    """Where the state of droplets and the ssh_config of hosts lie on the laptop."""
    given = os.environ.get("MEMORY_DROPLET_STATE")
    return Path(given) if given else Path.home() / ".local" / "state" / "memory-droplet"


def settings_file() -> Path:
    """The file with the settings that a user changed."""
    given = os.environ.get("DROPLET_SETTINGS")
    return Path(given) if given else PROJECT / "settings.yml"


def remote() -> Target | None:
    """The host that ``$DROPLET_HOST`` names, with its ssh_config written; None when it is not set.

    Also read: ``DROPLET_USER`` (root), ``DROPLET_PORT`` (22), ``DROPLET_KEY`` (ssh's own default) and
    ``DROPLET_NAME`` (what its secrets and it are called; the host). Raises SettingsError when one of them is wrong.
    """
    address = os.environ.get("DROPLET_HOST", "").strip()
    if not address:
        return None
    given = os.environ.get("DROPLET_NAME", "").strip()
    if given and not re.fullmatch(HOST_NAME, given):
        raise SettingsError([f"DROPLET_NAME must be a host name such as 'memory-1', but is {given!r}."])
    name = given or address
    user = os.environ.get("DROPLET_USER", "root")
    port_text = os.environ.get("DROPLET_PORT", "22")
    if not port_text.isdigit() or not 1 <= int(port_text) <= 65535:
        raise SettingsError([f"DROPLET_PORT must be a port from 1 to 65535, but is {port_text!r}."])
    key = os.environ.get("DROPLET_KEY")
    key_file = Path(key).expanduser() if key else None
    if key_file is not None and not key_file.is_file():
        raise SettingsError([f"DROPLET_KEY names {key_file}, which is not a file."])
    folder = state_dir() / "hosts" / name.replace("/", "_")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lines = [
        f"Host {name}",
        f"  HostName {address}",
        f"  Port {port_text}",
        f"  User {user}",
        f"  UserKnownHostsFile {folder / 'known_hosts'}",
        "  StrictHostKeyChecking accept-new",
    ]
    if key_file is not None:
        lines += [f"  IdentityFile {key_file}", "  IdentitiesOnly yes"]
    (folder / "known_hosts").touch(mode=0o600)
    ssh_config = folder / "ssh_config"
    ssh_config.write_text("\n".join(lines) + "\n")
    changed = read_settings_file(settings_file())
    return Target(name, address, int(port_text), user, key_file, ssh_config, changed, local=False)


def local(name: str | None = None) -> Target:
    """A local drill droplet, created and booted if it is not there."""
    from drill import images
    from drill.machine import ensure

    lock = images.ensure_lock()
    droplet = ensure(name or os.environ.get("DROPLET_NAME") or LOCAL_DROPLET)
    changed: dict[str, Any] = {
        "hostname": droplet.name,
        "ingress": "caddy",
        "ingress_tls": "internal",
        "domain": LOCAL_DOMAIN,
        "image_registry": droplet.registry,
        "image_registry_insecure": True,
        "image_lock": str(lock),
    }
    if "DROPLET_SETTINGS" in os.environ or settings_file().exists():
        changed |= read_settings_file(settings_file())
    if "llm_base_url" not in changed:
        changed |= {"llm_base_url": droplet.llm_base_url, "llm_model": DOUBLE_MODEL}
    return Target(
        droplet.name,
        droplet.address,
        droplet.port,
        droplet.user,
        droplet.key_file,
        droplet.ssh_config,
        changed,
        local=True,
    )


def target() -> Target:
    """The host that this command acts on."""
    return remote() or local()
