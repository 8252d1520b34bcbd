"""What a collection was declared to be, completed with the server's defaults, as `GET` reports it."""

from __future__ import annotations

from typing import Any

from .errors import bad_request

Json = dict[str, Any]

# Defaults of Qdrant 1.19 (config/config.yaml and lib/collection/src/config.rs).
_HNSW: Json = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000, "max_indexing_threads": 0}
_OPTIMIZER: Json = {
    "deleted_threshold": 0.2,
    "vacuum_min_vector_number": 1000,
    "default_segment_number": 0,
    "max_segment_size": None,
    "memmap_threshold": None,
    "indexing_threshold": 10000,
    "flush_interval_sec": 5,
    "max_optimization_threads": None,
}
_WAL: Json = {"wal_capacity_mb": 32, "wal_segments_ahead": 0, "wal_retain_closed": 1}
_PARAMS: Json = {
    "shard_number": 1,
    "replication_factor": 1,
    "write_consistency_factor": 1,
    "on_disk_payload": True,
}
_CREATE = (
    frozenset(
        {
            "vectors",
            "hnsw_config",
            "optimizers_config",
            "wal_config",
            "quantization_config",
            "strict_mode_config",
        }
    )
    | {
        "shard_number",
        "replication_factor",
        "write_consistency_factor",
        "on_disk_payload",
        "payload",
        "metadata",
    }
    | {"id_tracker", "sharding_method", "sparse_vectors", "init_from", "timeout"}
)


def _over(base: Json, given: Json | None) -> Json:
    return {**base, **{key: value for key, value in (given or {}).items() if value is not None}}


def effective(declared: Json) -> Json:
    """The ``config`` of a new collection from the body of its ``PUT``. Raises ApiError (400)."""
    unknown = set(declared) - _CREATE
    if unknown:
        raise bad_request(f"unknown field {', '.join(sorted(unknown))} in the collection's configuration")
    if declared.get("sparse_vectors"):
        raise bad_request("sparse vectors are not served here")
    vectors = declared.get("vectors")
    if not isinstance(vectors, dict) or not vectors:
        raise bad_request("missing field `vectors`")
    params = _over(_PARAMS, {key: declared.get(key) for key in (*_PARAMS, "payload", "id_tracker")})
    if isinstance(params.get("payload"), dict) and params["payload"].get("memory"):
        params["on_disk_payload"] = params["payload"]["memory"] == "cold"
    config: Json = {
        "params": {"vectors": vectors, **params},
        "hnsw_config": _over(_HNSW, declared.get("hnsw_config")),
        "optimizer_config": _over(_OPTIMIZER, declared.get("optimizers_config")),
        "wal_config": _over(_WAL, declared.get("wal_config")),
        "quantization_config": declared.get("quantization_config"),
    }
    for optional in ("strict_mode_config", "metadata"):
        if declared.get(optional) is not None:
            config[optional] = declared[optional]
    return config


def patched(config: Json, patch: Json) -> Json:
    """The ``config`` after a ``PATCH``: only what is named changes. Raises ApiError (400)."""
    known = {
        "optimizers_config",
        "params",
        "hnsw_config",
        "quantization_config",
        "strict_mode_config",
        "metadata",
    }
    unknown = set(patch) - known - {"vectors", "timeout"}
    if unknown:
        raise bad_request(f"unknown field {', '.join(sorted(unknown))} in the collection's configuration")
    result = {**config}
    for section, name in (
        ("params", "params"),
        ("hnsw_config", "hnsw_config"),
        ("optimizer_config", "optimizers_config"),
        ("strict_mode_config", "strict_mode_config"),
        ("metadata", "metadata"),
    ):
        if patch.get(name) is not None:
            result[section] = _over(config.get(section) or {}, patch[name])
    if patch.get("quantization_config") is not None:
        wanted = patch["quantization_config"]
        result["quantization_config"] = None if wanted == "Disabled" else wanted
    if patch.get("vectors") is not None:
        vectors = result["params"]["vectors"]
        for name, change in patch["vectors"].items():
            if name == "" and "size" in vectors:
                vectors = _over(vectors, change)
            elif isinstance(vectors.get(name), dict):
                vectors = {**vectors, name: _over(vectors[name], change)}
            else:
                raise bad_request(f"Not existing vector name error: {name}")
        result["params"] = {**result["params"], "vectors": vectors}
    return result
