"""From the JSON of the REST interface to the objects of the engine and back."""

from __future__ import annotations

import enum
import math
import uuid
from collections.abc import Callable
from typing import Any

import qdrant_edge as edge

from .errors import bad_request

Json = dict[str, Any]
#: As the engine takes them; here always an int or the text of a UUID.
PointId = int | uuid.UUID | str


def member(kind: Any, name: object, what: str) -> Any:
    """An enum member of the engine by its name in JSON, in any case: ``cold`` -> ``Memory.Cold``."""
    members = {m.lower(): getattr(kind, m) for m in dir(kind) if not m.startswith("_")}
    found = members.get(str(name).lower().replace("_", ""))
    if found is None:
        raise bad_request(f"unknown {what} `{name}`, expected one of {', '.join(sorted(members))}")
    return found


def _memory(config: Json) -> Any:
    return member(edge.Memory, config["memory"], "memory placement") if config.get("memory") else None


def point_id(value: object) -> PointId:
    """An id as the server accepts it: an unsigned integer or a UUID in any spelling."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64:
        return value
    if isinstance(value, str):
        try:
            return str(uuid.UUID(value))
        except ValueError:
            pass
    raise bad_request(
        f"value {value} is not a valid point ID, valid values are either an unsigned integer or a UUID"
    )


# ---- configuration ---------------------------------------------------------------------------------------


def _hnsw(config: Json | None) -> Any:
    if not config:
        return None
    return edge.HnswIndexConfig(
        m=config.get("m", 16),
        ef_construct=config.get("ef_construct", 100),
        full_scan_threshold=config.get("full_scan_threshold", 10000),
        max_indexing_threads=config.get("max_indexing_threads", 0) or 0,
        on_disk=config.get("on_disk"),
        payload_m=config.get("payload_m"),
        memory=_memory(config),
    )


def _quantization(config: Json | None) -> Any:
    if not config:
        return None
    if "scalar" in config:
        scalar = config["scalar"]
        return edge.ScalarQuantizationConfig(
            type=edge.ScalarType.Int8,
            quantile=scalar.get("quantile"),
            always_ram=scalar.get("always_ram"),
            memory=_memory(scalar),
        )
    if "binary" in config:
        binary = config["binary"]
        return edge.BinaryQuantizationConfig(always_ram=binary.get("always_ram"), memory=_memory(binary))
    if "product" in config:
        product = config["product"]
        return edge.ProductQuantizationConfig(
            compression=member(edge.CompressionRatio, product.get("compression"), "compression"),
            always_ram=product.get("always_ram"),
            memory=_memory(product),
        )
    raise bad_request(f"quantization {sorted(config)} is not one this server knows: scalar, binary, product")


def _vector_params(params: Json) -> Any:
    size = params.get("size")
    if not isinstance(size, int) or not 1 <= size <= 65536:
        raise bad_request(f"vectors.size: value {size} invalid, must be from 1 to 65536")
    return edge.EdgeVectorParams(
        size=size,
        distance=member(edge.Distance, params.get("distance"), "distance"),
        on_disk=params.get("on_disk"),
        datatype=member(edge.VectorStorageDatatype, params["datatype"], "datatype")
        if params.get("datatype")
        else None,
        quantization_config=_quantization(params.get("quantization_config")),
        hnsw_config=_hnsw(params.get("hnsw_config")),
        memory=_memory(params),
    )


def edge_config(config: Json) -> Any:
    """The engine's configuration for a collection's effective ``config`` (see `declaration.effective`)."""
    params = config["params"]
    vectors = params["vectors"]
    dense = (
        _vector_params(vectors)
        if "size" in vectors
        else {name: _vector_params(one) for name, one in vectors.items()}
    )
    optimizers = config["optimizer_config"]
    return edge.EdgeConfig(
        vectors=dense,
        on_disk_payload=params.get("on_disk_payload"),
        payload_memory=_memory(params.get("payload") or {}),
        hnsw_config=_hnsw(config["hnsw_config"]),
        quantization_config=_quantization(config.get("quantization_config")),
        optimizers=edge.EdgeOptimizersConfig(
            deleted_threshold=optimizers.get("deleted_threshold"),
            vacuum_min_vector_number=optimizers.get("vacuum_min_vector_number"),
            default_segment_number=optimizers.get("default_segment_number"),
            max_segment_size=optimizers.get("max_segment_size"),
            indexing_threshold=optimizers.get("indexing_threshold"),
        ),
    )


_INDEX_PARAMS: dict[str, tuple[Any, frozenset[str]]] = {
    "keyword": (edge.KeywordIndexParams, frozenset({"is_tenant", "on_disk", "enable_hnsw", "prefix"})),
    "integer": (
        edge.IntegerIndexParams,
        frozenset({"lookup", "range", "is_principal", "on_disk", "enable_hnsw"}),
    ),
    "float": (edge.FloatIndexParams, frozenset({"is_principal", "on_disk", "enable_hnsw"})),
    "geo": (edge.GeoIndexParams, frozenset({"on_disk", "enable_hnsw"})),
    "bool": (edge.BoolIndexParams, frozenset({"on_disk", "enable_hnsw"})),
    "datetime": (edge.DatetimeIndexParams, frozenset({"is_principal", "on_disk", "enable_hnsw"})),
    "uuid": (edge.UuidIndexParams, frozenset({"is_tenant", "on_disk", "enable_hnsw"})),
    "text": (
        edge.TextIndexParams,
        frozenset(
            {
                "min_token_len",
                "max_token_len",
                "lowercase",
                "ascii_folding",
                "phrase_matching",
                "on_disk",
                "enable_hnsw",
            }
        ),
    ),
}


def field_index(schema: object) -> tuple[Json, Any]:
    """A ``field_schema`` (a type name or parameters with ``type``) as (what to report, engine object)."""
    declared: Json = (
        {"type": schema} if isinstance(schema, str) else dict(schema) if isinstance(schema, dict) else {}
    )
    kind = str(declared.get("type", "")).lower()
    if kind not in _INDEX_PARAMS:
        raise bad_request(
            f"field_schema of type `{kind}` unknown, expected one of {', '.join(_INDEX_PARAMS)}"
        )
    build, known = _INDEX_PARAMS[kind]
    unknown = set(declared) - known - {"type", "memory", "tokenizer"}
    if unknown:
        raise bad_request(
            f"field_schema {kind}: parameter {', '.join(sorted(unknown))} is not one this server knows"
        )
    arguments = {key: declared[key] for key in known if declared.get(key) is not None}
    if declared.get("tokenizer"):
        arguments["tokenizer"] = member(edge.TokenizerType, declared["tokenizer"], "tokenizer")
    return declared, build(**arguments, memory=_memory(declared))


# ---- filters ---------------------------------------------------------------------------------------------


def _match(match: Json) -> Any:
    builders: dict[str, Callable[[Any], Any]] = {
        "value": edge.MatchValue,
        "text": edge.MatchText,
        "text_any": edge.MatchTextAny,
        "phrase": edge.MatchPhrase,
        "any": edge.MatchAny,
        "except": edge.MatchExcept,
    }
    for key, build in builders.items():
        if key in match:
            return build(match[key])
    raise bad_request(f"match {sorted(match)}: expected one of {', '.join(builders)}")


def _range(bounds: Json) -> Any:
    given = {key: bounds[key] for key in ("gt", "gte", "lt", "lte") if bounds.get(key) is not None}
    if any(isinstance(bound, str) for bound in given.values()):
        return edge.RangeDateTime(**given)
    return edge.RangeFloat(**{key: float(bound) for key, bound in given.items()})


def _condition(condition: object) -> Any:
    if not isinstance(condition, dict):
        raise bad_request("a condition is an object")
    if "key" in condition:
        key = condition["key"]
        if condition.get("match") is not None:
            return edge.FieldCondition(key, match=_match(condition["match"]))
        if condition.get("range") is not None:
            return edge.FieldCondition(key, range=_range(condition["range"]))
        if condition.get("values_count") is not None:
            return edge.FieldCondition(key, values_count=edge.ValuesCount(**condition["values_count"]))
        if condition.get("is_empty") is not None:
            return edge.FieldCondition(key, is_empty=condition["is_empty"])
        if condition.get("is_null") is not None:
            return edge.FieldCondition(key, is_null=condition["is_null"])
    elif "is_empty" in condition:
        return edge.IsEmptyCondition(condition["is_empty"]["key"])
    elif "is_null" in condition:
        return edge.IsNullCondition(condition["is_null"]["key"])
    elif "has_id" in condition:
        return edge.HasIdCondition({point_id(one) for one in condition["has_id"]})
    elif "has_vector" in condition:
        return edge.HasVectorCondition(condition["has_vector"])
    elif "nested" in condition:
        return edge.NestedCondition(condition["nested"]["key"], query_filter(condition["nested"]["filter"]))
    elif set(condition) & {"must", "should", "must_not", "min_should"}:
        return query_filter(condition)
    raise bad_request(f"condition {sorted(condition)} is not one this server knows")


def conditions(clause: object) -> list[Any]:
    """A clause as a list: the interface accepts one condition in place of a list of one."""
    if clause is None:
        return []
    return list(clause) if isinstance(clause, list) else [clause]


def query_filter(given: Json | None) -> Any:
    """A filter, or None for none. Raises ApiError (400) for a condition that is not known."""
    if not given:
        return None
    unknown = set(given) - {"must", "should", "must_not", "min_should"}
    if unknown:
        raise bad_request(f"filter: unknown clause {', '.join(sorted(unknown))}")
    clauses = {
        name: [_condition(one) for one in conditions(given.get(name))] or None
        for name in ("must", "should", "must_not")
    }
    minimum = given.get("min_should")
    return edge.Filter(
        **clauses,
        min_should=edge.MinShould([_condition(one) for one in minimum["conditions"]], minimum["min_count"])
        if minimum
        else None,
    )


# ---- points ----------------------------------------------------------------------------------------------


def vector(value: object) -> Any:
    """A dense vector, or named dense vectors. Raises ApiError (400) for anything else, NaN included."""
    if isinstance(value, dict):
        return {name: vector(one) for name, one in value.items()}
    if not isinstance(value, list) or not value:
        raise bad_request("expected a vector: a list of numbers")
    try:
        finite = all(map(math.isfinite, value))
    except TypeError as error:
        raise bad_request(f"a vector holds numbers only: {error}") from error
    if not finite:
        raise bad_request("a vector holds finite numbers only")
    return value


def point(given: object) -> tuple[PointId, Any, Json | None]:
    """One point of an upsert as id, vector and payload."""
    if not isinstance(given, dict) or "id" not in given or "vector" not in given:
        raise bad_request("a point has `id`, `vector` and, if wanted, `payload`")
    payload = given.get("payload")
    if payload is not None and not isinstance(payload, dict):
        raise bad_request("a payload is an object")
    return point_id(given["id"]), vector(given["vector"]), payload


def selector(value: object, default: bool) -> Any:
    """``with_payload`` / ``with_vector``: a flag, a list of keys, or include/exclude."""
    if value is None:
        return default
    if isinstance(value, dict):
        if "include" in value:
            return edge.PayloadSelector.Include(value["include"])
        return edge.PayloadSelector.Exclude(value.get("exclude", []))
    return value


def search_params(given: Json | None) -> Any:
    """Search parameters, or None."""
    if not given:
        return None
    quantization = given.get("quantization")
    return edge.SearchParams(
        hnsw_ef=given.get("hnsw_ef"),
        exact=bool(given.get("exact", False)),
        indexed_only=bool(given.get("indexed_only", False)),
        quantization=edge.QuantizationSearchParams(
            ignore=bool(quantization.get("ignore", False)),
            rescore=quantization.get("rescore"),
            oversampling=quantization.get("oversampling"),
        )
        if quantization
        else None,
    )


def order_by(given: object) -> Any:
    """An ``order_by``: a key, or key, direction and start."""
    if isinstance(given, str):
        return edge.OrderBy(given)
    if not isinstance(given, dict):
        raise bad_request("order_by: expected a key or an object with `key`")
    direction = member(edge.Direction, given["direction"], "direction") if given.get("direction") else None
    return edge.OrderBy(given["key"], direction, given.get("start_from"))


def fusion(name: object) -> Any:
    """Reciprocal rank or distribution based fusion."""
    match str(name).lower():
        case "rrf":
            return edge.Fusion.Rrf(k=2)
        case "dbsf":
            return edge.Fusion.Dbsf()
    raise bad_request(f"unknown fusion `{name}`, expected rrf or dbsf")


def plain(value: Any) -> Any:
    """What the engine returned, as JSON: UUIDs to text, enums to their names."""
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.name
    return value


def record(found: Any, scored: bool) -> Json:
    """A point in an answer."""
    answer: Json = {"id": plain(found.id)}
    if scored:
        answer["version"] = found.version
        answer["score"] = found.score
    if found.payload is not None:
        answer["payload"] = found.payload
    if found.vector is not None:
        answer["vector"] = found.vector
    order = getattr(found, "order_value", None)
    if order is not None:
        answer["order_value"] = order
    return answer
