"""Every query about a client's rows. There is no way to ask one without saying whose.

A `ClientRows` belongs to one transaction, in which row-level security allows the same client only: a
statement that forgot its WHERE would still see nobody else.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from array import array
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import AsyncCursor
from psycopg.types.json import Jsonb

from memory_service.conflict import Believed, Source
from memory_service.database import Connection, name_client
from memory_service.embedding import literal
from memory_service.errors import NotFound
from memory_service.lexical import SMALL_TALK, Postings, unpack_postings
from memory_service.novelty import Said, one_turn, unknown
from memory_service.schemas import FIRST_OWN_ID

NAMESPACE: Final = uuid.UUID("6f0c1b0e-57a5-5c39-9d0e-0d6c1f6f2a11")
POSTINGS_PER_TERM: Final = 1_000
CENTRE_SAMPLE: Final = 200
_SKIP: Final = sorted(SMALL_TALK)
Row = dict[str, Any]


@dataclass(frozen=True)
class ProfileRow:
    """A client's profile."""

    id: int
    user_id: str
    full_name: str | None
    email: str | None
    tags: list[str]
    metadata: dict[str, Any]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class EntryRow:
    """A remembered message or note."""

    id: uuid.UUID
    slot: int
    content: str
    source_type: str
    role: str
    occurred_at: datetime
    episode_id: int | None
    rating: int | None


@dataclass(frozen=True)
class LexicalMatch:
    """What BM25 needs: the query's terms, their postings, and how many messages there are."""

    terms: list[str]
    postings: dict[str, Postings]
    total: int


@dataclass(frozen=True)
class Reads:
    """What one assemble needs of PostgreSQL besides the recalled messages."""

    profile: ProfileRow
    facts: list[Row]
    state: list[Row]
    episodes: list[Row]
    lexical: LexicalMatch


@dataclass(frozen=True)
class NewEntry:
    """A message that is about to be stored."""

    content: str
    role: str
    content_hash: bytes
    quarantined: bool
    occurred_at: datetime
    message_id: str | None = None


_PROFILE_COLUMNS = "id, user_id, full_name, email, tags, metadata, created_at, updated_at"
_FIND_BY_ID = f"SELECT {_PROFILE_COLUMNS} FROM client_profiles WHERE id = %s"
# Found by its user id a client is known only now: the transaction is narrowed to it by the same statement.
_FIND_BY_USER = f"""
    SELECT {_PROFILE_COLUMNS}, set_config('memory.client_id', id::text, true) AS named
    FROM client_profiles WHERE user_id = %s
"""


async def find_client(connection: Connection, client: int | str, create: bool) -> ProfileRow:
    """The profile of a client, by number or by user id, and the transaction narrowed to it.

    With `create` an unknown user gets a profile. A number that the service would have to give out itself
    (1,000,000 and above) is never created. Raises NotFound.
    """
    if isinstance(client, str) and client.isascii() and client.isdigit() and len(client) <= 10:
        client = int(client)
    row: Row | None
    if isinstance(client, int):
        await name_client(connection, client)
        row = await (await connection.execute(_FIND_BY_ID, (client,))).fetchone()
        if row is None and create and client < FIRST_OWN_ID:
            await connection.execute(
                "INSERT INTO client_profiles (id, user_id) VALUES (%s, %s) ON CONFLICT DO NOTHING",
                (client, f"client-{client}"),
            )
            row = await (await connection.execute(_FIND_BY_ID, (client,))).fetchone()
    else:
        await connection.execute("SELECT set_config('memory.user_id', %s, true)", (client,))
        row = await (await connection.execute(_FIND_BY_USER, (client,))).fetchone()
        if row is None and create:
            await connection.execute(
                "INSERT INTO client_profiles (user_id) VALUES (%s) ON CONFLICT DO NOTHING", (client,)
            )
            row = await (await connection.execute(_FIND_BY_USER, (client,))).fetchone()
    if row is None:
        raise NotFound(f"there is no client {client!r}")
    row.pop("named", None)
    return ProfileRow(**row)


class ClientRows:
    """One client's rows within one transaction."""

    def __init__(self, connection: Connection, client_id: int) -> None:
        self._connection = connection
        self.client_id = client_id

    async def _all(self, statement: str, values: Mapping[str, object]) -> list[Row]:
        cursor = await self._connection.execute(statement.encode(), {**values, "client": self.client_id})
        return await cursor.fetchall()

    async def _one(self, statement: str, values: Mapping[str, object]) -> Row | None:
        cursor = await self._connection.execute(statement.encode(), {**values, "client": self.client_id})
        return await cursor.fetchone()

    async def _do(self, statement: str, values: Mapping[str, object]) -> int:
        cursor = await self._connection.execute(statement.encode(), {**values, "client": self.client_id})
        return cursor.rowcount

    # -- recall

    async def reads(self, profile: ProfileRow, query: str, sessions: Sequence[str], episodes: int) -> Reads:
        """Everything for an assemble but the messages, in one round trip."""
        values = {
            "client": self.client_id,
            "query": query,
            "sessions": list(sessions),
            "episodes": episodes,
        }
        async with self._connection.pipeline():
            facts = await self._connection.execute(_FACTS, values)
            state = await self._connection.execute(_STATE, values)
            recent = await self._connection.execute(_RECENT_EPISODES, values)
            terms, total = await self._ask_words(query)
        return Reads(
            profile,
            await facts.fetchall(),
            await state.fetchall(),
            await recent.fetchall(),
            _lexical_match(await terms.fetchall(), await total.fetchone()),
        )

    async def lexical(self, query: str) -> LexicalMatch:
        """The postings of a query's terms."""
        terms, total = await self._ask_words(query)
        return _lexical_match(await terms.fetchall(), await total.fetchone())

    async def _ask_words(self, query: str) -> tuple[AsyncCursor[Row], AsyncCursor[Row]]:
        """Asks for the postings of a query's terms, and how many messages there are."""
        values = {"client": self.client_id, "query": query, "skip": _SKIP, "cap": POSTINGS_PER_TERM}
        terms = await self._connection.execute(_POSTINGS, values, binary=True)
        return terms, await self._connection.execute(_TOTAL, values)

    async def nearest(self, vector: Sequence[float], model: str, limit: int) -> dict[int, float]:
        """Slot -> cosine of the nearest entries, by reading all vectors of the client: exact, and slow for
        many thousand. Used when Qdrant cannot be asked."""
        rows = await self._all(
            """
            SELECT slot, 1 - (embedding <=> %(vector)s::vector) AS cosine
            FROM memory_entries
            WHERE client_id = %(client)s AND embedding_model = %(model)s
              AND embedding IS NOT NULL AND NOT quarantined
              AND (expires_at IS NULL OR expires_at > now())
            ORDER BY embedding <=> %(vector)s::vector LIMIT %(limit)s
            """,
            {"vector": literal(vector), "model": model, "limit": limit},
        )
        return {row["slot"]: float(row["cosine"]) for row in rows}

    async def centre(self, model: str) -> tuple[array[float], int]:
        """The mean of the newest vectors, and of how many."""
        row = await self._one(
            """
            SELECT avg(embedding) AS mean, count(*) AS count FROM (
                SELECT embedding FROM memory_entries
                WHERE client_id = %(client)s AND embedding_model = %(model)s AND NOT quarantined
                  AND (expires_at IS NULL OR expires_at > now())
                ORDER BY slot DESC LIMIT %(sample)s
            ) newest
            """,
            {"model": model, "sample": CENTRE_SAMPLE},
        )
        if row is None or row["mean"] is None:
            return array("f"), 0
        return array("f", json.loads(row["mean"])), int(row["count"])

    async def has_vectors(self) -> bool:
        """Whether the client has any entry with a vector."""
        row = await self._one(
            "SELECT 1 AS found FROM memory_entries WHERE client_id = %(client)s AND embedding IS NOT NULL"
            " AND (expires_at IS NULL OR expires_at > now()) LIMIT 1",
            {},
        )
        return row is not None

    async def entries(self, slots: Sequence[int]) -> dict[int, EntryRow]:
        """The entries in these slots that may be shown: this client's, unexpired, not quarantined.

        Whatever an index said, nothing is shown that does not come out of here.
        """
        rows = await self._all(
            """
            SELECT m.id, m.slot, m.content, m.source_type, m.role, m.occurred_at, m.episode_id, e.rating
            FROM memory_entries m LEFT JOIN episodes e ON e.id = m.episode_id AND e.client_id = m.client_id
            WHERE m.client_id = %(client)s AND m.slot = ANY(%(slots)s) AND NOT m.quarantined
              AND (m.expires_at IS NULL OR m.expires_at > now())
            """,
            {"slots": list(slots)},
        )
        return {row["slot"]: EntryRow(**row) for row in rows}

    # -- writing a turn

    async def new_episode(
        self,
        conversation_hash: str,
        session_id: str | None,
        message_count: int,
        duration_seconds: int | None,
        probe: bool,
        occurred_at: datetime,
        summary: str,
    ) -> int | None:
        """The id of a new episode, or None when this turn was written before."""
        row = await self._one(
            """
            INSERT INTO episodes (client_id, conversation_hash, session_id, message_count, duration_seconds,
                                  probe, occurred_at, summary)
            VALUES (%(client)s, %(hash)s, %(session)s, %(messages)s, %(seconds)s, %(probe)s, %(at)s, %(summary)s)
            ON CONFLICT (client_id, conversation_hash) DO NOTHING RETURNING id
            """,
            {
                "hash": conversation_hash,
                "session": session_id,
                "messages": message_count,
                "seconds": duration_seconds,
                "probe": probe,
                "at": occurred_at,
                "summary": summary,
            },
        )
        return None if row is None else int(row["id"])

    async def episode_by_hash(self, conversation_hash: str) -> Row | None:
        """The episode of a turn that was written before, with its job."""
        return await self._one(
            """
            SELECT e.id, e.answer, j.id AS job_id, j.status, j.result
            FROM episodes e LEFT JOIN jobs j ON j.episode_id = e.id AND j.kind = 'extract'
                                             AND j.client_id = e.client_id
            WHERE e.client_id = %(client)s AND e.conversation_hash = %(hash)s
            """,
            {"hash": conversation_hash},
        )

    async def answered(self, episode_id: int, answer: Mapping[str, object]) -> dict[str, Any]:
        """Records the first answer to a turn and returns it: later ones repeat it."""
        row = await self._one(
            "UPDATE episodes SET answer = coalesce(answer, %(answer)s)"
            " WHERE client_id = %(client)s AND id = %(id)s RETURNING answer",
            {"id": episode_id, "answer": Jsonb(dict(answer))},
        )
        if row is None:
            raise NotFound(f"episode {episode_id} was forgotten meanwhile")
        found: dict[str, Any] = row["answer"]
        return found

    async def add_messages(
        self,
        chat_key: str,
        episode_id: int,
        entries: Sequence[NewEntry],
        vectors: Sequence[Sequence[float]] | None,
        model: str,
        ttl_days: int | None,
        chat_has_id: bool = True,
    ) -> int:
        """Appends the messages to their chat, but for those that the chat was told already; returns how many.

        The chat's row is locked meanwhile, so that positions are never given out twice.

        :param chat_has_id: whether the caller named the chat; otherwise it is known by how it began
        """
        chat = await self._one(
            """
            INSERT INTO conversations (client_id, chat_id) VALUES (%(client)s, %(chat)s)
            ON CONFLICT (client_id, chat_id) DO UPDATE SET chat_id = excluded.chat_id
            RETURNING id, next_position
            """,
            {"chat": chat_key},
        )
        assert chat is not None
        base = int(chat["id"]) << 20
        sent = [Said(entry.role, entry.content_hash, entry.message_id) for entry in entries]
        stored = await self._said(int(chat["id"]))
        whole = elsewhere = False
        if stored and one_turn(sent):
            whole, elsewhere = await self._told(int(chat["id"]), base, chat_has_id)
        position = int(chat["next_position"])
        rows: list[dict[str, object]] = []
        for index in unknown(stored, sent, whole=whole, elsewhere=elsewhere):
            entry = entries[index]
            slot = base + position
            position += 1
            rows.append(
                {
                    "id": uuid.uuid5(NAMESPACE, f"{self.client_id}:{slot}"),
                    "client": self.client_id,
                    "content": entry.content,
                    "embedding": None if vectors is None else literal(vectors[index]),
                    "model": None if vectors is None else model,
                    "ttl": ttl_days,
                    "episode": episode_id,
                    "slot": slot,
                    "role": entry.role,
                    "hash": entry.content_hash,
                    "quarantined": entry.quarantined,
                    "at": entry.occurred_at,
                    "chat": chat["id"],
                    "position": slot - base,
                    "message": entry.message_id,
                }
            )
        if rows:
            async with self._connection.cursor() as cursor:
                await cursor.executemany(_INSERT_ENTRY, rows)
                await cursor.executemany(_INSERT_TOLD, rows)
        await self._do(
            "UPDATE conversations SET next_position = %(position)s"
            " WHERE client_id = %(client)s AND id = %(id)s",
            {"position": position, "id": chat["id"]},
        )
        await self._do(
            "UPDATE episodes SET conversation_id = %(chat)s WHERE client_id = %(client)s AND id = %(episode)s",
            {"chat": chat["id"], "episode": episode_id},
        )
        return len(rows)

    async def _said(self, chat: int) -> list[Said]:
        """All that a chat was told, in its order; also what was forgotten since or has expired."""
        rows = await self._all(
            "SELECT role, content_hash, message_id FROM chat_messages"
            " WHERE client_id = %(client)s AND conversation_id = %(chat)s ORDER BY position",
            {"chat": chat},
        )
        return [Said(row["role"], bytes(row["content_hash"]), row["message_id"]) for row in rows]

    async def _told(self, chat: int, base: int, chat_has_id: bool) -> tuple[bool, bool]:
        """Whether a chat was ever sent with more than a turn, and whether its user has spoken elsewhere since."""
        row = await self._one(
            """
            SELECT EXISTS (SELECT 1 FROM episodes WHERE client_id = %(client)s AND conversation_id = %(chat)s
                           AND message_count > 2) AS whole,
                   NOT %(has_id)s AND NOT coalesce((
                       SELECT slot >= %(base)s AND slot < %(end)s FROM memory_entries
                       WHERE client_id = %(client)s AND role = 'user' AND source_type = 'conversation'
                       ORDER BY created_at DESC LIMIT 1), true) AS elsewhere
            """,
            {"chat": chat, "base": base, "end": base + (1 << 20), "has_id": chat_has_id},
        )
        assert row is not None
        return bool(row["whole"]), bool(row["elsewhere"])

    async def add_note(
        self,
        content: str,
        source_type: str,
        metadata: Mapping[str, object],
        ttl_days: int | None,
        quarantined: bool,
        vector: Sequence[float] | None,
        model: str,
    ) -> tuple[uuid.UUID, bool]:
        """Stores a text that belongs to no chat; the same text again is the same entry."""
        digest = hashlib.sha256(content.encode()).digest()
        identity = uuid.uuid5(NAMESPACE, f"{self.client_id}:{source_type}:{digest.hex()}")
        count = await self._do(
            """
            INSERT INTO memory_entries (id, client_id, content, embedding, embedding_model, source_type,
                                        metadata, ttl_days, content_hash, quarantined)
            VALUES (%(id)s, %(client)s, %(content)s, %(embedding)s::vector, %(model)s, %(source)s,
                    %(metadata)s, %(ttl)s, %(hash)s, %(quarantined)s)
            ON CONFLICT (id) DO NOTHING
            """,
            {
                "id": identity,
                "content": content,
                "embedding": None if vector is None else literal(vector),
                "model": None if vector is None else model,
                "source": source_type,
                "metadata": Jsonb(dict(metadata)),
                "ttl": ttl_days,
                "hash": digest,
                "quarantined": quarantined,
            },
        )
        return identity, count == 1

    async def delete_entry(self, identity: uuid.UUID) -> bool:
        """Deletes one entry."""
        statement = "DELETE FROM memory_entries WHERE client_id = %(client)s AND id = %(id)s"
        return await self._do(statement, {"id": identity}) == 1

    async def queue_extraction(self, episode_id: int) -> int:
        """A job for the turn; returns its id.

        The background leaves it to the caller, who has the first try, for a moment.
        """
        row = await self._one(
            "INSERT INTO jobs (kind, client_id, episode_id, run_at)"
            " VALUES ('extract', %(client)s, %(episode)s, now() + interval '5 seconds') RETURNING id",
            {"episode": episode_id},
        )
        assert row is not None
        return int(row["id"])

    async def turn(self, episode_id: int) -> list[Row]:
        """The messages of a turn in their order, with whether they have a vector of this model."""
        return await self._all(
            "SELECT id, slot, role, content, quarantined, embedding_model, occurred_at FROM memory_entries"
            " WHERE client_id = %(client)s AND episode_id = %(episode)s ORDER BY slot",
            {"episode": episode_id},
        )

    async def set_vectors(self, vectors: Mapping[uuid.UUID, Sequence[float]], model: str) -> None:
        """Stores vectors of entries."""
        async with self._connection.cursor() as cursor:
            await cursor.executemany(
                "UPDATE memory_entries SET embedding = %(vector)s::vector, embedding_model = %(model)s"
                " WHERE client_id = %(client)s AND id = %(id)s",
                [
                    {"id": identity, "vector": literal(vector), "model": model, "client": self.client_id}
                    for identity, vector in vectors.items()
                ],
            )

    async def finish_episode(
        self, episode_id: int, summary: str, tags: Sequence[str], vector: Sequence[float] | None, model: str
    ) -> None:
        """What a job learnt about the turn as a whole."""
        await self._do(
            """
            UPDATE episodes SET summary = CASE WHEN %(summary)s = '' THEN summary ELSE %(summary)s END,
                tags = %(tags)s, embedding = %(vector)s::vector, embedding_model = %(model)s
            WHERE client_id = %(client)s AND id = %(id)s
            """,
            {
                "id": episode_id,
                "summary": summary,
                "tags": list(tags),
                "vector": None if vector is None else literal(vector),
                "model": None if vector is None else model,
            },
        )

    # -- facts

    async def lock_facts(self) -> None:
        """One writer of this client's facts at a time, until the transaction ends."""
        await self._do("SELECT pg_advisory_xact_lock(7001, %(client)s)", {})

    async def facts(self) -> list[Row]:
        """All that is believed now, the surest first."""
        return await self._all(_FACTS, {})

    async def fact(self, key: str) -> Row | None:
        """What is believed under a key."""
        return await self._one(
            "SELECT * FROM memory_facts WHERE client_id = %(client)s AND fact_key = %(key)s", {"key": key}
        )

    async def believed(self, key: str) -> Believed | None:
        """What is believed under a key, as the conflict policy wants it."""
        row = await self.fact(key)
        if row is None:
            return None
        source: Source = row["source"]
        return Believed(
            row["fact_value"], float(row["confidence"]), source, row["valid_from"], row["last_seen_at"]
        )

    async def contested(self, key: str) -> list[Row]:
        """Values under a key that wait to be seen again."""
        return await self._all(
            "SELECT id, fact_value FROM fact_history"
            " WHERE client_id = %(client)s AND fact_key = %(key)s AND status = 'contested'",
            {"key": key},
        )

    async def alias(self, key: str) -> str:
        """The key that another word stands for."""
        row = await self._one("SELECT fact_key FROM fact_key_aliases WHERE alias = %(key)s", {"key": key})
        return key if row is None else str(row["fact_key"])

    async def put_fact(
        self,
        key: str,
        value: str,
        confidence: float,
        source: str,
        evidence: str | None,
        episode_id: int | None,
        valid_from: datetime,
    ) -> None:
        """Believes a value from now on; what was believed before is closed in the history."""
        values = {
            "key": key,
            "value": value,
            "confidence": round(confidence, 2),
            "source": source,
            "evidence": evidence,
            "episode": episode_id,
            "from": valid_from,
        }
        await self.close_fact(key, "superseded", valid_from, keep=True)
        await self._do(
            "DELETE FROM fact_history WHERE client_id = %(client)s AND fact_key = %(key)s"
            " AND status = 'contested' AND lower(fact_value) = lower(%(value)s)",
            values,
        )
        await self._do(
            """
            INSERT INTO memory_facts (client_id, fact_key, fact_value, confidence, source, evidence,
                                      source_episode_id, valid_from)
            VALUES (%(client)s, %(key)s, %(value)s, %(confidence)s, %(source)s, %(evidence)s,
                    %(episode)s, %(from)s)
            ON CONFLICT (client_id, fact_key) DO UPDATE SET
                fact_value = excluded.fact_value, confidence = excluded.confidence,
                source = excluded.source, evidence = excluded.evidence,
                source_episode_id = excluded.source_episode_id, valid_from = excluded.valid_from,
                last_seen_at = now(), times_seen = 1
            """,
            values,
        )
        await self._do(
            """
            INSERT INTO fact_history (client_id, fact_key, fact_value, confidence, status, source, evidence,
                                      episode_id, valid_from)
            VALUES (%(client)s, %(key)s, %(value)s, %(confidence)s, 'active', %(source)s, %(evidence)s,
                    %(episode)s, %(from)s)
            """,
            values,
        )

    async def reinforce_fact(self, key: str, confidence: float) -> None:
        """The same was said again."""
        values = {"key": key, "confidence": round(confidence, 2)}
        await self._do(
            "UPDATE memory_facts SET confidence = %(confidence)s, last_seen_at = now(),"
            " times_seen = times_seen + 1 WHERE client_id = %(client)s AND fact_key = %(key)s",
            values,
        )
        await self._do(
            "UPDATE fact_history SET confidence = %(confidence)s"
            " WHERE client_id = %(client)s AND fact_key = %(key)s AND status = 'active'",
            values,
        )

    async def close_fact(self, key: str, status: str, at: datetime, keep: bool = False) -> bool:
        """Ends the active belief under a key in the history; with `keep` the current row stays."""
        count = await self._do(
            "UPDATE fact_history SET status = %(status)s, superseded_at = now(),"
            " valid_to = greatest(valid_from, %(at)s)"
            " WHERE client_id = %(client)s AND fact_key = %(key)s AND status = 'active'",
            {"key": key, "status": status, "at": at},
        )
        if not keep:
            count = await self._do(
                "DELETE FROM memory_facts WHERE client_id = %(client)s AND fact_key = %(key)s", {"key": key}
            )
        return count > 0

    async def file_fact(
        self,
        key: str,
        value: str,
        confidence: float,
        status: str,
        source: str,
        evidence: str | None,
        episode_id: int | None,
        valid_from: datetime,
        valid_to: datetime | None,
    ) -> None:
        """Puts a value into the history only: contested, or about an earlier time."""
        await self._do(
            """
            INSERT INTO fact_history (client_id, fact_key, fact_value, confidence, status, source, evidence,
                                      episode_id, valid_from, valid_to, superseded_at)
            VALUES (%(client)s, %(key)s, %(value)s, %(confidence)s, %(status)s, %(source)s, %(evidence)s,
                    %(episode)s, %(from)s, %(to)s, CASE WHEN %(status)s = 'contested' THEN NULL ELSE now() END)
            """,
            {
                "key": key,
                "value": value,
                "confidence": round(confidence, 2),
                "status": status,
                "source": source,
                "evidence": evidence,
                "episode": episode_id,
                "from": valid_from,
                "to": valid_to,
            },
        )

    async def fact_history(self, key: str) -> list[Row]:
        """Every value that a key had, the newest first."""
        return await self._all(
            """
            SELECT fact_value AS value, confidence::float AS confidence, status, source, evidence, episode_id,
                   valid_from, valid_to, recorded_at, superseded_at
            FROM fact_history WHERE client_id = %(client)s AND fact_key = %(key)s ORDER BY id DESC LIMIT 500
            """,
            {"key": key},
        )

    async def facts_as_of(self, at: datetime) -> list[Row]:
        """What was true at a moment, as far as we know today."""
        return await self._all(
            """
            SELECT DISTINCT ON (fact_key) fact_key, fact_value, confidence, source, valid_from,
                   recorded_at AS last_seen_at
            FROM fact_history
            WHERE client_id = %(client)s AND status <> 'contested' AND valid_from <= %(at)s
              AND (valid_to IS NULL OR valid_to > %(at)s)
            ORDER BY fact_key, valid_from DESC, id DESC
            """,
            {"at": at},
        )

    # -- state, episodes, profile

    async def put_state(self, session_id: str, key: str, value: object, ttl_s: int) -> None:
        """Sets an entry of a session's working state."""
        await self._do(
            """
            INSERT INTO working_state (client_id, session_id, state_key, state_value, expires_at)
            VALUES (%(client)s, %(session)s, %(key)s, %(value)s, now() + make_interval(secs => %(ttl)s))
            ON CONFLICT (client_id, session_id, state_key)
            DO UPDATE SET state_value = excluded.state_value, expires_at = excluded.expires_at
            """,
            {"session": session_id, "key": key, "value": Jsonb(value), "ttl": ttl_s},
        )

    async def state(self, sessions: Sequence[str]) -> list[Row]:
        """The unexpired working state of sessions; of all when none is named."""
        return await self._all(_STATE, {"sessions": list(sessions)})

    async def delete_state(self, session_id: str, key: str) -> bool:
        """Removes an entry of the working state."""
        return (
            await self._do(
                "DELETE FROM working_state WHERE client_id = %(client)s AND session_id = %(session)s"
                " AND state_key = %(key)s",
                {"session": session_id, "key": key},
            )
            > 0
        )

    async def episodes(self, limit: int, before: int | None) -> list[Row]:
        """Episodes, the newest first, a page at a time."""
        return await self._all(
            "SELECT id, summary, rating, created_at FROM episodes WHERE client_id = %(client)s AND NOT probe"
            " AND (%(before)s::bigint IS NULL OR id < %(before)s) ORDER BY id DESC LIMIT %(limit)s",
            {"limit": limit, "before": before},
        )

    async def similar_episodes(self, vector: Sequence[float], model: str, limit: int) -> list[Row]:
        """Episodes whose summaries are near."""
        await self._do("SELECT set_config('hnsw.iterative_scan', 'strict_order', true)", {})
        return await self._all(
            """
            SELECT id, summary, rating, created_at FROM episodes
            WHERE client_id = %(client)s AND NOT probe AND embedding IS NOT NULL AND embedding_model = %(model)s
            ORDER BY embedding::halfvec(1536) <=> %(vector)s::halfvec(1536) LIMIT %(limit)s
            """,
            {"vector": literal(vector), "model": model, "limit": limit},
        )

    async def episode(self, episode_id: int) -> Row | None:
        """One episode."""
        return await self._one(
            "SELECT id, summary, rating, tags, message_count, duration_seconds, session_id, created_at"
            " FROM episodes WHERE client_id = %(client)s AND id = %(id)s",
            {"id": episode_id},
        )

    async def rate(self, episode_id: int, rating: int) -> bool:
        """Rates an episode."""
        return (
            await self._do(
                "UPDATE episodes SET rating = %(rating)s WHERE client_id = %(client)s AND id = %(id)s",
                {"id": episode_id, "rating": rating},
            )
            == 1
        )

    async def delete_episode(self, episode_id: int) -> bool:
        """Deletes an episode with its messages; facts learnt from it stay, with their history."""
        values = {"id": episode_id}
        await self._do(
            "DELETE FROM memory_entries WHERE client_id = %(client)s AND episode_id = %(id)s", values
        )
        return (
            await self._do("DELETE FROM episodes WHERE client_id = %(client)s AND id = %(id)s", values) == 1
        )

    async def update_profile(self, changes: Mapping[str, object]) -> ProfileRow:
        """Changes the given columns of the profile."""
        row = await self._one(
            """
            UPDATE client_profiles SET
                full_name = CASE WHEN %(has_full_name)s THEN %(full_name)s ELSE full_name END,
                email = CASE WHEN %(has_email)s THEN %(email)s ELSE email END,
                tags = CASE WHEN %(has_tags)s THEN %(tags)s ELSE tags END,
                metadata = CASE WHEN %(has_metadata)s THEN %(metadata)s ELSE metadata END
            WHERE id = %(client)s
            RETURNING id, user_id, full_name, email, tags, metadata, created_at, updated_at
            """,
            {
                **{
                    f"has_{name}": name in changes and changes[name] is not None
                    for name in ("full_name", "email", "tags", "metadata")
                },
                "full_name": changes.get("full_name"),
                "email": changes.get("email"),
                "tags": changes.get("tags") or [],
                "metadata": Jsonb(changes.get("metadata") or {}),
            },
        )
        if row is None:
            raise NotFound(f"there is no client {self.client_id}")
        return ProfileRow(**row)

    async def job(self, job_id: int) -> Row | None:
        """A job of this client."""
        return await self._one(f"{_JOB} AND client_id = %(client)s", {"id": job_id})

    # -- export and forgetting

    async def export(self) -> AsyncIterator[tuple[str, Row]]:
        """Every row of the client, table by table, without vectors."""
        for table, statement in _EXPORT.items():
            async with self._connection.cursor(name=f"export_{table}") as cursor:
                cursor.itersize = 500
                await cursor.execute(statement.encode(), {"client": self.client_id})
                async for row in cursor:
                    yield table, row

    async def counts(self) -> dict[str, int]:
        """How many rows the client has in each table."""
        found = {}
        for table in FORGOTTEN_TABLES:
            row = await self._one(
                f"SELECT count(*) AS n FROM {table} WHERE client_id = %(client)s",
                {},
            )
            found[table] = int(row["n"]) if row else 0
        return found

    async def delete_profile(self) -> None:
        """Deletes the client; every table follows by its foreign key, the words by their trigger."""
        await self._do("DELETE FROM client_profiles WHERE id = %(client)s", {})
        await self._do("DELETE FROM memory_terms WHERE client_id = %(client)s", {})


FORGOTTEN_TABLES: Final = (
    "memory_entries",
    "memory_facts",
    "fact_history",
    "working_state",
    "episodes",
    "conversations",
    "chat_messages",
    "memory_terms",
    "jobs",
)

_EXPORT: Final[dict[str, str]] = {
    "client_profiles": "SELECT * FROM client_profiles WHERE id = %(client)s",
    "memory_facts": "SELECT * FROM memory_facts WHERE client_id = %(client)s ORDER BY id",
    "fact_history": "SELECT * FROM fact_history WHERE client_id = %(client)s ORDER BY id",
    "working_state": "SELECT * FROM working_state WHERE client_id = %(client)s ORDER BY id",
    "conversations": "SELECT * FROM conversations WHERE client_id = %(client)s ORDER BY id",
    "episodes": "SELECT id, conversation_id, session_id, summary, rating, tags, message_count, duration_seconds,"
    " occurred_at, created_at, updated_at FROM episodes WHERE client_id = %(client)s AND NOT probe ORDER BY id",
    "memory_entries": "SELECT id, content, source_type, metadata, ttl_days, expires_at, episode_id, slot, role,"
    " quarantined, occurred_at, created_at, updated_at FROM memory_entries WHERE client_id = %(client)s"
    " ORDER BY slot",
}

_INSERT_ENTRY: Final = """
    INSERT INTO memory_entries (id, client_id, content, embedding, embedding_model, source_type, ttl_days,
                                episode_id, slot, role, content_hash, quarantined, occurred_at)
    VALUES (%(id)s, %(client)s, %(content)s, %(embedding)s::vector, %(model)s, 'conversation', %(ttl)s,
            %(episode)s, %(slot)s, %(role)s, %(hash)s, %(quarantined)s, %(at)s)
"""
_INSERT_TOLD: Final = """
    INSERT INTO chat_messages (client_id, conversation_id, position, role, content_hash, message_id)
    VALUES (%(client)s, %(chat)s, %(position)s, %(role)s, %(hash)s, %(message)s)
"""
_FACTS: Final = """
    SELECT fact_key, fact_value, confidence, source, valid_from, last_seen_at FROM memory_facts
    WHERE client_id = %(client)s AND NOT quarantined ORDER BY confidence DESC, last_seen_at DESC, id LIMIT 300
"""
_STATE: Final = """
    SELECT session_id, state_key, state_value, expires_at FROM working_state
    WHERE client_id = %(client)s AND expires_at > now()
      AND (cardinality(%(sessions)s::text[]) = 0 OR session_id = ANY(%(sessions)s))
    ORDER BY updated_at DESC, id LIMIT 20
"""
_RECENT_EPISODES: Final = """
    SELECT id, summary, rating, created_at FROM episodes
    WHERE client_id = %(client)s AND NOT probe ORDER BY created_at DESC, id DESC LIMIT %(episodes)s
"""
# Only the newest uses of a word are read. When there are more, `among` says how many messages they are the
# uses in, from which follows how many there are altogether.
_POSTINGS: Final = """
    SELECT q.term, p.slots, p.counts, p.lengths,
           CASE WHEN p.uses = %(cap)s THEN (
               SELECT sum(c.next_position) FROM conversations c
               WHERE c.client_id = %(client)s AND c.id >= p.oldest >> 20
           ) END AS among
    FROM (SELECT DISTINCT term FROM lexemes(%(query)s) WHERE term <> ALL(%(skip)s::text[]) LIMIT 64) q
    CROSS JOIN LATERAL (
        SELECT string_agg(int8send(t.slot), ''::bytea) AS slots, string_agg(int2send(t.tf), ''::bytea) AS counts,
               string_agg(int2send(t.len), ''::bytea) AS lengths, count(*) AS uses, min(t.slot) AS oldest
        FROM (SELECT slot, tf, len FROM memory_terms
              WHERE client_id = %(client)s AND term = q.term ORDER BY slot DESC LIMIT %(cap)s) t
    ) p
"""
_TOTAL: Final = """
    SELECT coalesce(sum(next_position), 0)::bigint AS total FROM conversations WHERE client_id = %(client)s
"""
_JOB: Final = """
    SELECT id, kind, status, attempts, last_error, result, run_at, created_at, updated_at
    FROM jobs WHERE id = %(id)s
"""


def _lexical_match(rows: Sequence[Row], total: Row | None) -> LexicalMatch:
    messages = int(total["total"]) if total else 0
    postings = {
        row["term"]: unpack_postings(row["slots"], row["counts"], row["lengths"], _uses(row, messages))
        for row in rows
        if row["slots"]
    }
    most = max((found.total for found in postings.values()), default=0)
    return LexicalMatch(sorted(row["term"] for row in rows), postings, max(messages, most))


def _uses(row: Row, messages: int) -> int:
    """In how many messages a word is, estimated when only the newest of them were read."""
    return POSTINGS_PER_TERM * messages // int(row["among"]) if row["among"] else 0
