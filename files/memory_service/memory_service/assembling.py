"""Assemble: what the memory has to say to a chat turn, within a deadline and whatever else is down."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from memory_service import metrics
from memory_service.database import Connection, Database
from memory_service.errors import StoreUnavailable
from memory_service.hygiene import plain
from memory_service.lexical import informative
from memory_service.rendering import (
    Section,
    episode_line,
    fact_line,
    message_line,
    profile_lines,
    render,
    state_line,
)
from memory_service.repository import ClientRows, Reads, Row, find_client
from memory_service.retrieval import QUERY_CHARACTERS, Deadline, Degraded, Found, Retrieval
from memory_service.schemas import (
    AssembleRequest,
    AssembleResponse,
    Chunk,
    EpisodeOut,
    FactOut,
    Profile,
    StateOut,
)
from memory_service.settings import Settings


class Assembler:
    """Answers assemble requests."""

    def __init__(self, settings: Settings, database: Database, retrieval: Retrieval) -> None:
        self._settings = settings
        self._database = database
        self._retrieval = retrieval

    async def assemble(self, request: AssembleRequest, request_id: str) -> AssembleResponse:
        """The memory for a turn. Raises NotFound for a number that no client has; nothing else.

        When PostgreSQL is down the answer is empty and says so: a chat must not wait for its memory.
        """
        started = time.perf_counter()
        deadline = Deadline(self._settings.assemble_deadline_s)
        degraded = Degraded()
        query = plain(request.query)[:QUERY_CHARACTERS]
        budget = request.max_tokens or self._settings.context_tokens
        # What is near in meaning is asked for as soon as the client is known, while PostgreSQL reads the rest.
        client: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        meaning = (
            asyncio.create_task(self._retrieval.meaning(query, client, deadline, degraded)) if query else None
        )
        try:
            reads = await self._read(request, query, client, deadline)
            near = await meaning if meaning is not None else {}
            found = await self._recall(reads, query, near, deadline, degraded)
        except StoreUnavailable:
            degraded.reasons.clear()
            degraded.add("postgres")
            return _response(
                request.client_id, Profile(name=None, tags=[], metadata={}), started, degraded, request_id
            )
        finally:
            if meaning is not None:
                meaning.cancel()
        return self._compose(reads, found, query, budget, started, degraded, request_id)

    async def _read(
        self, request: AssembleRequest, query: str, client: asyncio.Future[int], deadline: Deadline
    ) -> Reads:
        sessions = [name for name in (request.session_id, request.chat_id) if name]

        async def work(connection: Connection) -> Reads:
            profile = await find_client(connection, request.client_id, create=True)
            rows = ClientRows(connection, profile.id)
            await self._retrieval.prepare(rows)
            if not client.done():
                client.set_result(profile.id)
            return await rows.reads(profile, query, sessions, self._settings.episodes)

        begun = time.perf_counter()
        try:
            return await self._database.run(work, timeout_s=deadline.left(0.3), pipelined=True)
        finally:
            metrics.STAGES.labels("read").observe(time.perf_counter() - begun)

    async def _recall(
        self, reads: Reads, query: str, near: dict[int, float], deadline: Deadline, degraded: Degraded
    ) -> list[Found]:
        ranked = self._retrieval.rank(reads.lexical, near)
        try:
            return await self._retrieval.show(
                reads.profile.id, query, ranked, self._settings.chunks, deadline
            )
        except StoreUnavailable:
            degraded.add("recall")
            return []

    def _compose(
        self,
        reads: Reads,
        found: Sequence[Found],
        query: str,
        budget: int,
        started: float,
        degraded: Degraded,
        request_id: str,
    ) -> AssembleResponse:
        small_talk = not informative(reads.lexical.terms) and not found
        facts = [] if small_talk else by_relevance(reads.facts, query)
        state = [] if small_talk else reads.state
        episodes = [] if small_talk else reads.episodes
        profile = reads.profile
        rendered = render(
            [
                Section("profile", profile_lines(profile.full_name, profile.tags, profile.metadata)),
                Section(
                    "facts",
                    [
                        fact_line(
                            row["fact_key"], row["fact_value"], float(row["confidence"]), row["valid_from"]
                        )
                        for row in facts
                    ],
                ),
                Section("state", [state_line(row["state_key"], row["state_value"]) for row in state]),
                Section(
                    "recalled",
                    [message_line(one.entry.role, one.entry.content, one.entry.occurred_at) for one in found],
                ),
                Section(
                    "episodes",
                    [episode_line(row["summary"], row["created_at"]) for row in episodes if row["summary"]],
                ),
            ],
            budget,
            secrets.token_hex(8),
        )
        answer = _response(
            profile.id,
            Profile(name=profile.full_name, tags=profile.tags, metadata=profile.metadata),
            started,
            degraded,
            request_id,
        )
        return answer.model_copy(
            update={
                "similar_chunks": [chunk(one) for one in found],
                "recent_episodes": [EpisodeOut(**row) for row in reads.episodes],
                "facts": [fact_out(row) for row in facts],
                "working_state": [state_out(row) for row in state],
                "context": rendered.text,
                "context_tokens": rendered.tokens,
                "execution_time_ms": round((time.perf_counter() - started) * 1000, 2),
            }
        )


def by_relevance(facts: Sequence[Row], query: str) -> list[Row]:
    """Facts whose key or value occurs in the query first; the rest keep their order (the surest first)."""
    words = {_stem(word) for word in _words(query)}

    def matches(row: Row) -> int:
        key = {_stem(word) for word in _words(row["fact_key"].replace("_", " ").replace(".", " "))}
        value = {_stem(word) for word in _words(row["fact_value"])}
        return -(2 * (key <= words) + len(key & words) + len(value & words))

    return sorted(facts, key=matches)


def _words(text: str) -> list[str]:
    spelled = text.lower().replace("favourite", "favorite").replace("colour", "color")
    return "".join(character if character.isalnum() else " " for character in spelled).split()


def _stem(word: str) -> str:
    """Plural and possessive endings make no difference; more is not needed for keys."""
    return word[:-1] if len(word) > 3 and word.endswith("s") else word


def chunk(found: Found) -> Chunk:
    """A recalled message as it goes out."""
    entry = found.entry
    return Chunk(
        id=str(entry.id),
        content=entry.content,
        score=round(found.score, 4),
        source_type=entry.source_type,
        role=entry.role,
        occurred_at=entry.occurred_at,
        lexical=round(found.lexical, 4),
        dense=round(found.dense, 4),
    )


def fact_out(row: Row) -> FactOut:
    """A fact as it goes out."""
    return FactOut(
        key=row["fact_key"],
        value=row["fact_value"],
        confidence=float(row["confidence"]),
        source=row["source"],
        valid_from=row["valid_from"],
        last_seen_at=row["last_seen_at"],
    )


def state_out(row: Row) -> StateOut:
    """An entry of the working state as it goes out."""
    return StateOut(
        session_id=row["session_id"],
        key=row["state_key"],
        value=row["state_value"],
        expires_at=row["expires_at"],
    )


def _response(
    client_id: int | str, profile: Profile, started: float, degraded: Degraded, request_id: str
) -> AssembleResponse:
    return AssembleResponse(
        client_id=client_id,
        profile=profile,
        similar_chunks=[],
        recent_episodes=[],
        facts=[],
        working_state=[],
        context="",
        context_tokens=0,
        degraded=degraded.reasons,
        request_id=request_id,
        timestamp=datetime.now(UTC),
        execution_time_ms=round((time.perf_counter() - started) * 1000, 2),
    )
