"""BM25 over a message together with its neighbours, from postings alone.

A message of a chat rarely repeats what it answers: "Biscuit!" is found by the question before it. So a
message is scored by its own words, by those of the three and of the five messages around it, and by those of
its whole chat.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

K1: Final = 1.2
B: Final = 0.75
CHAT_BITS: Final = 20  # slot = chat * 2^20 + position
CHAT_K: Final = 2.0
_POSTING = struct.Struct(">qhh")  # slot, term frequency, length of the message in words

# Words that carry a greeting or thanks and nothing to look for.
SMALL_TALK: Final = frozenset(
    re.findall(
        r"\w+",
        "hi hello hey heya hiya yo howdi sup greet welcom cheer bye goodby goodbi good morn afternoon even night"
        " day today thank thanx thx pleas sorri ok okay sure yes yeah yep nope cool great nice fine well wow lol"
        " haha help test",
    )
)


@dataclass(frozen=True)
class Posting:
    """One use of a term: where, how often, and how long the message is."""

    slot: int
    tf: int
    length: int


@dataclass(frozen=True)
class LexicalScore:
    """BM25 of a message alone, of three and of five messages around it, of its chat; and the share of the
    query's weight that the three match."""

    own: float
    window: float
    wide: float
    chat: float
    coverage: float


def unpack_postings(packed: bytes) -> list[Posting]:
    """The postings that SQL concatenates as big-endian (int8, int2, int2) triples."""
    return [Posting(*triple) for triple in _POSTING.iter_unpack(packed)]


def informative(terms: Iterable[str]) -> list[str]:
    """The query's terms without small talk, in a stable order."""
    return sorted({term for term in terms if term not in SMALL_TALK})


def inverse_document_frequency(total: int, containing: int) -> float:
    """BM25's weight of a term; never negative."""
    return math.log(1.0 + (max(total, containing) - containing + 0.5) / (containing + 0.5))


def _saturated(tf: float, length: float, average: float) -> float:
    return tf * (K1 + 1.0) / (tf + K1 * (1.0 - B + B * length / average))


def score(
    postings: Mapping[str, Sequence[Posting]], total: int, terms: Sequence[str]
) -> dict[int, LexicalScore]:
    """Scores for every slot that, or whose neighbour, contains a term.

    :param postings: term -> its postings of this client
    :param total: how many messages the client has
    :param terms: all informative terms of the query, also those without a posting: they count in coverage
    """
    if not terms or not postings:
        return {}
    lengths = {posting.slot: posting.length for found in postings.values() for posting in found}
    if not lengths:
        return {}
    average = max(1.0, sum(lengths.values()) / len(lengths))
    weights = {
        term: inverse_document_frequency(total, len(postings[term])) for term in terms if postings.get(term)
    }
    # A word that was never said would weigh most of all; it counts like an average one that was.
    everything = sum(weights.values()) * len(terms) / len(weights) or 1.0
    own: dict[int, float] = {}
    window: dict[int, float] = {}
    wide: dict[int, float] = {}
    chat: dict[int, float] = {}
    covered: dict[int, float] = {}
    for term, weight in weights.items():
        near: dict[int, int] = {}
        far: dict[int, int] = {}
        said: dict[int, int] = {}
        for posting in postings[term]:
            slot, tf = posting.slot, posting.tf
            own[slot] = own.get(slot, 0.0) + weight * _saturated(tf, posting.length, average)
            for beside in (slot - 1, slot, slot + 1):
                near[beside] = near.get(beside, 0) + tf
            for beside in range(slot - 2, slot + 3):
                far[beside] = far.get(beside, 0) + tf
            said[slot >> CHAT_BITS] = said.get(slot >> CHAT_BITS, 0) + tf
        # The length of a neighbour is known only where it matches too; the average stands in for the rest.
        for slot, tf in near.items():
            size = sum(lengths.get(beside, average) for beside in (slot - 1, slot, slot + 1))
            window[slot] = window.get(slot, 0.0) + weight * _saturated(tf, size, 3.0 * average)
            covered[slot] = covered.get(slot, 0.0) + weight
        for slot, tf in far.items():
            wide[slot] = wide.get(slot, 0.0) + weight * _saturated(tf, 5.0, 5.0)
        for number, tf in said.items():
            chat[number] = chat.get(number, 0.0) + weight * tf / (tf + CHAT_K)
    return {
        slot: LexicalScore(
            own.get(slot, 0.0),
            value,
            wide[slot],
            chat.get(slot >> CHAT_BITS, 0.0),
            covered[slot] / everything,
        )
        for slot, value in window.items()
    }
