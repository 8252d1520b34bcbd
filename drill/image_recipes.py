"""What each image is built from, and the hash by which an unchanged image is recognised."""

from __future__ import annotations

import hashlib
import platform
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drill import paths
from drill.errors import DrillError, UsageMistake

PINS_FILE: Final = paths.REPOSITORY / "images.toml"
CONTEXTS: Final = paths.REPOSITORY / "drill" / "images"
#: Change it when the way of building changes so that images already built would come out differently.
BUILD_FORMAT: Final = "1"


@dataclass(frozen=True)
class Base:
    """A Debian suite as the first layer of images."""

    suite: str
    #: apt's own options, kept in the image: how its builds are to behave.
    apt_options: tuple[str, ...]

    @property
    def identity(self) -> str:
        """Changes whenever the base would be made differently."""
        return hashlib.sha256(repr((BUILD_FORMAT, self, DPKG_OPTIONS)).encode()).hexdigest()[:16]


_APT_OPTIONS: Final = (
    'Apt::Install-Recommends "false"',
    # The package caches would be a fifth of a small image, and apt rebuilds them when it needs them.
    'Dir::Cache::pkgcache ""',
    'Dir::Cache::srcpkgcache ""',
    # The downloads lie in a mounted directory, which apt's own user may not write.
    'APT::Sandbox::User "root"',
    'Acquire::Retries "3"',
)
DPKG_OPTIONS: Final = (
    "force-unsafe-io",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*/LC_MESSAGES/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)
BASES: Final = {
    "bookworm": Base("bookworm", _APT_OPTIONS),
    # The index of Debian's testing suite is declared valid for a week only. A mirror that is updated less
    # often is as good a source: what is signed stays signed.
    "forky": Base("forky", (*_APT_OPTIONS, 'Acquire::Check-Valid-Until "false"')),
}


@dataclass(frozen=True)
class Recipe:
    """How an image is built."""

    name: str
    base: str
    title: str
    source: str
    #: Whether it only imitates the software it stands in for.
    double: bool = False
    #: Whether the build needs the image `tools` (uv and npm).
    tools: bool = False
    #: Whether the version in the tag is what is inside; Debian's packages move on under the same tag.
    exact: bool = True
    #: More for the build context: (name there, directory in the repository).
    extra: tuple[tuple[str, str], ...] = ()
    #: What the build takes at its peak; several builds run beside each other where the laptop has it all.
    memory_mb: int = 600

    @property
    def context(self) -> Path:
        """The directory with its Containerfile."""
        return CONTEXTS / self.name


TOOLS: Final = Recipe("tools", "bookworm", "uv and npm for builds", "https://pypi.org/", memory_mb=400)
#: In the order in which they are started: the longest first.
RECIPES: Final = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "n8n",
            "forky",
            "n8n, built from npm packages",
            "https://www.npmjs.com/package/n8n",
            tools=True,
            memory_mb=4000,
        ),
        Recipe(
            "open-webui",
            "bookworm",
            "Open WebUI (slim), built from PyPI packages",
            "https://pypi.org/project/open-webui/",
            tools=True,
            memory_mb=1200,
        ),
        Recipe(
            "postgres",
            "forky",
            "PostgreSQL 18 with pgvector, built from Debian packages",
            "https://packages.debian.org/postgresql-18-pgvector",
            exact=False,
        ),
        Recipe(
            "qdrant",
            "bookworm",
            "Qdrant contract double over the embedded engine qdrant-edge-py",
            "https://pypi.org/project/qdrant-edge-py/",
            double=True,
            tools=True,
            extra=(("qdrant_double", "tests/doubles/qdrant_double"),),
        ),
        Recipe(
            "ingress",
            "forky",
            "Caddy, built from the Debian package",
            "https://packages.debian.org/caddy",
            exact=False,
        ),
    )
}


@dataclass(frozen=True)
class Target:
    """The name an image is pushed under: that of the official image, without its registry."""

    path: str
    tag: str


def targets() -> dict[str, Target]:
    """The repository path and tag of each component, from images.toml.

    Raises:
        DrillError: images.toml cannot be read or lacks a field.
    """
    try:
        document = tomllib.loads(PINS_FILE.read_text())
        return {
            name: Target(entry["repository"].split("/", 1)[1], entry["tag"])
            for name, entry in document.items()
        }
    except (OSError, tomllib.TOMLDecodeError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise DrillError(
            f"{PINS_FILE.name} cannot be used ({error}); each image needs `repository` and `tag`."
        ) from error


def chosen(names: tuple[str, ...] | list[str]) -> list[Recipe]:
    """The recipes of these components, all of them for none, in building order. Raises UsageMistake."""
    unknown = sorted(set(names) - set(RECIPES))
    if unknown:
        raise UsageMistake(
            f"there is no image {', '.join(unknown)}; there are: {', '.join(sorted(RECIPES))}."
        )
    return [recipe for recipe in RECIPES.values() if not names or recipe.name in names]


def context_files(recipe: Recipe) -> Iterator[tuple[str, Path]]:
    """Every file of the build context, sorted: (path in the context, file)."""
    roots = [("", recipe.context), *((name, paths.REPOSITORY / source) for name, source in recipe.extra)]
    for prefix, root in roots:
        if not root.is_dir():
            raise DrillError(f"the image {recipe.name} needs {root}, which is not there.")
        for file in sorted(root.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".in":
                yield str(Path(prefix) / file.relative_to(root)), file


def inputs_hash(recipe: Recipe, tag: str) -> str:
    """The hash of all that decides what an image becomes, as far as this repository decides it."""
    sha = hashlib.sha256()
    for part in (
        BUILD_FORMAT,
        platform.machine(),
        tag,
        BASES[recipe.base].identity,
        recipe.title,
        recipe.source,
        repr(recipe.double),
        inputs_hash(TOOLS, "") if recipe.tools else "",
    ):
        sha.update(f"{part}\0".encode())
    for name, file in context_files(recipe):
        sha.update(f"{name}\0{file.stat().st_mode & 0o111:o}\0".encode())
        sha.update(hashlib.sha256(file.read_bytes()).digest())
    return f"sha256:{sha.hexdigest()}"
