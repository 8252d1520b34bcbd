"""`drill images` and `drill pin`: the images a local drill pulls, and the digests a real deploy pins."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from drill import image_build, image_pins, image_store, paths
from drill.console import elapsed_s, say
from drill.errors import DrillError
from drill.image_recipes import PINS_FILE, RECIPES, Recipe, Target, chosen, inputs_hash, targets
from drill.image_store import DOUBLE_LABEL, INPUTS_LABEL


@dataclass(frozen=True)
class LockedImage:
    """One image of the local registry."""

    #: Repository path and tag as in images.toml, without a registry: `qdrant/qdrant:v1.20.0-unprivileged`.
    reference: str
    digest: str
    #: Whether it only imitates the software it stands in for.
    double: bool
    title: str
    #: Bytes to pull.
    size: int
    #: Hash of all it was built from.
    inputs: str


def lock_file() -> Path:
    """The lock file: ``{component: LockedImage}`` as JSON. The setting `image_lock` may name it."""
    return paths.cache_dir() / "images.lock.json"


def _locked(target: Target, verify: bool = False) -> LockedImage | None:
    found = image_store.stored(target.path, target.tag, verify)
    if found is None or INPUTS_LABEL not in found.labels:
        return None
    return LockedImage(
        reference=f"{target.path}:{target.tag}",
        digest=found.digest,
        double=found.labels.get(DOUBLE_LABEL) == "true",
        title=found.labels.get("org.opencontainers.image.title", ""),
        size=found.size,
        inputs=found.labels[INPUTS_LABEL],
    )


def local_lock() -> dict[str, LockedImage]:
    """The images that the local registry can serve whole, read from its storage, by component."""
    found = {name: _locked(target) for name, target in targets().items() if name in RECIPES}
    return {name: image for name, image in found.items() if image is not None}


def _write_lock(images: dict[str, LockedImage]) -> None:
    text = json.dumps({name: asdict(image) for name, image in sorted(images.items())}, indent=2) + "\n"
    file = lock_file()
    if not file.is_file() or file.read_text() != text:
        fresh = file.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(file)


@contextmanager
def _alone() -> Iterator[None]:
    """One build at a time on this laptop; a second one waits and then finds everything built."""
    paths.cache_dir().mkdir(parents=True, exist_ok=True)
    with (paths.cache_dir() / "images.flock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another `drill images` ...")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _available_mb() -> int:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) // 1024 if found else 0


def _beside_each_other(recipes: list[Recipe]) -> int:
    """How many builds may run at once: the largest of them and another must fit in memory."""
    heaviest = sorted((recipe.memory_mb for recipe in recipes), reverse=True)[:2]
    return 2 if (os.cpu_count() or 1) > 1 and sum(heaviest) < _available_mb() * 0.8 else 1


def ensure(names: Sequence[str] = (), verify: bool = False) -> dict[str, LockedImage]:
    """Build and push what is missing or was built from something else; no names means all.

    Returns the named images. With ``verify`` every byte in the registry is hashed again first.

    Raises:
        UsageMistake: a name is unknown.
        CannotRunHere: a program is missing, or the caller is not root; told before anything is begun.
        CommandFailed: a build failed; the images that were finished are kept and are not built again.
    """
    recipes = chosen(list(names))
    known = targets()
    current = {
        recipe.name: image
        for recipe in recipes
        if (image := _locked(known[recipe.name], verify)) is not None
        and image.inputs == inputs_hash(recipe, known[recipe.name].tag)
    }
    if len(current) < len(recipes):
        image_build.check_laptop()
        with _alone():
            _build_missing([recipe for recipe in recipes if recipe.name not in current], known)
    locked = local_lock()
    _write_lock(locked)
    missing = [recipe.name for recipe in recipes if recipe.name not in locked]
    if missing:
        raise DrillError(
            f"the images {', '.join(missing)} were pushed but are not whole in {image_store.storage_dir()}; "
            "remove that directory and run `drill images` again."
        )
    return {recipe.name: locked[recipe.name] for recipe in recipes}


def ensure_lock(names: Sequence[str] = ()) -> Path:
    """As `ensure`, for who needs the lock file: where it lies, complete for the named images."""
    ensure(names)
    return lock_file()


def _build_missing(recipes: list[Recipe], known: dict[str, Target]) -> None:
    def wanted(recipe: Recipe) -> bool:
        # Looked at again: while this process waited, another may have built it.
        image = _locked(known[recipe.name])
        return image is None or image.inputs != inputs_hash(recipe, known[recipe.name].tag)

    recipes = [recipe for recipe in recipes if wanted(recipe)]
    if not recipes:
        return
    replaced = any(_locked(known[recipe.name]) is not None for recipe in recipes)
    say(f"to build: {', '.join(recipe.name for recipe in recipes)}")
    image_build.clear_leftovers()
    image_build.prepare(recipes)
    with image_store.writing() as registry:

        def one(recipe: Recipe) -> None:
            began = time.monotonic()
            say(f"{recipe.name}: building ...")
            target = known[recipe.name]
            image_build.build_and_push(recipe, target, _version(target.tag), registry)
            image = _locked(target)
            size = f", {image.size / 1e6:.0f} MB to pull" if image else ""
            say(f"{recipe.name}: built and pushed in {time.monotonic() - began:.1f} s{size}")

        with ThreadPoolExecutor(max_workers=_beside_each_other(recipes)) as pool:
            # Every build is given its chance before the first failure is told.
            outcomes = [pool.submit(one, recipe) for recipe in recipes]
        failures = [error for error in (outcome.exception() for outcome in outcomes) if error is not None]
    if replaced:
        image_store.collect_garbage()
    if failures:
        raise failures[0]


def _version(tag: str) -> str:
    """The version in a tag: ``v0.12.4-slim`` is 0.12.4."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", tag)
    return found[1] if found else tag


# ---- commands --------------------------------------------------------------------------------------------


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `images` and `pin` to the command line; each sets ``run``, which returns the exit code."""
    text = "build the images of a local drill from Debian, npm and PyPI packages into the local registry"
    images = subparsers.add_parser("images", help=text, description=text)
    images.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(RECIPES)}")
    images.add_argument("--verify", action="store_true", help="hash every byte in the registry again")
    images.set_defaults(run=_run_images)

    text = "resolve every tag of images.toml to its digest and write it there"
    pin = subparsers.add_parser("pin", help=text, description=text)
    pin.add_argument("--registry", default="", metavar="HOST[:PORT]", help="ask this registry for all images")
    pin.add_argument("--file", type=Path, default=PINS_FILE, help="default: images.toml of the repository")
    pin.set_defaults(run=_run_pin)


def _run_images(arguments: argparse.Namespace) -> int:
    before = {name: image.digest for name, image in local_lock().items()}
    images = ensure(arguments.names, arguments.verify)
    for name, image in images.items():
        state = "unchanged" if before.get(name) == image.digest else "built"
        kind = "DOUBLE" if image.double else "built from packages"
        print(
            f"{name:11} {state:10} {image.reference}@{image.digest[:19]}  {image.size / 1e6:6.1f} MB  {kind}"
        )
    say(f"{len(images)} images in {image_store.storage_dir()} after {elapsed_s():.1f} s; lock: {lock_file()}")
    return 0


def _run_pin(arguments: argparse.Namespace) -> int:
    outcomes = image_pins.pin(arguments.file, arguments.registry)
    for outcome in outcomes:
        print(outcome)
    return 0 if all(outcome.digest for outcome in outcomes) else 1
