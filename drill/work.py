"""Long work on the laptop that ends when the drill that began it is gone.

A drill that is killed leaves its children running, and they would go on filling directories that `down`
is deleting. So they run in a control group of their own, and whoever needs the place empties it first.
"""

from __future__ import annotations

from collections.abc import Sequence

from drill import cgroup, records
from drill.commands import run


def group(name: str) -> cgroup.Group:
    """The control group of a piece of work."""
    return cgroup.Group(cgroup.layout(), f"drill-work-{name}-{records.tag(name)}")


def end(name: str) -> None:
    """End a piece of work that a killed drill left running (idempotent; hold the lock)."""
    cells = group(name)
    cells.kill()
    cells.remove()


def run_alone(name: str, argv: Sequence[str], *, purpose: str, input_text: str | None = None) -> str:
    """Run a program as the piece of work of that name and return its stdout.

    Raises:
        CommandFailed: it failed; says for what it was run.
    """
    end(name)
    cells = group(name)
    cells.prepare(None)
    try:
        return run(cells.command(argv, None), purpose=purpose, input_text=input_text)
    finally:
        end(name)
