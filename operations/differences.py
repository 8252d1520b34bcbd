"""Differences as people read them: between texts, and between JSON objects."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

MISSING: Final = "(absent)"
_REDACTED: Final = "<redacted>"


def text_diff(old: str, new: str, path: str) -> list[str]:
    """A unified diff without the two file headers; empty when the texts are equal."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), path, path, lineterm="", n=2)
    return list(lines)[2:]


@dataclass(frozen=True)
class JsonChange:
    """One field that differs. ``field`` is a dotted path; ``old`` is None when it was absent."""

    field: str
    old: Json
    new: Json
    absent: bool = False


def subset_changes(actual: Json, desired: Json, field: str = "") -> list[JsonChange]:
    """Changes that would make ``actual`` contain ``desired``.

    Only what ``desired`` declares is compared: fields that the server added are its own. Lists are
    compared as wholes.
    """
    return list(_changes(actual, desired, field, absent=False))


def _changes(actual: Json, desired: Json, field: str, absent: bool) -> Iterator[JsonChange]:
    if isinstance(desired, dict) and (isinstance(actual, dict) or actual is None):
        if not desired and actual is None:
            yield JsonChange(field, None, {}, absent)
        known = actual or {}
        for key, wanted in desired.items():
            name = f"{field}.{key}" if field else key
            yield from _changes(known.get(key), wanted, name, absent=key not in known)
        return
    # JSON has one kind of number, but True is no number.
    same_kind = isinstance(actual, bool) == isinstance(desired, bool)
    if same_kind and actual == desired and not absent:
        return
    yield JsonChange(field, actual, desired, absent)


def render_changes(changes: Iterable[JsonChange], redact: Iterable[str] = ()) -> list[str]:
    """One line a change. A field named in ``redact`` (by its dotted path or its last part) is hidden."""
    hidden = set(redact)
    lines = []
    for change in changes:
        name = change.field or "(whole object)"
        if hidden & {change.field, change.field.rsplit(".", 1)[-1], change.field.split(".", 1)[0]}:
            lines.append(f"{name}: {_REDACTED} -> {_REDACTED}, differs")
            continue
        old = MISSING if change.absent else _shown(change.old, hidden)
        lines.append(f"{name}: {old} -> {_shown(change.new, hidden)}")
    return lines


def _shown(value: Json, hidden: set[str]) -> str:
    return json.dumps(_without(value, hidden), ensure_ascii=False, sort_keys=True)


def _without(value: Json, hidden: set[str]) -> Json:
    if isinstance(value, Mapping):
        return {k: _REDACTED if k in hidden else _without(v, hidden) for k, v in value.items()}
    if isinstance(value, list):
        return [_without(item, hidden) for item in value]
    return value
