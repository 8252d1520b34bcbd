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
from typing import Final, NamedTuple

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


class Posting(NamedTuple):
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
    # What a frequency is held against, by the length of the message and of the three: this loop is where an
    # assemble spends its time, so everything that does not depend on the term is worked out once.
    flat, slope = K1 * (1.0 - B), K1 * B / average
    alone = {slot: flat + slope * length for slot, length in lengths.items()}
    # The length of a neighbour is known only where it matches too; the average stands in for the rest.
    three: dict[int, float] = {}
    for term, weight in weights.items():
        near: dict[int, int] = {}
        far: dict[int, int] = {}
        said: dict[int, int] = {}
        full = weight * (K1 + 1.0)
        for posting in postings[term]:
            slot, tf = posting.slot, posting.tf
            own[slot] = own.get(slot, 0.0) + full * tf / (tf + alone[slot])
            for beside in (slot - 1, slot, slot + 1):
                near[beside] = near.get(beside, 0) + tf
            for beside in (slot - 2, slot - 1, slot, slot + 1, slot + 2):
                far[beside] = far.get(beside, 0) + tf
            number = slot >> CHAT_BITS
            said[number] = said.get(number, 0) + tf
        for slot, tf in near.items():
            against = three.get(slot)
            if against is None:
                size = (
                    lengths.get(slot - 1, average)
                    + lengths.get(slot, average)
                    + lengths.get(slot + 1, average)
                )
                against = three[slot] = flat + slope * size / 3.0
            window[slot] = window.get(slot, 0.0) + full * tf / (tf + against)
            covered[slot] = covered.get(slot, 0.0) + weight
        for slot, tf in far.items():
            wide[slot] = wide.get(slot, 0.0) + full * tf / (tf + K1)
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
