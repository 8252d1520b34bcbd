"""One collection: a shard of the engine, its declaration beside it, and the locks that keep it whole."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from . import declaration, strict, wire
from .errors import ApiError, bad_request, engine_errors
from .locks import SharedLock
from .wire import PointId

Json = dict[str, Any]
DECLARATION = "collection.json"
SHARD = "shard"


def write_json(path: Path, value: Json) -> None:
    """Replace a JSON file so that a killed process leaves the old or the new one, never half of it."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w") as handle:
        json.dump(value, handle, indent=1)
        handle.flush()
        os.fsync(handle.fileno())
    fresh.replace(path)


class Collection:
    """A collection that is open. Writes are serialised; reads run beside them.

    Lock order: ``_open`` (shared for everything, alone to close), then ``_write``.
    """

    def __init__(self, name: str, root: Path) -> None:
        """Open what lies in ``root``. Raises ApiError (500) when the engine cannot read it."""
        self.name = name
        self.root = root
        document = json.loads((root / DECLARATION).read_text())
        self._config: Json = document["config"]
        self._schema: Json = document["payload_schema"]
        self._open = SharedLock()
        self._write = threading.Lock()
        self._operations = 0
        self._flushed = 0
        with engine_errors():
            self._shard: Any = edge.EdgeShard.load(str(root / SHARD))
            # A process killed between the two files' writes: the declaration decides.
            live = set(self._shard.info().payload_schema)
            for field, schema in self._schema.items():
                if field not in live:
                    self._index(field, schema)

    @classmethod
    def create(cls, name: str, root: Path, declared: Json) -> Collection:
        """Create a collection from the body of its ``PUT``. The declaration is written last: without it,
        what lies there is an unfinished creation and is cleared at the next start."""
        config = declaration.effective(declared)
        with engine_errors():
            engine = wire.edge_config(config)
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir(parents=True)
            edge.EdgeShard.create(str(root / SHARD), engine).close()
        write_json(root / DECLARATION, {"config": config, "payload_schema": {}})
        return cls(name, root)

    # ---- declaration -------------------------------------------------------------------------------------

    def _save(self) -> None:
        write_json(self.root / DECLARATION, {"config": self._config, "payload_schema": self._schema})

    def _index(self, field: str, schema: Json) -> None:
        _, params = wire.field_index(schema)
        self._shard.update(edge.UpdateOperation.create_field_index(field, params))

    @contextmanager
    def _changing(self) -> Iterator[Any]:
        with self._open.shared(), self._write, engine_errors():
            if self._shard is None:
                raise ApiError(404, f"Not found: Collection `{self.name}` doesn't exist!")
            self._operations += 1
            yield self._shard

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        with self._open.shared(), engine_errors():
            if self._shard is None:
                raise ApiError(404, f"Not found: Collection `{self.name}` doesn't exist!")
            yield self._shard

    @property
    def strict(self) -> Json | None:
        """The strict mode in force."""
        found: Json | None = self._config.get("strict_mode_config")
        return found

    def info(self) -> Json:
        """The answer to ``GET /collections/{name}``."""
        with self._reading() as shard:
            state = shard.info()
            live = state.payload_schema
            schema: Json = {}
            for field, declared in sorted(self._schema.items()):
                entry: Json = {"data_type": declared["type"]}
                if len(declared) > 1:
                    entry["params"] = declared
                entry["points"] = live[field].points if field in live else 0
                schema[field] = entry
            return {
                "status": "green",
                "optimizer_status": "ok",
                "indexed_vectors_count": state.indexed_vectors_count,
                "points_count": state.points_count,
                "segments_count": state.segments_count,
                "config": self._config,
                "payload_schema": schema,
                "update_queue": {"length": 0},
            }

    def patch(self, change: Json) -> None:
        """Change the tunables. The engine takes its configuration when it opens, so it is opened again."""
        with self._open.alone(), engine_errors():
            config = declaration.patched(self._config, change)
            engine = wire.edge_config(config)
            self._shard.close()
            self._shard = edge.EdgeShard.load(str(self.root / SHARD), engine)
            self._config = config
            self._save()

    def create_index(self, field: str, schema: object) -> int:
        """Declare a payload index: the same again does nothing, another one rebuilds it."""
        declared, _ = wire.field_index(schema)
        with self._changing() as shard:
            if self._schema.get(field) != declared:
                strict.check_index_count(self.strict, len(self._schema), new=field not in self._schema)
                if field in self._schema:
                    shard.update(edge.UpdateOperation.delete_field_index(field))
                self._index(field, declared)
                self._schema[field] = declared
                self._save()
            return self._operations

    def delete_index(self, field: str) -> int:
        """Drop a payload index; dropping one that is not there does nothing, as on the server."""
        with self._changing() as shard:
            if self._schema.pop(field, None) is not None:
                self._save()
                shard.update(edge.UpdateOperation.delete_field_index(field))
            return self._operations

    # ---- writes ------------------------------------------------------------------------------------------

    def _check_size(self, given: Any) -> None:
        vectors = self._config["params"]["vectors"]
        named = given if isinstance(given, dict) else {"": given}
        for name, values in named.items():
            wanted = vectors if name == "" and "size" in vectors else vectors.get(name)
            if not isinstance(wanted, dict) or "size" not in wanted:
                raise bad_request(f"Not existing vector name error: {name}")
            if len(values) != wanted["size"]:
                raise bad_request(
                    f"Vector dimension error: expected dim: {wanted['size']}, got {len(values)}"
                )

    def upsert(self, body: Json) -> int:
        """Insert or replace points; all of a request or, where it is refused, none of it."""
        given = body.get("points")
        if given is None and isinstance(body.get("batch"), dict):
            batch = body["batch"]
            payloads = batch.get("payloads") or [None] * len(batch["ids"])
            given = [
                {"id": one, "vector": values, "payload": payload}
                for one, values, payload in zip(batch["ids"], batch["vectors"], payloads, strict=True)
            ]
        if not isinstance(given, list):
            raise bad_request("an upsert has `points` or `batch`")
        strict.check_upsert(self.strict, len(given))
        points = []
        for one in given:
            number, values, payload = wire.point(one)
            self._check_size(values)
            points.append(edge.Point(number, values, payload))
        mode = body.get("update_mode")
        with self._changing() as shard:
            if points:
                shard.update(
                    edge.UpdateOperation.upsert_points(
                        points,
                        wire.query_filter(body.get("update_filter")),
                        wire.member(edge.UpdateMode, mode, "update_mode") if mode else None,
                    )
                )
            return self._operations

    def _targets(self, body: Json) -> tuple[list[PointId] | None, Any]:
        """The points an operation is about: ids, or a filter."""
        ids = body.get("points")
        if isinstance(ids, list):
            return [wire.point_id(one) for one in ids], None
        given = body.get("filter")
        if not isinstance(given, dict):
            raise bad_request("expected `points` (ids) or `filter`")
        strict.check_filter(self.strict, self._schema, given, update=True)
        return None, wire.query_filter(given) or edge.Filter()

    def delete(self, body: Json) -> int:
        """Delete points by id or by filter."""
        ids, chosen = self._targets(body)
        with self._changing() as shard:
            if ids is not None:
                shard.update(edge.UpdateOperation.delete_points(ids))
            else:
                shard.update(edge.UpdateOperation.delete_points_by_filter(chosen))
            return self._operations

    def write_payload(self, action: str, body: Json) -> int:
        """Payload writes: ``set``, ``overwrite``, ``delete`` (keys) or ``clear``."""
        ids, chosen = self._targets(body)
        operations = edge.UpdateOperation
        with self._changing() as shard:
            match action:
                case "set" | "overwrite":
                    payload = body.get("payload")
                    if not isinstance(payload, dict):
                        raise bad_request("missing field `payload`")
                    one, many = (
                        (operations.set_payload, operations.set_payload_by_filter)
                        if action == "set"
                        else (operations.overwrite_payload, operations.overwrite_payload_by_filter)
                    )
                    update = (
                        one(ids, payload, body.get("key"))
                        if ids is not None
                        else many(chosen, payload, body.get("key"))
                    )
                case "delete":
                    keys = body.get("keys")
                    if not isinstance(keys, list):
                        raise bad_request("missing field `keys`")
                    update = (
                        operations.delete_payload(ids, keys)
                        if ids is not None
                        else operations.delete_payload_by_filter(chosen, keys)
                    )
                case "clear":
                    update = (
                        operations.clear_payload(ids)
                        if ids is not None
                        else operations.clear_payload_by_filter(chosen)
                    )
                case _:
                    raise bad_request(f"unknown payload operation `{action}`")
            shard.update(update)
            return self._operations

    def update_vectors(self, body: Json) -> int:
        """Replace vectors of points that exist."""
        changes = []
        for one in body.get("points") or []:
            values = wire.vector(one.get("vector"))
            self._check_size(values)
            changes.append(edge.PointVectors(wire.point_id(one.get("id")), values))
        with self._changing() as shard:
            if changes:
                shard.update(edge.UpdateOperation.update_vectors(changes))
            return self._operations

    # ---- reads -------------------------------------------------------------------------------------------

    def retrieve(self, ids: list[object], payload: object, vectors: object) -> list[Json]:
        """Points by id, in the order asked; those that are not there are left out."""
        wanted = [wire.point_id(one) for one in ids]
        with self._reading() as shard:
            found = shard.retrieve(wanted, wire.selector(payload, True), wire.selector(vectors, False))
        by_id = {str(one["id"]): one for one in (wire.record(record, scored=False) for record in found)}
        return [by_id[str(one)] for one in dict.fromkeys(wanted) if str(one) in by_id]

    def _nearest(self, shard: Any, given: object, using: str | None) -> tuple[Any, PointId | None]:
        """A nearest query by a vector or by the vector of a stored point, and that point's id."""
        if isinstance(given, int | str):
            chosen = wire.point_id(given)
            found = shard.retrieve([chosen], False, True)
            if not found:
                raise ApiError(404, f"Not found: No point with id {given} found")
            values = found[0].vector
            values = values[using] if isinstance(values, dict) and using else values
            return edge.Query.Nearest(values, using), chosen
        values = wire.vector(given)
        self._check_size({using or "": values})
        return edge.Query.Nearest(values, using), None

    def _query(self, shard: Any, body: Json) -> tuple[Any, Any]:
        """The query of a request or prefetch as (engine query, engine filter)."""
        clauses = body.get("filter")
        strict.check_filter(self.strict, self._schema, clauses, update=False)
        given = body.get("query")
        chosen = None
        query: Any = None
        if isinstance(given, dict):
            if "nearest" in given:
                query, chosen = self._nearest(shard, given["nearest"], body.get("using"))
            elif "fusion" in given:
                query = wire.fusion(given["fusion"])
            elif "rrf" in given:
                query = edge.Fusion.Rrf(k=given["rrf"].get("k") or 2, weights=given["rrf"].get("weights"))
            elif "order_by" in given:
                query = wire.order_by(given["order_by"])
            elif "sample" in given:
                query = edge.Sample.Random
            else:
                raise bad_request(f"query {sorted(given)} is not one this server knows")
        elif given is not None:
            query, chosen = self._nearest(shard, given, body.get("using"))
        if chosen is not None:
            clauses = {"must": [clauses] if clauses else [], "must_not": [{"has_id": [chosen]}]}
        return query, wire.query_filter(clauses)

    def _prefetch(self, shard: Any, given: object) -> list[Any]:
        prefetches = []
        for one in wire.conditions(given):
            query, clauses = self._query(shard, one)
            prefetches.append(
                edge.Prefetch(
                    limit=one.get("limit") or 10,
                    query=query,
                    prefetches=self._prefetch(shard, one.get("prefetch")),
                    params=wire.search_params(one.get("params")),
                    filter=clauses,
                    score_threshold=one.get("score_threshold"),
                )
            )
        return prefetches

    def query(self, body: Json) -> list[Json]:
        """The points of ``POST .../points/query``, best first."""
        limit = body.get("limit")
        limit = 10 if limit is None else limit
        if not isinstance(limit, int) or limit < 1:
            raise ApiError(
                422, f"Validation error in JSON body: [limit: value {limit} invalid, must be 1 or larger]"
            )
        strict.check_query(self.strict, limit, body.get("params"))
        with self._reading() as shard:
            query, clauses = self._query(shard, body)
            found = shard.query(
                edge.QueryRequest(
                    limit=limit,
                    offset=body.get("offset") or 0,
                    query=query,
                    prefetches=self._prefetch(shard, body.get("prefetch")),
                    with_vector=wire.selector(body.get("with_vector"), False),
                    with_payload=wire.selector(body.get("with_payload"), False),
                    filter=clauses,
                    score_threshold=body.get("score_threshold"),
                    params=wire.search_params(body.get("params")),
                )
            )
            return [wire.record(one, scored=True) for one in found]

    def scroll(self, body: Json) -> Json:
        """A page of points, by id or by ``order_by``."""
        limit = body.get("limit") or 10
        strict.check_query(self.strict, limit, None)
        strict.check_filter(self.strict, self._schema, body.get("filter"), update=False)
        order = body.get("order_by")
        offset = body.get("offset")
        with self._reading() as shard:
            found, following = shard.scroll(
                edge.ScrollRequest(
                    offset=wire.point_id(offset) if offset is not None else None,
                    limit=limit,
                    filter=wire.query_filter(body.get("filter")),
                    with_payload=wire.selector(body.get("with_payload"), True),
                    with_vector=wire.selector(body.get("with_vector"), False),
                    order_by=wire.order_by(order) if order is not None else None,
                )
            )
        return {
            "points": [wire.record(one, scored=False) for one in found],
            "next_page_offset": wire.plain(following),
        }

    def count(self, body: Json) -> int:
        """How many points match."""
        strict.check_filter(self.strict, self._schema, body.get("filter"), update=False)
        with self._reading() as shard:
            return int(
                shard.count(
                    edge.CountRequest(
                        exact=bool(body.get("exact", True)), filter=wire.query_filter(body.get("filter"))
                    )
                )
            )

    def facet(self, body: Json) -> list[Json]:
        """The values of a payload key with their counts, most frequent first."""
        strict.check_filter(self.strict, self._schema, body.get("filter"), update=False)
        with self._reading() as shard:
            found = shard.facet(
                edge.FacetRequest(
                    key=body["key"],
                    limit=body.get("limit") or 10,
                    exact=bool(body.get("exact", False)),
                    filter=wire.query_filter(body.get("filter")),
                )
            )
            return [{"value": wire.plain(hit.value), "count": hit.count} for hit in found]

    # ---- upkeep ------------------------------------------------------------------------------------------

    @property
    def unflushed(self) -> bool:
        """Whether anything was written that no flush has taken to disk yet."""
        return self._operations != self._flushed

    def flush(self) -> bool:
        """Write to disk what has changed since the last time; says whether there was anything."""
        # Read first: what changes while this runs is left to the next time.
        operations = self._operations
        if operations == self._flushed:
            return False
        with self._reading() as shard:
            shard.flush()
        self._flushed = operations
        return True

    def pack(self, target: Path) -> None:
        """Write a snapshot: the flushed shard and the declaration in one archive, nothing being written."""
        with self._open.alone(), engine_errors():
            self._shard.flush()
            # The engine keeps its files open and mapped; closed, what is copied is what it would load.
            self._shard.close()
            try:
                with tarfile.open(target, "w:gz", compresslevel=1) as archive:
                    archive.add(self.root / DECLARATION, DECLARATION)
                    archive.add(self.root / SHARD, SHARD)
            finally:
                self._shard = edge.EdgeShard.load(str(self.root / SHARD))

    def close(self) -> None:
        """Flush and release the files; every later call answers 404."""
        with self._open.alone():
            if self._shard is not None:
                self._shard.flush()
                self._shard.close()
                self._shard = None
