"""What a turn teaches: its facts through the conflict policy into the store, with their history."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from memory_service import metrics
from memory_service.conflict import (
    Outcome,
    Source,
    Statement,
    decide,
    normalise_key,
    normalise_value,
    storage_key,
)
from memory_service.extraction import ExtractedFact
from memory_service.repository import ClientRows

STORED: frozenset[Outcome] = frozenset({"insert", "reinforce", "supersede", "retract"})


@dataclass(frozen=True)
class Learnt:
    """What became of one statement."""

    key: str
    outcome: Outcome


async def canonical_key(rows: ClientRows, key: str, value: str) -> str:
    """The one key for a word: normalised, through the aliases, per value where values are many."""
    normal = normalise_key(key)
    aliased = await rows.alias(normal)
    return storage_key(aliased, value)


async def learn(
    rows: ClientRows,
    key: str,
    statement: Statement,
    now: datetime,
    evidence: str | None,
    episode_id: int | None,
) -> Learnt:
    """Applies one statement. The caller holds the lock on the client's facts."""
    believed = await rows.believed(key)
    wanted = normalise_value(statement.value)
    contested = any(normalise_value(row["fact_value"]) == wanted for row in await rows.contested(key))
    decision = decide(key, believed, contested, statement, now)
    source: Source = statement.source
    if decision.outcome in ("insert", "supersede"):
        await rows.put_fact(
            key, statement.value, decision.confidence, source, evidence, episode_id, statement.at
        )
    elif decision.outcome == "reinforce":
        await rows.reinforce_fact(key, decision.confidence)
    elif decision.outcome == "retract":
        await rows.close_fact(key, "retracted", statement.at)
    elif decision.outcome == "contest" and not contested:
        await rows.file_fact(
            key,
            statement.value,
            decision.confidence,
            "contested",
            source,
            evidence,
            episode_id,
            statement.at,
            None,
        )
    elif decision.outcome == "file" and believed is not None:
        await rows.file_fact(
            key,
            statement.value,
            decision.confidence,
            "superseded",
            source,
            evidence,
            episode_id,
            statement.at,
            believed.valid_from,
        )
    metrics.FACTS.labels(decision.outcome).inc()
    return Learnt(key, decision.outcome)


async def learn_turn(
    rows: ClientRows, facts: list[ExtractedFact], at: datetime, now: datetime, episode_id: int
) -> list[Learnt]:
    """Applies all facts of a turn under the client's lock."""
    await rows.lock_facts()
    learnt = []
    for fact in facts:
        key = await canonical_key(rows, fact.key, fact.value)
        statement = Statement(
            value=fact.value,
            confidence=round(fact.confidence, 2),
            source="user",
            at=at,
            correction=fact.correction,
            retraction=fact.action == "retract",
        )
        learnt.append(await learn(rows, key, statement, now, fact.evidence, episode_id))
    return learnt
