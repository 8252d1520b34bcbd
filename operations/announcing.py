"""What an operation says about the change it is about to make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pyinfra import logger
from pyinfra.api.operation import OperationMeta
from pyinfra.context import host, state

# By name, because pyinfra prepares its hosts side by side.
_silent_hosts: set[str] = set()


@contextmanager
def silence() -> Iterator[None]:
    """Announce nothing for the host under way: its commands are being looked at a second time."""
    name = host.name
    _silent_hosts.add(name)
    try:
        yield
    finally:
        _silent_hosts.discard(name)


def predicted() -> bool | None:
    """Whether the operation under way said before execution that it would change something.

    None when it was not asked (``pyinfra -y``) or is being asked now. The public
    ``OperationMeta.will_change`` would run the operation inside itself in those cases, hence the
    private attribute (pyinfra 3.10, ``api/operation.py``).
    """
    operation = host.current_op_hash
    if not state.is_executing or operation is None or operation not in state.ops[host]:
        return None
    answer = state.get_op_data_for_host(host, operation).operation_meta._maybe_is_change
    return None if answer is None else bool(answer)


def announce(title: str, lines: Iterable[str] = ()) -> None:
    """Say what is going to change, once: before execution, or during it if nobody asked before."""
    if host.name in _silent_hosts or predicted() is not None:
        return
    host.log(title, logger.info)
    for line in lines:
        host.log(f"  {line}", logger.info)


def announce_diff(title: str, lines: Iterable[str]) -> None:
    """Like ``announce``, but only with ``--diff``."""
    if state.config.DIFF:
        announce(title, lines)


def will_change(triggers: Iterable[OperationMeta]) -> bool:
    """Whether any of these operation results changes, or has changed, its host."""
    return any(t.did_change() if t.is_complete() else t.will_change for t in triggers)
