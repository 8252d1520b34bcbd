"""Which version of the project a deploy is made from."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

PROJECT = Path(__file__).parent.parent


def _git(*arguments: str) -> str | None:
    if shutil.which("git") is None:
        return None
    done = subprocess.run(
        ["git", "-C", str(PROJECT), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout if done.returncode == 0 else None


def release_text() -> str:
    """The commit and, where files differ from it, a hash of the difference, as ``key=value`` lines.

    Holds no time, so that an unchanged project is an unchanged file; its own time of change says when.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return "commit=unknown\n"
    lines = [f"commit={commit.strip()}"]
    if difference := _git("diff", "HEAD"):
        lines.append(f"uncommitted={hashlib.sha256(difference.encode()).hexdigest()[:16]}")
    return "\n".join(lines) + "\n"
