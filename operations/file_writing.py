"""Writing one file on the host so that nobody ever sees half of it or reads it too early."""

from __future__ import annotations

import base64
from typing import Final

from pyinfra.api.command import StringCommand

from operations.file_states import parse_mode
from operations.host_paths import checked_path
from operations.shell import script
from settings import names

# The content comes on standard input. It lands in a fresh file that is 0600 from birth (mktemp), gets
# its owner and mode, and only then its name. A connection that breaks gives a short file: it is counted
# before it is moved. $1 path, $2 size, $3 owner:group, $4 mode, $5 umask for missing directories.
_WRITE: Final = r"""
# write a file in one step (path, size, owner, mode, umask of missing directories)
set -eu
d=$1; dir=$(dirname -- "$d")
fail() { echo "$1" >&2; exit 1; }
if [ -d "$d" ] && [ ! -L "$d" ]; then fail "$d is a directory on the host, a file was to be written"; fi
if [ ! -d "$dir" ]; then
  case "$dir/" in CONFIG_DIR/*) (umask 022; mkdir -p CONFIG_DIR);; esac
  (umask "$5"; mkdir -p -- "$dir")
fi
umask 077
t=$(mktemp -- "$dir/.incoming.XXXXXXXX")
trap 'rm -f -- "$t"' EXIT; trap 'exit 1' HUP INT TERM
base64 -d > "$t" 2>/dev/null || :
n=$(wc -c < "$t")
[ "$n" -eq "$2" ] || fail "upload of $d broke off: $n of $2 bytes arrived; run the deploy again"
chown -- "$3" "$t"; chmod -- "$4" "$t"; sync -- "$t"
mv -fT -- "$t" "$d"
""".replace("CONFIG_DIR", names.CONFIG_DIR)


def write_file(
    dest: str, content: bytes, user: str, group: str, mode: str, private_parents: bool = False
) -> StringCommand:
    """A command that puts ``content`` at ``dest``: atomic, and 0600 until owner and mode are set.

    Missing parent directories become root's, 0755, or 0700 with ``private_parents``.
    """
    return script(
        _WRITE,
        checked_path(dest),
        str(len(content)),
        f"{user}:{group}",
        f"{parse_mode(mode):04o}",
        "077" if private_parents else "022",
        stdin=base64.encodebytes(content).decode("ascii"),
    )


def set_attributes(path: str, user: str, group: str, mode: str) -> StringCommand:
    """A command that sets owner, group and mode of a path that exists."""
    return script(
        '# set owner and mode\nchown -- "$1" "$3" && chmod -- "$2" "$3"',
        f"{user}:{group}",
        f"{parse_mode(mode):04o}",
        checked_path(path),
    )
