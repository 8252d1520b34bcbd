"""What the server is told: `production.yaml` and `QDRANT__SECTION__KEY`, as the real one reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Configuration:
    """Where to listen, which keys to accept (an empty key is no key) and where the data lies."""

    host: str = "0.0.0.0"
    port: int = 6333
    api_key: str = ""
    alt_api_key: str = ""
    read_only_api_key: str = ""
    storage: Path = Path("./storage")
    snapshots: Path = Path("./snapshots")
    snapshot_url_recovery: bool = True
    max_request_mb: int = 32
    #: Seconds between two flushes to disk of what was written (`flush_interval_sec` of the server).
    flush_every_s: float = 5.0

    @property
    def keys_in_force(self) -> bool:
        """Whether a key is asked for at all: the real server treats an empty key as none."""
        return bool(self.api_key or self.alt_api_key or self.read_only_api_key)


#: Setting of the server (section, key) -> field here and how its text is read.
_FIELDS: dict[tuple[str, str], tuple[str, type]] = {
    ("service", "host"): ("host", str),
    ("service", "http_port"): ("port", int),
    ("service", "api_key"): ("api_key", str),
    ("service", "alt_api_key"): ("alt_api_key", str),
    ("service", "read_only_api_key"): ("read_only_api_key", str),
    ("service", "max_request_size_mb"): ("max_request_mb", int),
    ("service", "enable_snapshot_url_recovery"): ("snapshot_url_recovery", bool),
    ("storage", "storage_path"): ("storage", Path),
    ("storage", "snapshots_path"): ("snapshots", Path),
}


def _read(kind: type, value: object) -> Any:
    if value is None:
        return "" if kind is str else None
    if kind is bool:
        return value if isinstance(value, bool) else str(value).strip().lower() in ("1", "true", "yes", "on")
    return kind(value)


def load(
    file: Path | None, environment: Mapping[str, str], base: Configuration | None = None
) -> Configuration:
    """Read the file, then the environment over it. Settings without effect here are left alone.

    Raises:
        ValueError: the file is not a mapping of sections, or a value has the wrong type.
    """
    values: dict[str, Any] = {}
    document: object = yaml.safe_load(file.read_text()) if file is not None and file.is_file() else {}
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ValueError(f"{file}: expected sections such as `service:`, found {type(document).__name__}")
    for (section, key), (field, kind) in _FIELDS.items():
        part = document.get(section)
        if isinstance(part, dict) and key in part:
            values[field] = _read(kind, part[key])
        name = f"QDRANT__{section}__{key}".upper()
        if name in environment:
            values[field] = _read(kind, environment[name])
    return replace(base or Configuration(), **{k: v for k, v in values.items() if v is not None})
