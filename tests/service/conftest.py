"""Real servers for the tests of the memory service."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.doubles.openai_double import serving
from tests.service.cluster import Cluster, running_cluster
from tests.service.stack import ADMIN_TOKEN, QdrantProcess, ServiceProcess, settings_for


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One PostgreSQL server for the whole run."""
    with running_cluster() as started:
        yield started


@pytest.fixture
def database_name(cluster: Cluster) -> Iterator[str]:
    """A migrated, empty memory database."""
    name = f"memory_{uuid.uuid4().hex[:12]}"
    cluster.create_database(name)
    yield name
    cluster.drop_database(name)


@pytest.fixture
def database(cluster: Cluster, database_name: str) -> str:
    """The DSN of a migrated, empty memory database as role `memory`."""
    return cluster.dsn(database_name)


@pytest.fixture
def qdrant(tmp_path: Path) -> Iterator[QdrantProcess]:
    """A running Qdrant double with an empty storage."""
    directory = tmp_path / "qdrant"
    directory.mkdir()
    process = QdrantProcess(directory)
    process.start()
    yield process
    process.stop()


@pytest.fixture
def provider() -> Iterator[str]:
    """The base URL of a double of the OpenAI API."""
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


@pytest.fixture
def service(start: Start) -> ServiceProcess:
    """The service with the embedded model, Qdrant and the chat double."""
    return start()


@pytest.fixture
def client(service: ServiceProcess) -> Iterator[httpx.Client]:
    """Calls as n8n makes them."""
    with service.client() as opened:
        yield opened


@pytest.fixture
def admin(service: ServiceProcess) -> Iterator[httpx.Client]:
    """Calls as an operator makes them."""
    with service.client(ADMIN_TOKEN) as opened:
        yield opened
