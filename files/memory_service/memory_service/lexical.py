"""BM25 over a message together with its neighbours, from postings alone.

A message of a chat rarely repeats what it answers: "Biscuit!" is found by the question before it. So a
message is scored by its own words, by those of the three and of the five messages around it, and by those of
its whole chat.

Only the stretches of chat that hold the most of the query's weight are scored message by message: with 10,000
messages of one client a frequent word alone has thousands of neighbours, none of which is shown.
"""

from __future__ import annotations

import math
import re
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import chain, repeat
from operator import add, rshift
from typing import Final, NamedTuple

K1: Final = 1.2
B: Final = 0.75
CHAT_BITS: Final = 20  # slot = chat * 2^20 + position
CHAT_K: Final = 2.0
STRETCH_BITS: Final = 2  # a stretch is 2^2 messages of a chat
# Stretches that are scored message by message: 256 messages, of which 100 become candidates. On LoCoMo (700
# messages in a memory) this finds what scoring all of them does.
STRETCHES: Final = 64

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
class Postings:
    """The uses of a term by one client, as parallel columns.

    :ivar slots: the messages, each once
    :ivar counts: how often each uses the term
    :ivar lengths: how many words each has
    :ivar total: in how many messages the term is altogether, when the columns hold only the newest of them
    """

    slots: Sequence[int]
    counts: Sequence[int]
    lengths: Sequence[int]
    total: int


class LexicalScore(NamedTuple):
    """BM25 of a message alone, of three and of five messages around it, of its chat; and the share of the
    query's weight that the three match."""

    own: float
    window: float
    wide: float
    chat: float
    coverage: float


def unpack_postings(slots: bytes, counts: bytes, lengths: bytes, total: int) -> Postings:
    """The postings whose columns SQL concatenates as big-endian int8, int2 and int2."""
    columns = array("q", slots), array("h", counts), array("h", lengths)
    if sys.byteorder == "little":
        for column in columns:
            column.byteswap()
    return Postings(*columns, max(total, len(columns[0])))


def informative(terms: Iterable[str]) -> list[str]:
    """The query's terms without small talk, in a stable order."""
    return sorted({term for term in terms if term not in SMALL_TALK})


def inverse_document_frequency(total: int, containing: int) -> float:
    """BM25's weight of a term; never negative."""
    return math.log(1.0 + (max(total, containing) - containing + 0.5) / (containing + 0.5))


def stretches(postings: Mapping[str, Postings], weights: Mapping[str, float], count: int) -> list[int]:
    """The numbers (slot >> STRETCH_BITS) of the `count` stretches with the most of the query's weight in them
    and in the better of the two beside them; among equals the later."""
    held: dict[int, float] = {}
    get = held.get
    for term, weight in weights.items():
        for number in set(map(rshift, postings[term].slots, repeat(STRETCH_BITS))):
            held[number] = get(number, 0.0) + weight
    if len(held) <= count:
        return list(held)
    none = repeat(0.0)
    beside = map(max, map(get, [n - 1 for n in held], none), map(get, [n + 1 for n in held], none))
    ranked = nlargest(count, zip(map(add, held.values(), beside), held, strict=True))
    return [number for _, number in ranked]


def score(
    postings: Mapping[str, Postings], total: int, terms: Sequence[str], limit: int = STRETCHES
) -> dict[int, LexicalScore]:
    """Scores for every slot that, or whose neighbour, contains a term, within the best stretches.

    :param postings: term -> its postings of this client
    :param total: how many messages the client has
    :param terms: all informative terms of the query, also those without a posting: they count in coverage
    :param limit: how many stretches are scored
    """
    weights = {
        term: inverse_document_frequency(total, found.total)
        for term in terms
        if (found := postings.get(term)) is not None and found.slots
    }
    if not weights:
        return {}
    # A word that was never said would weigh most of all; it counts like an average one that was.
    everything = sum(weights.values()) * len(terms) / len(weights) or 1.0
    lengths: dict[int, int] = {}
    for term in weights:
        lengths.update(zip(postings[term].slots, postings[term].lengths, strict=True))
    average = max(1.0, sum(lengths.values()) / len(lengths))
    # With every stretch goes the message on either side, which its words are the neighbours of.
    width = 1 << STRETCH_BITS
    chosen = sorted(
        set(
            chain.from_iterable(
                range((number << STRETCH_BITS) - 1, (number << STRETCH_BITS) + width + 1)
                for number in stretches(postings, weights, limit)
            )
        )
    )
    flat, slope = K1 * (1.0 - B), K1 * B / average
    # The length of a neighbour is known only where it matches too; the average stands in for the rest.
    before, after = [slot - 1 for slot in chosen], [slot + 1 for slot in chosen]
    second, fourth = [slot - 2 for slot in chosen], [slot + 2 for slot in chosen]
    unknown = repeat(average)
    sizes = [list(map(lengths.get, beside, unknown)) for beside in (before, chosen, after)]
    alone = [flat + slope * size for size in sizes[1]]
    three = [flat + slope * sum(size) / 3.0 for size in zip(*sizes, strict=True)]
    own = window = wide = covered = [0.0] * len(chosen)
    chat = dict.fromkeys((slot >> CHAT_BITS for slot in chosen), 0.0)
    # An assemble spends its time here: whole columns at a time, so that little of it is interpreted.
    none = repeat(0)
    for term, weight in weights.items():
        found = postings[term]
        used = dict(zip(found.slots, found.counts, strict=True)).get
        here = list(map(used, chosen, none))
        near = list(map(add, here, map(add, map(used, before, none), map(used, after, none))))
        far = list(map(add, near, map(add, map(used, second, none), map(used, fourth, none))))
        full = weight * (K1 + 1.0)
        own = [
            old + full * tf / (tf + size) if tf else old
            for old, tf, size in zip(own, here, alone, strict=True)
        ]
        window = [
            old + full * tf / (tf + size) if tf else old
            for old, tf, size in zip(window, near, three, strict=True)
        ]
        wide = [old + full * tf / (tf + K1) if tf else old for old, tf in zip(wide, far, strict=True)]
        covered = [old + weight if tf else old for old, tf in zip(covered, near, strict=True)]
        said: dict[int, int] = {}
        for slot, tf in zip(found.slots, found.counts, strict=True):
            number = slot >> CHAT_BITS
            said[number] = said.get(number, 0) + tf
        for number in chat.keys() & said.keys():
            chat[number] += weight * said[number] / (said[number] + CHAT_K)
    said_in = [chat[slot >> CHAT_BITS] for slot in chosen]
    shares = [weight / everything for weight in covered]
    values = map(LexicalScore._make, zip(own, window, wide, said_in, shares, strict=True))
    return {slot: value for slot, value in zip(chosen, values, strict=True) if value.window > 0.0}
