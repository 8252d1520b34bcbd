"""Debian packages that droplets downloaded, kept so that the next droplet need not.

apt checks a package that is already there against its signed index before it uses it, so nothing that a
droplet did to its copy can reach another.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from drill import paths

ARCHIVES: Final = "var/cache/apt/archives"
LIMIT_BYTES: Final = 2 * 2**30


def directory() -> Path:
    """Where they are kept."""
    return paths.cache_dir() / "packages"


def lay_out(root: Path) -> None:
    """Put the kept packages where apt on a droplet's disk looks for downloaded ones."""
    if directory().is_dir():
        for package in directory().glob("*.deb"):
            _place(package, root / ARCHIVES / package.name)


def collect(root: Path) -> None:
    """Keep what a droplet has downloaded, before its disk is removed."""
    found = [each for each in (root / ARCHIVES).glob("*.deb") if each.is_file() and not each.is_symlink()]
    if not found:
        return
    directory().mkdir(parents=True, exist_ok=True)
    for package in found:
        _place(package, directory() / package.name)
    _prune()


def _place(source: Path, target: Path) -> None:
    """One file in two places where the disk allows it, otherwise a copy that appears whole."""
    if target.exists():
        return
    partial = target.with_name(f".{target.name}.new")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
    partial.rename(target)


def _prune() -> None:
    """Remove the packages that were kept longest, until the rest is below the limit."""
    packages = sorted(directory().glob("*.deb"), key=lambda each: each.stat().st_ctime, reverse=True)
    total = 0
    for package in packages:
        total += package.stat().st_size
        if total > LIMIT_BYTES:
            package.unlink()
