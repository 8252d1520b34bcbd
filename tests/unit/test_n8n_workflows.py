"""The workflow files, and what makes one unfit to be deployed."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from settings import n8n
from settings.schema import SettingsError

PROJECT = Path(__file__).parents[2]
VALUES = n8n.workflow_values(timezone="Europe/Berlin", cleanup_hour=2)
CREDENTIALS = n8n.credentials("/etc/secrets")
TYPES = json.loads(n8n.NODE_TYPES.read_text())["types"]
CREDENTIAL_TYPES = {one.id: one.type for one in CREDENTIALS}


@pytest.fixture
def workflows() -> dict[str, n8n.Workflow]:
    return copy.deepcopy(n8n.load_workflows(VALUES, CREDENTIALS))


def problems(workflows: dict[str, n8n.Workflow]) -> list[str]:
    return n8n.check_workflows(workflows, CREDENTIAL_TYPES, TYPES)


def node(workflow: n8n.Workflow, identity: str) -> dict[str, n8n.Json]:
    nodes = workflow["nodes"]
    assert isinstance(nodes, list)
    (found,) = [one for one in nodes if isinstance(one, dict) and one["id"] == identity]
    return found


def test_the_files_are_fit(workflows: dict[str, n8n.Workflow]) -> None:
    assert problems(workflows) == []
    assert sorted(str(one["id"]) for one in workflows.values()) == [
        "memory-alerts",
        "memory-assemble",
        "memory-errors",
        "memory-nightly-cleanup",
        "memory-writeback",
    ]


def test_the_files_are_written_as_an_export_would_write_them() -> None:
    for path in n8n.WORKFLOWS.glob("*.json"):
        assert path.read_text() == n8n.file_text(json.loads(path.read_text())), path.name


def test_every_file_is_named_after_its_workflow_and_all_but_the_error_workflow_name_that() -> None:
    for name, workflow in n8n.load_templates().items():
        assert name == f"{workflow['id']}.json"
        settings = workflow["settings"]
        assert isinstance(settings, dict)
        if workflow["id"] != "memory-errors":
            assert settings["errorWorkflow"] == "memory-errors"


@pytest.mark.parametrize("name", ["memory-assemble", "memory-writeback"])
def test_the_hot_path_has_no_expression_and_keeps_nothing(
    workflows: dict[str, n8n.Workflow], name: str
) -> None:
    workflow = workflows[f"{name}.json"]
    for identity in ("webhook", "service", "respond"):
        assert '"=' not in json.dumps(node(workflow, identity)), identity
    settings = workflow["settings"]
    assert isinstance(settings, dict)
    assert settings["saveDataSuccessExecution"] == settings["saveDataErrorExecution"] == "none"


def test_no_workflow_that_a_webhook_starts_keeps_an_execution(workflows: dict[str, n8n.Workflow]) -> None:
    """Its data begin with the headers of the call, and so with the caller's token."""
    started = [one for one in workflows.values() if "n8n-nodes-base.webhook" in json.dumps(one)]
    assert len(started) == 3
    for workflow in started:
        settings = workflow["settings"]
        assert isinstance(settings, dict)
        assert settings["saveDataSuccessExecution"] == settings["saveDataErrorExecution"] == "none"
        assert settings["saveManualExecutions"] is settings["saveExecutionProgress"] is False


def test_the_pinned_image_is_the_version_whose_node_types_are_listed() -> None:
    pin = tomllib.loads((PROJECT / "images.toml").read_text())["n8n"]["tag"]
    assert json.loads(n8n.NODE_TYPES.read_text())["n8n"] == pin


def test_ids_of_credentials_are_what_n8n_accepts() -> None:
    for credential in n8n.credentials("/etc/secrets", llm_base_url="https://provider.example"):
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,16}", credential.id)


Break = Callable[[dict[str, n8n.Workflow]], object]
ASSEMBLE, WRITEBACK = "memory-assemble.json", "memory-writeback.json"
UNFIT: list[tuple[Break, str]] = [
    (lambda w: w[WRITEBACK].update(id="memory-assemble"), "id 'memory-assemble' is already used by"),
    (lambda w: w[ASSEMBLE].update(id="x" * 37), "is not 1 to 36 letters"),
    (lambda w: w[ASSEMBLE].pop("settings"), "has no 'settings'"),
    (lambda w: w[ASSEMBLE].update(active=True), "'active' does not belong in a workflow file"),
    (
        lambda w: node(w[ASSEMBLE], "service").update(type="n8n-nodes-base.httpRequestt"),
        "node 'Assemble': node type 'n8n-nodes-base.httpRequestt' is not known to the pinned n8n",
    ),
    (
        lambda w: node(w[ASSEMBLE], "service").update(typeVersion=99),
        "n8n-nodes-base.httpRequest has no version 99 in the pinned n8n",
    ),
    (
        lambda w: node(w[ASSEMBLE], "service").update(credentials={"httpHeaderAuth": {"id": "nobody"}}),
        "credential 'nobody' does not exist; declared are credMemorySvc",
    ),
    (
        lambda w: node(w[ASSEMBLE], "service").update(credentials={"httpBasicAuth": {"id": "credMemorySvc"}}),
        "credential 'credMemorySvc' is of type httpHeaderAuth, not httpBasicAuth",
    ),
    (lambda w: node(w[ASSEMBLE], "service").pop("id"), "node 'Assemble' has no 'id'"),
    (lambda w: node(w[ASSEMBLE], "webhook").pop("webhookId"), "has no 'webhookId': n8n would invent one"),
    (
        lambda w: node(w[ASSEMBLE], "webhook")["parameters"].update(authentication="none"),  # type: ignore[union-attr]
        "a webhook must demand header authentication",
    ),
    (
        lambda w: node(w[ASSEMBLE], "webhook")["parameters"].update(path="memory/writeback"),  # type: ignore[union-attr]
        "webhook path 'memory/writeback' is already used by memory-assemble.json",
    ),
    (lambda w: node(w[ASSEMBLE], "respond").update(name="Webhook"), "is used twice"),
    (
        lambda w: node(w[ASSEMBLE], "respond").update(name="Other"),
        "connection to or from 'Respond', which is not a node of it",
    ),
    (
        lambda w: w[ASSEMBLE]["settings"].update(errorWorkflow="gone"),  # type: ignore[union-attr]
        "errorWorkflow 'gone' is not the id of a workflow file",
    ),
]


@pytest.mark.parametrize(("spoil", "expected"), UNFIT, ids=[text for _, text in UNFIT])
def test_an_unfit_workflow_is_refused(
    workflows: dict[str, n8n.Workflow], spoil: Break, expected: str
) -> None:
    spoil(workflows)
    assert any(expected in problem for problem in problems(workflows)), problems(workflows)


def test_all_problems_of_all_files_are_named_at_once(tmp_path: Path) -> None:
    for path in n8n.WORKFLOWS.glob("*.json"):
        text = path.read_text().replace("credMemorySvc", "nobody").replace("@timezone@", "@time_zone@")
        (tmp_path / path.name).write_text(text)
    with pytest.raises(n8n.WorkflowFileError) as caught:
        n8n.load_workflows(VALUES, CREDENTIALS, directory=tmp_path)
    assert caught.value.problems[0] == "Workflow files refused, nothing was touched:"
    assert sum("unknown placeholder @time_zone@" in problem for problem in caught.value.problems) == 5


@pytest.mark.parametrize(("content", "expected"), [("{", "is not JSON"), ("[]", "holds no workflow object")])
def test_a_file_that_is_no_workflow_is_named(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "broken.json").write_text(content)
    with pytest.raises(n8n.WorkflowFileError, match=f"broken.json {expected}"):
        n8n.load_workflows(VALUES, CREDENTIALS, directory=tmp_path)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)))  # fmt: skip
def test_what_was_rendered_goes_back_to_its_placeholders(extra: n8n.Json) -> None:
    template: n8n.Json = {
        "url": "@memory_service_url@/v1",
        "off": "@alert_forward_disabled@",
        "list": ["@timezone@", 1],
    }
    live = n8n.render(template, VALUES)
    assert n8n.refill_placeholders(template, live, VALUES) == template
    assert isinstance(live, dict) and isinstance(template, dict)
    assert n8n.refill_placeholders(template, {**live, "new": extra}, VALUES) == {**template, "new": extra}


def test_an_edited_value_replaces_its_placeholder() -> None:
    template: n8n.Json = {"url": "@memory_service_url@/v1", "timezone": "@timezone@"}
    live: n8n.Json = {"url": "http://elsewhere/v1", "timezone": "Europe/Berlin"}
    assert n8n.refill_placeholders(template, live, VALUES) == {
        "url": "http://elsewhere/v1",
        "timezone": "@timezone@",
    }


def test_a_forward_address_turns_the_forward_node_on() -> None:
    values = n8n.workflow_values(timezone="UTC", cleanup_hour=2, alert_forward_url="https://ntfy.example/t")
    forward = node(n8n.load_workflows(values, CREDENTIALS)["memory-alerts.json"], "forward")
    assert forward["disabled"] is False
    assert forward["parameters"]["url"] == "https://ntfy.example/t"  # type: ignore[index,call-overload]


def environment(**changes: object) -> dict[str, str]:
    given: dict[str, object] = {"memory_mb": 640, "timezone": "UTC", "owner_email": "o@example.test",
                                "public_url": "https://n8n.example.test", **changes}  # fmt: skip
    return n8n.environment(**given)  # type: ignore[arg-type]


def test_no_secret_is_in_the_environment_only_names_of_files() -> None:
    for name, value in environment().items():
        if any(word in name for word in ("PASSWORD", "KEY", "TOKEN", "SECRET")):
            assert name.endswith("_FILE") and value.startswith("/run/secrets/n8n/")


def test_a_limit_in_which_n8n_cannot_boot_is_refused_with_the_setting_to_change() -> None:
    with pytest.raises(SettingsError, match=r"n8n_memory_mb is 512, .* at least 640: raise n8n_memory_mb"):
        environment(memory_mb=512)
    assert "--max-old-space-size=320 " in environment(memory_mb=640)["NODE_OPTIONS"]


@pytest.mark.parametrize(
    ("url", "secure"), [("https://n8n.example.test", "true"), ("http://127.0.0.1:5678", "false")]
)
def test_the_session_cookie_is_secure_wherever_a_browser_comes_by_tls(url: str, secure: str) -> None:
    assert environment(public_url=url)["N8N_SECURE_COOKIE"] == secure
