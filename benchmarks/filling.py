"""Memories to measure with: chats of made-up sentences, the same ones every time."""

from __future__ import annotations

import hashlib
import random
from datetime import UTC, datetime, timedelta

from memory_service.database import Connection
from memory_service.repository import ClientRows, NewEntry, find_client
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


async def fill(service: Service, clients: int, each: int, seed: int = 1) -> None:
    """Gives clients 1..`clients` `each` messages, in chats of twenty."""
    source = random.Random(seed)
    now = datetime.now(UTC)
    for client in range(1, clients + 1):
        for start in range(0, each, CHAT):
            texts = [sentence(source) for _ in range(min(CHAT, each - start))]
            vectors = await service.embedder.embed(texts)
            at = now - timedelta(minutes=each - start)
            entries = [
                NewEntry(
                    text, "user" if place % 2 == 0 else "assistant", f"{start}.{place}".encode(), False, at
                )
                for place, text in enumerate(texts)
            ]

            async def work(
                connection: Connection,
                client: int = client,
                start: int = start,
                entries: list[NewEntry] = entries,
                vectors: list[list[float]] = vectors,
                at: datetime = at,
            ) -> None:
                await find_client(connection, client, create=True)
                rows = ClientRows(connection, client)
                digest = hashlib.sha256(f"{client}.{start}".encode()).hexdigest()
                episode = await rows.new_episode(
                    digest, None, len(entries), None, False, at, entries[0].content[:80]
                )
                assert episode is not None
                model = service.embedder.model
                await rows.add_messages(f"chat {start}", episode, entries, vectors, model, 365)

            await service.database.run(work, timeout_s=60.0)


def percentiles(seconds: list[float]) -> str:
    """p50, p95 and p99 in milliseconds, for a table."""
    ordered = sorted(seconds)
    chosen = [ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.50, 0.95, 0.99)]
    return " | ".join(f"{1000 * value:7.1f}" for value in chosen)
