"""Vectors for entries that have none of the model in force: after an outage, and after a change of the model."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Final

from memory_service import system_rows
from memory_service.database import Connection, Database
from memory_service.embedding import BATCH, MAX_CHARACTERS, Embedder
from memory_service.errors import UpstreamError
from memory_service.system_rows import Row

log = logging.getLogger(__name__)
# What a provider says of one text that it does not take: it is too long, or it makes no usable vector.
_REFUSALS: Final = frozenset({"status_400", "status_413", "status_422", "garbage"})
# How much of a refused text is tried: words stand for it that fit into the smallest models (512 tokens).
_PARTS: Final = (1, 4, 16)


class Backfill:
    """Embeds in batches; one text that is refused for good holds up nothing."""

    def __init__(self, database: Database, embedder: Embedder, stored: Callable[[], None]) -> None:
        """:param stored: told when there are new vectors"""
        self._database = database
        self._embedder = embedder
        self._stored = stored
        self._others = True  # entries may have vectors of another model; only this process makes vectors

    async def step(self) -> bool:
        """Gives vectors to a batch of entries; True when there may be more. Raises UpstreamError."""
        rows = await self._next()
        if not rows:
            return False
        vectors = await self._vectors(rows)
        found = {identity: vector for identity, vector in vectors.items() if vector is not None}
        refused = [identity for identity, vector in vectors.items() if vector is None]

        async def store(connection: Connection) -> None:
            await system_rows.store_vectors(connection, found, self._embedder.model)
            await system_rows.mark_refused(connection, refused, self._embedder.model)

        await self._database.run(store, system=True, wait_s=2.0, timeout_s=20.0)
        if refused:
            log.warning(
                "%s refuses %d texts: they are found by their words only", self._embedder.model, len(refused)
            )
        self._stored()
        return True

    async def _next(self) -> list[Row]:
        model = self._embedder.model

        async def look(connection: Connection) -> list[Row]:
            rows = await system_rows.unembedded(connection, model, BATCH)
            if not rows and self._others:
                rows = await system_rows.embedded_otherwise(connection, model, BATCH)
                self._others = bool(rows)  # no index knows them: not asked again once there are none
            return rows

        return await self._database.run(look, system=True, wait_s=2.0, timeout_s=20.0)

    async def _vectors(self, rows: Sequence[Row]) -> dict[uuid.UUID, list[float] | None]:
        try:
            vectors = await self._embedder.embed([row["content"] for row in rows])
            return {row["id"]: vector for row, vector in zip(rows, vectors, strict=True)}
        except UpstreamError as error:
            if error.reason not in _REFUSALS:
                raise
        return {row["id"]: await self._vector(row["content"]) for row in rows}

    async def _vector(self, text: str) -> list[float] | None:
        """The vector of one text or of its beginning; None when the model takes neither."""
        sent = text[:MAX_CHARACTERS]
        for part in _PARTS:
            try:
                return (await self._embedder.embed([sent[: max(1, len(sent) // part)]]))[0]
            except UpstreamError as error:
                if error.reason not in _REFUSALS:
                    raise
        # Is it this text, or every text? A new one, so that no cache answers; refused, it raises.
        await self._embedder.embed([f"It is {time.time_ns()}"])
        return None
