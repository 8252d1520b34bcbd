"""Paths on the host, checked before they enter a command."""

from __future__ import annotations

import re

_PATH = re.compile(r"/[^\0\n\t]*")


def checked_path(path: str) -> str:
    """The path itself if it is absolute and on one line; otherwise ``ValueError``."""
    if not _PATH.fullmatch(path):
        raise ValueError(f"{path!r} is not a path on the host: it must be absolute and on one line")
    return path
