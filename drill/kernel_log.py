"""What the laptop's kernel says about a droplet."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

KMSG: Final = Path("/dev/kmsg")
# One such line per kill (mm/oom_kill.c, dump_oom_summary).
_KILL: Final = re.compile(r"oom-kill:.*[,:]task_memcg=/(?P<group>[^/,]+)[/,]")


def count_oom_kills(messages: list[str], group: str, since_us: int) -> int:
    """How many processes of a control group, and of those below it, were killed for want of memory.

    Args:
        messages: records of /dev/kmsg, ``priority,number,microseconds,flags;text``.
        group: name of the group, directly below the root.
        since_us: only what happened after this many microseconds since the laptop's start.
    """
    kills = 0
    for message in messages:
        head, _, text = message.partition(";")
        found = _KILL.search(text)
        if found and found["group"] == group and int(head.split(",")[2]) >= since_us:
            kills += 1
    return kills


def messages() -> list[str]:
    """Everything that is still in the kernel's log; nothing where it may not be read."""
    try:
        descriptor = os.open(KMSG, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return []
    found = []
    try:
        while True:
            try:
                found.append(os.read(descriptor, 8192).decode(errors="replace"))
            except BrokenPipeError:  # a record was overwritten before it was read; the next one follows
                continue
            except BlockingIOError:
                return found
    finally:
        os.close(descriptor)
