"""Progress for long work: one line per step, with the seconds since the command began."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_began = time.monotonic()


def elapsed_s() -> float:
    """Seconds since this command began."""
    return time.monotonic() - _began


def say(text: str) -> None:
    """Print one line of progress on stderr, so that stdout stays free for results."""
    print(f"[{elapsed_s():6.1f} s] {text}", file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Announce a piece of work and, when it ends well, say how long it took."""
    say(f"{text} ...")
    began = time.monotonic()
    yield
    say(f"{text}: done in {time.monotonic() - began:.1f} s")
