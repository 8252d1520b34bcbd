"""What the drill has made, written down before it is made, so that `down` can always remove it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from drill import paths
from drill.console import say
from drill.errors import CannotRunHere, DrillError, UsageMistake

_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,38}[a-z0-9]")
# They share the naming of control groups with droplets.
_TAKEN: Final = ("registry", "openai-double")


def checked_name(name: str) -> str:
    """Return a droplet name that is also a host name, or say what a name may look like."""
    if not _NAME.fullmatch(name):
        raise UsageMistake(
            f"{name!r} cannot be a droplet's name: 2 to 40 lower-case letters, digits and dashes, "
            "beginning with a letter and not ending with a dash."
        )
    if name in _TAKEN or name.startswith("work-"):
        raise UsageMistake(f"{name!r} cannot be a droplet's name: the drill itself uses it; take another.")
    return name


def tag(name: str) -> str:
    """Eight hex digits that tell this droplet from a droplet of the same name in another state directory."""
    return hashlib.sha256(f"{paths.state_dir()}\0{name}".encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Record:
    """One droplet: what it is called and every name on the laptop that belongs to it."""

    name: str
    address: str
    gateway: str
    bridge: str

    @property
    def directory(self) -> Path:
        return paths.droplet_dir(self.name)

    @property
    def root(self) -> Path:
        """The droplet's disk."""
        return self.directory / "root"

    @property
    def machine(self) -> str:
        """Name of the machine and of its control groups."""
        return f"drill-{self.name}-{tag(self.name)}"

    @property
    def veth(self) -> str:
        """Laptop end of the droplet's cable (interface names hold 15 characters)."""
        return f"drv-{tag(self.name)}"

    @property
    def scanner(self) -> str:
        """Network namespace, and interface, of the neighbour that scans this droplet."""
        return f"drs-{tag(self.name)}"


def write_json(path: Path, content: object) -> None:
    """Write a file so that a reader, or a crash, sees the old or the new content and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(content, stream, indent=2)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def read_json(path: Path) -> dict[str, object] | None:
    """Read a record, or None where there is none."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DrillError(f"{path} is damaged ({error}); delete it and run `drill down`.") from error
    if not isinstance(content, dict):
        raise DrillError(f"{path} is damaged (not an object); delete it and run `drill down`.")
    return content


def save(record: Record) -> None:
    """Write a droplet down."""
    record.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_json(record.directory / "droplet.json", asdict(record))


def load(name: str) -> Record | None:
    """The record of a droplet, or None if there is no such droplet."""
    content = read_json(paths.droplet_dir(name) / "droplet.json")
    if content is None:
        return None
    try:
        return Record(**{key: str(content[key]) for key in ("name", "address", "gateway", "bridge")})
    except KeyError as error:
        raise DrillError(
            f"{paths.droplet_dir(name)}/droplet.json lacks {error}; delete it and run `drill down {name}`."
        ) from error


def load_all() -> list[Record]:
    """Every droplet that was written down, by name."""
    if not paths.droplets_dir().is_dir():
        return []
    found = (load(path.name) for path in sorted(paths.droplets_dir().iterdir()))
    return [record for record in found if record is not None]


@contextmanager
def only_one() -> Iterator[None]:
    """Hold the lock that lets one drill at a time change what exists on this laptop.

    Raises:
        CannotRunHere: the caller is not root, who alone can change it.
    """
    if os.geteuid() != 0:
        raise CannotRunHere("Droplets are made and removed as root: run `sudo -E uv run drill ...`.")
    paths.LOCK_FILE.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(paths.LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another drill on this computer to finish its up or down")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
