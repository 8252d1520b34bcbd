"""The background work of the memory service where it fails, over stores that only record."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import psycopg
import pytest
from pydantic import SecretStr

from memory_service import system_rows
from memory_service.backfilling import Backfill
from memory_service.database import Database, is_unavailable
from memory_service.embedding import Embedder
from memory_service.errors import StoreUnavailable, UpstreamError
from memory_service.extraction import check
from memory_service.forgetting import Forgetter
from memory_service.qdrant import Qdrant
from memory_service.repository import ProfileRow
from memory_service.settings import Settings
from memory_service.system_rows import Job
from memory_service.verdicts import Verdict, kind_of, verdict
from memory_service.work import BudgetSpent, Worker

NOW = datetime(2026, 11, 22, tzinfo=UTC)
SETTINGS = Settings(service_token=SecretStr("s" * 16), admin_token=SecretStr("a" * 16), qdrant_url="")


class NoDatabase:
    """Runs the work with no connection at all: what it does with one is replaced by the test."""

    async def run(self, work: Callable[[Any], Awaitable[Any]], **_: object) -> Any:
        return await work(None)


class NoEmbedder:
    """A model that a test does without."""

    local, model = False, "m"

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [[1.0] for _ in texts]

    async def close(self) -> None:
        """Nothing is held."""


def worker(embedder: object | None = None) -> Worker:
    chosen = cast(Embedder, embedder or NoEmbedder())
    return Worker(SETTINGS, cast(Database, NoDatabase()), chosen, None, None, None)


def job(**changes: Any) -> Job:
    given = {"id": 5, "kind": "extract", "client_id": 1, "episode_id": 1, "attempts": 1, "max_attempts": 8}
    return Job(**{**given, "payload": {}, **changes})


def refused(status: int) -> UpstreamError:
    return UpstreamError("llm", f"status_{status}", f"llm answered {status}")


GARBAGE = UpstreamError("llm", "garbage", "llm answered no usable extraction: ValueError")


# -- what a model says


def test_what_postgres_cannot_store_is_taken_out_of_what_a_model_says() -> None:
    bad = "\\ud83d \\u0000"
    fact = (
        f'{{"key": "dog{bad}", "value": "Rex{bad}", "confidence": 0.9, "evidence": "called{bad} Rex{bad}",'
        ' "action": "assert", "correction": false}'
    )
    raw = f'{{"facts": [{fact}], "summary": "A dog{bad}.", "tags": ["pet{bad}"], "state": {{"a{bad}": "b{bad}"}}}}'
    found = check(raw, "My dog is called Rex")
    stored = json.dumps(
        [[one.model_dump() for one in found.facts], found.summary, found.tags, found.state],
        ensure_ascii=False,
    )
    stored.encode()  # no half of a surrogate pair
    assert "\\u0000" not in stored and found.facts[0].value == "Rex" and found.state == {"a": "b"}
    assert (
        check(raw.replace("\\ud83d ", "\\ud83d\\ude00"), "called \U0001f600Rex").summary == "A dog\U0001f600."
    )


# -- what becomes of a job that failed


def test_a_job_that_fails_by_itself_is_tried_a_bounded_number_of_times() -> None:
    error = psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes: Biscuit")
    payload: dict[str, Any] = {"kept": "as it is"}
    verdicts: list[Verdict] = []
    for _ in range(8):
        verdicts.append(verdict(job(payload=payload, attempts=100), error))
        payload |= verdicts[-1].counts
    assert [one.dead for one in verdicts] == [False] * 7 + [True]
    assert payload == {"kept": "as it is", "failures": 8}
    assert {one.error for one in verdicts} == {"DataError"}
    assert verdicts[0].delay_s < 10 and verdicts[-1].delay_s <= 300


def test_of_an_unexpected_error_only_the_kind_is_told() -> None:
    assert kind_of(psycopg.errors.DeadlockDetected("DETAIL: Biscuit")) == "DeadlockDetected 40P01"
    assert kind_of(UnicodeEncodeError("utf-8", "Biscuit", 0, 1, "surrogates")) == "UnicodeEncodeError"


def test_a_failed_job_is_postponed_and_a_caller_who_waits_is_told_that_it_is_queued(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    postponed: list[tuple[Any, ...]] = []

    async def claim(*_: object) -> Job:
        return job()

    async def postpone(_: object, *how: Any) -> None:
        postponed.append(how)

    async def extract(_: object) -> dict[str, Any]:
        "\ud83d Biscuit".encode()
        raise AssertionError("unreachable")

    monkeypatch.setattr(system_rows, "claim", claim)
    monkeypatch.setattr(system_rows, "postpone", postpone)

    async def run() -> object:
        tested = worker()
        monkeypatch.setattr(tested, "_extract", extract)
        return await tested.run_now(5, 5.0)

    assert asyncio.run(run()) is None
    assert postponed == [(5, 2.0, "UnicodeEncodeError", False, {"failures": 1})]
    assert "Biscuit" not in caplog.text and "UnicodeEncodeError" in caplog.text


@pytest.mark.parametrize(
    "error", [RuntimeError("Biscuit"), psycopg.DataError("Biscuit"), StoreUnavailable("x")]
)
def test_a_failure_that_cannot_even_be_recorded_leaves_a_caller_with_a_queued_job(
    monkeypatch: pytest.MonkeyPatch, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def claim(*_: object) -> Job:
        raise error

    monkeypatch.setattr(system_rows, "claim", claim)

    async def run() -> object:
        return await worker().run_now(5, 5.0)

    assert asyncio.run(run()) is None
    assert type(error).__name__ in caplog.text and "Biscuit" not in caplog.text


async def loop_without_pauses(
    monkeypatch: pytest.MonkeyPatch, tested: Worker, step: Callable[[], Awaitable[bool]], seconds: float
) -> None:
    """A worker's loop over a step until the step stops it, at most so long."""

    async def at_once(_: asyncio.Event) -> None:
        """No pause."""

    monkeypatch.setattr(tested, "_woken", at_once)
    await asyncio.wait_for(tested._loop("test", step, asyncio.Event()), seconds)


def test_no_error_ends_a_task_of_the_worker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [RuntimeError("Biscuit"), psycopg.DataError("Biscuit"), StoreUnavailable("x"), GARBAGE]

    async def run() -> int:
        tested = worker()
        steps = 0

        async def step() -> bool:
            nonlocal steps
            steps += 1
            if steps <= len(errors):
                raise errors[steps - 1]
            tested._stopping.set()
            return False

        await loop_without_pauses(monkeypatch, tested, step, 10)
        return steps

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(run()) == len(errors) + 1
    assert "RuntimeError" in caplog.text and "Biscuit" not in caplog.text


def test_a_worker_that_failed_for_a_day_still_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> int:
        tested = worker()
        steps = 0

        async def step() -> bool:
            nonlocal steps
            steps += 1
            if steps == 1_100:
                tested._stopping.set()
            raise psycopg.DataError("x")

        await loop_without_pauses(monkeypatch, tested, step, 20)
        return steps

    assert asyncio.run(run()) == 1_100


# -- vectors for entries that have none


class Choosy(NoEmbedder):
    """A model that takes no text of more than `longest` characters, nor one with a forbidden word."""

    def __init__(self, longest: int, reason: str = "status_400") -> None:
        self.longest, self.reason = longest, reason
        self.asked: list[list[str]] = []

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self.asked.append(list(texts))
        if any(len(text) > self.longest or "forbidden" in text for text in texts):
            raise UpstreamError("embeddings", self.reason, "embeddings refuses")
        return [[float(len(text))] for text in texts]


class Entries:
    """The entries of a store, as far as the backfill looks at them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *contents: str) -> None:
        self.rows = [{"id": number, "content": content} for number, content in enumerate(contents)]
        self.vectors: dict[int, list[float] | None] = {}
        self.looked_for_others = 0
        for name in ("unembedded", "embedded_otherwise", "store_vectors", "mark_refused"):
            monkeypatch.setattr(system_rows, name, getattr(self, name))

    async def unembedded(self, _: object, model: str, limit: int) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["id"] not in self.vectors][:limit]

    async def embedded_otherwise(self, _: object, model: str, limit: int) -> list[dict[str, Any]]:
        self.looked_for_others += 1
        return []

    async def store_vectors(self, _: object, vectors: dict[int, list[float]], model: str) -> None:
        self.vectors.update(vectors)

    async def mark_refused(self, _: object, ids: list[int], model: str) -> None:
        self.vectors.update(dict.fromkeys(ids))


def backfill(model: NoEmbedder) -> Backfill:
    return Backfill(cast(Database, NoDatabase()), cast(Embedder, model), lambda: None)


@pytest.mark.parametrize("reason", ["status_400", "status_413", "garbage"])
def test_a_text_that_is_too_long_is_embedded_by_its_beginning_and_holds_up_no_other(
    monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    entries = Entries(monkeypatch, "a" * 10, "b" * 32_000, "c" * 20)
    assert asyncio.run(backfill(Choosy(2_000, reason)).step()) is True
    assert entries.vectors == {0: [10.0], 1: [2_000.0], 2: [20.0]}


def test_a_text_that_is_refused_for_good_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = Entries(monkeypatch, "fine", "forbidden " * 100, "fine too")
    assert asyncio.run(backfill(Choosy(2_000)).step()) is True
    assert entries.vectors == {0: [4.0], 1: None, 2: [8.0]}


def test_a_model_that_refuses_every_text_marks_none(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = Entries(monkeypatch, "fine", "fine too")
    model = Choosy(0)
    with pytest.raises(UpstreamError):
        asyncio.run(backfill(model).step())
    assert entries.vectors == {} and len(model.asked) == 5


@pytest.mark.parametrize("reason", ["status_404", "status_429", "status_500", "timeout", "open"])
def test_an_outage_is_no_refusal_of_a_text(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    entries = Entries(monkeypatch, "fine", "x" * 3_000)
    model = Choosy(2_000, reason)
    with pytest.raises(UpstreamError):
        asyncio.run(backfill(model).step())
    assert entries.vectors == {} and len(model.asked) == 1


def test_vectors_of_another_model_are_looked_for_until_there_are_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries = Entries(monkeypatch)

    async def idle() -> None:
        tested = backfill(NoEmbedder())
        for _ in range(5):
            assert await tested.step() is False

    asyncio.run(idle())
    assert entries.looked_for_others == 1


# -- a model that refuses


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_a_model_that_refuses_is_waited_for_for_days(status: int) -> None:
    payload: dict[str, Any] = {}
    verdicts: list[Verdict] = []
    while not (verdicts and verdicts[-1].dead):
        verdicts.append(verdict(job(payload=payload, attempts=5), refused(status)))
        payload |= verdicts[-1].counts
    assert sum(one.delay_s for one in verdicts) == 3 * 86_400


def test_only_answers_count_as_nonsense_not_outages() -> None:
    """Ten tries of an outage, then nonsense: the first four times it is asked again."""
    outage = UpstreamError("llm", "connection", "llm cannot be reached")
    assert not any(verdict(job(attempts=tries), outage).dead for tries in range(1, 100))
    payload: dict[str, Any] = {}
    dead = []
    for attempts in range(11, 16):
        found = verdict(job(payload=payload, attempts=attempts), GARBAGE)
        payload |= found.counts
        dead.append(found.dead)
    assert dead == [False] * 4 + [True]
    spent = verdict(job(payload=payload), BudgetSpent("llm"))
    assert not spent.dead and spent.delay_s == 3600 and spent.counts == {}


def test_a_reindex_that_qdrant_refuses_does_not_block_the_next_for_days() -> None:
    found = verdict(job(kind="reindex", payload={"nonsense": 4}), refused(400))
    assert found.dead and found.counts == {"nonsense": 5}


# -- a lock that somebody holds


def test_a_lock_that_is_not_to_be_had_in_time_means_unavailable() -> None:
    assert is_unavailable(psycopg.errors.LockNotAvailable("canceling statement due to lock timeout"))
    assert not is_unavailable(psycopg.errors.DeadlockDetected("deadlock detected"))


@pytest.mark.parametrize("error", [StoreUnavailable("x"), psycopg.DataError("x"), RuntimeError("x")])
def test_a_forget_that_postgres_committed_is_answered_whatever_comes_after(error: Exception) -> None:
    class Committed:
        """A database that does the first transaction only."""

        calls = 0

        async def run(self, *_: object, **__: object) -> Any:
            self.calls += 1
            if self.calls > 1:
                raise error
            return ProfileRow(7, "u", None, None, [], {}, NOW, NOW), {"memory_entries": 2}

    gone: list[int] = []
    forgetter = Forgetter(cast(Database, Committed()), cast(Qdrant, object()), gone.append)
    answer = asyncio.run(forgetter.forget("u", dry_run=False))
    assert answer.qdrant is None and answer.qdrant_pending and answer.postgres == {"memory_entries": 2}
    assert gone == [7]
