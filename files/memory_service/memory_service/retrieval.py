"""Search over one client's memories: words in PostgreSQL, meaning in Qdrant, together one list."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from memory_service import metrics
from memory_service.database import Connection, Database
from memory_service.embedding import Embedder
from memory_service.errors import StoreUnavailable, UpstreamError
from memory_service.fusion import (
    CANDIDATES,
    CENTRE_FULL,
    Ranked,
    Weights,
    adjusted,
    duplicates,
    fingerprint,
    fuse,
    relevant,
    specific,
    timely,
)
from memory_service.lexical import score
from memory_service.qdrant import Qdrant
from memory_service.repository import ClientRows, EntryRow, LexicalMatch
from memory_service.settings import Settings

QUERY_CHARACTERS = 4_000
CENTRES: Final = 512
CENTRE_S: Final = 600.0
SMALL_CENTRE_S: Final = 30.0


@dataclass(frozen=True)
class Found:
    """A memory that answers a query."""

    entry: EntryRow
    score: float
    lexical: float
    dense: float


@dataclass
class Degraded:
    """What had to be done without, each reason once and in the order met."""

    reasons: list[str] = field(default_factory=list)

    def add(self, reason: str) -> None:
        """Notes a reason."""
        if reason not in self.reasons:
            self.reasons.append(reason)
            metrics.DEGRADED.labels(reason).inc()


class Deadline:
    """A moment until which an answer has to be there."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    def left(self, reserve: float = 0.0) -> float:
        """Seconds left, less a reserve for what comes after; at least 0.01."""
        return max(0.01, self._at - time.monotonic() - reserve)

    @property
    def passed(self) -> bool:
        """Whether it is too late."""
        return time.monotonic() >= self._at


@dataclass(frozen=True)
class Centre:
    """The mean of some of a client's vectors, of how many, and until when it is good enough."""

    mean: array[float]
    count: int
    until: float


class Centres:
    """The centres of the clients that were asked about lately: at most CENTRES, of 6 KB each.

    A centre moves slowly once it is the mean of CENTRE_FULL messages; that of a smaller memory is read again
    sooner.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._known: OrderedDict[int, Centre] = OrderedDict()
        self._clock = clock

    def get(self, client_id: int) -> Centre | None:
        """The centre of a client, if it is known and not too old."""
        centre = self._known.get(client_id)
        return centre if centre is not None and self._clock() < centre.until else None

    async def learn(self, rows: ClientRows, model: str) -> None:
        """Reads the centre of a client, unless it is known."""
        if self.get(rows.client_id) is not None:
            return
        mean, count = await rows.centre(model)
        lasts = CENTRE_S if count >= CENTRE_FULL else SMALL_CENTRE_S
        self._known[rows.client_id] = Centre(mean, count, self._clock() + lasts)
        self._known.move_to_end(rows.client_id)
        while len(self._known) > CENTRES:
            self._known.popitem(last=False)

    def forget(self, client_id: int) -> None:
        """Forgets the centre of a client."""
        self._known.pop(client_id, None)


class Retrieval:
    """The searches and how they are put together."""

    def __init__(
        self, settings: Settings, database: Database, embedder: Embedder, qdrant: Qdrant | None
    ) -> None:
        self._settings = settings
        self._database = database
        self._embedder = embedder
        self._qdrant = qdrant
        self._weights = Weights(settings.dense_weight)
        self._centres = Centres()

    async def embed(self, query: str, deadline: Deadline, degraded: Degraded) -> list[float] | None:
        """The query's vector, or None when the model does not answer in time."""
        started = time.perf_counter()
        timeout = min(self._settings.embedding_timeout_s, deadline.left(0.2))
        try:
            vectors = await asyncio.wait_for(self._embedder.embed([query[:QUERY_CHARACTERS]]), timeout)
            return vectors[0]
        except (UpstreamError, TimeoutError, StoreUnavailable):
            degraded.add("embeddings")
            return None
        finally:
            metrics.STAGES.labels("embed").observe(time.perf_counter() - started)

    async def prepare(self, rows: ClientRows) -> None:
        """Reads what a search by meaning has to know of a client, within a transaction that runs anyway."""
        await self._centres.learn(rows, self._embedder.model)

    def forget(self, client_id: int) -> None:
        """Forgets what is known of a client that is gone."""
        self._centres.forget(client_id)

    async def meaning(
        self, query: str, client: Awaitable[int], deadline: Deadline, degraded: Degraded
    ) -> dict[int, float]:
        """Slot -> cosine of what is near to a query in meaning; the client may become known meanwhile."""
        vector = await self.embed(query, deadline, degraded)
        return {} if vector is None else await self.near(await client, vector, deadline, degraded)

    async def near(
        self, client_id: int, vector: list[float], deadline: Deadline, degraded: Degraded
    ) -> dict[int, float]:
        """Slot -> cosine of what is near in meaning: from Qdrant, else by reading PostgreSQL's vectors."""
        started = time.perf_counter()
        centre = self._centres.get(client_id)
        if centre is not None and centre.count:
            vector = specific(vector, centre.mean, centre.count)
        try:
            if self._qdrant is not None:
                timeout = min(self._settings.qdrant_timeout_s, deadline.left(0.15))
                try:
                    now = int(time.time())
                    hits = await asyncio.wait_for(
                        self._qdrant.search(client_id, vector, CANDIDATES, now), timeout
                    )
                    if hits:
                        return {hit.slot: hit.cosine for hit in hits}
                    if not await self._has_vectors(client_id, deadline):
                        return {}
                    degraded.add("qdrant_empty")
                except (UpstreamError, TimeoutError):
                    degraded.add("qdrant")
            return await self._nearest_in_postgres(client_id, vector, deadline, degraded)
        finally:
            metrics.STAGES.labels("dense").observe(time.perf_counter() - started)

    async def _has_vectors(self, client_id: int, deadline: Deadline) -> bool:
        async def work(connection: Connection) -> bool:
            return await ClientRows(connection, client_id).has_vectors()

        try:
            return await self._database.run(work, client_id=client_id, timeout_s=deadline.left(0.1))
        except StoreUnavailable:
            return False

    async def _nearest_in_postgres(
        self, client_id: int, vector: list[float], deadline: Deadline, degraded: Degraded
    ) -> dict[int, float]:
        async def work(connection: Connection) -> dict[int, float]:
            rows = ClientRows(connection, client_id)
            return await rows.nearest(vector, self._embedder.model, CANDIDATES)

        try:
            return await self._database.run(work, client_id=client_id, timeout_s=deadline.left(0.1))
        except StoreUnavailable:
            degraded.add("dense")
            return {}

    def rank(self, lexical: LexicalMatch, near: dict[int, float]) -> list[Ranked]:
        """All relevant candidates, best first."""
        started = time.perf_counter()
        words = score(lexical.postings, lexical.total, lexical.terms)
        ranked = fuse(words, near, self._weights)
        if not lexical.terms:
            # Nothing but small talk was said: only a meaning that is very near is worth an interruption.
            ranked = [item for item in ranked if item.cosine >= max(0.75, self._settings.gate_dense)]
        chosen = relevant(ranked, self._settings.gate_lexical, self._settings.gate_dense)
        metrics.STAGES.labels("fuse").observe(time.perf_counter() - started)
        return chosen

    async def show(
        self, client_id: int, query: str, ranked: list[Ranked], limit: int, deadline: Deadline
    ) -> list[Found]:
        """The best `limit` candidates with their texts, as PostgreSQL has them now and without repetitions."""
        if not ranked:
            return []
        started = time.perf_counter()
        chosen = ranked[: limit * 3 + 10]

        async def work(connection: Connection) -> dict[int, EntryRow]:
            return await ClientRows(connection, client_id).entries([item.slot for item in chosen])

        entries = await self._database.run(
            work, client_id=client_id, timeout_s=deadline.left(0.05), pipelined=True
        )
        now = datetime.now(UTC)
        found = [
            Found(
                entry,
                adjusted(item.score, entry.occurred_at, now, entry.rating, entry.content)
                * timely(query, entry.content),
                item.lexical,
                item.dense,
            )
            for item in chosen
            if (entry := entries.get(item.slot)) is not None
        ]
        found.sort(key=lambda one: (-one.score, -one.entry.slot))
        shown: list[Found] = []
        seen: list[frozenset[str]] = []
        for one in found:
            words = fingerprint(one.entry.content)
            if duplicates(seen, words):
                continue
            seen.append(words)
            shown.append(one)
            if len(shown) == limit:
                break
        metrics.STAGES.labels("show").observe(time.perf_counter() - started)
        return shown

    async def search(
        self, client_id: int, query: str, limit: int, deadline: Deadline
    ) -> tuple[list[Found], list[str]]:
        """A search on its own: what was found, and what had to be done without."""
        degraded = Degraded()
        client: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def words(connection: Connection) -> LexicalMatch:
            rows = ClientRows(connection, client_id)
            await self.prepare(rows)
            if not client.done():
                client.set_result(client_id)
            return await rows.lexical(query[:QUERY_CHARACTERS])

        meaning = asyncio.create_task(self.meaning(query, client, deadline, degraded))
        try:
            lexical = await self._database.run(
                words, client_id=client_id, timeout_s=deadline.left(0.1), pipelined=True
            )
            near = await meaning
        finally:
            meaning.cancel()
        return await self.show(client_id, query, self.rank(lexical, near), limit, deadline), degraded.reasons
