"""Strict mode: what a collection refuses because it would be slow, with the server's wording."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from .errors import ApiError
from .wire import conditions

Json = dict[str, Any]


def _refuse(description: str, solution: str) -> ApiError:
    return ApiError(400, f"Bad request: {description}. Help: {solution}")


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def _fields(clauses: Json | None, prefix: str = "") -> Iterator[tuple[str, Json]]:
    """Every (key, condition) of a filter, nested ones included."""
    for name in ("must", "should", "must_not", "min_should"):
        clause = (clauses or {}).get(name)
        if name == "min_should" and clause:
            clause = clause["conditions"]
        for condition in conditions(clause):
            if "key" in condition:
                yield prefix + condition["key"], condition
            elif "nested" in condition:
                key = str(condition["nested"]["key"]).removesuffix("[]")
                yield from _fields(condition["nested"]["filter"], f"{prefix}{key}[].")
            elif set(condition) & {"must", "should", "must_not", "min_should"}:
                yield from _fields(condition, prefix)
            elif "is_empty" in condition or "is_null" in condition:
                yield prefix + (condition.get("is_empty") or condition["is_null"])["key"], condition


def _serving(condition: Json) -> tuple[str, ...]:
    """The index types that can answer a condition; empty where any index can."""
    match = condition.get("match")
    if match is not None:
        if set(match) & {"text", "text_any", "phrase"}:
            return ("text",)
        values = match.get("value", match.get("any", match.get("except")))
        sample = (values[0] if values else "") if isinstance(values, list) else values
        if isinstance(sample, bool):
            return ("bool",)
        if isinstance(sample, int):
            return ("integer",)
        return ("keyword", "uuid") if _is_uuid(str(sample)) else ("keyword",)
    bounds = condition.get("range")
    if bounds is not None:
        return ("datetime",) if any(isinstance(b, str) for b in bounds.values()) else ("integer", "float")
    return ()


def _indexed(condition: Json, schema: Json | None) -> bool:
    if schema is None:
        return False
    serving = _serving(condition)
    if serving and schema["type"] not in serving:
        return False
    if schema["type"] == "integer":
        # An integer index answers equality only with `lookup` and comparisons only with `range`;
        # with neither written it does both.
        if condition.get("match") is not None:
            return bool(schema.get("lookup", True))
        if condition.get("range") is not None:
            return bool(schema.get("range", True))
    return True


def check_filter(strict: Json | None, schema: Json, clauses: Json | None, update: bool) -> None:
    """Refuse a filter without an index, or with too many conditions (ApiError 400)."""
    if not strict or not strict.get("enabled"):
        return
    found = list(_fields(clauses))
    limit = strict.get("filter_max_conditions")
    if limit is not None and len(found) > limit:
        raise _refuse(f"Filter condition limit exceeded {len(found)} > {limit}", "Use fewer conditions")
    size = strict.get("condition_max_size")
    for key, condition in found:
        match = condition.get("match") or {}
        values = match.get("any", match.get("except"))
        if size is not None and isinstance(values, list) and len(values) > size:
            raise _refuse(f"Condition size exceeded {len(values)} > {size}", "Use fewer values")
        allowed = strict.get("unindexed_filtering_update" if update else "unindexed_filtering_retrieve")
        if allowed is False and not _indexed(condition, schema.get(key)):
            types = ", ".join(_serving(condition)) or "any"
            raise _refuse(
                f'Index required but not found for "{key}" of one of the following types: [{types}]',
                "Create an index for this key or use a different filter.",
            )


def check_query(strict: Json | None, limit: int, params: Json | None) -> None:
    """Refuse a limit or search parameters above what the collection allows (ApiError 400)."""
    if not strict or not strict.get("enabled"):
        return
    params = params or {}
    quantization = params.get("quantization") or {}
    for name, value, ceiling in (
        ("limit", limit, strict.get("max_query_limit")),
        ("hnsw_ef", params.get("hnsw_ef"), strict.get("search_max_hnsw_ef")),
        ("oversampling", quantization.get("oversampling"), strict.get("search_max_oversampling")),
    ):
        if ceiling is not None and value is not None and value > ceiling:
            raise _refuse(
                f'Limit exceeded {value} > {ceiling} for "{name}"',
                f'Reduce the "{name}" parameter to or below {ceiling}.',
            )
    if params.get("exact") and strict.get("search_allow_exact") is False:
        raise _refuse("Exact search is not allowed", "Set exact=false.")


def check_timeout(strict: Json | None, timeout: int | None) -> None:
    """Refuse a request that asks for more time than the collection grants (ApiError 400)."""
    ceiling = (strict or {}).get("max_timeout")
    if strict and strict.get("enabled") and ceiling is not None and timeout is not None and timeout > ceiling:
        raise _refuse(
            f'Limit exceeded {timeout} > {ceiling} for "timeout"',
            f'Reduce the "timeout" parameter to or below {ceiling}.',
        )


def check_upsert(strict: Json | None, count: int) -> None:
    """Refuse a batch above what the collection allows (ApiError 400)."""
    ceiling = (strict or {}).get("upsert_max_batchsize")
    if strict and strict.get("enabled") and ceiling is not None and count > ceiling:
        raise _refuse(f'Limit exceeded {count} > {ceiling} for "upsert limit"', "Send smaller batches.")


def check_index_count(strict: Json | None, count: int, new: bool) -> None:
    """Refuse one payload index more than the collection allows (ApiError 400)."""
    ceiling = (strict or {}).get("max_payload_index_count")
    if new and strict and strict.get("enabled") and ceiling is not None and count >= ceiling:
        raise _refuse(
            f"Collection already has the maximum number of payload indices ({ceiling})", "Drop one."
        )
