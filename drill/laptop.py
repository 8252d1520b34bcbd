"""Whether this computer can hold a local droplet, and what it lacks."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from drill import paths, rootfs
from drill.console import step
from drill.errors import CannotRunHere
from drill.trees import free_space_mb

INSTEAD: Final = "Set DROPLET_HOST to a server that you reach by SSH, and the same commands work on that."
# Program -> Debian package that has it.
PROGRAMS: Final = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "ip": "iproute2",
    "iptables": "iptables",
    "docker-registry": "docker-registry",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "tar": "tar",
}
# File -> Debian package that has it. Ubuntu's mmdebstrap comes without the keys of Debian's archive.
FILES: Final = {rootfs.KEYRING: "debian-archive-keyring"}
DISK_MB: Final = 3000


def missing_packages(programs: Mapping[str, str] = PROGRAMS) -> list[str]:
    """Debian packages of these programs (by default what local droplets need) and files that are not installed."""
    programs_of = {package for program, package in programs.items() if shutil.which(program) is None}
    files_of = {package for file, package in FILES.items() if not Path(file).is_file()}
    return sorted(programs_of | files_of)


def install_missing(programs: Mapping[str, str]) -> None:
    """Install the Debian packages of programs that are missing, and say so.

    Raises:
        CannotRunHere: they cannot be installed; says which, and how to do it by hand.
    """
    if missing := missing_packages(programs):
        with step(f"installing on this computer: {', '.join(missing)}"):
            _install(missing)


def reason_against() -> str | None:
    """Why this computer cannot hold droplets at all, or None."""
    if platform.system() != "Linux":
        return f"A local droplet is a systemd-nspawn machine and needs Linux; this computer runs {platform.system()}."
    if os.geteuid() != 0:
        return "A local droplet needs root, for its control groups, mounts and network: run `sudo -E uv run drill ...`."
    if missing_packages() and shutil.which("apt-get") is None:
        return (
            f"Local droplets need the Debian packages {', '.join(missing_packages())}, and this system has no apt-get "
            "to install them."
        )
    return None


def prepare() -> None:
    """Install what is missing.

    Raises:
        CannotRunHere: droplets are impossible here; says why and what to do instead.
    """
    reason = reason_against()
    if reason is not None:
        raise CannotRunHere(f"{reason} {INSTEAD}")
    install_missing(PROGRAMS)
    free = free_space_mb(paths.state_dir())
    if free < DISK_MB:
        raise CannotRunHere(
            f"A droplet needs {DISK_MB} MiB of disk and {paths.state_dir()} has {free} MiB free; make room, or set "
            "MEMORY_DROPLET_STATE to a directory on a larger disk."
        )


def _install(packages: list[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        subprocess.run(["apt-get", "update", "-q"], env=environment, capture_output=True, check=False)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CannotRunHere(
            f"Installing {', '.join(packages)} failed ({last}); run `apt-get install {' '.join(packages)}` yourself. "
            f"{INSTEAD}"
        )
    if "docker-registry" in packages and Path("/run/systemd/system").is_dir():
        # Debian starts a registry of its own, on the port of ours and on every address.
        subprocess.run(["systemctl", "disable", "--now", "docker-registry"], capture_output=True, check=False)
