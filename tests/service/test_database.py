"""Waiting for a connection, over a real PostgreSQL."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from psycopg import conninfo

from memory_service.database import Connection, Database
from memory_service.errors import StoreUnavailable

pytestmark = pytest.mark.real


def one_connection(dsn: str, wait_s: float) -> Database:
    return Database(conninfo.conninfo_to_dict(dsn), size=1, wait_s=wait_s)


def sleeping(seconds: float) -> Callable[[Connection], Awaitable[None]]:
    async def work(connection: Connection) -> None:
        await connection.execute("SELECT pg_sleep(%s)", (seconds,))

    return work


class Held:
    """Work that keeps its connection until it is let go."""

    def __init__(self) -> None:
        self.taken, self.over = asyncio.Event(), asyncio.Event()

    async def __call__(self, _connection: Connection) -> None:
        self.taken.set()
        await self.over.wait()


def test_callers_wait_their_turn_as_long_as_others_are_answered(database: str) -> None:
    """Nine callers of one connection: the last waits longer than a silent server would be given."""

    async def crowd() -> None:
        pool = one_connection(database, wait_s=7.0)
        await asyncio.gather(*(pool.run(sleeping(1.0), timeout_s=120.0) for _ in range(9)))
        await pool.close()

    asyncio.run(crowd())


def test_nobody_waits_long_for_a_server_that_answers_nobody(database: str) -> None:
    async def stuck() -> None:
        pool = one_connection(database, wait_s=0.3)
        held = Held()
        first = asyncio.create_task(pool.run(held, timeout_s=120.0, wait_s=60.0))
        await held.taken.wait()
        with pytest.raises(StoreUnavailable, match="became free"):
            await pool.run(sleeping(0.0), timeout_s=120.0)
        held.over.set()
        await first
        # Who gave up holds no place.
        await pool.run(sleeping(0.0), timeout_s=120.0, wait_s=60.0)
        await pool.close()

    asyncio.run(stuck())


def test_a_turn_that_comes_too_late_for_the_deadline_is_given_up(database: str) -> None:
    async def late() -> None:
        pool = one_connection(database, wait_s=60.0)
        held = Held()
        first = asyncio.create_task(pool.run(held, timeout_s=120.0))
        await held.taken.wait()
        with pytest.raises(StoreUnavailable, match="became free"):
            await pool.run(sleeping(0.0), timeout_s=0.5)
        waiting = asyncio.create_task(pool.run(sleeping(0.0), timeout_s=120.0))
        await asyncio.sleep(0.2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        held.over.set()
        await first
        await pool.run(sleeping(0.0), timeout_s=120.0)
        await pool.close()

    asyncio.run(late())
