"""An image is built again when, and only when, an input changed; each Containerfile keeps the house rules."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from drill import image_recipes
from drill.errors import DrillError, UsageMistake
from drill.image_recipes import (
    BASES,
    CONTEXTS,
    PINS_FILE,
    RECIPES,
    TOOLS,
    chosen,
    context_files,
    inputs_hash,
    targets,
)

ALL = [*RECIPES.values(), TOOLS]


def containerfile(name: str) -> str:
    return (CONTEXTS / name / "Containerfile").read_text()


def instructions(name: str) -> list[str]:
    """The instructions of a Containerfile, continued lines joined, comments left out."""
    text = re.sub(r"^#.*\n", "", containerfile(name), flags=re.MULTILINE)
    return [line.strip() for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]


def test_every_image_that_a_drill_runs_can_be_built() -> None:
    # The outbound tunnel needs an account at its provider: no drill runs it.
    assert set(targets()) - set(RECIPES) == {"tunnel"}
    assert set(RECIPES) < set(targets())


def test_an_image_goes_by_the_name_of_the_official_one_without_its_registry() -> None:
    assert targets()["postgres"].path == "pgvector/pgvector"
    assert targets()["open-webui"].path == "open-webui/open-webui"
    assert targets()["n8n"].path == "n8nio/n8n"


def test_only_the_qdrant_image_is_a_double_and_its_title_says_so() -> None:
    assert [recipe.name for recipe in RECIPES.values() if recipe.double] == ["qdrant"]
    assert "double" in RECIPES["qdrant"].title


@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_a_containerfile_keeps_the_house_rules(recipe: image_recipes.Recipe) -> None:
    lines = instructions(recipe.name)
    froms = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert froms[-1] == "${BASE}"
    assert set(froms) <= {"${BASE}", "${TOOLS}"}
    assert ("${TOOLS}" in froms) == recipe.tools
    assert recipe.base in BASES
    for line in lines:
        if line.startswith(("CMD", "ENTRYPOINT")):
            json.loads(line.split(None, 1)[1])
        if line.startswith("RUN"):
            for install in re.findall(r"apt-get install [^&]*", line):
                assert "--yes --no-install-recommends" in install
            assert "curl" not in line.replace("python3-distutils curl jq", "")
            assert "wget http" not in line
        if line.startswith(("COPY", "ADD")):
            assert not line.startswith("ADD")
            assert ".crt" not in line and ".pem" not in line
        # A certificate of the laptop may be used while building, but never be left behind.
        if line.startswith("ENV"):
            assert not re.search(r"SSL_CERT|CA_CERTS|cafile|PIP_CERT", line)


def test_python_packages_are_held_to_hashes() -> None:
    for name in ("qdrant", "open-webui"):
        assert "--require-hashes" in containerfile(name)
        lock = (CONTEXTS / name / "requirements.lock").read_text()
        entries = re.split(r"\n(?=\S)", lock.strip())
        assert all(re.match(r"[\w.\-\[\]]+==\S+", entry) and "--hash=sha256:" in entry for entry in entries)


def test_npm_packages_are_held_to_hashes_and_run_no_scripts() -> None:
    assert "--ignore-scripts" in containerfile("n8n")
    lock = json.loads((CONTEXTS / "n8n/package-lock.json").read_text())
    wanted = json.loads((CONTEXTS / "n8n/package.json").read_text())["dependencies"]
    for name, version in wanted.items():
        assert lock["packages"][f"node_modules/{name}"]["version"] == version
    without = [
        path
        for path, entry in lock["packages"].items()
        if path and "integrity" not in entry and not entry.get("inBundle")
    ]
    assert without == []
    assert not any(
        "resolved" in entry and "registry.npmjs.org" not in entry["resolved"]
        for entry in lock["packages"].values()
    )


def test_versions_agree_with_the_pins() -> None:
    tags = {name: target.tag for name, target in targets().items()}
    n8n = json.loads((CONTEXTS / "n8n/package.json").read_text())["dependencies"]["n8n"]
    assert tags["n8n"] == n8n
    lock = (CONTEXTS / "open-webui/requirements.lock").read_text()
    assert f"open-webui=={tags['open-webui'].removeprefix('v').removesuffix('-slim')} " in lock
    from tests.doubles.qdrant_double.server import VERSION

    assert tags["qdrant"].startswith(f"v{VERSION}")
    assert "postgresql-18-pgvector" in containerfile("postgres") and "-pg18-" in tags["postgres"]


def test_images_run_as_the_user_that_the_pins_tell() -> None:
    pins: dict[str, Any] = tomllib.loads(PINS_FILE.read_text())
    assert "USER 1000:1000" in instructions("qdrant") and pins["qdrant"]["uid"] == 1000
    assert (
        "USER node" in instructions("n8n")
        and "--uid 1000" in containerfile("n8n")
        and pins["n8n"]["uid"] == 1000
    )
    assert "--uid 999" in containerfile("postgres") and pins["postgres"]["uid"] == 999
    for name in ("open-webui", "ingress"):
        assert not any(line.startswith("USER") for line in instructions(name)) and pins[name]["uid"] == 0


def test_the_double_travels_in_its_image_without_byte_code() -> None:
    names = [name for name, _ in context_files(RECIPES["qdrant"])]
    assert "qdrant_double/server.py" in names and "Containerfile" in names
    assert not any("__pycache__" in name for name in names)
    assert "requirements.in" not in names


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(CONTEXTS, tmp_path / "images", ignore=shutil.ignore_patterns("*.json"))
    monkeypatch.setattr(image_recipes, "CONTEXTS", tmp_path / "images")
    return tmp_path / "images"


def test_the_hash_changes_with_every_input_and_with_nothing_else(copied: Path) -> None:
    recipe = RECIPES["postgres"]
    first = inputs_hash(recipe, "18")
    entry = copied / "postgres/docker-entrypoint.sh"
    entry.touch()
    assert inputs_hash(recipe, "18") == first
    assert inputs_hash(recipe, "19") != first
    entry.write_text(entry.read_text() + "# more\n")
    second = inputs_hash(recipe, "18")
    assert second != first
    entry.chmod(0o600 if entry.stat().st_mode & 0o111 else 0o755)
    assert inputs_hash(recipe, "18") != second
    (copied / "postgres/new-file").write_text("")
    third = inputs_hash(recipe, "18")
    (copied / "postgres/new-file").rename(copied / "postgres/other-name")
    assert inputs_hash(recipe, "18") != third


def test_a_change_of_the_tools_rebuilds_what_is_built_with_them(copied: Path) -> None:
    before = {recipe.name: inputs_hash(recipe, "1") for recipe in RECIPES.values()}
    with (copied / "tools/Containerfile").open("a") as handle:
        handle.write("# more\n")
    changed = {recipe.name for recipe in RECIPES.values() if inputs_hash(recipe, "1") != before[recipe.name]}
    assert changed == {recipe.name for recipe in RECIPES.values() if recipe.tools}


def test_a_missing_context_is_told(copied: Path) -> None:
    shutil.rmtree(copied / "ingress")
    with pytest.raises(DrillError, match="the image ingress needs"):
        inputs_hash(RECIPES["ingress"], "2")


def test_an_unknown_name_is_told_with_those_there_are() -> None:
    with pytest.raises(
        UsageMistake, match=r"no image redis; there are: ingress, n8n, open-webui, postgres, qdrant"
    ):
        chosen(["n8n", "redis"])
    assert [recipe.name for recipe in chosen(["qdrant", "n8n"])] == ["n8n", "qdrant"]
    assert len(chosen([])) == len(RECIPES)


def test_pins_that_cannot_be_read_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "images.toml"
    file.write_text("[postgres]\nrepository = 'docker.io/x/y'\n")
    monkeypatch.setattr(image_recipes, "PINS_FILE", file)
    with pytest.raises(DrillError, match=r"images.toml cannot be used \('tag'\)"):
        targets()
