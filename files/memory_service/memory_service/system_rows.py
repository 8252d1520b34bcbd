"""Work across clients: the queue, the outbox, cleanup and figures. Runs in transactions of scope `system`."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg.types.json import Jsonb

from memory_service.database import Connection
from memory_service.embedding import literal

Row = dict[str, Any]
OUTBOX_LOCK: Final = 7002
CLEANUP_LOCK: Final = 7003
REINDEX_LOCK: Final = 7004


@dataclass(frozen=True)
class Job:
    """A job that this worker has leased."""

    id: int
    kind: str
    client_id: int | None
    episode_id: int | None
    attempts: int
    max_attempts: int
    payload: dict[str, Any]


async def claim(
    connection: Connection, kinds: Sequence[str], lease_s: float, job_id: int | None
) -> Job | None:
    """Leases the next due job, or a certain one; jobs whose lease ran out are due again.

    A certain one that nobody has tried yet is due for whoever asks for it.
    """
    row = await (
        await connection.execute(
            """
            UPDATE jobs SET status = 'running', attempts = attempts + 1,
                            leased_until = clock_timestamp() + make_interval(secs => %(lease)s)
            WHERE id = (
                SELECT id FROM jobs
                WHERE kind = ANY(%(kinds)s) AND (%(id)s::bigint IS NULL OR id = %(id)s)
                  AND ((status = 'queued' AND (run_at <= now() OR (id = %(id)s AND attempts = 0)))
                       OR (status = 'running' AND leased_until < clock_timestamp()))
                ORDER BY run_at, id FOR UPDATE SKIP LOCKED LIMIT 1)
            RETURNING id, kind, client_id, episode_id, attempts, max_attempts, payload
            """,
            {"kinds": list(kinds), "lease": lease_s, "id": job_id},
        )
    ).fetchone()
    return None if row is None else Job(**row)


async def extend(connection: Connection, job_id: int, lease_s: float) -> None:
    """The job is still being worked on."""
    await connection.execute(
        "UPDATE jobs SET leased_until = clock_timestamp() + make_interval(secs => %s) WHERE id = %s",
        (lease_s, job_id),
    )


async def finish(connection: Connection, job_id: int, result: Mapping[str, object]) -> None:
    """A job is done."""
    await connection.execute(
        "UPDATE jobs SET status = 'done', result = %s, last_error = NULL, leased_until = NULL WHERE id = %s",
        (Jsonb(dict(result)), job_id),
    )


async def postpone(
    connection: Connection, job_id: int, delay_s: float, error: str, dead: bool, counts: Mapping[str, int]
) -> None:
    """A job failed: try again after a delay, or never. `counts` are remembered in its payload."""
    await connection.execute(
        "UPDATE jobs SET status = CASE WHEN %(dead)s THEN 'dead' ELSE 'queued' END, leased_until = NULL,"
        " run_at = now() + make_interval(secs => %(delay)s), last_error = %(error)s,"
        " payload = payload || %(counts)s WHERE id = %(id)s",
        {"id": job_id, "delay": delay_s, "error": error[:500], "dead": dead, "counts": Jsonb(dict(counts))},
    )


async def revive(connection: Connection, counts: Sequence[str]) -> int:
    """Queues the extractions that were given up once more, their `counts` of failures forgotten; returns how many."""
    cursor = await connection.execute(
        "UPDATE jobs SET status = 'queued', run_at = now(), payload = payload - %s::text[]"
        " WHERE status = 'dead' AND kind = 'extract'",
        (list(counts),),
    )
    return cursor.rowcount


async def add_job(connection: Connection, kind: str, payload: Mapping[str, object]) -> int:
    """Queues work that belongs to no client."""
    row = await (
        await connection.execute(
            "INSERT INTO jobs (kind, payload) VALUES (%s, %s) RETURNING id", (kind, Jsonb(dict(payload)))
        )
    ).fetchone()
    assert row is not None
    return int(row["id"])


async def unfinished(connection: Connection, kind: str) -> int | None:
    """A job of this kind that is not finished, if there is one."""
    row = await (
        await connection.execute(
            "SELECT id FROM jobs WHERE kind = %s AND status IN ('queued', 'running') ORDER BY id LIMIT 1",
            (kind,),
        )
    ).fetchone()
    return None if row is None else int(row["id"])


async def job(connection: Connection, job_id: int) -> Row | None:
    """Any job."""
    cursor = await connection.execute(
        "SELECT id, kind, status, attempts, last_error, result, run_at, created_at, updated_at FROM jobs"
        " WHERE id = %s",
        (job_id,),
    )
    return await cursor.fetchone()


# -- the outbox ------------------------------------------------------------------------------------------


async def try_lock(connection: Connection, lock: int) -> bool:
    """Takes a lock for the rest of the transaction unless somebody has it."""
    row = await (await connection.execute("SELECT pg_try_advisory_xact_lock(%s) AS got", (lock,))).fetchone()
    return bool(row and row["got"])


async def lock(connection: Connection, number: int) -> None:
    """Takes a lock for the rest of the transaction, waiting for it."""
    await connection.execute("SELECT pg_advisory_xact_lock(%s)", (number,))


async def due_vectors(connection: Connection, limit: int) -> list[Row]:
    """The oldest outbox rows whose time has come."""
    cursor = await connection.execute(
        "SELECT id, memory_id FROM vector_outbox WHERE next_attempt_at <= now()"
        " ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED",
        (limit,),
    )
    return await cursor.fetchall()


async def vector_rows(connection: Connection, ids: Sequence[uuid.UUID]) -> list[Row]:
    """The present state of entries, as the index is to know them. Gone, expired, quarantined or without a
    vector means: the index is not to have it."""
    cursor = await connection.execute(
        """
        SELECT id, client_id, slot, source_type, content, embedding_model, ttl_days,
               extract(epoch FROM created_at)::bigint AS created_at,
               extract(epoch FROM expires_at)::bigint AS expires_at,
               embedding::real[] AS vector
        FROM memory_entries
        WHERE id = ANY(%s) AND embedding IS NOT NULL AND NOT quarantined
          AND (expires_at IS NULL OR expires_at > now())
        """,
        (list(ids),),
    )
    return await cursor.fetchall()


async def delivered(connection: Connection, outbox_ids: Sequence[int]) -> None:
    """The index has these."""
    await connection.execute("DELETE FROM vector_outbox WHERE id = ANY(%s)", (list(outbox_ids),))


async def undelivered(connection: Connection, outbox_ids: Sequence[int], error: str) -> None:
    """The index could not be written; later again."""
    await connection.execute(
        "UPDATE vector_outbox SET attempts = attempts + 1, last_error = %s,"
        " next_attempt_at = now() + make_interval(secs => least(power(2, least(attempts, 6)), 60)) WHERE id = ANY(%s)",
        (error[:200], list(outbox_ids)),
    )


async def hasten(connection: Connection) -> None:
    """The index is back: everything that waited is due."""
    await connection.execute("UPDATE vector_outbox SET next_attempt_at = now() WHERE next_attempt_at > now()")


async def enqueue_vectors(connection: Connection, ids: Sequence[uuid.UUID]) -> None:
    """Puts entries (or what is left of them) into the outbox; owner 0 stands for entries that are gone."""
    await connection.execute(
        "INSERT INTO vector_outbox (client_id, memory_id)"
        " SELECT coalesce(m.client_id, 0), wanted.id FROM unnest(%s::uuid[]) AS wanted(id)"
        " LEFT JOIN memory_entries m ON m.id = wanted.id",
        (list(ids),),
    )


async def clock(connection: Connection) -> datetime:
    """The database's time."""
    row = await (await connection.execute("SELECT clock_timestamp() AS now")).fetchone()
    assert row is not None
    now: datetime = row["now"]
    return now


async def enqueue_changed(connection: Connection, since: datetime) -> int:
    """Puts every entry that changed since then into the outbox; returns how many."""
    cursor = await connection.execute(
        "INSERT INTO vector_outbox (client_id, memory_id)"
        " SELECT client_id, id FROM memory_entries WHERE updated_at >= %s AND embedding IS NOT NULL",
        (since,),
    )
    return cursor.rowcount


async def indexable(connection: Connection) -> int:
    """How many points the index should have."""
    row = await (
        await connection.execute(
            "SELECT count(*) AS n FROM memory_entries WHERE embedding IS NOT NULL AND NOT quarantined"
            " AND (expires_at IS NULL OR expires_at > now())"
        )
    ).fetchone()
    return int(row["n"]) if row else 0


async def indexable_ids(connection: Connection, after: uuid.UUID | None, limit: int) -> list[uuid.UUID]:
    """A page of the ids that the index should have, in their order."""
    cursor = await connection.execute(
        "SELECT id FROM memory_entries WHERE embedding IS NOT NULL AND NOT quarantined"
        " AND (expires_at IS NULL OR expires_at > now()) AND (%(after)s::uuid IS NULL OR id > %(after)s)"
        " ORDER BY id LIMIT %(limit)s",
        {"after": after, "limit": limit},
    )
    return [row["id"] for row in await cursor.fetchall()]


async def unembedded(connection: Connection, model: str, limit: int) -> list[Row]:
    """Entries without a vector that the model in force did not refuse; those of a queued turn wait a moment for
    their job."""
    cursor = await connection.execute(
        "SELECT id, client_id, content FROM memory_entries WHERE embedding IS NULL"
        " AND embedding_model IS DISTINCT FROM %s AND created_at < now() - interval '5 seconds'"
        " AND NOT quarantined ORDER BY created_at LIMIT %s",
        (model, limit),
    )
    return await cursor.fetchall()


async def embedded_otherwise(connection: Connection, model: str, limit: int) -> list[Row]:
    """Entries with a vector of another model. Reads the whole table when there are none."""
    cursor = await connection.execute(
        "SELECT id, client_id, content FROM memory_entries"
        " WHERE embedding_model <> %s AND embedding IS NOT NULL LIMIT %s",
        (model, limit),
    )
    return await cursor.fetchall()


async def mark_refused(connection: Connection, ids: Sequence[uuid.UUID], model: str) -> None:
    """These entries get no vector of the model: it is named, and its vector missing."""
    if ids:
        await connection.execute(
            "UPDATE memory_entries SET embedding = NULL, embedding_model = %s WHERE id = ANY(%s)",
            (model, list(ids)),
        )


async def store_vectors(
    connection: Connection, vectors: Mapping[uuid.UUID, Sequence[float]], model: str
) -> None:
    """Stores vectors, whoever's they are."""
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "UPDATE memory_entries SET embedding = %s::vector, embedding_model = %s WHERE id = %s",
            [(literal(vector), model, identity) for identity, vector in vectors.items()],
        )


# -- figures, budget, state ------------------------------------------------------------------------------


async def figures(connection: Connection) -> Row:
    """Depth and age of the queue and the outbox."""
    cursor = await connection.execute(
        """
        SELECT (SELECT count(*) FROM jobs WHERE status IN ('queued', 'running')) AS jobs,
               (SELECT count(*) FROM jobs WHERE status = 'dead') AS dead,
               (SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0)::float FROM jobs
                 WHERE status IN ('queued', 'running')) AS jobs_age,
               (SELECT count(*) FROM vector_outbox) AS outbox,
               (SELECT coalesce(extract(epoch FROM now() - min(enqueued_at)), 0)::float FROM vector_outbox)
                 AS outbox_age
        """
    )
    row = await cursor.fetchone()
    assert row is not None
    return row


async def spend(connection: Connection, purpose: str, requests: int, tokens: int) -> int:
    """Adds to today's usage; returns today's tokens."""
    row = await (
        await connection.execute(
            """
            INSERT INTO provider_usage (day, purpose, requests, tokens)
            VALUES ((now() AT TIME ZONE 'UTC')::date, %(purpose)s, %(requests)s, %(tokens)s)
            ON CONFLICT (day, purpose) DO UPDATE SET requests = provider_usage.requests + excluded.requests,
                tokens = provider_usage.tokens + excluded.tokens
            RETURNING tokens
            """,
            {"purpose": purpose, "requests": requests, "tokens": tokens},
        )
    ).fetchone()
    return int(row["tokens"]) if row else 0


async def spent(connection: Connection, purpose: str) -> int:
    """Today's tokens."""
    row = await (
        await connection.execute(
            "SELECT tokens FROM provider_usage WHERE day = (now() AT TIME ZONE 'UTC')::date AND purpose = %s",
            (purpose,),
        )
    ).fetchone()
    return int(row["tokens"]) if row else 0


async def set_index_state(connection: Connection, key: str, value: str) -> None:
    """Remembers something about the index."""
    await connection.execute(
        "INSERT INTO index_state (key, value) VALUES (%s, %s)"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = now()",
        (key, value),
    )


async def record_forgotten(connection: Connection, user_hash: bytes, counts: Mapping[str, int]) -> None:
    """That somebody was forgotten, without saying who."""
    await connection.execute(
        "INSERT INTO forgotten (user_hash, counts) VALUES (%s, %s)", (user_hash, Jsonb(dict(counts)))
    )


async def delete_outbox_of(connection: Connection, client_id: int) -> None:
    """The index was told in one word: nothing of this client needs to be delivered any more."""
    await connection.execute("DELETE FROM vector_outbox WHERE client_id = %s", (client_id,))


async def waiting_for(connection: Connection, client_id: int) -> int:
    """How many outbox rows of a client wait."""
    row = await (
        await connection.execute("SELECT count(*) AS n FROM vector_outbox WHERE client_id = %s", (client_id,))
    ).fetchone()
    return int(row["n"]) if row else 0


async def list_clients(connection: Connection, after: int, limit: int) -> list[Row]:
    """A page of profiles."""
    cursor = await connection.execute(
        "SELECT id, user_id, full_name, email, tags, metadata, created_at, updated_at FROM client_profiles"
        " WHERE id > %s ORDER BY id LIMIT %s",
        (after, limit),
    )
    return await cursor.fetchall()


# -- cleanup ---------------------------------------------------------------------------------------------

# What is left of a turn once its messages are gone, and of a chat once its turns are. An episode of which nothing
# was stored, because all of it was known, lives as long as its messages would have.
_OLD_EPISODE: Final = "e.created_at <= %(cutoff)s - make_interval(days => %(ttl)s)"
_ENTRY_OF_CHAT: Final = (
    "SELECT 1 FROM memory_entries m WHERE m.client_id = c.client_id"
    " AND m.slot >= c.id << 20 AND m.slot < (c.id + 1) << 20"
)
# Not at once: a chat knows what it was told, which keeps what an operator forgot from coming back.
_OLD_CHAT: Final = "c.created_at <= %(cutoff)s - make_interval(days => %(ttl)s)"
_EMPTY_CHAT: Final = (
    f"{_OLD_CHAT} AND NOT EXISTS (SELECT 1 FROM episodes e WHERE e.conversation_id = c.id)"
    f" AND NOT EXISTS ({_ENTRY_OF_CHAT})"
)
_LIVING_ENTRY: Final = "(m.expires_at IS NULL OR m.expires_at > %(cutoff)s)"
_LIVING_EPISODE: Final = (
    f"NOT coalesce({_OLD_EPISODE}, false)"
    f" OR EXISTS (SELECT 1 FROM memory_entries m WHERE m.episode_id = e.id AND {_LIVING_ENTRY})"
)

# Table -> the statement that removes one batch, and the one that counts what there is to remove. In the order in
# which they are run: each leaves something for those after it.
CLEANUP: Final[dict[str, tuple[str, str]]] = {
    "memory_entries": (
        "WITH d AS (SELECT id FROM memory_entries WHERE expires_at <= %(cutoff)s ORDER BY expires_at"
        " LIMIT %(batch)s FOR UPDATE SKIP LOCKED) DELETE FROM memory_entries m USING d WHERE m.id = d.id",
        "SELECT count(*) AS n FROM memory_entries WHERE expires_at <= %(cutoff)s",
    ),
    "working_state": (
        "WITH d AS (SELECT id FROM working_state WHERE expires_at <= %(cutoff)s ORDER BY expires_at"
        " LIMIT %(batch)s FOR UPDATE SKIP LOCKED) DELETE FROM working_state s USING d WHERE s.id = d.id",
        "SELECT count(*) AS n FROM working_state WHERE expires_at <= %(cutoff)s",
    ),
    "jobs": (
        "WITH d AS (SELECT id FROM jobs WHERE status IN ('done', 'dead')"
        " AND updated_at <= %(cutoff)s - interval '7 days' LIMIT %(batch)s FOR UPDATE SKIP LOCKED)"
        " DELETE FROM jobs j USING d WHERE j.id = d.id",
        "SELECT count(*) AS n FROM jobs WHERE status IN ('done', 'dead')"
        " AND updated_at <= %(cutoff)s - interval '7 days'",
    ),
    "episodes": (
        f"WITH d AS (SELECT id FROM episodes e WHERE {_OLD_EPISODE}"
        " AND NOT EXISTS (SELECT 1 FROM memory_entries m WHERE m.episode_id = e.id)"
        " ORDER BY created_at LIMIT %(batch)s FOR UPDATE SKIP LOCKED)"
        " DELETE FROM episodes e USING d WHERE e.id = d.id",
        f"SELECT count(*) AS n FROM episodes e WHERE NOT ({_LIVING_EPISODE})",
    ),
    # Locked by the statement and looked at once more by the next: what a writer added to the chat, that had it
    # while this one waited, is seen by a new statement only.
    "conversations": (
        f"DELETE FROM conversations c WHERE c.id = ANY(%(locked)s) AND {_EMPTY_CHAT}",
        f"SELECT count(*) AS n FROM conversations c WHERE {_OLD_CHAT}"
        f" AND NOT EXISTS ({_ENTRY_OF_CHAT} AND {_LIVING_ENTRY})"
        f" AND NOT EXISTS (SELECT 1 FROM episodes e WHERE e.conversation_id = c.id AND ({_LIVING_EPISODE}))",
    ),
}
_LOCK_EMPTY_CHATS: Final = (
    f"SELECT id FROM conversations c WHERE {_EMPTY_CHAT} ORDER BY id LIMIT %(batch)s FOR UPDATE SKIP LOCKED"
)


async def remove_batch(
    connection: Connection, table: str, cutoff: datetime, batch: int, ttl_days: int | None
) -> int:
    """Removes up to `batch` rows of a table that are expired or have nothing left in them; returns how many.

    :param ttl_days: how old an episode without messages and a chat without episodes become; None is for ever
    """
    values: dict[str, object] = {"cutoff": cutoff, "batch": batch, "ttl": ttl_days}
    if table == "conversations":
        found = await (await connection.execute(_LOCK_EMPTY_CHATS.encode(), values)).fetchall()
        values["locked"] = [row["id"] for row in found]
    return (await connection.execute(CLEANUP[table][0].encode(), values)).rowcount


async def count_expired(connection: Connection, table: str, cutoff: datetime, ttl_days: int | None) -> int:
    """How many rows of a table a run would remove if it had all the time that it needs."""
    values = {"cutoff": cutoff, "ttl": ttl_days}
    row = await (await connection.execute(CLEANUP[table][1].encode(), values)).fetchone()
    return int(row["n"]) if row else 0
