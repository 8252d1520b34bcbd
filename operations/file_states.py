"""The state of files on the host: what a probe prints, and how it differs from what is wanted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["file", "directory", "link", "other", "absent"]

# Prints one line per argument: kind, sha256, mode, uid, user, gid, group, path.
PROBE: Final = r"""
# state of paths
for p in "$@"; do
  if [ -L "$p" ]; then k=link s=-
  elif [ -d "$p" ]; then k=directory s=-
  elif [ -f "$p" ]; then k=file s=$(sha256sum < "$p" | cut -d ' ' -f 1)
  elif [ -e "$p" ]; then k=other s=-
  else printf 'absent\t-\t0\t-\t-\t-\t-\t%s\n' "$p"; continue
  fi
  stat --printf="$k\t$s\t%a\t%u\t%U\t%g\t%G\t%n\n" -- "$p" ||
    printf 'absent\t-\t0\t-\t-\t-\t-\t%s\n' "$p"
done 2>/dev/null; exit 0
"""


@dataclass(frozen=True)
class FileState:
    """What lies at one path. ``mode`` is the number (``0o640``), ``sha256`` only of regular files."""

    path: str
    kind: Kind = "absent"
    sha256: str = ""
    mode: int = 0
    uid: str = ""
    user: str = ""
    gid: str = ""
    group: str = ""


def parse_probe(lines: Iterable[str]) -> dict[str, FileState]:
    """States by path from the probe's output; lines that are not its own are ignored."""
    states: dict[str, FileState] = {}
    for line in lines:
        fields = line.split("\t", 7)
        if len(fields) != 8:
            continue
        kind, sha256, mode, uid, user, gid, group, path = fields
        if kind not in ("file", "directory", "link", "other", "absent"):
            continue
        states[path] = FileState(
            path=path,
            kind=kind,  # type: ignore[arg-type]  # narrowed by the membership test above
            sha256="" if sha256 == "-" else sha256,
            mode=int(mode, 8),
            uid=uid,
            user=user,
            gid=gid,
            group=group,
        )
    return states


def parse_mode(mode: str) -> int:
    """``"0640"`` or ``"640"`` as a number; anything else is a ``ValueError``."""
    try:
        number = int(mode, 8)
    except ValueError:
        raise ValueError(f"file mode {mode!r} must be octal digits such as '0640'") from None
    if not 0 <= number <= 0o7777:
        raise ValueError(f"file mode {mode!r} must be between 0000 and 7777")
    return number


def attribute_differences(state: FileState, user: str, group: str, mode: str) -> list[str]:
    """Human sentences for owner, group and mode that differ; user and group may be names or numbers."""
    differences = []
    if user not in (state.user, state.uid):
        differences.append(f"owner {state.user} -> {user}")
    if group not in (state.group, state.gid):
        differences.append(f"group {state.group} -> {group}")
    if state.mode != parse_mode(mode):
        differences.append(f"mode {state.mode:04o} -> {parse_mode(mode):04o}")
    return differences
