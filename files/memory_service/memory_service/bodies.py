"""What is refused before anybody parses it: bodies that are too large, too deep, or no JSON text."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, Final

# The end of the text ends a string too: one that is never closed is searched once, not once for each quote in it.
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_NOT_FINITE = re.compile(r"\b(?:NaN|Infinity)\b")
_ESCAPED: Final = re.compile(r"\\u(?:0000|d[89a-f])", re.IGNORECASE)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True)
class Refusal(Exception):
    """A body that is not accepted: the status and the sentence that go back."""

    status: int
    code: str
    message: str


def depth(structure: str, limit: int) -> bool:
    """Whether a JSON text (its strings taken out) nests at most `limit` levels."""
    level = 0
    for character in structure:
        if character in "[{":
            level += 1
            if level > limit:
                return False
        elif character in "]}":
            level -= 1
    return True


def _finite(number: str) -> float:
    """A number as the parser reads it. Raises ValueError for one that it would take for infinite."""
    value = float(number)
    if not math.isfinite(value):
        raise ValueError
    return value


def checked(body: bytes, max_depth: int) -> bytes:
    """The body as the parser may have it. Raises Refusal.

    NUL characters and halves of surrogate pairs, which JSON can write and a database cannot store, are
    taken out.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refusal(
            400, "not_utf8", f"the body is not UTF-8: byte {error.start} cannot be decoded"
        ) from None
    structure = _STRING.sub('""', text)
    if not depth(structure, max_depth):
        raise Refusal(400, "too_deep", f"the body nests deeper than {max_depth} levels")
    if _NOT_FINITE.search(structure):
        raise Refusal(400, "not_json", "the body has NaN or Infinity, which JSON does not know")
    try:
        value = json.loads(text, parse_float=_finite)
    except ValueError as error:
        reason = (
            str(error)
            if isinstance(error, json.JSONDecodeError)
            else "a number is too large or has too many digits"
        )
        raise Refusal(400, "not_json", f"the body is not JSON: {reason}") from None
    if _ESCAPED.search(text):
        return json.dumps(storable(value), ensure_ascii=False).encode()
    return body


def storable(value: Any) -> Any:
    """JSON without what PostgreSQL cannot store: NUL, and halves of surrogate pairs, as `\\u` escapes make them."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("", value)
    if isinstance(value, list):
        return [storable(item) for item in value]
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    return value
