"""The nightly cleanup: space back from what has expired, and from turns and chats of which nothing is left.

Reads exclude expired messages and state anyway.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from memory_service import metrics, system_rows
from memory_service.database import Connection, Database
from memory_service.errors import Conflict, UpstreamError
from memory_service.qdrant import Qdrant
from memory_service.schemas import CleanupResponse
from memory_service.settings import Settings

BATCH: Final = 2_000


class Cleaner:
    """Removes expired rows in batches, one run at a time, within a budget of seconds."""

    def __init__(self, settings: Settings, database: Database, qdrant: Qdrant | None) -> None:
        self._settings = settings
        self._database = database
        self._qdrant = qdrant
        self._running = asyncio.Lock()

    async def clean(self, dry_run: bool, budget_s: float | None) -> CleanupResponse:
        """One run. What the budget does not allow is left for the next one, which begins where this ended.

        Raises Conflict while another run is under way.
        """
        if self._running.locked():
            raise Conflict("a cleanup is running: wait for it to end")
        async with self._running:
            return await self._clean(dry_run, budget_s or self._settings.cleanup_budget_s)

    async def _clean(self, dry_run: bool, budget_s: float) -> CleanupResponse:
        started = time.monotonic()
        cutoff = datetime.now(UTC)
        removed: dict[str, int] = {}
        complete = True
        for table in system_rows.CLEANUP:
            if dry_run:
                removed[table] = await self._count(table, cutoff)
                continue
            removed[table] = 0
            while True:
                if time.monotonic() - started >= budget_s:
                    complete = False
                    break
                count = await self._batch(table, cutoff)
                removed[table] += count
                if count < BATCH:
                    break
            metrics.CLEANED.labels(table).inc(removed[table])
        left = 0 if complete and not dry_run else await self._count("memory_entries", cutoff)
        qdrant = "skipped" if dry_run else await self._clean_index(cutoff)
        return CleanupResponse(
            dry_run=dry_run,
            complete=complete,
            removed=removed,
            expired_left=left,
            qdrant=qdrant,
            execution_time_ms=round((time.monotonic() - started) * 1000, 1),
            timestamp=datetime.now(UTC),
        )

    async def _batch(self, table: str, cutoff: datetime) -> int:
        """A batch in a transaction of its own, under a lock that other processes see."""

        async def work(connection: Connection) -> int:
            if not await system_rows.try_lock(connection, system_rows.CLEANUP_LOCK):
                raise Conflict("another process is cleaning up: wait for it to end")
            return await system_rows.remove_batch(connection, table, cutoff, BATCH, self._settings.ttl_days)

        return await self._database.run(work, system=True, timeout_s=20.0, wait_s=2.0)

    async def _count(self, table: str, cutoff: datetime) -> int:
        return await self._database.run(
            lambda connection: system_rows.count_expired(connection, table, cutoff, self._settings.ttl_days),
            system=True,
            timeout_s=20.0,
            wait_s=2.0,
        )

    async def _clean_index(self, cutoff: datetime) -> Literal["cleaned", "unavailable", "unused"]:
        """The same cut-off in Qdrant. When it is down the outbox removes the points later."""
        if self._qdrant is None:
            return "unused"
        try:
            # Payloads hold whole seconds: a point that expires within this second waits for the next run.
            await self._qdrant.delete_expired(int((cutoff - timedelta(seconds=1)).timestamp()))
        except UpstreamError:
            return "unavailable"
        return "cleaned"
