"""Where the drill keeps things on the laptop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parent.parent
LOCK_FILE: Final = Path("/run/lock/memory-droplet.lock")


def _directory(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or default).expanduser().resolve()


def state_dir() -> Path:
    """Everything `drill down` removes: records, disks, keys (``$MEMORY_DROPLET_STATE``)."""
    return _directory("MEMORY_DROPLET_STATE", "~/.local/state/memory-droplet")


def cache_dir() -> Path:
    """Everything that only saves time and may be deleted at any moment (``$MEMORY_DROPLET_CACHE``)."""
    return _directory("MEMORY_DROPLET_CACHE", "~/.cache/memory-droplet")


def droplets_dir() -> Path:
    """One directory per local droplet."""
    return state_dir() / "droplets"


def droplet_dir(name: str) -> Path:
    """Record, keys, ssh_config, console log and disk of one droplet."""
    return droplets_dir() / name
