"""Real servers for the tests of the memory service."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.service.cluster import Cluster, running_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One PostgreSQL server for the whole run."""
    with running_cluster() as started:
        yield started


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    """A migrated, empty memory database; its DSN as role `memory`."""
    name = f"memory_{uuid.uuid4().hex[:12]}"
    yield cluster.create_database(name)
    cluster.drop_database(name)
