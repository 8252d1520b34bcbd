"""What the local registry's storage holds whole is known without asking anybody, and damage is noticed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from drill import image_build, image_recipes, image_store, images
from drill.errors import CannotRunHere
from drill.image_recipes import RECIPES, inputs_hash, targets
from drill.image_store import stored


class Storage:
    """Writes images the way docker-registry lays them out on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root / "docker/registry/v2"

    def blob(self, content: bytes) -> str:
        number = hashlib.sha256(content).hexdigest()
        data = self.root / "blobs/sha256" / number[:2] / number / "data"
        data.parent.mkdir(parents=True, exist_ok=True)
        data.write_bytes(content)
        return f"sha256:{number}"

    def data(self, digest: str) -> Path:
        number = digest.partition(":")[2]
        return self.root / "blobs/sha256" / number[:2] / number / "data"

    def image(self, path: str, tag: str, labels: dict[str, str], layer: bytes = b"layer") -> str:
        config = json.dumps({"config": {"Labels": labels}}).encode()
        content = self.blob(layer)
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "config": {"digest": self.blob(config), "size": len(config)},
            "layers": [{"digest": content, "size": len(layer)}],
        }
        digest = self.blob(json.dumps(manifest).encode())
        repository = self.root / "repositories" / path
        for link, value in (
            (repository / "_manifests/tags" / tag / "current/link", digest),
            (repository / "_layers/sha256" / content.partition(":")[2] / "link", content),
        ):
            link.parent.mkdir(parents=True, exist_ok=True)
            link.write_text(value)
        return digest


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setenv("MEMORY_DROPLET_CACHE", str(tmp_path))
    return Storage(image_store.storage_dir())


def labels(name: str) -> dict[str, str]:
    return {
        image_store.INPUTS_LABEL: inputs_hash(RECIPES[name], targets()[name].tag),
        image_store.DOUBLE_LABEL: str(RECIPES[name].double).lower(),
        "org.opencontainers.image.title": RECIPES[name].title,
    }


def fill(storage: Storage) -> dict[str, str]:
    known = targets()
    return {name: storage.image(known[name].path, known[name].tag, labels(name)) for name in RECIPES}


def no_build(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record what would be built instead of building it."""
    asked: list[str] = []

    def refuse() -> None:
        raise CannotRunHere("a build was begun")

    monkeypatch.setattr(image_build, "check_laptop", refuse)
    return asked


def test_a_whole_image_is_found_with_its_digest_labels_and_size(storage: Storage) -> None:
    digest = storage.image("a/b", "1", {"x": "y"}, b"12345")
    found = stored("a/b", "1")
    assert found is not None
    assert (found.digest, found.labels, found.size) == (digest, {"x": "y"}, 5)
    assert stored("a/b", "2") is None
    assert stored("a/c", "1") is None


def test_an_image_with_anything_missing_is_not_there(storage: Storage) -> None:
    storage.image("a/b", "1", {})
    layer = f"sha256:{hashlib.sha256(b'layer').hexdigest()}"
    storage.data(layer).write_bytes(b"laye")
    assert stored("a/b", "1") is None
    storage.data(layer).write_bytes(b"layer")
    assert stored("a/b", "1") is not None
    (storage.root / "repositories/a/b/_layers/sha256" / layer.partition(":")[2] / "link").unlink()
    assert stored("a/b", "1") is None


def test_a_changed_manifest_is_not_trusted(storage: Storage) -> None:
    digest = storage.image("a/b", "1", {})
    file = storage.data(digest)
    file.write_bytes(file.read_bytes() + b" ")
    assert stored("a/b", "1") is None


def test_a_flipped_byte_in_a_layer_is_found_by_verifying(storage: Storage) -> None:
    storage.image("a/b", "1", {})
    storage.data(f"sha256:{hashlib.sha256(b'layer').hexdigest()}").write_bytes(b"lAyer")
    assert stored("a/b", "1") is not None
    assert stored("a/b", "1", verify=True) is None


def test_images_that_are_there_are_not_built_again(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    no_build(monkeypatch)
    digests = fill(storage)
    ensured = images.ensure()
    assert {name: image.digest for name, image in ensured.items()} == digests
    assert ensured["qdrant"].double and not ensured["n8n"].double
    assert ensured["postgres"].reference == f"pgvector/pgvector:{targets()['postgres'].tag}"
    lock = json.loads(images.lock_file().read_text())
    assert {name: entry["digest"] for name, entry in lock.items()} == digests


def test_a_lost_lock_file_is_written_again_from_the_registry(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_build(monkeypatch)
    fill(storage)
    images.ensure(["qdrant"])
    written = images.lock_file().read_text()
    images.lock_file().unlink()
    assert images.ensure_lock(["qdrant"]) == images.lock_file()
    assert images.lock_file().read_text() == written
    assert set(json.loads(written)) == set(RECIPES)


def test_a_changed_input_asks_for_a_build(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    no_build(monkeypatch)
    fill(storage)
    monkeypatch.setattr(image_recipes, "BUILD_FORMAT", "other")
    with pytest.raises(CannotRunHere, match="a build was begun"):
        images.ensure(["ingress"])


def test_an_image_of_somebody_else_under_the_same_tag_is_not_ours(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_build(monkeypatch)
    target = targets()["ingress"]
    storage.image(target.path, target.tag, {"org.opencontainers.image.title": "Caddy"})
    assert images.local_lock() == {}
    with pytest.raises(CannotRunHere):
        images.ensure(["ingress"])


def test_missing_programs_are_installed_before_anything_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[list[str]] = []
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda program: None)
    monkeypatch.setattr("drill.laptop._install", installed.append)
    image_build.check_laptop()
    assert installed == [["buildah", "docker-registry", "mmdebstrap"]]


def test_images_are_not_built_without_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(CannotRunHere, match="needs root"):
        image_build.check_laptop()


def test_the_version_is_read_from_a_tag() -> None:
    assert images._version("v0.12.4-slim") == "0.12.4"
    assert images._version("0.8.6-pg18-trixie") == "0.8.6"
    assert images._version("2.41.1") == "2.41.1"
    assert images._version("latest") == "latest"


@pytest.mark.real
def test_what_is_pushed_to_the_registry_is_found_in_its_storage(storage: Storage) -> None:
    import requests

    with image_store.writing() as address:
        url = f"http://{address}/v2/a/b"

        def upload(content: bytes) -> str:
            digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
            location = requests.post(f"{url}/blobs/uploads/", timeout=120).headers["Location"]
            joined = f"{location}&digest={digest}"
            assert requests.put(joined, data=content, timeout=120).status_code == 201
            return digest

        config = json.dumps(
            {"config": {"Labels": {"x": "y"}}, "rootfs": {"type": "layers", "diff_ids": []}}
        ).encode()
        layer = b"not really a layer"
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                "config": {
                    "mediaType": "application/vnd.docker.container.image.v1+json",
                    "digest": upload(config),
                    "size": len(config),
                },
                "layers": [
                    {
                        "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                        "digest": upload(layer),
                        "size": len(layer),
                    }
                ],
            }
        ).encode()
        pushed = requests.put(
            f"{url}/manifests/1",
            data=manifest,
            headers={"Content-Type": "application/vnd.docker.distribution.manifest.v2+json"},
            timeout=120,
        )
        assert pushed.status_code == 201
    found = stored("a/b", "1", verify=True)
    assert found is not None
    assert found.digest == pushed.headers["Docker-Content-Digest"]
    assert found.labels == {"x": "y"}
    image_store.collect_garbage()
    assert stored("a/b", "1", verify=True) == found
