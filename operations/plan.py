"""Every command that a run would send, printed without running it."""

from __future__ import annotations

from pyinfra.api.command import FileUploadCommand, FunctionCommand, PyinfraCommand, StringCommand
from pyinfra.api.output import echo
from pyinfra.api.state import State
from pyinfra.context import host

from operations.announcing import silence


def print_plan(state: State) -> None:
    """Print, for the host under way, each operation that would change it and its commands.

    Does nothing unless asked with ``--data plan=1``. Hidden values are masked and standard input, which
    carries contents and SQL, is only counted. Ends quietly while a run executes.

    **Example:**

    .. code:: python

        # the last lines of deploy.py; then: pyinfra --dry --data plan=1 inventory.py deploy.py
        from pyinfra import state
        from operations.plan import print_plan

        print_plan(state)
    """
    if not host.data.get("plan") or state.is_executing:
        return
    with silence():
        for operation_hash in list(host.op_hash_order):
            data = state.ops[host].get(operation_hash)
            if data is None:
                continue
            commands = list(data.command_generator())
            if not commands:
                continue
            title = ", ".join(sorted(state.get_op_meta(operation_hash).names))
            echo(f"{host.print_prefix}{title}", err=True)
            for command in commands:
                for line in described(command).splitlines():
                    echo(f"{host.print_prefix}    {line}", err=True)


def described(command: PyinfraCommand) -> str:
    """One command as text, without anything that is hidden or goes to standard input."""
    if isinstance(command, StringCommand):
        stdin = command.connector_arguments.get("_stdin")
        fed = f" <<< ({len(str(stdin))} characters)" if stdin is not None else ""
        return f"$ {command.get_masked_value()}{fed}"
    if isinstance(command, FileUploadCommand):
        source = command.src if isinstance(command.src, str) else "(rendered text)"
        return f"upload {source} to {command.dest}"
    if isinstance(command, FunctionCommand):
        return f"call {command.function.__name__}()"
    return type(command).__name__
