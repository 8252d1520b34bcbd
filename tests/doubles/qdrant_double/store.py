"""All collections, their aliases and snapshots, in one storage directory."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import shutil
import tarfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .collection import DECLARATION, SHARD, Collection, write_json
from .errors import ApiError, bad_request, missing_collection

Json = dict[str, Any]
_NAME = re.compile(r"[^<>:\"/\\|?*\x00\x1f]{1,255}")
_CHUNK = 1 << 20


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise ApiError(
            422, f"Validation error: collection name `{name}` holds characters that are not allowed"
        )
    return name


def _digest(path: Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()


class Store:
    """Opens every collection at start and keeps it open until `close`."""

    def __init__(self, storage: Path, snapshots: Path, url_recovery: bool) -> None:
        """Open the storage. Unfinished creations and deletions of a killed process are cleared first.

        Raises:
            ApiError: the engine cannot read a collection; its text names the collection.
        """
        self._collections_dir = storage / "collections"
        self._collections_dir.mkdir(parents=True, exist_ok=True)
        self._aliases_file = storage / "aliases.json"
        self._snapshots = snapshots
        self._url_recovery = url_recovery
        self._changing = threading.RLock()
        self._open: dict[str, Collection] = {}
        for root in sorted(self._collections_dir.iterdir()):
            if root.name.startswith(".") or not (root / DECLARATION).is_file():
                shutil.rmtree(root)
                continue
            try:
                self._open[root.name] = Collection(root.name, root)
            except ApiError as error:
                raise ApiError(
                    500, f"cannot open collection `{root.name}` in {root}: {error.message}"
                ) from error
        stored = json.loads(self._aliases_file.read_text()) if self._aliases_file.is_file() else {}
        self._aliases: dict[str, str] = {a: c for a, c in stored.items() if c in self._open}

    # ---- collections -------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The collections, sorted."""
        return sorted(self._open)

    def __iter__(self) -> Iterator[Collection]:
        return iter(list(self._open.values()))

    def get(self, name: str) -> Collection:
        """A collection by its name or alias. Raises ApiError (404)."""
        found = self._open.get(self._aliases.get(name, name))
        if found is None:
            raise missing_collection(name)
        return found

    def exists(self, name: str) -> bool:
        """Whether a name or alias leads to a collection."""
        return self._aliases.get(name, name) in self._open

    def create(self, name: str, declared: Json) -> bool:
        """Create a collection. Raises ApiError (409) when the name is taken."""
        with self._changing:
            if name in self._open:
                raise ApiError(409, f"Wrong input: Collection `{name}` already exists!")
            if name in self._aliases:
                raise ApiError(409, f"Wrong input: Alias `{name}` already exists!")
            self._open[name] = Collection.create(_checked(name), self._collections_dir / name, declared)
            return True

    def delete(self, name: str) -> bool:
        """Delete a collection and the aliases that lead to it; False when there is none."""
        with self._changing:
            found = self._open.pop(name, None)
            if found is None:
                return False
            found.close()
            self._set_aliases({a: c for a, c in self._aliases.items() if c != name})
            self._clear(found.root)
            return True

    def _clear(self, root: Path) -> None:
        """Remove a directory; renamed first, so that a kill half way leaves nothing that looks whole."""
        doomed = root.with_name(f".deleted-{root.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        root.rename(doomed)
        shutil.rmtree(doomed)

    # ---- aliases -----------------------------------------------------------------------------------------

    def aliases(self, collection: str | None = None) -> list[Json]:
        """The aliases, of one collection or of all."""
        return [
            {"alias_name": alias, "collection_name": target}
            for alias, target in sorted(self._aliases.items())
            if collection is None or target == collection
        ]

    def _set_aliases(self, aliases: dict[str, str]) -> None:
        if aliases != self._aliases:
            write_json(self._aliases_file, aliases)
            self._aliases = aliases

    def change_aliases(self, actions: list[Json]) -> bool:
        """Apply alias actions all together or not at all."""
        with self._changing:
            aliases = dict(self._aliases)
            for action in actions:
                if "create_alias" in action:
                    wanted = action["create_alias"]
                    if wanted["collection_name"] not in self._open:
                        raise missing_collection(wanted["collection_name"])
                    if wanted["alias_name"] in self._open:
                        raise ApiError(
                            409, f"Wrong input: Collection `{wanted['alias_name']}` already exists!"
                        )
                    aliases[_checked(wanted["alias_name"])] = wanted["collection_name"]
                elif "delete_alias" in action:
                    aliases.pop(action["delete_alias"]["alias_name"], None)
                elif "rename_alias" in action:
                    rename = action["rename_alias"]
                    if rename["old_alias_name"] not in aliases:
                        raise ApiError(404, f"Not found: Alias {rename['old_alias_name']} does not exists!")
                    aliases[_checked(rename["new_alias_name"])] = aliases.pop(rename["old_alias_name"])
                else:
                    raise bad_request(f"unknown alias action {sorted(action)}")
            self._set_aliases(aliases)
            return True

    # ---- snapshots ---------------------------------------------------------------------------------------

    def _snapshot_dir(self, name: str) -> Path:
        return self._snapshots / self.get(name).name

    def _describe(self, path: Path) -> Json:
        created = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
        checksum = path.with_name(path.name + ".checksum")
        return {
            "name": path.name,
            "creation_time": created.strftime("%Y-%m-%dT%H:%M:%S"),
            "size": path.stat().st_size,
            "checksum": checksum.read_text() if checksum.is_file() else None,
        }

    def snapshots(self, name: str) -> list[Json]:
        """The snapshots of a collection."""
        directory = self._snapshot_dir(name)
        return (
            [self._describe(path) for path in sorted(directory.glob("*.snapshot"))]
            if directory.is_dir()
            else []
        )

    def create_snapshot(self, name: str) -> Json:
        """Write a snapshot and describe it; it gets its name only when it is whole."""
        collection = self.get(name)
        directory = self._snapshots / collection.name
        directory.mkdir(parents=True, exist_ok=True)
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d-%H-%M-%S-%f")
        final = directory / f"{collection.name}-{now}.snapshot"
        partial = final.with_suffix(".partial")
        try:
            collection.pack(partial)
            final.with_name(final.name + ".checksum").write_text(_digest(partial))
            partial.replace(final)
        finally:
            partial.unlink(missing_ok=True)
        return self._describe(final)

    def snapshot_file(self, name: str, snapshot: str) -> Path:
        """Where a snapshot lies. Raises ApiError (404)."""
        path = self._snapshot_dir(name) / Path(snapshot).name
        if path.suffix != ".snapshot" or not path.is_file():
            raise ApiError(404, f"Not found: Snapshot {snapshot} not found")
        return path

    def delete_snapshot(self, name: str, snapshot: str) -> bool:
        """Delete a snapshot."""
        path = self.snapshot_file(name, snapshot)
        path.unlink()
        path.with_name(path.name + ".checksum").unlink(missing_ok=True)
        return True

    def _local(self, location: str) -> tuple[Path, bool]:
        """A snapshot's location as a file, and whether the file is a download to be removed."""
        parts = urllib.parse.urlsplit(location)
        if parts.scheme == "file":
            path = Path(urllib.parse.unquote(parts.path)).resolve()
            if not path.is_relative_to(self._snapshots.resolve()):
                raise ApiError(
                    403,
                    f"Forbidden: Snapshot file {path} must be inside the directory {self._snapshots}",
                )
            if not path.is_file():
                raise bad_request(f"Snapshot file {path} does not exist")
            return path, False
        if parts.scheme not in ("http", "https"):
            raise bad_request(
                f"unsupported snapshot location `{location}`, expected a file, http or https URL"
            )
        if not self._url_recovery:
            raise ApiError(
                403, "Forbidden: Recovery from a URL is switched off (enable_snapshot_url_recovery)"
            )
        self._snapshots.mkdir(parents=True, exist_ok=True)
        target = self._snapshots / f".download-{threading.get_ident()}"
        try:
            with urllib.request.urlopen(location, timeout=60) as answer, target.open("wb") as handle:
                shutil.copyfileobj(answer, handle, _CHUNK)
        except OSError as error:
            target.unlink(missing_ok=True)
            raise bad_request(f"Failed to download snapshot from {location}: {error}") from error
        return target, True

    def recover(self, name: str, location: str, checksum: str | None) -> bool:
        """Replace a collection by a snapshot, or create it from one."""
        path, downloaded = self._local(location)
        try:
            return self.recover_file(name, path, checksum)
        finally:
            if downloaded:
                path.unlink(missing_ok=True)

    def recover_file(self, name: str, path: Path, checksum: str | None) -> bool:
        """As `recover`, from a file of this machine."""
        if checksum is not None and _digest(path) != checksum.lower():
            raise bad_request(f"Snapshot checksum mismatch: expected {checksum}, got {_digest(path)}")
        with self._changing:
            name = self._aliases.get(name, _checked(name))
            root = self._collections_dir / name
            fresh = root.with_name(f".recovering-{name}")
            shutil.rmtree(fresh, ignore_errors=True)
            try:
                with tarfile.open(path) as archive:
                    archive.extractall(fresh, filter="data")
                if not (fresh / DECLARATION).is_file() or not (fresh / SHARD).is_dir():
                    raise bad_request(f"{path.name} is no snapshot of this server")
            except tarfile.TarError as error:
                shutil.rmtree(fresh, ignore_errors=True)
                raise bad_request(f"{path.name} is no snapshot of this server: {error}") from error
            except ApiError:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
            old = self._open.pop(name, None)
            if old is not None:
                old.close()
                self._clear(root)
            fresh.rename(root)
            self._open[name] = Collection(name, root)
            return True

    def close(self) -> None:
        """Flush and close every collection."""
        with self._changing:
            for collection in self._open.values():
                collection.close()
            self._open.clear()
