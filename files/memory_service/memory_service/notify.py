"""What systemd is told and what it hands over, over its documented interfaces (sd_notify(3),
sd_listen_fds(3), sd_watchdog_enabled(3))."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final

_FIRST_FD: Final = 3


def notify(message: str) -> None:
    """Sends a state like `READY=1` to the service manager; without one nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect(address)
        channel.sendall(message.encode())


def inherited_sockets() -> list[socket.socket]:
    """The listening sockets of socket activation; none when started by hand."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    found = []
    for number in range(_FIRST_FD, _FIRST_FD + count):
        os.set_inheritable(number, False)
        found.append(socket.socket(fileno=number))
    return found


def watchdog_interval_s() -> float | None:
    """How often the service manager wants a sign of life; None when it does not ask."""
    microseconds = os.environ.get("WATCHDOG_USEC")
    owner = os.environ.get("WATCHDOG_PID")
    if not microseconds or (owner and owner != str(os.getpid())):
        return None
    return int(microseconds) / 1_000_000
