"""Files that hold secrets."""

from __future__ import annotations

import base64
from collections.abc import Generator
from pathlib import PurePosixPath

from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import operation
from pyinfra.context import host

from operations.announcing import announce_diff
from operations.facts import SecretFile
from operations.file_states import attribute_differences
from operations.file_writing import set_attributes, write_file
from operations.host_paths import checked_path
from operations.secret_text import HiddenLines, SecretText, revealed
from settings import names


@operation()
def secret_file(
    dest: str,
    content: SecretText | str,
    user: str,
    group: str,
    mode: str = "0400",
    keep: bool = False,
) -> Generator[PyinfraCommand, None, None]:
    """Keep a secret in a file on the host.

    The content travels on standard input both to be compared and to be written, so it is in no process
    list, log, diff or plan. The file is 0600 from its first byte and replaces the old one in one step.
    Missing directories are made 0700. With ``keep`` a file that is there keeps its content, which is for
    secrets that the host itself rotates.

    **Example:**

    .. code:: python

        from operations import secret_file
        from settings import names
        from settings.secrets import host_secrets

        secret_file(
            name="Keep the key of Qdrant for the memory service",
            dest=names.secret_path("memory-service", "QDRANT_API_KEY"),
            content=host_secrets(host.name)["qdrant_api_key"],
            user="memory", group="memory", mode="0400",
        )
    """
    checked_path(dest)
    raw = revealed(content).encode()
    directory = str(PurePosixPath(dest).parent) if dest.startswith(f"{names.SECRETS_DIR}/") else None
    encoded = base64.encodebytes(raw).decode("ascii").splitlines()
    found = host.get_fact(
        SecretFile, path=dest, directory=directory or "/", _stdin=HiddenLines(encoded or [""])
    )
    is_file = found.state.kind == "file"
    write = not is_file if keep else not found.same
    changes = attribute_differences(found.state, user, group, mode) if is_file else []
    wrong_attributes = bool(changes)
    is_open = directory is not None and found.directory_kind == "directory" and found.directory_mode != 0o700
    if not write and not changes and not is_open:
        host.noop(f"secret {dest} is as it should be")
        return
    if is_open:
        changes.append(f"{directory} mode {found.directory_mode:04o} -> 0700")
    if write:
        changes.append("content differs" if is_file else "to be created")
    announce_diff(f"secret {dest}", changes)
    if is_open and directory is not None:
        yield set_attributes(directory, "root", "root", "0700")
    if write:
        yield write_file(dest, raw, user, group, mode, private_parents=directory is not None)
    elif wrong_attributes:
        yield set_attributes(dest, user, group, mode)
