"""The machine that status, ssh, deploy and verify act on: a local droplet, or the host in ``$DROPLET_HOST``."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from drill import machine, records
from drill.errors import DrillError, UsageMistake
from settings import hosts
from settings.schema import SettingsError


@dataclass(frozen=True)
class Host:
    """A machine that is reached by SSH."""

    name: str
    address: str
    ssh_config: Path
    local: bool

    def run(self, command: str, *, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a shell command on it; a non-zero exit is the caller's to judge (255: SSH failed)."""
        return subprocess.run(
            [*self.ssh_command(), command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def ssh_command(self) -> list[str]:
        """The command line that logs in."""
        return ["ssh", "-F", str(self.ssh_config), self.name]

    def environment(self) -> Mapping[str, str]:
        """The environment in which a deploy acts on this host and no other."""
        return {**os.environ, "DROPLET_NAME": self.name, "PYINFRA_PROGRESS": "off"}


def real(name: str | None) -> Host | None:
    """The host that ``$DROPLET_HOST`` names, or None when it is not set.

    Raises:
        UsageMistake: a local droplet was named although ``$DROPLET_HOST`` is set.
    """
    try:
        target = hosts.remote()
    except SettingsError as error:
        raise DrillError(str(error)) from None
    if target is None:
        return None
    if name is not None and name not in (target.name, target.address):
        raise UsageMistake(
            f"DROPLET_HOST is set, so this acts on {target.name} and not on {name}; "
            f"unset DROPLET_HOST to act on the local droplet {name}."
        )
    return Host(target.name, target.address, target.ssh_config, local=False)


def local_name(name: str | None) -> str:
    """The local droplet that is meant: the one named, ``$DROPLET_NAME``, or the usual one."""
    return records.checked_name(name or os.environ.get("DROPLET_NAME", "").strip() or hosts.LOCAL_DROPLET)


def existing(name: str | None) -> Host:
    """The host that is meant, which has to exist.

    Raises:
        NoSuchDroplet: it is a local droplet that was never made.
    """
    return real(name) or of(machine.find(local_name(name)))


def of(droplet: machine.Droplet) -> Host:
    """A local droplet as a host."""
    return Host(droplet.name, droplet.address, droplet.ssh_config, local=True)
