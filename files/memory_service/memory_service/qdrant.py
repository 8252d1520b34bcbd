"""Qdrant over REST: an index that may vanish at any time and is rebuilt from PostgreSQL.

The official client is not used: it brings gRPC and numpy, 91 MB resident against httpx's few.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from memory_service.errors import UpstreamError
from memory_service.upstream import Upstream

# The collection as a deploy declares it, which reads the same file: for the times when the service has to make one,
# after the index was wiped and beside the old one while reindexing.
_DECLARED: Final[dict[str, Any]] = json.loads(Path(__file__).with_name("collection.json").read_text())
COLLECTION: Final[dict[str, Any]] = _DECLARED["collection"]
INDEXES: Final[dict[str, dict[str, Any]]] = _DECLARED["payload_indexes"]
ALIAS_SUFFIX: Final = "_live"
BACKGROUND_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True)
class Hit:
    """A point that is near, with the slot that its payload names."""

    memory_id: str
    slot: int
    cosine: float


@dataclass(frozen=True)
class Point:
    """What the index holds of a memory entry."""

    memory_id: uuid.UUID
    vector: Sequence[float]
    payload: Mapping[str, object]


def owned_by(client_id: int) -> dict[str, Any]:
    """The filter without which nothing is ever asked."""
    return {"key": "client_id", "match": {"value": client_id}}


class Qdrant:
    """The collection in use. `name` is the one it starts with; after a reindex an alias leads further.

    `shards` and `replicas` are those of a collection that is made here.
    """

    def __init__(self, upstream: Upstream, name: str, shards: int, replicas: int) -> None:
        self._upstream = upstream
        self._spread = {"shard_number": shards, "replication_factor": replicas}
        self.name = name
        self.alias = name + ALIAS_SUFFIX
        self.active = name
        self._resolved = False  # until then nobody knows whether the alias leads further

    @property
    def available(self) -> bool:
        """Whether requests go out at all now."""
        return not self._upstream.breaker.open

    def tell(self, good: bool) -> None:
        """Lets a background look at the server open or close the breaker early."""
        if good:
            self._upstream.breaker.succeeded()

    async def _call(self, method: str, path: str, body: object | None = None, background: bool = True) -> Any:
        timeout_s = BACKGROUND_TIMEOUT_S if background else None
        answer = await self._upstream.call(method, path, body, timeout_s, patient=background)
        if not isinstance(answer, dict) or "result" not in answer:
            raise UpstreamError("qdrant", "garbage", "Qdrant answered JSON without a result")
        return answer["result"]

    async def _in_force(self) -> str:
        """The collection in use, for what must not go to another one: points written there would be lost."""
        if not self._resolved:
            await self.resolve()
        return self.active

    async def search(self, client_id: int, vector: Sequence[float], limit: int, now: int) -> list[Hit]:
        """The nearest unexpired points of a client. Raises UpstreamError."""
        body = {
            "query": list(vector),
            "limit": limit,
            "with_payload": ["slot"],
            "filter": {
                "must": [owned_by(client_id)],
                "must_not": [{"key": "expires_at", "range": {"lte": now}}],
            },
            "params": {"quantization": {"rescore": True, "oversampling": 2.0}},
        }
        result = await self._call("POST", f"/collections/{self.active}/points/query", body, background=False)
        try:
            return [
                Hit(str(point["id"]), int(point["payload"]["slot"]), float(point["score"]))
                for point in result["points"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise UpstreamError(
                "qdrant", "garbage", f"Qdrant answered points of another shape: {error}"
            ) from None

    async def upsert(self, points: Sequence[Point], collection: str | None = None) -> None:
        """Writes points and waits until they can be found."""
        if not points:
            return
        body = {
            "points": [
                {"id": str(point.memory_id), "vector": list(point.vector), "payload": dict(point.payload)}
                for point in points
            ]
        }
        target = collection or await self._in_force()
        _completed(await self._call("PUT", f"/collections/{target}/points?wait=true", body))

    async def delete(self, ids: Sequence[uuid.UUID]) -> None:
        """Deletes points by id and waits until they are gone."""
        if ids:
            await self._delete({"points": [str(identity) for identity in ids]})

    async def delete_client(self, client_id: int) -> None:
        """Deletes every point of a client."""
        await self._delete({"filter": {"must": [owned_by(client_id)]}})

    async def delete_expired(self, cutoff: int) -> None:
        """Deletes every point that expired at or before `cutoff` (Unix time)."""
        await self._delete({"filter": {"must": [{"key": "expires_at", "range": {"lte": cutoff}}]}})

    async def _delete(self, body: Mapping[str, object]) -> None:
        target = await self._in_force()
        _completed(await self._call("POST", f"/collections/{target}/points/delete?wait=true", body))

    async def count(self, client_id: int | None = None, collection: str | None = None) -> int:
        """The exact number of points, of a client or of all."""
        body: dict[str, Any] = {"exact": True}
        if client_id is not None:
            body["filter"] = {"must": [owned_by(client_id)]}
        target = collection or await self._in_force()
        result = await self._call("POST", f"/collections/{target}/points/count", body)
        return int(result["count"])

    async def identities(self, offset: str | None, limit: int) -> tuple[list[str], str | None]:
        """A page of point ids, and where the next one begins."""
        body: dict[str, Any] = {"limit": limit, "with_payload": False, "with_vector": False}
        if offset is not None:
            body["offset"] = offset
        result = await self._call("POST", f"/collections/{await self._in_force()}/points/scroll", body)
        following = result.get("next_page_offset")
        return [str(point["id"]) for point in result["points"]], None if following is None else str(following)

    async def exists(self, collection: str) -> bool:
        """Whether a collection (or alias) of that name exists."""
        return bool((await self._call("GET", f"/collections/{collection}/exists"))["exists"])

    async def create(self, collection: str) -> None:
        """Creates a collection with its payload indexes; one that is there already is fine."""
        try:
            await self._call("PUT", f"/collections/{collection}", {**COLLECTION, **self._spread})
        except UpstreamError as error:
            if error.reason != "status_409":
                raise
        for field, schema in INDEXES.items():
            body = {"field_name": field, "field_schema": schema}
            await self._call("PUT", f"/collections/{collection}/index?wait=true", body)

    async def rebuilt(self) -> list[str]:
        """The collections that a reindex made, in force, half-built or left behind."""
        result = await self._call("GET", "/collections")
        names = (str(item["name"]) for item in result["collections"])
        return [name for name in names if re.fullmatch(rf"{re.escape(self.name)}_\d+", name)]

    async def missing_indexes(self, collection: str) -> set[str]:
        """The declared payload indexes that a collection lacks; its creation may have been cut short."""
        found = await self._call("GET", f"/collections/{collection}")
        return set(INDEXES) - set(found.get("payload_schema") or {})

    async def drop(self, collection: str) -> None:
        """Deletes a collection."""
        await self._call("DELETE", f"/collections/{collection}")

    async def resolve(self) -> None:
        """Finds out which collection is in force: the one behind the alias, else the declared one."""
        self.active = self.alias if await self.exists(self.alias) else self.name
        self._resolved = True

    async def switch(self, collection: str) -> None:
        """Lets the alias lead to another collection, in one step."""
        actions: list[dict[str, Any]] = []
        if await self.exists(self.alias):
            actions.append({"delete_alias": {"alias_name": self.alias}})
        actions.append({"create_alias": {"collection_name": collection, "alias_name": self.alias}})
        await self._call("POST", "/collections/aliases", {"actions": actions})
        self.active = self.alias
        self._resolved = True

    async def alias_target(self) -> str | None:
        """The collection behind the alias, if there is one."""
        result = await self._call("GET", "/aliases")
        for item in result["aliases"]:
            if item["alias_name"] == self.alias:
                return str(item["collection_name"])
        return None

    async def close(self) -> None:
        """Closes the connections."""
        await self._upstream.close()


def point(row: Mapping[str, Any]) -> Point:
    """An entry, as SQL returns it, as the index holds it."""
    payload: dict[str, object] = {
        "client_id": row["client_id"],
        "source_type": row["source_type"],
        "content": row["content"][:2_000],
        "created_at": row["created_at"],
        "slot": row["slot"],
        "embedding_model": row["embedding_model"],
    }
    if row["ttl_days"] is not None:
        payload["ttl_days"] = row["ttl_days"]
    if row["expires_at"] is not None:
        payload["expires_at"] = row["expires_at"]
    return Point(row["id"], row["vector"], payload)


def _completed(result: object) -> None:
    status = result.get("status") if isinstance(result, dict) else None
    if status != "completed":
        raise UpstreamError(
            "qdrant", "unfinished", f"Qdrant reports {status!r} for a write that was to complete"
        )
