"""Writeback: the turn is committed first; everything slow comes after, within the deadline or from the queue."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from memory_service import metrics
from memory_service.database import Connection, Database
from memory_service.embedding import Embedder
from memory_service.errors import NotFound, StoreUnavailable, Unprocessable
from memory_service.hygiene import clean, normalized, without_memory
from memory_service.moments import moment
from memory_service.repository import ClientRows, NewEntry, find_client
from memory_service.retrieval import Deadline
from memory_service.schemas import WritebackRequest, WritebackResponse
from memory_service.settings import Settings
from memory_service.work import Worker

STORED_ROLES = frozenset({"user", "assistant"})
MESSAGE_CHARACTERS = 32_000
STATE_CHARACTERS = 200


@dataclass(frozen=True)
class Turn:
    """A writeback as it is stored."""

    conversation_hash: str
    chat_key: str
    entries: list[NewEntry]
    probe: bool
    summary: str
    session_id: str | None
    occurred_at: datetime


def _comparable(text: str) -> str:
    return " ".join(normalized(without_memory(text)).split())


def conversation_hash(request: WritebackRequest) -> str:
    """What makes two writebacks the same: the ids of chat and message, and what was said.

    The time is left out, so that a repetition with a later time stamp is still a repetition.
    """
    said = [(message.role, _comparable(message.text())) for message in request.conversation]
    parts = [request.chat_id, request.message_id, said, _comparable(request.response or "")]
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode("utf-8", "replace")).hexdigest()


def read_turn(request: WritebackRequest, now: datetime) -> Turn:
    """What is stored of a request. Raises Unprocessable when nobody says anything in it."""
    at = min(moment(request.timestamp or now), now)
    said = [(message.role, message.text()) for message in request.conversation]
    if request.response and request.response.strip():
        if said and said[-1][0] == "assistant" and _comparable(said[-1][1]) == _comparable(request.response):
            said = said[:-1]
        said.append(("assistant", request.response))
    entries: list[NewEntry] = []
    redactions = 0
    for role, text in said:
        if role not in STORED_ROLES:
            continue
        cleaned = clean(text, MESSAGE_CHARACTERS)
        redactions += cleaned.redactions
        if not cleaned.text:
            continue
        if cleaned.quarantined:
            metrics.QUARANTINED.inc()
        digest = hashlib.sha256(_comparable(text).encode("utf-8", "replace")).digest()
        entries.append(NewEntry(cleaned.text, role, digest, cleaned.quarantined, at))
    if redactions:
        metrics.REDACTIONS.inc(redactions)
    if not entries:
        raise Unprocessable("the conversation has no text of a user or an assistant: nothing to remember")
    asked = max((index for index, entry in enumerate(entries) if entry.role == "user"), default=None)
    if asked is not None:
        entries[asked] = replace(entries[asked], message_id=request.user_message_id)
    users = [entry for entry in entries if entry.role == "user"]
    first = users[0] if users else entries[0]
    # Without a chat id a conversation is known by how it began: callers send it whole every time.
    chat_key = request.chat_id or f"began:{first.content_hash.hex()}"
    answered = any(entry.role == "assistant" for entry in entries)
    probe = len(entries) == 1 and not answered and request.chat_id is None
    summary = " ".join(users[-1].content.split())[:160] if users and not users[-1].quarantined else ""
    return Turn(
        conversation_hash=conversation_hash(request),
        chat_key=chat_key,
        entries=entries,
        probe=probe,
        summary=summary,
        session_id=request.session_id or request.chat_id,
        occurred_at=at,
    )


@dataclass(frozen=True)
class Committed:
    """What the first transaction of a writeback did."""

    client_id: int
    episode_id: int
    job_id: int | None
    state_saved: bool
    answer: dict[str, Any] | None
    new: bool


class Writer:
    """Answers writeback requests."""

    def __init__(self, settings: Settings, database: Database, embedder: Embedder, worker: Worker) -> None:
        self._settings = settings
        self._database = database
        self._embedder = embedder
        self._worker = worker

    async def write(self, request: WritebackRequest) -> WritebackResponse:
        """Keeps a turn. Raises StoreUnavailable when PostgreSQL did not commit it, NotFound, Unprocessable."""
        deadline = Deadline(self._settings.writeback_deadline_s)
        turn = read_turn(request, datetime.now(UTC))
        vectors = None
        if self._embedder.local and not turn.probe:
            vectors = await self._embedder.embed([entry.content for entry in turn.entries])
        committed = await self._commit(request, turn, vectors, deadline)
        if committed.answer is not None:
            return WritebackResponse.model_validate(committed.answer)
        facts, queued = 0, False
        if committed.new and not turn.probe:
            self._worker.vectors_wait()
        if committed.job_id is not None:
            result = await self._worker.run_now(committed.job_id, deadline.left(0.15))
            queued = result is None
            facts = int(result.get("facts_upserted", 0)) if result else 0
        answer = WritebackResponse(
            episode_id=committed.episode_id,
            facts_upserted=facts,
            state_saved=committed.state_saved,
            timestamp=datetime.now(UTC),
            queued=queued,
            job_id=committed.job_id,
        )
        return await self._first_answer(committed, answer)

    async def _commit(
        self,
        request: WritebackRequest,
        turn: Turn,
        vectors: list[list[float]] | None,
        deadline: Deadline,
    ) -> Committed:
        async def work(connection: Connection) -> Committed:
            profile = await find_client(connection, request.client_id, create=True)
            rows = ClientRows(connection, profile.id)
            episode = await rows.new_episode(
                turn.conversation_hash,
                turn.session_id,
                len(turn.entries),
                request.duration_seconds,
                turn.probe,
                turn.occurred_at,
                turn.summary,
            )
            saved = turn.session_id is not None and bool(turn.summary)
            if episode is None:
                earlier = await rows.episode_by_hash(turn.conversation_hash)
                if earlier is None:
                    raise StoreUnavailable("the same turn is being forgotten at this moment: try again")
                return Committed(
                    profile.id, earlier["id"], earlier["job_id"], saved, earlier["answer"], False
                )
            if turn.probe:
                return Committed(profile.id, episode, None, False, None, True)
            await rows.add_messages(
                turn.chat_key,
                episode,
                turn.entries,
                vectors,
                self._embedder.model,
                self._settings.ttl_days,
                chat_has_id=request.chat_id is not None,
            )
            if saved and turn.session_id is not None:
                await rows.put_state(turn.session_id, "last_message", turn.summary[:STATE_CHARACTERS], 86_400)
            job = await rows.queue_extraction(episode)
            return Committed(profile.id, episode, job, saved, None, True)

        return await self._database.run(
            work, timeout_s=deadline.left(), wait_s=min(1.0, deadline.left()), pipelined=True
        )

    async def _first_answer(self, committed: Committed, answer: WritebackResponse) -> WritebackResponse:
        """Stores the answer, so that a repetition of the request gets the same; the first one wins."""

        async def work(connection: Connection) -> dict[str, Any]:
            rows = ClientRows(connection, committed.client_id)
            return await rows.answered(committed.episode_id, answer.model_dump(mode="json"))

        try:
            stored = await self._database.run(
                work, client_id=committed.client_id, timeout_s=1.0, pipelined=True
            )
        except (StoreUnavailable, NotFound, asyncio.CancelledError):
            return answer  # the turn itself is committed, which is what the answer says
        return WritebackResponse.model_validate(stored)
