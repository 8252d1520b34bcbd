"""The files of one component, kept together."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import operation
from pyinfra.context import host, state

from operations.announcing import announce_diff
from operations.differences import text_diff
from operations.facts import FileStates, FileTexts
from operations.file_states import FileState, attribute_differences, parse_mode
from operations.file_writing import set_attributes, write_file
from operations.host_paths import checked_path
from operations.shell import script


@dataclass(frozen=True)
class BundleFile:
    """One file of a bundle; user and group are names or numbers, mode is octal text."""

    dest: str
    content: str | bytes
    user: str
    group: str
    mode: str

    def __post_init__(self) -> None:
        """Refuse a path or a mode that no host could have."""
        checked_path(self.dest)
        parse_mode(self.mode)

    @property
    def raw(self) -> bytes:
        """The content as bytes."""
        return self.content if isinstance(self.content, bytes) else self.content.encode()

    @property
    def sha256(self) -> str:
        """The hex digest of the content."""
        return hashlib.sha256(self.raw).hexdigest()


@operation()
def bundle(
    files: Sequence[BundleFile] = (),
    directories: Sequence[tuple[str, str, str, str]] = (),
    absent: Sequence[str] = (),
) -> Generator[PyinfraCommand, None, None]:
    """Keep files and directories of a component as declared, and some paths absent.

    One command reads the state of everything; only what differs is written, each file in one step.
    ``directories`` are ``(path, user, group, mode)`` and come first. ``absent`` paths are removed,
    directories with all they hold. ``--diff`` shows the changed lines, so no secret belongs here:
    use ``secret_file``.

    **Example:**

    .. code:: python

        from operations import BundleFile, bundle

        config = bundle(
            name="Configure Caddy",
            directories=[("/etc/memory-droplet/ingress", "root", "root", "0755")],
            files=[BundleFile("/etc/memory-droplet/ingress/Caddyfile", text, "root", "root", "0644")],
            absent=["/etc/memory-droplet/ingress/Caddyfile.old"],
        )
    """
    for path in (*absent, *(directory[0] for directory in directories)):
        checked_path(path)
    paths = [*absent, *(d[0] for d in directories), *(f.dest for f in files)]
    repeated = {path for path in paths if paths.count(path) > 1}
    if repeated:
        raise ValueError(f"a bundle names {', '.join(sorted(repeated))} more than once; keep one entry")
    found = host.get_fact(FileStates, paths=paths)
    states = {path: found.get(path, FileState(path)) for path in paths}
    differing = [f for f in files if states[f.dest].kind != "file" or states[f.dest].sha256 != f.sha256]
    if state.config.DIFF:
        _show(files, directories, absent, states, differing)

    changed = False
    for path in absent:
        if states[path].kind != "absent":
            changed = True
            yield script('# remove\nrm -rf -- "$1"', path)
    for path, user, group, mode in directories:
        if states[path].kind != "directory":
            changed = True
            yield script(
                "# make a directory\n"
                'if [ -e "$1" ] || [ -L "$1" ]; then [ -d "$1" ] && [ ! -L "$1" ] || rm -f -- "$1"; fi\n'
                'install -d -m "$3" -o "${2%%:*}" -g "${2#*:}" -- "$1"',
                path,
                f"{user}:{group}",
                f"{parse_mode(mode):04o}",
            )
        elif attribute_differences(states[path], user, group, mode):
            changed = True
            yield set_attributes(path, user, group, mode)
    for file in files:
        if file in differing:
            changed = True
            yield write_file(file.dest, file.raw, file.user, file.group, file.mode)
        elif attribute_differences(states[file.dest], file.user, file.group, file.mode):
            changed = True
            yield set_attributes(file.dest, file.user, file.group, file.mode)
    if not changed:
        host.noop(f"{len(paths)} paths are as they should be")


def _show(
    files: Sequence[BundleFile],
    directories: Sequence[tuple[str, str, str, str]],
    absent: Sequence[str],
    states: dict[str, FileState],
    differing: Sequence[BundleFile],
) -> None:
    """Print what ``--diff`` asks for; the old texts are fetched only now, in one command."""
    for path in absent:
        if states[path].kind != "absent":
            announce_diff(f"remove {path}", [])
    for path, user, group, mode in directories:
        if states[path].kind != "directory":
            announce_diff(f"create {path}/", [f"{user}:{group} {mode}"])
        elif changes := attribute_differences(states[path], user, group, mode):
            announce_diff(f"change {path}/", changes)
    readable = [file.dest for file in differing if states[file.dest].kind == "file"]
    old_texts = host.get_fact(FileTexts, paths=readable) if readable else {}
    for file in files:
        known = states[file.dest].kind == "file"
        changes = attribute_differences(states[file.dest], file.user, file.group, file.mode) if known else []
        if file in differing:
            try:
                lines = text_diff(old_texts.get(file.dest, b"").decode(), file.raw.decode(), file.dest)
            except UnicodeDecodeError:
                lines = [f"(not text, {len(file.raw)} bytes)"]
            announce_diff(f"{'change' if known else 'create'} {file.dest}", [*changes, *lines])
        elif changes:
            announce_diff(f"change {file.dest}", changes)
