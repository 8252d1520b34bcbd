"""What the memory service does to Qdrant, over the double of its API and a database that is none."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from pydantic import SecretStr

from memory_service import system_rows
from memory_service.database import Database
from memory_service.errors import StoreUnavailable, UpstreamError
from memory_service.qdrant import Point, Qdrant
from memory_service.reconciling import Reconciler
from memory_service.settings import Settings
from memory_service.upstream import Upstream
from tests.doubles.qdrant_double.configuration import Configuration
from tests.doubles.qdrant_double.server import start

SETTINGS = Settings(service_token=SecretStr("s" * 16), admin_token=SecretStr("a" * 16), qdrant_url="")
FRESH = "memory_vectors_1700000000"


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A Qdrant double without a key."""
    with start(
        Configuration(host="127.0.0.1", port=0, storage=tmp_path / "s", snapshots=tmp_path / "n")
    ) as server:
        yield server.url


def index(url: str) -> Qdrant:
    return Qdrant(Upstream("qdrant", url, {}, 5.0), "memory_vectors", 1, 1)


def one_point(client: int = 7) -> Point:
    return Point(uuid.uuid4(), [1.0] + [0.0] * 1535, {"client_id": client})


def collections(url: str) -> set[str]:
    found = httpx.get(f"{url}/collections").json()["result"]["collections"]
    return {str(item["name"]) for item in found}


class NoRows:
    """A database that holds no entry."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails_after_switch: bool = False) -> None:
        self.fails_after_switch = fails_after_switch

        async def clock(_: object) -> datetime:
            return datetime.now(UTC)

        async def none(*_: object) -> list[object]:
            return []

        async def changed(*_: object) -> int:
            if self.fails_after_switch:
                raise StoreUnavailable("PostgreSQL cannot be used")
            return 0

        for name, answer in (
            ("clock", clock),
            ("indexable_ids", none),
            ("enqueue_vectors", none),
            ("enqueue_changed", changed),
            ("set_index_state", none),
        ):
            monkeypatch.setattr(system_rows, name, answer)

    async def run(self, work: Callable[[Any], Awaitable[Any]], **_: object) -> Any:
        return await work(None)


def reconciler(qdrant: Qdrant, database: NoRows) -> Reconciler:
    return Reconciler(SETTINGS, cast(Database, database), qdrant)


def test_what_an_interrupted_reindex_left_behind_is_dropped_and_nothing_else(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> tuple[int, int]:
        qdrant = index(url)
        for name in ("memory_vectors", FRESH, "memory_vectors_1", "memory_vectors_old", "others_1"):
            await qdrant.create(name)
            await qdrant.upsert([one_point()], name)
        await qdrant.switch(FRESH)
        await reconciler(qdrant, NoRows(monkeypatch)).sweep()
        counts = await qdrant.count(collection="memory_vectors"), await qdrant.count(collection=FRESH)
        await qdrant.close()
        return counts

    # The declared collection is not in use: it stays for the deploy, without the copies.
    assert asyncio.run(run()) == (0, 1)
    assert collections(url) == {"memory_vectors", FRESH, "memory_vectors_old", "others_1"}


def test_without_an_alias_the_declared_collection_is_in_use_and_keeps_its_points(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> int:
        qdrant = index(url)
        for name in ("memory_vectors", FRESH):
            await qdrant.create(name)
            await qdrant.upsert([one_point()], name)
        await reconciler(qdrant, NoRows(monkeypatch)).sweep()
        count = await qdrant.count()
        await qdrant.close()
        return count

    assert asyncio.run(run()) == 1
    assert collections(url) == {"memory_vectors"}


def test_a_reindex_that_failed_after_the_switch_is_cleaned_up_by_the_next(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> str:
        qdrant = index(url)
        await qdrant.create("memory_vectors")
        await qdrant.upsert([one_point()], "memory_vectors")
        await qdrant.create("memory_vectors_1")  # of a process that was killed while it filled it
        database = NoRows(monkeypatch, fails_after_switch=True)
        tested = reconciler(qdrant, database)
        with pytest.raises(StoreUnavailable):
            await tested.reindex()
        assert await qdrant.count(collection="memory_vectors") == 1
        database.fails_after_switch = False
        await asyncio.sleep(1.1)  # the names of collections hold seconds
        await tested.reindex()
        assert await qdrant.count(collection="memory_vectors") == 0
        target = await qdrant.alias_target()
        await qdrant.close()
        return str(target)

    target = asyncio.run(run())
    assert collections(url) == {"memory_vectors", target}


def test_nothing_is_delivered_to_the_declared_collection_when_the_alias_leads_elsewhere(url: str) -> None:
    """After a start the service does not know of the alias yet."""

    async def run() -> tuple[int, int]:
        before = index(url)
        for name in ("memory_vectors", FRESH):
            await before.create(name)
        await before.switch(FRESH)
        await before.upsert([one_point(7), one_point(8)], FRESH)
        await before.close()
        started = index(url)
        await started.upsert([one_point(7)])
        restarted = index(url)
        await restarted.delete_client(8)
        counts = await restarted.count(collection=FRESH), await restarted.count(collection="memory_vectors")
        await started.close()
        await restarted.close()
        return counts

    assert asyncio.run(run()) == (2, 0)


def test_while_qdrant_cannot_say_what_is_in_use_nothing_is_delivered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = f"http://127.0.0.1:{listener.getsockname()[1]}"

    async def run() -> None:
        qdrant = index(nobody)
        for deliver in (
            qdrant.upsert([one_point()]),
            qdrant.delete([uuid.uuid4()]),
            qdrant.delete_client(7),
            qdrant.count(7),
        ):
            with pytest.raises(UpstreamError):
                await deliver
        await qdrant.close()

    asyncio.run(run())
