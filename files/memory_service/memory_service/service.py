"""The parts of the service put together."""

from __future__ import annotations

from dataclasses import dataclass

from memory_service.assembling import Assembler
from memory_service.cleaning import Cleaner
from memory_service.database import Database
from memory_service.embedding import ApiEmbedder, Embedder, StaticEmbedder
from memory_service.extraction import Extractor
from memory_service.forgetting import Forgetter
from memory_service.qdrant import Qdrant
from memory_service.reconciling import Reconciler
from memory_service.retrieval import Retrieval
from memory_service.settings import VECTOR_SIZE, Settings
from memory_service.upstream import Breaker, Upstream
from memory_service.work import Worker
from memory_service.writing import Writer


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


@dataclass
class Service:
    """Everything that requests and background work need."""

    settings: Settings
    database: Database
    embedder: Embedder
    qdrant: Qdrant | None
    extractor: Extractor | None
    retrieval: Retrieval
    assembler: Assembler
    writer: Writer
    worker: Worker
    cleaner: Cleaner
    forgetter: Forgetter

    async def close(self) -> None:
        """Ends background work and closes all connections."""
        await self.worker.stop(self.settings.drain_s)
        await self.embedder.close()
        if self.qdrant is not None:
            await self.qdrant.close()
        if self.extractor is not None:
            await self.extractor.close()
        await self.database.close()


def open_database(settings: Settings) -> Database:
    """The connections to PostgreSQL."""
    parameters: dict[str, object] = {
        "host": settings.postgres_host,
        "port": settings.postgres_port,
        "dbname": settings.postgres_database,
        "user": settings.postgres_user,
    }
    password = settings.postgres_password.get_secret_value()
    if password:
        parameters["password"] = password
    return Database(parameters, settings.postgres_connections, settings.postgres_wait_s)


def build(settings: Settings) -> Service:
    """A service that is ready to be started. Raises ConfigurationError."""
    database = open_database(settings)
    qdrant = None
    if settings.qdrant_url:
        key = settings.qdrant_api_key.get_secret_value()
        upstream = Upstream(
            "qdrant",
            settings.qdrant_url,
            {"api-key": key} if key else {},
            settings.qdrant_timeout_s,
            breaker=Breaker("qdrant", threshold=3, pause_s=1.0, longest_s=10.0),
        )
        qdrant = Qdrant(
            upstream,
            settings.qdrant_collection,
            settings.qdrant_shard_number,
            settings.qdrant_replication_factor,
        )
    extractor = None
    if settings.llm_base_url:
        headers = _bearer(settings.llm_api_key.get_secret_value())
        chat = Upstream("llm", settings.llm_base_url, headers, settings.llm_timeout_s, connections=4)
        extractor = Extractor(chat, settings.llm_model)
    reconciler = None if qdrant is None else Reconciler(settings, database, qdrant)
    embedder: Embedder
    api: ApiEmbedder | None = None
    if settings.embedding_base_url:
        headers = _bearer(settings.embedding_api_key.get_secret_value())
        provider = Upstream(
            "embeddings", settings.embedding_base_url, headers, max(10.0, settings.embedding_timeout_s)
        )
        embedder = api = ApiEmbedder(provider, settings.embedding_model, VECTOR_SIZE)
    else:
        embedder = StaticEmbedder(VECTOR_SIZE)
    worker = Worker(settings, database, embedder, qdrant, extractor, reconciler)
    if api is not None:
        api.spend = worker.embedding_tokens
    retrieval = Retrieval(settings, database, embedder, qdrant)
    return Service(
        settings=settings,
        database=database,
        embedder=embedder,
        qdrant=qdrant,
        extractor=extractor,
        retrieval=retrieval,
        assembler=Assembler(settings, database, retrieval),
        writer=Writer(settings, database, embedder, worker),
        worker=worker,
        cleaner=Cleaner(settings, database, qdrant),
        forgetter=Forgetter(database, qdrant, retrieval.forget),
    )
