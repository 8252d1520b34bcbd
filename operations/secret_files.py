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
    dest: str, content: SecretText | str, user: str, group: str, mode: str = "0400"
) -> Generator[PyinfraCommand, None, None]:
    """Keep a secret in a file on the host.

    The content travels on standard input both to be compared and to be written, so it is in no process
    list, log, diff or plan. The file is 0600 from its first byte and replaces the old one in one step.
    Missing directories are made 0700.

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
    private = str(PurePosixPath(dest).parent) if dest.startswith(f"{names.SECRETS_DIR}/") else None
    found = host.get_fact(
        SecretFile,
        path=dest,
        directory=private or "/",
        _stdin=HiddenLines(base64.encodebytes(raw).decode("ascii").splitlines() or [""]),
    )
    changes = attribute_differences(found.state, user, group, mode) if found.state.kind == "file" else []
    open_directory = (
        private is not None and found.directory_kind == "directory" and found.directory_mode != 0o700
    )
    if found.same and not changes and not open_directory:
        host.noop(f"secret {dest} is as it should be")
        return
    title = f"secret {dest}: " + (
        "content differs" if found.state.kind != "absent" else "absent, to be created"
    )
    announce_diff(title if not found.same else f"secret {dest}", changes)
    if open_directory and private is not None:
        yield set_attributes(private, "root", "root", "0700")
    if not found.same:
        yield write_file(dest, raw, user, group, mode, private_parents=private is not None)
    elif changes:
        yield set_attributes(dest, user, group, mode)
