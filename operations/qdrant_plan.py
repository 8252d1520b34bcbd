"""What a live Qdrant collection lacks against its declaration, without any I/O.

Shapes are those of Qdrant's REST API: a declaration is the body of ``PUT /collections/{c}`` and of
``PUT /collections/{c}/index``; a live collection is ``result`` of ``GET /collections/{c}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]


class WrongVectors(Exception):
    """The live collection holds vectors of another size or distance; only a person may decide."""


@dataclass(frozen=True)
class Request:
    """One change: what it is for, in words, and the call that makes it."""

    sentence: str
    method: str
    path: str
    body: Json

    def payload(self) -> str:
        """The body as JSON text."""
        return json.dumps(self.body, sort_keys=True)


#: Where a section of the declaration is found in the live ``config``; what PATCH may change.
_TUNABLE = {
    "hnsw_config": "hnsw_config",
    "optimizers_config": "optimizer_config",
    "quantization_config": "quantization_config",
    "strict_mode_config": "strict_mode_config",
}


def plan(collection: str, declared: Json, indexes: Mapping[str, Json], live: Json | None) -> list[Request]:
    """The calls that bring a live collection (None: absent) to its declaration, in order.

    Raises WrongVectors when the live vectors have another size or distance: recreating the
    collection would throw data away.
    """
    path = f"/collections/{collection}"
    if live is None:
        requests = [Request(f"create collection {collection}", "PUT", path, declared)]
        present: Mapping[str, Json] = {}
    else:
        requests = _tuning(collection, declared, live)
        present = live.get("payload_schema") or {}
    for field, schema in indexes.items():
        found = present.get(field)
        if found is None:
            sentence = f"create payload index {field}"
        elif not _same_index(schema, found):
            sentence = f"rebuild payload index {field}, which has other parameters"
        else:
            continue
        body = {"field_name": field, "field_schema": dict(schema)}
        requests.append(Request(sentence, "PUT", f"{path}/index?wait=true", body))
    return requests


def _tuning(collection: str, declared: Json, live: Json) -> list[Request]:
    config = live["config"]
    vectors = config["params"]["vectors"]
    for key in ("size", "distance"):
        if vectors.get(key) != declared["vectors"][key]:
            raise WrongVectors(
                f"the live collection {collection} has vectors of {key} {vectors.get(key)}, but "
                f"{declared['vectors'][key]} is declared; nothing was changed. Rebuild it under another "
                f"name with `memory-service reindex`, or restore the declaration."
            )
    changed = {
        section: declared[section]
        for section, where in _TUNABLE.items()
        if section in declared and not contains(config.get(where) or {}, declared[section])
    }
    if not changed:
        return []
    names = ", ".join(changed)
    return [Request(f"change {names} of {collection}", "PATCH", f"/collections/{collection}", changed)]


def _same_index(schema: Json, found: Json) -> bool:
    if found.get("data_type") != schema["type"]:
        return False
    return contains(found.get("params") or {}, {k: v for k, v in schema.items() if k != "type"})


def contains(live: Any, declared: Any) -> bool:
    """Whether every declared field has its value in the live object; what the server adds is ignored."""
    if isinstance(declared, Mapping):
        return isinstance(live, Mapping) and all(
            key in live and contains(live[key], value) for key, value in declared.items()
        )
    return bool(live == declared)
