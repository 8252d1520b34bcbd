"""What docs/n8n.md and docs/webhook-contracts.md say is what the code does."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jsonschema_rs
import pytest

from settings import n8n, schema

DOCS = Path(__file__).parents[2] / "docs"
CONTRACTS = (DOCS / "webhook-contracts.md").read_text()
GUIDE = (DOCS / "n8n.md").read_text()
OPENAPI = json.loads((DOCS / "openapi.json").read_text())
EXAMPLES = re.findall(r"^```json (\w+)\n(.*?)^```", CONTRACTS, re.S | re.M)


@pytest.mark.parametrize(("model", "example"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_an_example_is_valid_and_an_answer_is_complete(model: str, example: str) -> None:
    described = {**OPENAPI["components"]["schemas"][model], "components": OPENAPI["components"]}
    document = json.loads(example)
    jsonschema_rs.validator_for(described).validate(document)
    assert document.keys() <= described["properties"].keys()
    if model.endswith("Response"):
        assert document.keys() == described["properties"].keys()


def test_every_contract_has_its_example() -> None:
    assert [name for name, _ in EXAMPLES] == [
        "AssembleRequest",
        "AssembleResponse",
        "WritebackRequest",
        "WritebackResponse",
        "ErrorResponse",
    ]


def test_every_error_code_of_the_workflows_is_documented() -> None:
    text = "".join(path.read_text() for path in n8n.WORKFLOWS.glob("*.json"))
    codes = set(re.findall(r"code: '(\w+)'", text)) | set(re.findall(r'\\"code\\": \\"(\w+)\\"', text))
    assert codes == {
        "memory_service_failed",
        "memory_service_timeout",
        "memory_service_unreachable",
        "alert_not_recorded",
        "not_an_alert",
    }
    for code in codes:
        assert f"`{code}`" in CONTRACTS


def test_every_workflow_path_and_deadline_is_documented() -> None:
    for name, workflow in n8n.load_templates().items():
        assert f"| `{name.removesuffix('.json')}` |" in GUIDE
        nodes = workflow["nodes"]
        assert isinstance(nodes, list)
        for node in nodes:
            assert isinstance(node, dict) and isinstance(node["parameters"], dict)
            if node["type"] == "n8n-nodes-base.webhook":
                assert f"`POST /webhook/{node['parameters']['path']}`" in GUIDE
            if node["id"] == "service" and "cleanup" not in name:
                options = node["parameters"]["options"]
                assert isinstance(options, dict)
                assert f"{options['timeout']} ms" in CONTRACTS


def test_every_setting_that_is_named_exists_with_the_limit_that_is_told() -> None:
    table = GUIDE.partition("## Settings")[2]
    named = re.findall(
        r"`(\w+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if "|" in line)
    )
    assert named
    assert set(named) - set(schema.defaults()) == set()
    assert f"at least {n8n.MIN_MEMORY_MB}; the heap is {n8n.BESIDE_THE_HEAP_MB} less" in table


def test_every_test_that_the_checklist_names_exists() -> None:
    for path in re.findall(r"`(tests/[\w/]+\.py)`", GUIDE):
        assert (DOCS.parent / path).is_file(), path


def test_the_picture_is_an_svg() -> None:
    root = ElementTree.parse(DOCS / "images" / "memory-flow.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "(images/memory-flow.svg)" in CONTRACTS
