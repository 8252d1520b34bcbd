"""Writing a person's edit back into the workflow files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from drill import n8n_export
from drill.errors import DrillError
from settings import n8n

VALUES = n8n.workflow_values(timezone="Europe/Berlin", cleanup_hour=3)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    shutil.copytree(n8n.WORKFLOWS, tmp_path / "workflows")
    shutil.copy(n8n.NODE_TYPES, tmp_path / "node_types.json")
    return tmp_path


def live(name: str) -> n8n.Workflow:
    rendered = n8n.render(n8n.load_templates()[f"{name}.json"], VALUES)
    assert isinstance(rendered, dict)
    return rendered


def write(files: Path, *workflows: n8n.Workflow) -> list[str]:
    export = n8n_export.Export({str(one["id"]): one for one in workflows}, {})
    return n8n_export.write_back(export, VALUES, files / "workflows", files / "node_types.json")


def test_an_export_of_what_is_declared_changes_no_file(files: Path) -> None:
    workflows = [live(name.removesuffix(".json")) for name in n8n.load_templates()]
    assert write(files, *workflows) == []
    for path in n8n.WORKFLOWS.glob("*.json"):
        assert (files / "workflows" / path.name).read_text() == path.read_text()


def test_an_added_node_keeps_the_order_and_the_placeholders_of_the_others(files: Path) -> None:
    workflow = live("memory-nightly-cleanup")
    nodes = workflow["nodes"]
    assert isinstance(nodes, list)
    code = {
        "id": "c",
        "name": "Count",
        "type": "n8n-nodes-base.code",
        "typeVersion": 2,
        "position": [0, 0],
        "parameters": {},
    }
    nodes.insert(0, code)  # n8n puts nodes where it likes
    said = write(files, workflow)
    assert said == ["wrote memory-nightly-cleanup.json", "wrote node_types.json: n8n-nodes-base.code"]
    before = (n8n.WORKFLOWS / "memory-nightly-cleanup.json").read_text().splitlines()
    after = (files / "workflows" / "memory-nightly-cleanup.json").read_text().splitlines()
    assert "0 @cleanup_hour@ * * *" in "\n".join(after)
    assert [line for line in before if line.strip(" ,") not in {one.strip(" ,") for one in after}] == []
    assert json.loads((files / "node_types.json").read_text())["types"]["n8n-nodes-base.code"] == [2]
    assert n8n_export.refusals(VALUES, files / "workflows", files / "node_types.json") == []


def test_a_removed_node_goes_and_its_dangling_connection_is_reported(files: Path) -> None:
    workflow = live("memory-assemble")
    nodes = workflow["nodes"]
    assert isinstance(nodes, list)
    workflow["nodes"] = [node for node in nodes if isinstance(node, dict) and node["id"] != "respond"]
    write(files, workflow)
    problems = n8n_export.refusals(VALUES, files / "workflows", files / "node_types.json")
    assert "memory-assemble.json: connection to or from 'Respond', which is not a node of it" in problems


def test_a_workflow_without_a_file_gets_one_named_after_its_id(files: Path) -> None:
    workflow: n8n.Workflow = {"id": "mine", "name": "mine", "nodes": [], "connections": {}, "settings": {}}
    assert write(files, workflow) == ["wrote mine.json"]
    assert json.loads((files / "workflows" / "mine.json").read_text()) == workflow


def test_groups_of_nodes_are_said_to_be_left_out(files: Path) -> None:
    export = n8n_export.Export({}, {}, grouped=("memory-assemble",))
    assert n8n_export.write_back(export, VALUES, files / "workflows", files / "node_types.json") == [
        "left out: the groups of nodes of memory-assemble; a deploy removes them and keeps their nodes"
    ]


def test_what_is_no_export_is_one_sentence() -> None:
    with pytest.raises(DrillError, match="printed no export"):
        n8n_export.parse_export("<html>")
    parsed = n8n_export.parse_export(
        '{"workflows": {"a": {"id": "a"}}, "undeclared": [{"id": "b", "name": "B"}]}'
    )
    assert parsed == n8n_export.Export({"a": {"id": "a"}}, {"b": "B"})
    parsed = n8n_export.parse_export('{"workflows": {}, "undeclared": [], "grouped": ["a"]}')
    assert parsed == n8n_export.Export({}, {}, ("a",))
