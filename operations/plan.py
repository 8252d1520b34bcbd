"""Every command that a run would send, printed without running it."""

from __future__ import annotations

from pyinfra import logger
from pyinfra.api.command import FileUploadCommand, FunctionCommand, PyinfraCommand, StringCommand
from pyinfra.api.state import State
from pyinfra.context import host
from pyinfra.context import state as context_state

from operations.announcing import silence
from operations.shell import HostScript


def print_plan(state: State | None = None, full: bool = False) -> None:
    """Print, for the host under way, each operation that would change it and its commands.

    Our own scripts are printed by their title and arguments, with ``full`` by their whole text. Hidden
    values are masked, and standard input, which carries contents and SQL, is only counted.
    Commands that depend on what earlier ones do are those of the machine as it is now. Prints nothing
    once the run executes.

    **Example:**

    .. code:: python

        # the last lines of deploy.py; then: pyinfra --dry --data plan=1 inventory.py deploy.py
        from pyinfra import host
        from operations.plan import print_plan

        if host.data.get("plan"):
            print_plan()
    """
    state = state or context_state
    if state.is_executing:
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
            host.log(title, logger.info)
            for command in commands:
                for line in described(command, full).splitlines():
                    host.log(f"    {line}", logger.info)


def described(command: PyinfraCommand, full: bool = False) -> str:
    """One command as text, without anything that is hidden or goes to standard input."""
    if isinstance(command, StringCommand):
        stdin = command.connector_arguments.get("_stdin")
        fed = f" <<< ({len(str(stdin))} characters)" if stdin is not None else ""
        if isinstance(command, HostScript) and not full:
            return command.summary + fed
        return command.get_masked_value() + fed
    if isinstance(command, FileUploadCommand):
        source = command.src if isinstance(command.src, str) else "(rendered text)"
        return f"upload {source} to {command.dest}"
    if isinstance(command, FunctionCommand):
        return f"call {command.function.__name__}()"
    return type(command).__name__
