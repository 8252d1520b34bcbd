"""The end of the memory service's HTTP server: who was accepted is answered."""

import asyncio
import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import uvicorn

from memory_service import draining
from memory_service.draining import DrainingServer


@dataclass
class Running:
    """A server in a thread, whose `/slow` answers once `go` is set."""

    listener: socket.socket
    server: DrainingServer
    go: threading.Event = field(default_factory=threading.Event)

    def connect(self) -> http.client.HTTPConnection:
        """A connection that the server has accepted."""
        before = len(self.server.server_state.connections)
        connection = http.client.HTTPConnection(*self.listener.getsockname(), timeout=20)
        connection.connect()
        wait_for(lambda: len(self.server.server_state.connections) > before)
        return connection

    def end(self) -> None:
        """Tells the server to end and waits until it takes no new connection."""
        self.server.should_exit = True
        wait_for(lambda: not any(server.is_serving() for server in self.server.servers))


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)


def ask(connection: http.client.HTTPConnection, path: str = "/") -> tuple[int, str | None]:
    """Status and the header `Connection` of an answer."""
    connection.request("GET", path)
    return answer_of(connection)


def answer_of(connection: http.client.HTTPConnection) -> tuple[int, str | None]:
    with connection.getresponse() as answer:
        answer.read()
        return answer.status, answer.headers["Connection"]


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    # The caller of a test may be slow; the one that never asks is given up sooner.
    monkeypatch.setattr(draining, "LAST_REQUESTS_S", 15.0)

    async def app(scope, _receive, send):  # type: ignore[no-untyped-def]
        assert scope["type"] == "http"
        while scope["path"] == "/slow" and not started.go.is_set():
            await asyncio.sleep(0.005)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http="h11", ws="none", log_config=None, lifespan="off", access_log=False)
        started = Running(listener, DrainingServer(config))
        thread = threading.Thread(target=started.server.run, args=([listener.dup()],))
        thread.start()
        try:
            wait_for(lambda: started.server.started)
            yield started
        finally:
            started.go.set()
            started.server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def test_a_connection_that_was_accepted_but_has_not_asked_yet_is_answered(running: Running) -> None:
    with contextlib.closing(running.connect()) as connection:
        running.end()
        assert ask(connection) == (200, "close")


def test_a_kept_connection_is_answered_once_more_and_told_to_go(running: Running) -> None:
    with contextlib.closing(running.connect()) as connection:
        assert ask(connection) == (200, None)
        running.end()
        assert ask(connection) == (200, "close")


def test_a_request_under_way_is_answered_and_its_connection_closed(running: Running) -> None:
    with contextlib.closing(running.connect()) as connection:
        connection.request("GET", "/slow")
        wait_for(lambda: bool(running.server.server_state.tasks))
        running.end()
        running.go.set()
        assert answer_of(connection) == (200, "close")


def test_a_connection_that_never_asks_does_not_hold_the_end_up(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, "LAST_REQUESTS_S", 0.5)
    with contextlib.closing(running.connect()) as connection:
        running.end()
        wait_for(lambda: not running.server.server_state.connections)
        assert connection.sock.recv(1) == b""


def test_who_connects_later_waits_for_the_next_process(running: Running) -> None:
    running.end()
    with contextlib.closing(http.client.HTTPConnection(*running.listener.getsockname(), timeout=20)) as late:
        late.request("GET", "/")
        accepted, _ = running.listener.accept()
        with accepted:
            assert accepted.recv(4096).startswith(b"GET / HTTP/1.1")
