"""What an operation says about the change it is about to make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pyinfra import logger
from pyinfra.context import host, state

_silent = False


@contextmanager
def silence() -> Iterator[None]:
    """Announce nothing within: the commands are being looked at a second time."""
    global _silent
    _silent, before = True, _silent
    try:
        yield
    finally:
        _silent = before


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
    if _silent or predicted() is not None:
        return
    host.log(title, logger.info)
    for line in lines:
        host.log(f"  {line}", logger.info)


def announce_diff(title: str, lines: Iterable[str]) -> None:
    """Like ``announce``, but only with ``--diff``."""
    if state.config.DIFF:
        announce(title, lines)


def will_change(triggers: Iterable[object]) -> bool:
    """Whether any of these operation results changes, or has changed, its host."""
    for trigger in triggers:
        complete = trigger.is_complete()  # type: ignore[attr-defined]
        if trigger.did_change() if complete else trigger.will_change:  # type: ignore[attr-defined]
            return True
    return False
