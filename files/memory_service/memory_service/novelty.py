"""Which messages of a writeback its chat does not have yet: a pure function, tested as one.

Two kinds of callers: one sends the conversation whole every time, the other only its newest turn, a question
with the answer. The first repeats what is stored; what the second repeats was said once more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Said:
    """A message as it is compared: who said it, a digest of what, and its id at the caller if it has one."""

    role: str
    content_hash: bytes
    message_id: str | None = None


def one_turn(sent: Sequence[Said]) -> bool:
    """Whether a request can be a turn by itself: one message of the user, and what was answered."""
    return bool(sent) and [message.role for message in sent].count("user") == 1 and sent[0].role == "user"


def unknown(stored: Sequence[Said], sent: Sequence[Said], *, whole: bool, elsewhere: bool) -> list[int]:
    """Which of the sent messages are new, by index.

    :param stored: all messages of the chat, in their order
    :param whole: whether this chat was ever sent with more than one turn, so that its callers repeat it
    :param elsewhere: whether the user has said something in another place since; a chat without an id is known
        by its first words only, and the same first words may then be a new beginning
    """
    if whole or not one_turn(sent):
        return _uncounted(stored, sent)
    question = _asked(stored, sent[0], elsewhere)
    if question is None:
        return list(range(len(sent)))
    answers = set()
    for message in stored[question + 1 :]:
        if message.role == "user":
            break
        answers.add(message.content_hash)
    return [index for index in range(1, len(sent)) if sent[index].content_hash not in answers]


def _uncounted(stored: Sequence[Said], sent: Sequence[Said]) -> list[int]:
    """What was sent more often than it is stored."""
    left = Counter((message.role, message.content_hash) for message in stored)
    new = []
    for index, message in enumerate(sent):
        identity = (message.role, message.content_hash)
        if left[identity] > 0:
            left[identity] -= 1
        else:
            new.append(index)
    return new


def _asked(stored: Sequence[Said], question: Said, elsewhere: bool) -> int | None:
    """Where the chat has this very message of the user already, as when only its answer is another one.

    That is the message with its id. Without ids it is the user's newest, if the words are the same.
    """
    users = [index for index in range(len(stored) - 1, -1, -1) if stored[index].role == "user"]
    same = [index for index in users if stored[index].content_hash == question.content_hash]
    if question.message_id is not None:
        for index in same:
            if stored[index].message_id == question.message_id:
                return index
    if elsewhere or not same or same[0] != users[0]:
        return None
    told_apart = question.message_id is not None and stored[same[0]].message_id is not None
    return None if told_apart else same[0]
