"""The work behind the requests: extraction of facts, delivery of vectors, missing vectors, figures.

Every piece of it is rows in PostgreSQL, so that nothing is lost with this process: a job whose worker died
is taken again when its lease ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, Final

from memory_service import metrics, system_rows
from memory_service.backfilling import Backfill
from memory_service.database import Connection, Database
from memory_service.embedding import Embedder
from memory_service.errors import StoreUnavailable, UpstreamError
from memory_service.extraction import Extraction, Extractor
from memory_service.learning import STORED, learn_turn
from memory_service.qdrant import Qdrant, point
from memory_service.reconciling import Reconciler
from memory_service.repository import ClientRows, Row
from memory_service.settings import Settings
from memory_service.system_rows import Job
from memory_service.verdicts import kind_of, verdict

log = logging.getLogger(__name__)
LEASE_S: Final = 20.0  # kept alive while the work goes on; how long the work of a dead process waits
EXTRACTORS: Final = 2
OUTBOX_BATCH: Final = 128
IDLE_S: Final = 2.0
STATE_TTL_S: Final = 86_400


class BudgetSpent(UpstreamError):
    """Today's tokens are used up."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream, "budget", f"the daily token budget of {upstream} is used up")


class Worker:
    """All background work of one process."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        embedder: Embedder,
        qdrant: Qdrant | None,
        extractor: Extractor | None,
        reconciler: Reconciler | None,
    ) -> None:
        self._settings = settings
        self._database = database
        self._embedder = embedder
        self._qdrant = qdrant
        self._extractor = extractor
        self._reconciler = reconciler
        self._backfill = Backfill(database, embedder, self.vectors_wait)
        self._jobs_wait = asyncio.Event()
        self._vectors_wait = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping = asyncio.Event()
        self._embedding_unbooked = 0
        self._embedding_today = 0

    # -- life

    def start(self) -> None:
        """Starts the background tasks in the running event loop."""
        for number in range(EXTRACTORS):
            self._spawn(self._loop(f"extract-{number}", self._next_job, self._jobs_wait))
        if self._qdrant is not None:
            self._spawn(self._loop("outbox", self.drain_once, self._vectors_wait))
        self._spawn(self._loop("embed", self._backfill.step, asyncio.Event()))
        self._spawn(self._loop("figures", self._figures, asyncio.Event(), idle_s=5.0))
        if self._reconciler is not None:
            self._spawn(self._loop("reconcile", self._reconciler.step, asyncio.Event(), idle_s=15.0))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        self._kept(asyncio.ensure_future(work))

    def _kept(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, or asyncio logs it with its text when nobody waits any more

    async def stop(self, within_s: float) -> None:
        """Lets running work finish for a while, then gives it up; its leases end by themselves."""
        self._stopping.set()
        self._jobs_wait.set()
        self._vectors_wait.set()
        if self._tasks:
            _, late = await asyncio.wait(set(self._tasks), timeout=within_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _loop(
        self, name: str, step: Callable[[], Awaitable[bool]], wake: asyncio.Event, idle_s: float = IDLE_S
    ) -> None:
        """Repeats a step: at once while it finds work, else after a pause or when woken."""
        failures = 0
        while not self._stopping.is_set():
            pause = 0.0
            try:
                busy = await step()
                failures = 0
                pause = 0.0 if busy else idle_s
            except (StoreUnavailable, UpstreamError) as error:
                failures += 1
                pause = min(30.0, 0.5 * 2 ** min(failures, 6))
                if failures in (1, 10):
                    log.warning("%s pauses: %s", name, error)
            except Exception as error:  # a bug, or data that PostgreSQL refuses: no reason to end for good
                failures += 1
                pause = min(30.0, 2.0 ** min(failures, 5))
                log.error("%s failed: %s", name, kind_of(error))
            if pause:
                # Cleared before the wait and set by whoever adds work after it was looked for: a wake-up
                # in between is at worst one pause late.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken(wake), pause)
                wake.clear()

    async def _woken(self, wake: asyncio.Event) -> None:
        stop = asyncio.ensure_future(self._stopping.wait())
        woken = asyncio.ensure_future(wake.wait())
        try:
            await asyncio.wait({stop, woken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            woken.cancel()

    def vectors_wait(self) -> None:
        """There is something in the outbox."""
        self._vectors_wait.set()

    def jobs_wait(self) -> None:
        """There is a job."""
        self._jobs_wait.set()

    # -- jobs

    async def run_now(self, job_id: int, within_s: float) -> dict[str, Any] | None:
        """Runs a job for a caller who waits; its result, or None when it goes on in the background."""
        task = asyncio.ensure_future(self._run_claimed(job_id))
        self._kept(task)
        done, _ = await asyncio.wait({task}, timeout=within_s)
        if not done:
            return None
        try:
            return task.result()
        except Exception as error:  # the turn is committed, whatever became of its job
            log.warning("job %d goes back to the queue: %s", job_id, kind_of(error))
            return None

    async def _run_claimed(self, job_id: int | None) -> dict[str, Any] | None:
        job = await self._database.run(
            lambda connection: system_rows.claim(connection, ["extract"], LEASE_S, job_id),
            system=True,
            wait_s=1.0,
            pipelined=True,
        )
        if job is None:
            return None
        return await self._run(job)

    async def _next_job(self) -> bool:
        job = await self._database.run(
            lambda connection: system_rows.claim(connection, ["extract", "reindex"], LEASE_S, None),
            system=True,
            wait_s=2.0,
        )
        if job is None:
            return False
        await self._run(job)
        return True

    async def _run(self, job: Job) -> dict[str, Any] | None:
        """Does a job and records how it went; a failure is recorded with a later time.

        Raises StoreUnavailable when that cannot be recorded: the job's lease then ends by itself.
        """
        started = time.perf_counter()
        try:
            result = await self._with_lease(job, self._work_of(job))
            await self._database.run(
                lambda connection: system_rows.finish(connection, job.id, result),
                system=True,
                wait_s=2.0,
                pipelined=True,
            )
            return result
        except StoreUnavailable:
            raise
        except Exception as error:  # a job left running would be taken again before all others, for ever
            await self._postpone(job, error)
            return None
        finally:
            metrics.STAGES.labels(job.kind).observe(time.perf_counter() - started)

    async def _work_of(self, job: Job) -> dict[str, Any]:
        if job.kind != "reindex":
            return await self._extract(job)
        if self._reconciler is None:
            raise UpstreamError("qdrant", "unused", "no Qdrant is configured: there is nothing to reindex")
        return await self._reconciler.reindex()

    async def _with_lease(self, job: Job, work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        """Keeps the lease of long work alive, so that nobody else takes it meanwhile."""
        task = asyncio.ensure_future(work)
        try:
            while True:
                done, _ = await asyncio.wait({task}, timeout=LEASE_S / 3)
                if done:
                    return task.result()
                await self._database.run(
                    lambda connection: system_rows.extend(connection, job.id, LEASE_S),
                    system=True,
                    wait_s=2.0,
                )
        finally:
            task.cancel()

    async def _postpone(self, job: Job, error: Exception) -> None:
        found = verdict(job, error)
        if found.dead:
            log.error("job %d is given up: %s", job.id, found.error)
        elif not isinstance(error, UpstreamError):
            log.error("job %d failed: %s", job.id, found.error)
        await self._database.run(
            lambda connection: system_rows.postpone(
                connection, job.id, found.delay_s, found.error, found.dead, found.counts
            ),
            system=True,
            wait_s=2.0,
        )

    async def _extract(self, job: Job) -> dict[str, Any]:
        assert job.client_id is not None and job.episode_id is not None
        client, episode = job.client_id, job.episode_id

        async def read(connection: Connection) -> tuple[list[Row], list[str]]:
            rows = ClientRows(connection, client)
            turn = await rows.turn(episode)
            return turn, [row["fact_key"] for row in await rows.facts()]

        turn, known = await self._database.run(read, client_id=client, wait_s=2.0, pipelined=True)
        if not turn:
            return {"facts_upserted": 0, "reason": "nothing new was said"}
        await self._embed_turn(client, turn)
        extraction = await self._ask(turn, known)
        vector: list[float] | None = None
        if extraction.summary:
            with contextlib.suppress(UpstreamError):  # an episode is found by its messages as well
                vector = (await self._embedder.embed([extraction.summary]))[0]
        at: datetime = turn[-1]["occurred_at"]

        async def store(connection: Connection) -> dict[str, Any]:
            rows = ClientRows(connection, client)
            found = await rows.episode(episode)
            if found is None:
                return {"facts_upserted": 0, "reason": "the turn was forgotten meanwhile"}
            learnt = await learn_turn(rows, extraction.facts, at, datetime.now(UTC), episode)
            await rows.finish_episode(
                episode, extraction.summary, extraction.tags, vector, self._embedder.model
            )
            for key, value in extraction.state.items():
                if found["session_id"]:
                    await rows.put_state(found["session_id"], key, value, STATE_TTL_S)
            stored = [one for one in learnt if one.outcome in STORED]
            outcomes: dict[str, int] = {}
            for one in learnt:
                outcomes[one.outcome] = outcomes.get(one.outcome, 0) + 1
            return {
                "facts_upserted": len(stored),
                "keys": sorted({one.key for one in stored}),
                "outcomes": outcomes,
                "dropped": extraction.dropped,
                "tokens": extraction.tokens,
            }

        return await self._database.run(store, client_id=client, wait_s=2.0, timeout_s=10.0, pipelined=True)

    async def _embed_turn(self, client: int, turn: list[Row]) -> None:
        missing = [
            row for row in turn if row["embedding_model"] != self._embedder.model and not row["quarantined"]
        ]
        if not missing:
            return
        try:
            vectors = await self._embedder.embed([row["content"] for row in missing])
        except UpstreamError:
            return  # the backfill makes up for it; facts need not wait for vectors
        found = {row["id"]: vector for row, vector in zip(missing, vectors, strict=True)}

        async def store(connection: Connection) -> None:
            await ClientRows(connection, client).set_vectors(found, self._embedder.model)

        await self._database.run(store, client_id=client, wait_s=2.0, pipelined=True)
        self.vectors_wait()

    async def _ask(self, turn: list[Row], known: list[str]) -> Extraction:
        users = [row["content"] for row in turn if row["role"] == "user" and not row["quarantined"]]
        answers = [row["content"] for row in turn if row["role"] == "assistant"]
        if self._extractor is None or not users:
            return Extraction([], "", [], {})
        await self.check_budget("chat", self._settings.llm_daily_tokens)
        extraction = await self._extractor.extract("\n\n".join(users), answers[-1] if answers else "", known)
        await self.spent("chat", extraction.tokens)
        return extraction

    async def check_budget(self, purpose: str, budget: int) -> None:
        """Raises BudgetSpent when today's tokens for a purpose are used up; 0 is no limit."""
        if budget == 0:
            return
        used = await self._database.run(
            lambda connection: system_rows.spent(connection, purpose), system=True, wait_s=1.0
        )
        if used >= budget:
            raise BudgetSpent("llm" if purpose == "chat" else "embeddings")

    async def spent(self, purpose: str, tokens: int) -> None:
        """Books tokens."""
        metrics.TOKENS.labels(purpose).inc(tokens)
        await self._database.run(
            lambda connection: system_rows.spend(connection, purpose, 1, tokens), system=True, wait_s=1.0
        )

    def embedding_tokens(self, tokens: int) -> None:
        """Counts tokens of the embedding provider; they are booked with the figures, not while a chat waits.

        Raises BudgetSpent when today's are used up.
        """
        budget = self._settings.embedding_daily_tokens
        if budget and self._embedding_today + self._embedding_unbooked >= budget and tokens == 0:
            raise BudgetSpent("embeddings")
        self._embedding_unbooked += tokens
        metrics.TOKENS.labels("embedding").inc(tokens)

    async def _book_embeddings(self) -> None:
        tokens, self._embedding_unbooked = self._embedding_unbooked, 0
        try:
            self._embedding_today = await self._database.run(
                lambda connection: system_rows.spend(connection, "embedding", 1 if tokens else 0, tokens),
                system=True,
                wait_s=1.0,
            )
        except StoreUnavailable:
            self._embedding_unbooked += tokens
            raise

    # -- vectors

    async def drain_once(self) -> bool:
        """Delivers a batch of the outbox to Qdrant; True when there may be more.

        The rows are read again here, so neither order nor repetition matters, and they leave the outbox only
        when Qdrant said "completed". The lock keeps a forget from being overtaken by an older delivery.
        """
        qdrant = self._qdrant
        assert qdrant is not None
        failed: list[UpstreamError] = []

        async def work(connection: Connection) -> int:
            if not await system_rows.try_lock(connection, system_rows.OUTBOX_LOCK):
                return 0
            due = await system_rows.due_vectors(connection, OUTBOX_BATCH)
            if not due:
                return 0
            wanted: set[uuid.UUID] = {row["memory_id"] for row in due}
            rows = await system_rows.vector_rows(connection, list(wanted))
            present = {row["id"] for row in rows}
            try:
                await qdrant.upsert([point(row) for row in rows])
                await qdrant.delete([identity for identity in wanted if identity not in present])
            except UpstreamError as error:
                failed.append(error)
                await system_rows.undelivered(connection, [row["id"] for row in due], str(error))
                return 0
            await system_rows.delivered(connection, [row["id"] for row in due])
            return len(due)

        delivered = await self._database.run(work, system=True, timeout_s=60.0, wait_s=2.0)
        if failed:
            raise failed[0]
        return delivered == OUTBOX_BATCH

    async def _figures(self) -> bool:
        if not self._embedder.local:
            await self._book_embeddings()
        row = await self._database.run(system_rows.figures, system=True, wait_s=2.0)
        metrics.QUEUE.labels("waiting").set(row["jobs"])
        metrics.QUEUE.labels("dead").set(row["dead"])
        metrics.QUEUE_AGE.set(row["jobs_age"])
        metrics.OUTBOX.set(row["outbox"])
        metrics.OUTBOX_AGE.set(row["outbox_age"])
        return False
