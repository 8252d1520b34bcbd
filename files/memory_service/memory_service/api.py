"""The HTTP interface."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import psycopg
from fastapi import Depends, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from memory_service import __version__, metrics, system_rows
from memory_service.asgi import Frame
from memory_service.assembling import chunk, fact_out, state_out
from memory_service.conflict import Statement
from memory_service.database import Connection
from memory_service.errors import (
    Conflict,
    MemoryServiceError,
    NotFound,
    StoreUnavailable,
    Unprocessable,
    UpstreamError,
)
from memory_service.forgetting import export
from memory_service.hygiene import clean
from memory_service.learning import canonical_key, learn
from memory_service.moments import moment
from memory_service.repository import ClientRows, find_client
from memory_service.retrieval import Deadline, Found
from memory_service.schemas import (
    Accepted,
    AssembleRequest,
    AssembleResponse,
    CleanupRequest,
    CleanupResponse,
    ClientIn,
    ClientOut,
    EpisodeDetail,
    EpisodeOut,
    ErrorResponse,
    FactIn,
    FactOut,
    FactVersion,
    ForgetIn,
    ForgetResponse,
    JobOut,
    MemoryIn,
    MemoryOut,
    RatingIn,
    Readiness,
    Requeued,
    SearchRequest,
    SearchResponse,
    StateIn,
    StateOut,
    WritebackRequest,
    WritebackResponse,
    fact_key,
)
from memory_service.service import Service
from memory_service.verdicts import COUNTS

log = logging.getLogger(__name__)
T = TypeVar("T")

ClientPath = Annotated[
    str,
    Path(
        min_length=1,
        max_length=255,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="The client's number, or the id that Open WebUI gives its user",
    ),
]
KeyPath = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
NamePath = Annotated[str, Path(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
NumberPath = Annotated[int, Path(ge=1, le=9_223_372_036_854_775_807)]

_bearer = HTTPBearer(auto_error=False, description="A token of the service or of an operator")
Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


class Denied(Exception):
    """A caller is not known (401) or not allowed (403)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


class Gate:
    """Who may call what. Tokens are compared by digest and in constant time."""

    def __init__(self, service_token: str, admin_token: str) -> None:
        self._service = _digest(service_token)
        self._admin = _digest(admin_token)

    def caller(self, given: Bearer = None) -> str:
        """`service` or `admin`. Raises Denied."""
        if given is None or not given.credentials:
            raise Denied(401, "the header Authorization: Bearer TOKEN is missing")
        digest = _digest(given.credentials)
        admin = hmac.compare_digest(digest, self._admin)
        service = hmac.compare_digest(digest, self._service)
        if admin:
            return "admin"
        if service:
            return "service"
        raise Denied(401, "the bearer token is wrong")

    def operator(self, given: Bearer = None) -> str:
        """`admin`. Raises Denied."""
        caller = self.caller(given)
        if caller != "admin":
            raise Denied(403, "this needs the admin token")
        return caller


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route may answer besides success, for the OpenAPI document."""
    texts = {
        400: "The body is not acceptable JSON",
        401: "The bearer token is missing or wrong",
        403: "The admin token is needed",
        404: "There is no such thing",
        409: "The same work is under way",
        413: "The body is too large",
        422: "A value is missing or wrong",
        503: "PostgreSQL cannot be used; Retry-After says when to try again",
    }
    return {status: {"model": ErrorResponse, "description": texts[status]} for status in statuses}


BODY = (400, 401, 413, 422, 503)


def problem(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as it goes out."""
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)


def create_app(service: Service, *, background: bool = True) -> FastAPI:
    """The application. With `background` its start also starts the work behind the requests."""
    settings = service.settings
    gate = Gate(settings.service_token.get_secret_value(), settings.admin_token.get_secret_value())

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if background:
            service.worker.start()
        yield
        await service.close()

    app = FastAPI(
        title="Memory service",
        version=__version__,
        summary="Assembles context for a chat turn and writes the turn back",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    app.add_middleware(Frame, max_body_bytes=settings.max_body_bytes, max_depth=settings.max_depth)
    _add_error_answers(app)
    caller = [Depends(gate.caller)]
    operator = [Depends(gate.operator)]

    async def in_client(
        client: int | str,
        work: Callable[[ClientRows], Awaitable[T]],
        create: bool = False,
        timeout_s: float = 5.0,
    ) -> T:
        async def transaction(connection: Connection) -> T:
            profile = await find_client(connection, client, create=create)
            return await work(ClientRows(connection, profile.id))

        return await service.database.run(transaction, timeout_s=timeout_s, wait_s=1.0)

    # -- the chat's two calls, and the night's

    @app.post("/v1/assemble", dependencies=caller, responses=_errors(*BODY, 404), tags=["chat"])
    async def assemble(body: AssembleRequest, request: Request) -> AssembleResponse:
        """What the memory has to say to a chat turn."""
        return await service.assembler.assemble(body, request.state.request_id)

    @app.post("/v1/writeback", dependencies=caller, responses=_errors(*BODY, 404), tags=["chat"])
    async def writeback(body: WritebackRequest) -> WritebackResponse:
        """Keeps a finished turn and learns from it. Sending it again changes nothing."""
        return await service.writer.write(body)

    @app.post("/v1/cleanup", dependencies=caller, responses=_errors(*BODY, 409), tags=["maintenance"])
    async def cleanup(body: CleanupRequest | None = None) -> CleanupResponse:
        """Removes what has expired, within a budget of seconds."""
        wanted = body or CleanupRequest()
        return await service.cleaner.clean(wanted.dry_run, wanted.budget_seconds)

    @app.post(
        "/v1/episodes/{episode_id}/rating", dependencies=caller, responses=_errors(*BODY, 404), tags=["chat"]
    )
    async def rate(episode_id: NumberPath, body: RatingIn) -> EpisodeOut:
        """Rates a turn from 1 to 5; badly rated turns are recalled less."""

        async def work(rows: ClientRows) -> EpisodeOut:
            if not await rows.rate(episode_id, body.rating):
                raise NotFound(f"the client has no episode {episode_id}")
            row = await rows.episode(episode_id)
            assert row is not None
            return EpisodeOut(**{name: row[name] for name in EpisodeOut.model_fields})

        return await in_client(body.client_id, work)

    @app.get(
        "/v1/jobs/{job_id}", dependencies=caller, responses=_errors(401, 404, 422, 503), tags=["maintenance"]
    )
    async def job(job_id: NumberPath) -> JobOut:
        """How a job is going; its result has figures and keys, never values."""
        row = await service.database.run(
            lambda connection: system_rows.job(connection, job_id), system=True, wait_s=1.0
        )
        if row is None:
            raise NotFound(f"there is no job {job_id}")
        return JobOut(**row)

    @app.post("/v1/jobs/retry", dependencies=operator, responses=_errors(401, 403, 503), tags=["maintenance"])
    async def retry_jobs() -> Requeued:
        """Queues the extractions that were given up once more: after the model was repaired."""
        number = await service.database.run(
            lambda connection: system_rows.revive(connection, COUNTS), system=True, wait_s=1.0, timeout_s=20.0
        )
        service.worker.jobs_wait()
        return Requeued(requeued=number)

    # -- clients

    clients = "/v1/clients/{client}"
    read = _errors(401, 403, 404, 422, 503)
    write = _errors(*BODY, 403, 404)

    @app.get("/v1/clients", dependencies=operator, responses=_errors(401, 403, 422, 503), tags=["clients"])
    async def list_clients(
        after: Annotated[int, Query(ge=0, le=2_147_483_647)] = 0,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
    ) -> list[ClientOut]:
        """All clients, by number."""
        rows = await service.database.run(
            lambda connection: system_rows.list_clients(connection, after, limit), system=True, wait_s=1.0
        )
        return [ClientOut(**row) for row in rows]

    @app.get(clients, dependencies=operator, responses=read, tags=["clients"])
    async def get_client(client: ClientPath) -> ClientOut:
        """A client's profile."""

        async def work(connection: Connection) -> ClientOut:
            return ClientOut(**vars(await find_client(connection, client, create=False)))

        return await service.database.run(work, wait_s=1.0)

    @app.put(clients, dependencies=operator, responses=write, tags=["clients"])
    async def put_client(client: ClientPath, body: ClientIn) -> ClientOut:
        """Creates a client or changes what is given of its profile."""

        async def work(rows: ClientRows) -> ClientOut:
            return ClientOut(**vars(await rows.update_profile(body.model_dump(exclude_unset=True))))

        return await in_client(client, work, create=True)

    @app.get(clients + "/export", dependencies=operator, responses=read, tags=["clients"])
    async def export_client(client: ClientPath) -> StreamingResponse:
        """Everything about a client, as NDJSON."""
        lines = export(service.database, client)
        first = await anext(lines)  # an unknown client is a 404, not half an answer

        async def all_lines() -> AsyncIterator[bytes]:
            yield first
            async for line in lines:
                yield line

        return StreamingResponse(all_lines(), media_type="application/x-ndjson")

    @app.post(clients + "/forget", dependencies=operator, responses=write, tags=["clients"])
    async def forget(client: ClientPath, body: ForgetIn) -> ForgetResponse:
        """Forgets a client in both stores. This cannot be undone."""
        if str(body.confirm) != client:
            raise Unprocessable("confirm must be the client that the path names: nothing was forgotten")
        return await service.forgetter.forget(client, body.dry_run)

    # -- facts

    @app.get(clients + "/facts", dependencies=operator, responses=read, tags=["facts"])
    async def facts(client: ClientPath, as_of: Annotated[datetime | None, Query()] = None) -> list[FactOut]:
        """What is believed, now or as of a moment."""

        async def work(rows: ClientRows) -> list[FactOut]:
            found = await rows.facts() if as_of is None else await rows.facts_as_of(moment(as_of))
            return [fact_out(row) for row in found]

        return await in_client(client, work)

    @app.get(clients + "/facts/{key}/history", dependencies=operator, responses=read, tags=["facts"])
    async def history(client: ClientPath, key: KeyPath) -> list[FactVersion]:
        """Every value that a fact had."""

        async def work(rows: ClientRows) -> list[FactVersion]:
            return [FactVersion(**row) for row in await rows.fact_history(fact_key(key))]

        return await in_client(client, work)

    @app.put(clients + "/facts/{key}", dependencies=operator, responses=write, tags=["facts"])
    async def put_fact(client: ClientPath, key: KeyPath, body: FactIn) -> FactOut:
        """Sets a fact as an operator, whom no conversation overrules."""
        cleaned = clean(body.value, 500)
        if not cleaned.text:
            raise Unprocessable("the value has no text")
        if cleaned.redactions or cleaned.quarantined:
            raise Unprocessable("the value looks like a secret or like instructions to a model: not stored")
        if not fact_key(key):
            raise Unprocessable(f"{key!r} is no key: use lower-case letters, digits and underscores")

        async def work(rows: ClientRows) -> FactOut:
            await rows.lock_facts()
            now = datetime.now(UTC)
            canonical = await canonical_key(rows, key, cleaned.text)
            statement = Statement(cleaned.text, round(body.confidence, 2), "operator", now, correction=True)
            await learn(rows, canonical, statement, now, None, None)
            row = await rows.fact(canonical)
            assert row is not None
            return fact_out(row)

        return await in_client(client, work, create=True)

    @app.delete(
        clients + "/facts/{key}", dependencies=operator, responses=read, status_code=204, tags=["facts"]
    )
    async def delete_fact(client: ClientPath, key: KeyPath) -> None:
        """Retracts a fact; its history says so."""

        async def work(rows: ClientRows) -> None:
            await rows.lock_facts()
            if not await rows.close_fact(fact_key(key), "retracted", datetime.now(UTC)):
                raise NotFound(f"the client has no fact {fact_key(key)!r}")

        await in_client(client, work)

    # -- memories

    @app.post(
        clients + "/memories", dependencies=operator, responses=write, status_code=201, tags=["memories"]
    )
    async def add_memory(client: ClientPath, body: MemoryIn) -> MemoryOut:
        """Remembers a text that is no message of a chat."""
        cleaned = clean(body.content, 60_000)
        if not cleaned.text:
            raise Unprocessable("the content has no text")
        vector = (await service.embedder.embed([cleaned.text]))[0] if service.embedder.local else None

        async def work(rows: ClientRows) -> MemoryOut:
            identity, stored = await rows.add_note(
                cleaned.text,
                body.source_type,
                body.metadata,
                body.ttl_days or settings.ttl_days,
                cleaned.quarantined,
                vector,
                service.embedder.model,
            )
            return MemoryOut(id=str(identity), stored=stored)

        added = await in_client(client, work, create=True)
        service.worker.vectors_wait()
        return added

    @app.delete(
        clients + "/memories/{memory_id}",
        dependencies=operator,
        responses=read,
        status_code=204,
        tags=["memories"],
    )
    async def delete_memory(client: ClientPath, memory_id: uuid.UUID) -> None:
        """Forgets one remembered text."""

        async def work(rows: ClientRows) -> None:
            if not await rows.delete_entry(memory_id):
                raise NotFound(f"the client has no memory {memory_id}")

        await in_client(client, work)
        service.worker.vectors_wait()

    @app.post(clients + "/search", dependencies=operator, responses=write, tags=["memories"])
    async def search(client: ClientPath, body: SearchRequest) -> SearchResponse:
        """Searches a client's memories."""

        async def work(rows: ClientRows) -> int:
            return rows.client_id

        number = await in_client(client, work)
        found, degraded = await service.retrieval.search(number, body.query, body.limit, Deadline(5.0))
        return SearchResponse(results=[chunk(one) for one in found], degraded=degraded)

    # -- episodes

    @app.get(clients + "/episodes", dependencies=operator, responses=read, tags=["episodes"])
    async def episodes(
        client: ClientPath,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        before: Annotated[int | None, Query(ge=1, le=9_223_372_036_854_775_807)] = None,
    ) -> list[EpisodeOut]:
        """Turns that were written back, the newest first."""

        async def work(rows: ClientRows) -> list[EpisodeOut]:
            return [EpisodeOut(**row) for row in await rows.episodes(limit, before)]

        return await in_client(client, work)

    @app.post(clients + "/episodes/search", dependencies=operator, responses=write, tags=["episodes"])
    async def search_episodes(client: ClientPath, body: SearchRequest) -> list[EpisodeOut]:
        """Turns whose summaries are near a text in meaning."""
        try:
            vector = (await service.embedder.embed([body.query]))[0]
        except UpstreamError as error:
            raise StoreUnavailable(f"episodes are found by meaning only, and {error}") from None

        async def work(rows: ClientRows) -> list[EpisodeOut]:
            found = await rows.similar_episodes(vector, service.embedder.model, body.limit)
            return [EpisodeOut(**row) for row in found]

        return await in_client(client, work)

    @app.get(clients + "/episodes/{episode_id}", dependencies=operator, responses=read, tags=["episodes"])
    async def episode(client: ClientPath, episode_id: NumberPath) -> EpisodeDetail:
        """A turn with its messages."""

        async def work(rows: ClientRows) -> EpisodeDetail:
            row = await rows.episode(episode_id)
            if row is None:
                raise NotFound(f"the client has no episode {episode_id}")
            messages = await rows.entries([entry["slot"] for entry in await rows.turn(episode_id)])
            shown = [chunk(Found(entry, 0.0, 0.0, 0.0)) for _, entry in sorted(messages.items())]
            return EpisodeDetail(**row, messages=shown)

        return await in_client(client, work)

    @app.delete(
        clients + "/episodes/{episode_id}",
        dependencies=operator,
        responses=read,
        status_code=204,
        tags=["episodes"],
    )
    async def delete_episode(client: ClientPath, episode_id: NumberPath) -> None:
        """Forgets a turn with its messages. Facts learnt from it stay until they are deleted."""

        async def work(rows: ClientRows) -> None:
            if not await rows.delete_episode(episode_id):
                raise NotFound(f"the client has no episode {episode_id}")

        await in_client(client, work)
        service.worker.vectors_wait()

    # -- working state

    @app.get(clients + "/state/{session}", dependencies=operator, responses=read, tags=["state"])
    async def get_state(client: ClientPath, session: NamePath) -> list[StateOut]:
        """A session's working state."""

        async def work(rows: ClientRows) -> list[StateOut]:
            return [state_out(row) for row in await rows.state([session])]

        return await in_client(client, work)

    @app.put(
        clients + "/state/{session}/{key}",
        dependencies=operator,
        responses=write,
        status_code=204,
        tags=["state"],
    )
    async def put_state(client: ClientPath, session: NamePath, key: NamePath, body: StateIn) -> None:
        """Sets an entry of a session's working state."""

        async def work(rows: ClientRows) -> None:
            await rows.put_state(session, key, body.value, body.ttl_seconds)

        await in_client(client, work, create=True)

    @app.delete(
        clients + "/state/{session}/{key}",
        dependencies=operator,
        responses=read,
        status_code=204,
        tags=["state"],
    )
    async def delete_state(client: ClientPath, session: NamePath, key: NamePath) -> None:
        """Removes an entry of a session's working state."""

        async def work(rows: ClientRows) -> None:
            if not await rows.delete_state(session, key):
                raise NotFound(f"session {session!r} has no state {key!r}")

        await in_client(client, work)

    # -- maintenance

    @app.post(
        "/v1/reindex",
        dependencies=operator,
        responses=_errors(401, 403, 409, 503),
        status_code=202,
        tags=["maintenance"],
    )
    async def reindex() -> Accepted:
        """Rebuilds the vector index from PostgreSQL beside the one in use, and switches."""
        if service.qdrant is None:
            raise Conflict("no Qdrant is configured: there is nothing to reindex")

        async def work(connection: Connection) -> tuple[int, bool]:
            await system_rows.lock(connection, system_rows.REINDEX_LOCK)
            running = await system_rows.unfinished(connection, "reindex")
            if running is not None:
                return running, False
            return await system_rows.add_job(connection, "reindex", {}), True

        number, new = await service.database.run(work, system=True, wait_s=1.0)
        if not new:
            raise Conflict(f"job {number} is reindexing already")
        service.worker.jobs_wait()
        return Accepted(job_id=number, status="queued")

    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """That the process answers; touches nothing else."""
        return {"status": "ok"}

    @app.get(
        "/readyz",
        responses={503: {"model": Readiness, "description": "PostgreSQL cannot be used"}},
        tags=["health"],
    )
    async def readyz(response: Response) -> Readiness:
        """Whether requests can be served. Only PostgreSQL is needed; the rest degrades."""
        found = await readiness(service)
        if found.status == "unready":
            response.status_code = 503
        return found

    @app.get(
        "/metrics", tags=["health"], response_class=Response, responses={200: {"content": {"text/plain": {}}}}
    )
    async def exposition() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


async def readiness(service: Service) -> Readiness:
    """What of the service's surroundings works."""

    async def look(connection: Connection) -> bool:
        row = await (
            await connection.execute("SELECT to_regclass('memory.vector_outbox') IS NOT NULL AS there")
        ).fetchone()
        return bool(row and row["there"])

    checks: dict[str, str] = {}
    try:
        there = await service.database.run(look, timeout_s=2.0)
        checks["postgres"] = "ok" if there else "the schema memory is missing: run the deploy"
    except StoreUnavailable as error:
        checks["postgres"] = str(error)
    ready = checks["postgres"] == "ok"
    checks["qdrant"] = "unused" if service.qdrant is None else "ok" if service.qdrant.available else "down"
    checks["llm"] = "unused" if service.extractor is None else "ok" if service.extractor.available else "down"
    checks["embeddings"] = service.embedder.model
    degraded = "down" in checks.values()
    return Readiness(status="unready" if not ready else "degraded" if degraded else "ready", checks=checks)


def _add_error_answers(app: FastAPI) -> None:
    """One shape for every error, and a status that says whose it is."""

    @app.exception_handler(Denied)
    async def denied(_: Request, error: Denied) -> JSONResponse:
        if error.status == 401:
            return problem(401, "unauthorized", str(error), {"WWW-Authenticate": "Bearer"})
        return problem(403, "forbidden", str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        sentences = []
        for item in error.errors()[:5]:
            place = ".".join(str(part) for part in item["loc"] if part != "body") or "body"
            sentences.append(f"{place}: {item['msg']}")
        return problem(422, "invalid", "; ".join(sentences))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        headers = dict(error.headers) if error.headers else None
        return problem(error.status_code, f"http_{error.status_code}", str(error.detail), headers)

    @app.exception_handler(MemoryServiceError)
    async def known(_: Request, error: MemoryServiceError) -> JSONResponse:
        if isinstance(error, NotFound):
            return problem(404, "not_found", str(error))
        if isinstance(error, Conflict):
            return problem(409, "conflict", str(error), {"Retry-After": "30"})
        if isinstance(error, Unprocessable):
            return problem(422, "invalid", str(error))
        if isinstance(error, StoreUnavailable):
            return problem(503, "store_unavailable", str(error), {"Retry-After": "5"})
        return problem(503, "unavailable", str(error), {"Retry-After": "5"})

    @app.exception_handler(psycopg.Error)
    async def store(_: Request, error: psycopg.Error) -> JSONResponse:
        log.error("unexpected answer of PostgreSQL: %s %s", type(error).__name__, error.sqlstate)
        return problem(500, "internal", "PostgreSQL refused a statement; the log has its code")
