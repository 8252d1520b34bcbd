"""The local registry: what lies in its storage, and a registry process to write to it with."""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from drill import paths
from drill.errors import CannotRunHere, DrillError

INPUTS_LABEL: Final = "org.memory-droplet.inputs"
DOUBLE_LABEL: Final = "org.memory-droplet.double"
BUILT_LABEL: Final = "org.memory-droplet.built"


def storage_dir() -> Path:
    """Where the registry keeps its images; shared by every registry process on this laptop."""
    return paths.cache_dir() / "registry"


@dataclass(frozen=True)
class StoredImage:
    """An image that is whole in the registry's storage."""

    path: str
    tag: str
    digest: str
    labels: dict[str, str]
    #: Bytes to pull.
    size: int


def _blob(storage: Path, digest: str) -> Path:
    _, _, number = digest.partition(":")
    return storage / "docker/registry/v2/blobs/sha256" / number[:2] / number / "data"


def _document(storage: Path, digest: str) -> dict[str, Any] | None:
    try:
        raw = _blob(storage, digest).read_bytes()
    except OSError:
        return None
    if f"sha256:{hashlib.sha256(raw).hexdigest()}" != digest:
        return None
    document = json.loads(raw)
    return document if isinstance(document, dict) else None


def _same(path: Path, digest: str, size: int, verify: bool) -> bool:
    try:
        if path.stat().st_size != size:
            return False
        if not verify:
            return True
        with path.open("rb") as handle:
            return f"sha256:{hashlib.file_digest(handle, 'sha256').hexdigest()}" == digest
    except OSError:
        return False


def stored(path: str, tag: str, verify: bool = False, storage: Path | None = None) -> StoredImage | None:
    """What the registry would serve for a tag, or None where anything of it is missing or damaged.

    Manifest and configuration are checked by their hash, layers by their size, and with ``verify`` by
    their hash as well (that reads every byte).
    """
    storage = storage or storage_dir()
    repository = storage / "docker/registry/v2/repositories" / path
    try:
        digest = (repository / "_manifests/tags" / tag / "current/link").read_text().strip()
    except OSError:
        return None
    manifest = _document(storage, digest)
    if manifest is None or "config" not in manifest:
        return None
    config = _document(storage, manifest["config"]["digest"])
    if config is None:
        return None
    for layer in manifest["layers"]:
        # The registry serves a layer of a repository only where the repository links it.
        link = repository / "_layers/sha256" / layer["digest"].partition(":")[2] / "link"
        if not link.is_file() or not _same(
            _blob(storage, layer["digest"]), layer["digest"], layer["size"], verify
        ):
            return None
    return StoredImage(
        path,
        tag,
        digest,
        (config.get("config") or {}).get("Labels") or {},
        sum(layer["size"] for layer in manifest["layers"]),
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _configuration(address: str) -> str:
    return json.dumps(
        {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(storage_dir())}, "delete": {"enabled": True}},
            "http": {"addr": address},
        }
    )


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@contextmanager
def writing() -> Iterator[str]:
    """A registry on this machine's loopback for as long as something is pushed; yields its address.

    It shares its storage with the registry that serves droplets: what is pushed here is served there.
    """
    if shutil.which("docker-registry") is None:
        raise CannotRunHere("there is no docker-registry; install it: apt-get install docker-registry")
    storage_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="drill-registry-") as scratch:
        port = _free_port()
        configuration = Path(scratch) / "registry.json"
        configuration.write_text(_configuration(f"127.0.0.1:{port}"))
        log = Path(scratch) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                # It ends with this process, even if that is killed.
                ["setpriv", "--pdeathsig", "TERM", "docker-registry", "serve", str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            deadline = time.monotonic() + 120
            while not _answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    tail = log.read_text(errors="replace").strip().splitlines()[-3:]
                    raise DrillError(f"docker-registry did not start on 127.0.0.1:{port}: {' '.join(tail)}")
                time.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def collect_garbage() -> None:
    """Remove what no tag leads to any more. To be called while nothing is being pushed."""
    with tempfile.TemporaryDirectory(prefix="drill-registry-") as scratch:
        configuration = Path(scratch) / "registry.json"
        configuration.write_text(_configuration("127.0.0.1:0"))
        done = subprocess.run(
            ["docker-registry", "garbage-collect", "--delete-untagged", str(configuration)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise DrillError(f"docker-registry could not clean {storage_dir()}: {done.stderr.strip()[-300:]}")
