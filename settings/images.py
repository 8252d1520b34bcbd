"""The image pins: which image a component runs, by version and digest."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PINS_FILE = Path(__file__).parent.parent / "images.toml"


class PinsError(Exception):
    """images.toml or a lock file cannot be used; the text says why."""


@dataclass(frozen=True)
class Pin:
    """One image: where it lives, its version, its digest (empty: never resolved) and its uid."""

    component: str
    repository: str
    tag: str
    digest: str
    uid: int

    @property
    def path(self) -> str:
        """The repository without its registry, as every registry serves it."""
        return self.repository.split("/", 1)[1]


@cache
def pins(file: Path = PINS_FILE) -> dict[str, Pin]:
    """Every pin by component; raises PinsError for a digest that cannot be one."""
    found = {}
    for component, entry in tomllib.loads(file.read_text()).items():
        pin = Pin(component, entry["repository"], entry["tag"], entry["digest"], entry["uid"])
        if pin.digest and not re.fullmatch(r"sha256:[0-9a-f]{64}", pin.digest):
            raise PinsError(f"{file.name}: the digest of {component} is not a sha256 digest.")
        found[component] = pin
    return found


def image_ref(component: str, data: Any) -> str:
    """The reference a host pulls for a component: by digest where one is known, else by tag.

    ``data`` is the host's data (settings ``image_registry`` and ``image_lock``). A registry of one's
    own may hold other builds under the same names, whose digests its lock file gives.
    """
    pin = pins()[component]
    registry, lock = data.image_registry, data.image_lock
    digest = _locked_digests(Path(lock)).get(component, "") if lock else pin.digest
    repository = f"{registry}/{pin.path}" if registry else pin.repository
    return f"{repository}:{pin.tag}@{digest}" if digest else f"{repository}:{pin.tag}"


def image_uid(component: str) -> int:
    """The uid that a component's process has in its image."""
    return pins()[component].uid


@cache
def _locked_digests(lock: Path) -> Mapping[str, str]:
    try:
        entries = json.loads(lock.read_text())
        return {component: entry["digest"] for component, entry in entries.items()}
    except FileNotFoundError:
        raise PinsError(f"'image_lock' names {lock}, which does not exist; run: drill images") from None
    except (ValueError, KeyError, TypeError):
        raise PinsError(f"'image_lock' names {lock}, which is not a lock file; run: drill images") from None
