"""Runs the service: sockets from systemd or of its own, readiness, watchdog, and an end without loss."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

import uvicorn

from memory_service.api import create_app
from memory_service.draining import DrainingServer
from memory_service.json_logs import configure
from memory_service.notify import inherited_sockets, notify, watchdog_interval_s
from memory_service.service import build
from memory_service.settings import Settings

log = logging.getLogger(__name__)
BACKLOG = 512


async def _keep_alive(interval_s: float) -> None:
    """Signs of life from the event loop: a loop that hangs sends none and is restarted."""
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_s / 3)


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then drains: requests under way are answered first.

    With socket activation the sockets belong to systemd: callers that connect meanwhile wait in its queue
    for the next process instead of being refused. Those that were accepted are served, see `draining`.
    """
    service = build(settings)
    app = create_app(service)
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(settings.drain_s),
        backlog=BACKLOG,
        h11_max_incomplete_event_size=64 * 1024,
    )
    server = DrainingServer(config)
    sockets = inherited_sockets() or [_listen(settings)]
    tasks = [asyncio.ensure_future(_announce(server))]
    interval = watchdog_interval_s()
    if interval is not None:
        tasks.append(asyncio.ensure_future(_keep_alive(interval)))
    try:
        await server.serve(sockets=sockets)
    finally:
        notify("STOPPING=1")
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _announce(server: uvicorn.Server) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    notify("READY=1")
    log.info("ready")


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.listen_host else socket.AF_INET
    # Without the protocol's number asyncio does not set TCP_NODELAY on the connections, and every answer of more
    # than one write waits 40 ms for the caller's acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((settings.listen_host, settings.listen_port))
    listener.listen(BACKLOG)
    return listener


def run(settings: Settings) -> None:
    """Serves in this process until told to stop."""
    configure(settings.log_level)
    asyncio.run(serve(settings))
