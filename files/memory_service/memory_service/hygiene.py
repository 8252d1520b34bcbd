"""What is taken out of a text before it is stored, and what is never shown again.

Order in a writeback: invisible and control characters go first, because they can stand within a tag and make
it one when they go; then the injected memory block (or recalled text would be learnt again and again), role
tokens, secrets and card numbers. What is taken out after the invisible leaves a space, so that what stood around
it does not become what was to be taken out. Text that reads like an instruction to a model is stored, marked, and
never rendered into a prompt.

Everything here takes time in proportion to the text: this runs in the event loop that serves every client, and
one of them may send a text made to be slow. So no pattern may start at many places and run to the end from each.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

_OPENS = re.compile(r"<user_memory\b[^<>]*>", re.IGNORECASE)
_CLOSES = re.compile(r"</user_memory\s*>", re.IGNORECASE)
_TAG = re.compile(r"</?user_memory\b[^<>]*>?", re.IGNORECASE)

# Characters that a reader does not see and a model does: zero-width, bidirectional overrides, tags.
_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\U000e0000-\U000e007f]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_COMBINING = "".join(chr(code) for code in range(0x300, 0x20000) if unicodedata.combining(chr(code)))
_MARKS = re.compile(f"([{_COMBINING}]{{30}})[{_COMBINING}]+")
# Words that delimit roles in common prompt formats.
_ROLE_TOKENS = re.compile(
    r"<\|[a-z0-9_]{1,40}\|>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>", re.IGNORECASE
)


def without_memory(text: str) -> str:
    """The text without any memory block, and without what an unclosed one swallowed."""
    if "user_memory" not in text.lower():
        return text
    kept = []
    start = 0
    while opened := _OPENS.search(text, start):
        kept.append(text[start : opened.start()])
        closed = _CLOSES.search(text, opened.end())
        start = closed.end() if closed else len(text)
    kept.append(text[start:])
    return _TAG.sub(" ", " ".join(kept))


def normalized(text: str) -> str:
    """The text in NFC. No character keeps more than 30 marks, the most that a language needs (UAX #15, stream-safe
    text): putting marks into their order takes the square of their number."""
    return unicodedata.normalize("NFC", text if text.isascii() else _MARKS.sub(r"\1", text))


def visible(text: str) -> str:
    """The text in NFC without control and invisible characters, which may have kept a letter from its marks."""
    return normalized(_INVISIBLE.sub("", _CONTROL.sub("", text)))


def plain(text: str) -> str:
    """The text without what nobody sees, without memory blocks and without role tokens."""
    return _bare(visible(text))


def _bare(seen: str) -> str:
    return _ROLE_TOKENS.sub(" ", without_memory(seen)).strip()


# Each kind of secret with the pattern that finds it. The whole match is replaced, except that a named
# group `keep` in front of it stays ("password: " is worth keeping, the password is not).
_SECRETS: Final[tuple[tuple[str, re.Pattern[str]], ...]] = tuple(
    (kind, re.compile(pattern, flags))
    for kind, pattern, flags in (
        (
            "private key",
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)",
            re.DOTALL,
        ),
        ("token", r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}", 0),
        ("api key", r"\b(?:sk|pk|rk)[-_](?:[a-z]{2,8}[-_])*[A-Za-z0-9_-]{16,}", 0),
        ("api key", r"\b(?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}", 0),
        ("api key", r"\bglpat-[A-Za-z0-9_-]{16,}|\bxox[abposr]-[A-Za-z0-9-]{10,}", 0),
        ("api key", r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[A-Za-z0-9_-]{30,}", 0),
        ("api key", r"\bAGE-SECRET-KEY-1[A-Z0-9]{40,}", 0),
        (
            "credentials",
            r"(?P<keep>\b[a-z][a-z0-9+.-]{1,20}://)[^\s/:@]{1,100}:[^\s/@]{1,200}(?=@)",
            re.IGNORECASE,
        ),
        (
            "token",
            r"(?P<keep>\b(?:authorization\s*[:=]\s*)?bearer\s+)[A-Za-z0-9._~+/=-]{12,}",
            re.IGNORECASE,
        ),
        (
            "password",
            r"(?P<keep>\b(?:pass(?:word|phrase|wd|code)?|pwd|secret|api[_ -]?key|access[_ -]?key|token|pin)\b"
            r"(?:\s+(?:is|was)\s+|\s*[:=]\s*)[\"'`]?)(?=[^\s\"'`]{0,200}[\d!@#$%^&*_+=/-])[^\s\"'`,;]{4,200}",
            re.IGNORECASE,
        ),
    )
)
_CARD = re.compile(r"(?<![\d.-])(?:\d[ -]?){12,18}\d(?![\d.-]*\d)")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")


def luhn(digits: str) -> bool:
    """Whether a digit string passes the check of payment card numbers (ISO/IEC 7812-1)."""
    total = 0
    for position, character in enumerate(reversed(digits)):
        value = int(character)
        if position % 2:
            value = value * 2 - 9 if value > 4 else value * 2
        total += value
    return total % 10 == 0


def iban(text: str) -> bool:
    """Whether a text passes the check of bank account numbers (ISO 13616)."""
    compact = text.replace(" ", "")
    if not 15 <= len(compact) <= 34:
        return False
    turned = compact[4:] + compact[:4]
    return int("".join(str(int(character, 36)) for character in turned)) % 97 == 1


def redact(text: str) -> tuple[str, int]:
    """The text with secrets, card and account numbers replaced by what they were; and how many there were."""
    count = 0

    def replace(kind: str, match: re.Match[str]) -> str:
        nonlocal count
        count += 1
        keep = match.groupdict().get("keep") or ""
        return f"{keep}[{kind} removed]"

    for kind, pattern in _SECRETS:
        text = pattern.sub(lambda match, kind=kind: replace(kind, match), text)  # type: ignore[misc]

    def card(match: re.Match[str]) -> str:
        digits = re.sub(r"\D", "", match.group())
        if 13 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn(digits):
            return replace("card number", match)
        return match.group()

    def account(match: re.Match[str]) -> str:
        return replace("account number", match) if iban(match.group()) else match.group()

    return _IBAN.sub(account, _CARD.sub(card, text)), count


_INSTRUCTIONS = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass)\b[^.\n]{0,40}\b(?:previous|prior|above|earlier|all|any|your|system)"
    r"\b[^.\n]{0,30}\b(?:instructions?|prompts?|rules?|guidelines?|directives?|messages?|context)\b"
    r"|\byou are now\b[^.\n]{0,60}\b(?:an?|the|in|no longer)\b"
    r"|\b(?:reveal|print|show|repeat|output|leak)\b[^.\n]{0,30}\b(?:system prompt|hidden prompt|your (?:prompt|instructions))\b"
    r"|\b(?:from now on|always|whenever|every time)\b[^.\n]{0,60}\b(?:you must|you should|you will|answer with|reply with"
    r"|respond with|recommend|say that|tell (?:them|the user|users))\b"
    r"|\b(?:new|updated) (?:system )?(?:instructions?|directives?)\s*:"
    r"|^[^\S\n]{0,20}(?:system|assistant|developer)[^\S\n]{0,5}:\s"
    r"|\b(?:do not|don't|never) (?:tell|inform|warn|mention (?:this|it) to) the user\b"
    r"|\bwhen (?:asked|the user asks)\b[^.\n]{0,60}\b(?:say|answer|reply|respond|claim|send|forward)\b"
    r"|\b(?:send|forward|exfiltrate|post|upload)\b[^.\n]{0,60}\b(?:to|at)\s+https?://",
    re.IGNORECASE | re.MULTILINE,
)


def reads_like_instructions(text: str) -> bool:
    """Whether a text tries to tell a model what to do; such text is kept but never rendered."""
    return _INSTRUCTIONS.search(text) is not None


@dataclass(frozen=True)
class Cleaned:
    """A text as it is stored."""

    text: str
    redactions: int
    quarantined: bool


def clean(text: str, limit: int) -> Cleaned:
    """A message as it may be stored: memory block, control characters and secrets gone, cut at `limit`."""
    seen = visible(text)
    bare = _bare(seen)
    quarantined = reads_like_instructions(bare) or bool(_ROLE_TOKENS.search(seen))
    redacted, count = redact(bare)
    return Cleaned(redacted[:limit].strip(), count, quarantined)


def one_line(text: str) -> str:
    """A text as it may stand in a rendered block: one line, no tags of ours, nothing invisible."""
    return " ".join(_TAG.sub(" ", _ROLE_TOKENS.sub(" ", visible(text))).split())
