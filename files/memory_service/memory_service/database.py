"""Connections to PostgreSQL, and transactions that belong to one client.

The pool is our own and small: it connects on demand and never waits for a background task to reconnect, so
a server that is down is known within milliseconds, and one that is back is used by the next request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from memory_service import metrics
from memory_service.errors import StoreUnavailable

Connection = AsyncConnection[DictRow]
T = TypeVar("T")
log = logging.getLogger(__name__)

_IDLE_CHECK_S = 30.0
# Sent as a message of the transaction's start; the policies of the schema read them.
_ENTER = (
    "SELECT set_config('memory.client_id', %s, true), set_config('memory.user_id', %s, true), "
    "set_config('memory.scope', %s, true), set_config('statement_timeout', %s, true)"
)

# SQLSTATE classes that say "the server cannot serve now": connection, resources, operator intervention.
_UNAVAILABLE = ("08", "53", "57P")
# A statement that ran too long, or waited too long for a lock.
_TOO_LATE = ("57014", "55P03")


def is_unavailable(error: BaseException) -> bool:
    """Whether an error means that the database cannot be used now, rather than that a query is wrong."""
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return error.sqlstate.startswith(_UNAVAILABLE) or error.sqlstate in _TOO_LATE


class Database:
    """A bounded set of connections to one database."""

    def __init__(self, connection: Mapping[str, object], size: int, wait_s: float) -> None:
        """
        :param connection: libpq parameters
        :param size: most connections
        :param wait_s: how long to wait for a connection of a server that answers nobody
        """
        self._parameters = dict(connection)
        self._wait_s = wait_s
        self._slots = asyncio.Semaphore(size)
        self._idle: deque[tuple[float, Connection]] = deque()
        self._answered_at = -math.inf
        self._closed = False

    async def _connect(self) -> Connection:
        parameters: dict[str, Any] = {
            "application_name": "memory-service",
            "keepalives_idle": 30,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 10_000,
            "options": "-c search_path=memory,public -c TimeZone=UTC -c lock_timeout=2s "
            "-c idle_in_transaction_session_timeout=60s -c jit=off",
            **self._parameters,
        }
        return await AsyncConnection.connect(autocommit=False, row_factory=dict_row, **parameters)

    async def _take(self) -> Connection:
        while self._idle:
            since, connection = self._idle.pop()
            if connection.closed or connection.broken:
                continue
            if time.monotonic() - since > _IDLE_CHECK_S:
                try:
                    await connection.execute("SELECT 1")
                    await connection.rollback()
                except psycopg.Error:
                    await _discard(connection)
                    continue
            return connection
        return await self._connect()

    async def _slot(self, wait_s: float, until: float) -> float:
        """Waits for its turn: `wait_s` without any caller being answered, or until a moment at most.

        Many callers are no reason to go without memories; a server that answers nobody is one. Returns how
        much of `wait_s` is left.
        """
        if not self._slots.locked():
            await self._slots.acquire()
            return wait_s
        begun = now = time.monotonic()
        left = wait_s
        turn = asyncio.ensure_future(self._slots.acquire())
        try:
            while not turn.done():
                patience = min(left, until - now)
                if patience <= 0.0:
                    raise StoreUnavailable(
                        f"no connection to PostgreSQL became free within {now - begun:.1f} s"
                    )
                await asyncio.wait({turn}, timeout=patience)
                now = time.monotonic()
                left = max(begun, self._answered_at) + wait_s - now
        except BaseException:
            if not turn.cancel():
                self._slots.release()
            raise
        return left

    @contextlib.asynccontextmanager
    async def _lent(self, wait_s: float, until: float) -> AsyncIterator[Connection]:
        left = await self._slot(wait_s, until)
        try:
            try:
                connection = await asyncio.wait_for(self._take(), max(0.05, left))
            except TimeoutError:
                raise StoreUnavailable(
                    f"PostgreSQL did not accept a connection within {wait_s:g} s"
                ) from None
            except psycopg.OperationalError as error:
                raise StoreUnavailable(f"PostgreSQL cannot be reached: {_first_line(error)}") from error
            healthy = False
            try:
                yield connection
                healthy = True
                self._answered_at = time.monotonic()
            finally:
                if healthy and not self._closed and not connection.closed and not connection.broken:
                    self._idle.append((time.monotonic(), connection))
                else:
                    await _discard(connection)
        finally:
            self._slots.release()

    async def run(
        self,
        work: Callable[[Connection], Awaitable[T]],
        *,
        client_id: int | None = None,
        user_id: str | None = None,
        system: bool = False,
        timeout_s: float = 5.0,
        wait_s: float | None = None,
        pipelined: bool = False,
    ) -> T:
        """Runs `work` in one transaction that sees one client's rows (or all, for the system's own work).

        With `pipelined` a statement is sent together with those before it whose results nobody has fetched
        yet, which saves most of the round trips; their row counts are then not known to `work`.
        `timeout_s` is for all of it, the wait for a connection included; a server that answers nobody is given
        `wait_s`.

        A connection that turns out to be dead before the commit is replaced and the work done once more;
        `work` must therefore not change anything but the database. Raises StoreUnavailable.
        """
        until = time.monotonic() + timeout_s
        for attempt in (1, 2, 3):
            try:
                async with self._lent(self._wait_s if wait_s is None else wait_s, until) as connection:
                    left = max(0.01, until - time.monotonic())
                    return await asyncio.wait_for(
                        self._transaction(connection, work, client_id, user_id, system, left, pipelined), left
                    )
            except TimeoutError:
                metrics.UPSTREAM_ERRORS.labels("postgres", "timeout").inc()
                raise StoreUnavailable(f"PostgreSQL did not answer within {timeout_s:g} s") from None
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                if not is_unavailable(error):
                    raise
                metrics.UPSTREAM_ERRORS.labels("postgres", "connection").inc()
                stale = error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))
                if attempt == 3 or not stale:
                    raise StoreUnavailable(f"PostgreSQL cannot be used: {_first_line(error)}") from error
                self._forget_idle()
        raise AssertionError("unreachable")

    @contextlib.asynccontextmanager
    async def transaction(self, *, client_id: int, timeout_s: float) -> AsyncIterator[Connection]:
        """A transaction of one client that lasts as long as the block; for reading in pages.

        It is rolled back at the end. Raises StoreUnavailable when no connection can be had.
        """
        async with self._lent(2.0, time.monotonic() + 2.0) as connection:
            try:
                await connection.execute(_ENTER, (str(client_id), "", "", str(int(timeout_s * 1000))))
                yield connection
            finally:
                await connection.rollback()

    async def _transaction(
        self,
        connection: Connection,
        work: Callable[[Connection], Awaitable[T]],
        client_id: int | None,
        user_id: str | None,
        system: bool,
        timeout_s: float,
        pipelined: bool,
    ) -> T:
        async with connection.pipeline() if pipelined else contextlib.nullcontext():
            await connection.execute(
                _ENTER,
                (
                    "" if client_id is None else str(client_id),
                    user_id or "",
                    "system" if system else "",
                    str(max(1, int(timeout_s * 1000))),
                ),
            )
            result = await work(connection)
            await connection.commit()
        return result

    def _forget_idle(self) -> None:
        """After one dead connection the others of its age are suspect too."""
        while self._idle:
            _, connection = self._idle.pop()
            connection.pgconn.finish()

    async def close(self) -> None:
        """Closes the idle connections; those in use close when they are given back."""
        self._closed = True
        while self._idle:
            await _discard(self._idle.pop()[1])


async def _discard(connection: Connection) -> None:
    with contextlib.suppress(psycopg.Error, OSError):
        await connection.close()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


async def name_client(connection: Connection, client_id: int) -> None:
    """Narrows the running transaction to a client that was only just found."""
    await connection.execute("SELECT set_config('memory.client_id', %s, true)", (str(client_id),))
