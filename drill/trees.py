"""Directory trees on the laptop's disk: deleting them whole, and the room left for more."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from drill.errors import DrillError


def delete_tree(path: Path) -> None:
    """Delete a file or a directory with all it holds, but nothing that is mounted in it.

    Raises:
        DrillError: something cannot be deleted.
    """
    if path.is_dir() and not path.is_symlink():
        done = subprocess.run(
            ["rm", "-rf", "--one-file-system", str(path)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise DrillError(f"Could not delete {path}: {done.stderr.strip()}.")
    else:
        path.unlink(missing_ok=True)


def free_space_mb(directory: Path) -> int:
    """Free space in MiB where a directory is, or will be."""
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free // 2**20
