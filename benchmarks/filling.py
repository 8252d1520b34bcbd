"""Memories to measure with: chats of made-up sentences, the same ones every time."""

from __future__ import annotations

import random
from pathlib import Path

from memory_service.database import Connection
from memory_service.embedding import literal
from memory_service.lexical import CHAT_BITS
from memory_service.repository import find_client
from memory_service.service import Service

_THINGS = (
    "garden bicycle recipe violin passport kitchen holiday project meeting doctor dog cat window train budget "
    "book river mountain birthday school laptop printer coffee bread soup camera ticket hotel museum concert "
    "market jacket umbrella letter contract invoice painting football swimming chess puzzle neighbour cousin"
)
_DEEDS = (
    "bought sold repaired lost found visited planned cancelled painted cleaned forgot enjoyed missed started "
    "finished borrowed returned explained described photographed compared ordered tested moved shared"
)
_QUALITIES = (
    "old new red blue quiet noisy cheap expensive broken shiny heavy light foreign local tiny huge early late"
)
THINGS, DEEDS, QUALITIES = _THINGS.split(), _DEEDS.split(), _QUALITIES.split()
CHAT = 20
STATEMENT = 1_000


def sentence(source: random.Random) -> str:
    """A sentence of twelve to thirty words."""
    parts = []
    for _ in range(source.randint(2, 4)):
        parts.append(
            f"I {source.choice(DEEDS)} the {source.choice(QUALITIES)} {source.choice(THINGS)} near the "
            f"{source.choice(THINGS)} {source.randint(1, 999)}"
        )
    return " and ".join(parts)


def question(source: random.Random) -> str:
    """A question about something that may have been said."""
    return f"Which {source.choice(QUALITIES)} {source.choice(THINGS)} have I {source.choice(DEEDS)} near the {source.choice(THINGS)}?"


_CHATS = """
    INSERT INTO conversations (client_id, chat_id, next_position)
    SELECT %(client)s, 'chat ' || n, %(chat)s FROM generate_series(%(first)s::int, %(last)s::int) n RETURNING id
"""
_EPISODES = """
    INSERT INTO episodes (client_id, conversation_id, conversation_hash, message_count)
    SELECT %(client)s, c, encode(sha256(convert_to('bench ' || c, 'UTF8')), 'hex'), %(chat)s
    FROM unnest(%(chats)s::bigint[]) WITH ORDINALITY u(c, n) ORDER BY n RETURNING id
"""
_ENTRIES = """
    INSERT INTO memory_entries (id, client_id, content, embedding, embedding_model, source_type, ttl_days,
                                episode_id, slot, role, content_hash, occurred_at)
    SELECT gen_random_uuid(), %(client)s, content, vector::vector, %(model)s, 'conversation', 365, episode, slot,
           CASE WHEN slot %% 2 = 0 THEN 'user' ELSE 'assistant' END, sha256(convert_to(content, 'UTF8')),
           now() - age * interval '1 minute'
    FROM unnest(%(contents)s::text[], %(vectors)s::text[], %(episodes)s::bigint[], %(slots)s::bigint[],
                %(ages)s::int[]) u(content, vector, episode, slot, age)
"""


async def fill(service: Service, clients: int, each: int, seed: int = 1) -> None:
    """Gives clients 1..`clients` `each` messages (a multiple of CHAT), in chats of CHAT: a statement for every
    thousand, with all triggers, instead of a transaction for every turn."""
    source = random.Random(seed)
    for client in range(1, clients + 1):
        for start in range(0, each, STATEMENT):
            count = min(STATEMENT, each - start)
            texts = [sentence(source) for _ in range(count)]
            vectors = await service.embedder.embed(texts)

            async def work(
                connection: Connection,
                client: int = client,
                start: int = start,
                texts: list[str] = texts,
                vectors: list[list[float]] = vectors,
                count: int = count,
            ) -> None:
                await find_client(connection, client, create=True)
                values: dict[str, object] = {
                    "client": client,
                    "chat": CHAT,
                    "first": start // CHAT,
                    "last": (start + count) // CHAT - 1,
                }
                chats = [row["id"] for row in await (await connection.execute(_CHATS, values)).fetchall()]
                values["chats"] = chats
                episodes = [
                    row["id"] for row in await (await connection.execute(_EPISODES, values)).fetchall()
                ]
                values |= {
                    "model": service.embedder.model,
                    "contents": texts,
                    "vectors": [literal(vector) for vector in vectors],
                    "episodes": [episode for episode in episodes for _ in range(CHAT)],
                    "slots": [(chat << CHAT_BITS) + place for chat in chats for place in range(CHAT)],
                    "ages": [each - start - number for number in range(count)],
                }
                await connection.execute(_ENTRIES, values)

            await service.database.run(work, timeout_s=120.0)


def percentiles(seconds: list[float]) -> str:
    """p50, p95 and p99 in milliseconds, for a table."""
    ordered = sorted(seconds)
    chosen = [ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.50, 0.95, 0.99)]
    return " | ".join(f"{1000 * value:7.1f}" for value in chosen)


def resident(pid: int) -> int:
    """Resident memory of a process in MB."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) // 1024
