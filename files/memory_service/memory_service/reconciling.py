"""Keeps Qdrant equal to PostgreSQL: finds it wiped, short or left behind, and rebuilds it on request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from typing import Any, Final

from memory_service import system_rows
from memory_service.database import Connection, Database
from memory_service.errors import UpstreamError
from memory_service.qdrant import Qdrant, point
from memory_service.settings import Settings

log = logging.getLogger(__name__)
PAGE: Final = 500
COMPARE_EVERY_S: Final = 60.0


class Reconciler:
    """Compares the two stores. One process at a time: the caller's loop and the lock see to it."""

    def __init__(self, settings: Settings, database: Database, qdrant: Qdrant) -> None:
        self._settings = settings
        self._database = database
        self._qdrant = qdrant
        self._was_away = True
        self._compared_at = 0.0
        self._shaping = asyncio.Lock()  # held while collections are made and dropped

    async def step(self) -> bool:
        """One look: is the collection there, does the count agree? What is missing goes into the outbox."""
        try:
            await self._qdrant.resolve()
            there = await self._qdrant.exists(self._qdrant.active)
        except UpstreamError:
            self._was_away = True
            raise
        if not there:
            log.warning("the collection %s is gone and is made anew from PostgreSQL", self._qdrant.active)
            self._was_away = True  # first, so that a creation that is cut short is completed by the next look
            await self._qdrant.create(self._qdrant.active)
        elif self._was_away and await self._qdrant.missing_indexes(self._qdrant.active):
            log.warning("the collection %s lacks payload indexes and gets them", self._qdrant.active)
            await self._qdrant.create(self._qdrant.active)
        if self._was_away:
            await self._database.run(system_rows.hasten, system=True, wait_s=2.0)
        if self._was_away or time.monotonic() - self._compared_at >= COMPARE_EVERY_S:
            await self.compare()
            self._compared_at = time.monotonic()
            if not self._shaping.locked():  # a reindex is under way, which sweeps by itself
                await self.sweep()
        self._was_away = False
        return False

    async def sweep(self) -> None:
        """Drops what a reindex that was cut short left behind: copies of what was said, that no forgetting reaches.

        Raises UpstreamError.
        """
        async with self._shaping:
            await self._sweep()

    async def _sweep(self) -> None:
        name = self._qdrant.name
        target = await self._qdrant.alias_target()
        for left in await self._qdrant.rebuilt():
            if left != target:
                log.warning("the collection %s is a reindex's that did not end: it is dropped", left)
                await self._qdrant.drop(left)
        if target is None or target == name:
            return
        # The declared collection stays, empty: a deploy looks for it.
        there = await self._qdrant.exists(name)
        if there and await self._qdrant.count(collection=name) > 0:
            log.warning("the collection %s is not in use any more and is emptied", name)
            await self._qdrant.drop(name)
            there = False
        if not there:
            await self._qdrant.create(name)

    async def compare(self) -> int:
        """Enqueues every difference when the counts differ and nothing is under way; returns how many."""

        async def look(connection: Connection) -> tuple[int, int]:
            row = await system_rows.figures(connection)
            return int(row["outbox"]), await system_rows.indexable(connection)

        waiting, wanted = await self._database.run(look, system=True, wait_s=2.0, timeout_s=30.0)
        if waiting:
            return 0
        found = await self._qdrant.count()
        if found == wanted:
            return 0
        differing = await self.difference()
        for start in range(0, len(differing), PAGE):
            part = differing[start : start + PAGE]
            await self._database.run(
                lambda connection, part=part: system_rows.enqueue_vectors(connection, part),  # type: ignore[misc]
                system=True,
                wait_s=2.0,
            )
        log.warning(
            "Qdrant has %d points, PostgreSQL %d: %d differences go into the outbox",
            found,
            wanted,
            len(differing),
        )
        return len(differing)

    async def difference(self) -> list[uuid.UUID]:
        """The ids that only one of the stores has."""
        indexed: set[uuid.UUID] = set()
        offset: str | None = None
        while True:
            page, offset = await self._qdrant.identities(offset, 1000)
            indexed.update(uuid.UUID(identity) for identity in page)
            if offset is None:
                break
        differing: list[uuid.UUID] = []
        async for identities in self._all_ids():
            for identity in identities:
                if identity in indexed:
                    indexed.discard(identity)
                else:
                    differing.append(identity)
        return [*differing, *indexed]

    async def _all_ids(self) -> Any:
        after: uuid.UUID | None = None
        while True:
            page = await self._database.run(
                lambda connection, after=after: system_rows.indexable_ids(connection, after, PAGE),  # type: ignore[misc]
                system=True,
                wait_s=2.0,
            )
            if not page:
                return
            yield page
            after = page[-1]

    async def reindex(self) -> dict[str, Any]:
        """Builds a new collection beside the one in use, fills it, checks the count and switches the alias.

        Searches go on with the old one meanwhile. What is written during the build is delivered to the old
        one and again to the new one after the switch (everything changed since the start is enqueued).
        Raises UpstreamError, StoreUnavailable; what is left behind then is swept up later.
        """
        async with self._shaping:
            return await self._reindex()

    async def _reindex(self) -> dict[str, Any]:
        started = time.perf_counter()
        await self._sweep()
        before = await self._qdrant.alias_target()
        begun = await self._database.run(system_rows.clock, system=True, wait_s=2.0)
        fresh = f"{self._qdrant.name}_{int(time.time())}"
        await self._qdrant.create(fresh)
        try:
            written = await self._fill(fresh)
        except BaseException:
            with contextlib.suppress(UpstreamError):  # what failed is more telling
                await self._qdrant.drop(fresh)
            raise
        await self._qdrant.switch(fresh)
        queued = await self.compare_all()
        queued += await self._database.run(
            lambda connection: system_rows.enqueue_changed(connection, begun), system=True, wait_s=2.0
        )
        await self._qdrant.drop(before or self._qdrant.name)
        await self._sweep()
        await self._database.run(
            lambda connection: system_rows.set_index_state(connection, "collection", fresh),
            system=True,
            wait_s=2.0,
        )
        return {
            "collection": fresh,
            "points": written,
            "changed_meanwhile": queued,
            "seconds": round(time.perf_counter() - started, 2),
        }

    async def _fill(self, fresh: str) -> int:
        """Writes every entry into a new collection; returns how many."""
        written = 0
        async for identities in self._all_ids():
            rows = await self._database.run(
                lambda connection, ids=identities: system_rows.vector_rows(connection, ids),  # type: ignore[misc]
                system=True,
                wait_s=2.0,
                timeout_s=30.0,
            )
            await self._qdrant.upsert([point(row) for row in rows], fresh)
            written += len(rows)
        found = await self._qdrant.count(collection=fresh)
        if found < written:
            raise UpstreamError(
                "qdrant", "incomplete", f"the new collection has {found} points of {written} written"
            )
        return written

    async def compare_all(self) -> int:
        """Enqueues all differences, whatever is under way."""
        differing = await self.difference()
        if differing:
            await self._database.run(
                lambda connection: system_rows.enqueue_vectors(connection, differing), system=True, wait_s=2.0
            )
        return len(differing)
