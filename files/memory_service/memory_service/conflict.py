"""What happens when a new statement meets what is believed: a pure function, tested as one.

The outcomes: `insert` (nothing was believed), `reinforce` (the same again), `supersede` (the new replaces
the old), `contest` (kept aside until seen again), `retract` (no longer true), `file` (it is about an earlier
time than what is believed: into the history only), `ignore`.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

Source = Literal["assistant", "tool", "user", "operator"]
Outcome = Literal["insert", "reinforce", "supersede", "contest", "retract", "file", "ignore"]

RANK: Final[dict[Source, int]] = {"assistant": 0, "tool": 1, "user": 2, "operator": 3}
CEILING: Final = 0.99
TOLERANCE: Final = 0.1

_KEY = re.compile(r"[^a-z0-9_.]+")
_SPELLING: Final = (
    ("favourite", "favorite"),
    ("colour", "color"),
    ("neighbour", "neighbor"),
    ("programme", "program"),
)

# Keys whose values are many at once: each value gets a key of its own, so that one allergy never replaces
# another (`allergy.peanuts`).
SET_VALUED: Final = frozenset(
    {
        "allergy",
        "hobby",
        "language",
        "child_name",
        "sibling_name",
        "skill",
        "like",
        "likes",
        "dislike",
        "dislikes",
    }
)

# How long a belief of a kind stays as strong as it was (half-life in days); identity does not fade.
_IDENTITY: Final = frozenset(
    {"name", "preferred_name", "birthday", "email", "phone", "home_country", "allergy"}
)
PREFERENCE_HALF_LIFE: Final = 180.0
STATE_HALF_LIFE: Final = 7.0


@dataclass(frozen=True)
class Believed:
    """What is stored under a key."""

    value: str
    confidence: float
    source: Source
    valid_from: datetime
    last_seen_at: datetime


@dataclass(frozen=True)
class Statement:
    """What a turn, a tool or an operator says about a key."""

    value: str
    confidence: float
    source: Source
    at: datetime
    correction: bool = False
    retraction: bool = False


@dataclass(frozen=True)
class Decision:
    """The outcome and the confidence that the stored fact then has."""

    outcome: Outcome
    confidence: float


def normalise_key(key: str) -> str:
    """A key in the one spelling that is stored: lower case, underscores, American, at most 64 characters."""
    text = unicodedata.normalize("NFKD", key).encode("ascii", "ignore").decode().lower()
    text = _KEY.sub("_", text.replace("-", "_")).strip("_.")
    for british, american in _SPELLING:
        text = text.replace(british, american)
    for prefix in ("user_", "my_", "users_", "the_"):
        text = text.removeprefix(prefix)
    return re.sub(r"_{2,}", "_", text)[:64].strip("_.")


def normalise_value(value: str) -> str:
    """A value for comparison: case, spaces and closing punctuation do not make a difference."""
    return " ".join(unicodedata.normalize("NFKC", value).casefold().split()).strip(" .,;:!?\"'")


def storage_key(key: str, value: str) -> str:
    """The key under which a value is stored: for a set-valued key, one for each value."""
    if key not in SET_VALUED:
        return key
    suffix = normalise_key(normalise_value(value).replace(".", "_")) or "other"
    return f"{key}.{suffix}"[:64].rstrip("._")


def half_life(key: str) -> float | None:
    """Days in which a belief loses half of its weight; None when it never does."""
    base = key.split(".")[0]
    if base in _IDENTITY:
        return None
    if base.startswith(("current_", "mood", "today_", "working_on")):
        return STATE_HALF_LIFE
    return PREFERENCE_HALF_LIFE


def decayed(confidence: float, key: str, last_seen_at: datetime, now: datetime) -> float:
    """The confidence at `now`; faded, never below half of what it was, and never deleted for it."""
    days = half_life(key)
    if days is None:
        return confidence
    age = max(0.0, (now - last_seen_at).total_seconds() / 86_400.0)
    return confidence * max(0.5, math.pow(0.5, age / days))


def reinforced(confidence: float, again: float) -> float:
    """Two sightings are more than one: 1 - (1-c)(1-c'/2), at most 0.99."""
    return min(CEILING, max(confidence, 1.0 - (1.0 - confidence) * (1.0 - again / 2.0)))


def _again(believed: Believed, statement: Statement) -> Decision:
    """The same value once more: surer for it, unless who says it now decides it.

    The fact is then theirs, in their words and as sure as they say: it would otherwise stay as easy to overrule as
    it was. An operator who sets what is set already changes nothing.
    """
    if statement.source == believed.source == "operator":
        unchanged = (believed.value, believed.confidence) == (statement.value, statement.confidence)
        return Decision("reinforce" if unchanged else "supersede", statement.confidence)
    if RANK[statement.source] > RANK[believed.source]:
        return Decision("supersede", statement.confidence)
    return Decision("reinforce", reinforced(believed.confidence, statement.confidence))


def decide(
    key: str, believed: Believed | None, contested: bool, statement: Statement, now: datetime
) -> Decision:
    """What to do with a statement.

    :param contested: whether this same value was put aside as contested before
    """
    same = believed is not None and normalise_value(believed.value) == normalise_value(statement.value)
    if statement.retraction:
        if believed is None or statement.at < believed.valid_from:
            return Decision("ignore", 0.0)
        outranked = RANK[statement.source] < RANK[believed.source]
        if outranked or (statement.value and not same):
            return Decision("ignore", believed.confidence)
        return Decision("retract", 0.0)
    if believed is None:
        return Decision("insert", statement.confidence)
    if same:
        return _again(believed, statement)
    if statement.at < believed.valid_from:
        return Decision("file", statement.confidence)
    if RANK[statement.source] < RANK[believed.source]:
        return Decision("contest", statement.confidence)
    if RANK[statement.source] > RANK[believed.source] or statement.correction or contested:
        return Decision("supersede", statement.confidence)
    strength = decayed(believed.confidence, key, believed.last_seen_at, now)
    newer = statement.at > believed.valid_from
    if newer and statement.confidence >= strength - TOLERANCE:
        return Decision("supersede", statement.confidence)
    return Decision("contest", statement.confidence)
