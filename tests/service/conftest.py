"""Real servers for the tests of the memory service.

Starting a process costs seconds, so tests that only talk share one stack and keep apart by client; tests
that break something start their own with `start`.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.doubles.openai_double import serving
from tests.service.cluster import Cluster, running_cluster
from tests.service.stack import ADMIN_TOKEN, QdrantProcess, ServiceProcess, settings_for


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One PostgreSQL server for the whole run."""
    with running_cluster() as started:
        yield started


@contextlib.contextmanager
def new_database(cluster: Cluster) -> Iterator[str]:
    """The name of a migrated, empty memory database."""
    name = f"memory_{uuid.uuid4().hex[:12]}"
    cluster.create_database(name)
    try:
        yield name
    finally:
        cluster.drop_database(name)


@pytest.fixture
def database_name(cluster: Cluster) -> Iterator[str]:
    """A migrated, empty memory database."""
    with new_database(cluster) as name:
        yield name


@pytest.fixture
def database(cluster: Cluster, database_name: str) -> str:
    """The DSN of a migrated, empty memory database as role `memory`."""
    return cluster.dsn(database_name)


@contextlib.contextmanager
def new_qdrant(directory: Path) -> Iterator[QdrantProcess]:
    """A running Qdrant double with an empty storage."""
    storage = directory / "qdrant"
    storage.mkdir()
    process = QdrantProcess(storage)
    process.start()
    try:
        yield process
    finally:
        process.stop()


@pytest.fixture
def qdrant(tmp_path: Path) -> Iterator[QdrantProcess]:
    """A Qdrant double of this test's own."""
    with new_qdrant(tmp_path) as process:
        yield process


@pytest.fixture
def provider() -> Iterator[str]:
    """The base URL of a double of the OpenAI API of this test's own."""
    with serving() as (url, _state):
        yield url


Start = Callable[..., ServiceProcess]


@pytest.fixture
def start(
    cluster: Cluster, database_name: str, qdrant: QdrantProcess, provider: str, tmp_path: Path
) -> Iterator[Start]:
    """Starts the service; keyword arguments are settings (`embedding_model="x"`)."""
    started: list[ServiceProcess] = []

    def run(**more: str) -> ServiceProcess:
        environment = settings_for(cluster, database_name, qdrant.url, provider, tmp_path, **more)
        process = ServiceProcess(environment, tmp_path)
        started.append(process)
        process.start()
        return process

    yield run
    for process in started:
        process.stop()


@dataclass(frozen=True)
class Stack:
    """A running service that tests share."""

    service: ServiceProcess
    qdrant: QdrantProcess
    provider: str
    dsn: str

    def rows(self, statement: str, client: int | None = None) -> list[tuple[object, ...]]:
        """What a statement finds, over all clients or as one."""
        with psycopg.connect(self.dsn) as connection:
            scope = "SET memory.scope = 'system'" if client is None else f"SET memory.client_id = '{client}'"
            connection.execute(scope.encode())
            return connection.execute(statement.encode()).fetchall()


@pytest.fixture(scope="session")
def stack(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The shared service with the embedded model, the Qdrant double and the chat double."""
    directory = tmp_path_factory.mktemp("stack")
    with (
        new_database(cluster) as name,
        new_qdrant(directory) as qdrant,
        serving() as (provider, _state),
    ):
        service = ServiceProcess(settings_for(cluster, name, qdrant.url, provider, directory), directory)
        service.start()
        yield Stack(service, qdrant, provider, cluster.dsn(name))
        service.stop()


@pytest.fixture
def client(stack: Stack) -> Iterator[httpx.Client]:
    """Calls as n8n makes them."""
    with stack.service.client() as opened:
        yield opened


@pytest.fixture
def admin(stack: Stack) -> Iterator[httpx.Client]:
    """Calls as an operator makes them."""
    with stack.service.client(ADMIN_TOKEN) as opened:
        yield opened


@pytest.fixture
def user() -> str:
    """A user id that no other test has."""
    return str(uuid.uuid4())
