"""The sockets that the memory service listens on, its own or systemd's."""

import asyncio
import os
import socket

import pytest

from memory_service.notify import inherited_sockets
from memory_service.serving import _listen
from memory_service.settings import Settings


def answers_at_once(listener: socket.socket) -> bool:
    """Whether a connection that the event loop accepts has TCP_NODELAY: no answer waits for an acknowledgement."""
    found: asyncio.Queue[bool] = asyncio.Queue()

    def accepted(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        found.put_nowait(bool(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
        writer.close()

    async def connect() -> bool:
        async with await asyncio.start_server(accepted, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname()[:2])
            answer = await asyncio.wait_for(found.get(), 60)
            writer.close()
            return answer

    return asyncio.run(connect())


def test_a_socket_of_its_own_sends_without_delay() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    assert answers_at_once(_listen(Settings(listen_port=port)))


def test_a_socket_of_systemd_sends_without_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        monkeypatch.setattr("memory_service.notify._FIRST_FD", os.dup(given.fileno()))
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        monkeypatch.setenv("LISTEN_FDS", "1")
        (listener,) = inherited_sockets()
        assert listener.getsockname() == given.getsockname()
        assert answers_at_once(listener)


def test_without_activation_there_is_no_socket_to_inherit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert inherited_sockets() == []
