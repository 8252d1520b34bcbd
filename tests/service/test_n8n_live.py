"""A real n8n, provisioned by the script that a droplet runs, with the real Postgres and a stand-in memory service."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import psycopg
import pytest

from settings import n8n as desired
from tests.service.memory_double import MemoryDouble
from tests.service.n8n_server import PROVISIONER, SERVICE_TOKEN, WEBHOOK_TOKEN, Answer, Droplet, droplet

pytestmark = pytest.mark.real

SECOND_SERVICE_TOKEN = "second-service-token-for-the-tests"
ASSEMBLE = {"client_id": 1, "query": "what did we decide?", "timestamp": "2026-01-02T03:04:05Z"}
WORKFLOWS = [
    "memory-alerts",
    "memory-assemble",
    "memory-errors",
    "memory-nightly-cleanup",
    "memory-writeback",
]


@pytest.fixture(scope="module")
def service() -> Iterator[MemoryDouble]:
    double = MemoryDouble(SERVICE_TOKEN, SECOND_SERVICE_TOKEN)
    yield double
    double.stop()


@pytest.fixture(scope="module")
def server(service: MemoryDouble, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Droplet]:
    with droplet(tmp_path_factory.mktemp("n8n"), service.url) as machine:
        first = machine.plan()
        assert sum("does not exist" in sentence for sentence in first) == 3 + len(WORKFLOWS), first
        assert len(machine.apply()) == len(first)
        yield machine


@pytest.fixture(autouse=True)
def no_drift_left(server: Droplet, service: MemoryDouble) -> Iterator[None]:
    """Every test starts and ends with n8n as declared."""
    yield
    service.fail_with, service.delay_s = None, 0.0
    assert server.plan() == []


class Caller:
    """Calls a webhook without pause from its own thread, and keeps every answer that is not the contract's."""

    def __init__(self, server: Droplet, path: str = "memory/assemble", body: object = ASSEMBLE) -> None:
        self.answers = 0
        self.failures: list[Answer | Exception] = []
        self._server, self._path, self._body = server, path, body
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                answer = self._server.webhook(self._path, self._body)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(error)
                continue
            self.answers += 1
            if not is_answer(answer):
                self.failures.append(answer)

    def __enter__(self) -> Caller:
        self._thread.start()
        wait_for(lambda: self.answers > 3, 120)
        return self

    def __exit__(self, *_: object) -> None:
        before = self.answers
        try:
            wait_for(lambda: self.answers > before + 10, 120)  # answers after the change too
        finally:
            self._stop.set()
            self._thread.join()


def is_answer(answer: Answer) -> bool:
    """How a caller tells the contract's answer from n8n's texts while it boots: status, marker header, JSON."""
    return (
        answer.status == 200
        and "x-memory-workflow" in answer.headers
        and answer.headers["content-type"].startswith("application/json")
    )


def code(answer: Answer) -> object:
    """The code of the error that an answer tells."""
    error = answer.json()["error"]
    assert isinstance(error, dict), answer
    return error["code"]


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


def sql(server: Droplet, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(server.postgres.dsn("n8ndb", "postgres"), autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


# ---- contracts -----------------------------------------------------------------------------------------------------


def test_assemble_answers_as_the_service_within_two_seconds(server: Droplet, service: MemoryDouble) -> None:
    answer = server.webhook("memory/assemble", {**ASSEMBLE, "query": "naïve 你好 \u0000"})
    assert is_answer(answer), answer
    assert answer.headers["x-memory-workflow"] == "memory-assemble"
    assert answer.json()["profile"] == {"name": "Zoë", "tags": [], "metadata": None}
    assert answer.seconds < 2
    assert service.calls[-1] == ("/v1/assemble", {**ASSEMBLE, "query": "naïve 你好 \u0000"})
    assert service.content_types[-1].startswith("application/json")


def test_writeback_answers_as_the_service_within_three_seconds(
    server: Droplet, service: MemoryDouble
) -> None:
    body = {"client_id": 1, "conversation": [{"role": "user", "content": "hi"}], "response": "hello"}
    answer = server.webhook("memory/writeback", body)
    assert is_answer(answer), answer
    assert answer.json()["success"] is True
    assert answer.seconds < 3
    assert service.calls[-1] == ("/v1/writeback", body)


@pytest.mark.parametrize("path", ["memory/assemble", "memory/writeback", "alerts"])
@pytest.mark.parametrize("token", [None, "", "wrong", WEBHOOK_TOKEN + "x"])
def test_a_wrong_or_missing_token_is_refused_before_any_work(
    server: Droplet, service: MemoryDouble, path: str, token: str | None
) -> None:
    executions, calls = (
        sql(server, "SELECT coalesce(max(id), 0) FROM n8n.execution_entity"),
        len(service.calls),
    )
    answer = server.webhook(path, ASSEMBLE, token=token)
    assert answer.status == 403
    assert len(service.calls) == calls
    assert sql(server, "SELECT coalesce(max(id), 0) FROM n8n.execution_entity") == executions


@pytest.mark.parametrize("path", ["memory/assemble", "memory/writeback"])
def test_a_body_that_the_service_refuses_comes_back_with_its_status_and_reason(
    server: Droplet, path: str
) -> None:
    answer = server.webhook(path, {"query": "whose?"})
    assert (answer.status, answer.json()) == (
        422, {"error": {"code": "invalid", "message": "client_id: Field required"}},
    )  # fmt: skip


def test_a_body_that_is_no_json_is_refused_without_a_stack_trace(server: Droplet) -> None:
    answer = server.webhook("memory/assemble", b"{not json")
    assert answer.status == 422
    assert "stack" not in answer.text.lower()


@pytest.mark.parametrize(
    ("service_status", "status", "error"),
    [(401, 502, "memory_service_failed"), (403, 502, "memory_service_failed"), (500, 502, "memory_service_failed"),
     (404, 404, None), (409, 409, None), (413, 413, None), (429, 429, None), (503, 503, None)],
)  # fmt: skip
def test_a_failure_of_the_service_becomes_json_with_the_right_status(
    server: Droplet, service: MemoryDouble, service_status: int, status: int, error: str | None
) -> None:
    service.fail_with = service_status
    answer = server.webhook("memory/writeback", ASSEMBLE)
    assert answer.status == status, answer
    assert answer.headers["x-memory-workflow"] == "memory-writeback"
    if error:
        assert answer.json() == {
            "error": {"code": error, "message": f"The memory service answered with status {service_status}."}
        }  # fmt: skip
    else:
        assert answer.json() == {
            "error": {"code": "failing", "message": f"told to fail with {service_status}"}
        }
    if status >= 500:
        assert answer.headers["retry-after"] == ("7" if service_status == 503 else "2")
    assert SERVICE_TOKEN not in answer.text and WEBHOOK_TOKEN not in answer.text


@pytest.mark.parametrize(("path", "deadline_s"), [("memory/assemble", 2.0), ("memory/writeback", 3.0)])
def test_a_hanging_service_is_a_504_within_the_deadline(
    server: Droplet, service: MemoryDouble, path: str, deadline_s: float
) -> None:
    service.delay_s = deadline_s + 1
    seconds = []
    for _ in range(3):  # a busy machine is late now and then; without a deadline every answer would be
        answer = server.webhook(path, ASSEMBLE)
        assert (answer.status, code(answer)) == (504, "memory_service_timeout")
        seconds.append(answer.seconds)
    assert min(seconds) < deadline_s


def test_a_stopped_service_is_a_503_and_its_return_needs_nothing_of_n8n(
    server: Droplet, service: MemoryDouble
) -> None:
    service.stop()
    try:
        answer = server.webhook("memory/assemble", ASSEMBLE)
        assert (answer.status, code(answer)) == (503, "memory_service_unreachable")
        assert answer.headers["retry-after"] == "2"
    finally:
        service.start(service.port)
    assert is_answer(server.webhook("memory/assemble", ASSEMBLE))


# ---- alerts, errors, the schedule ----------------------------------------------------------------------------------


def test_an_alert_is_recorded_once_and_its_repetitions_are_counted(server: Droplet) -> None:
    body = {"monitor_name": "n8n memory-assemble", "status": "down", "message": "timeout of 3000ms exceeded"}
    first, second = (server.webhook("alerts", body) for _ in range(2))
    assert (first.status, second.status) == (202, 202)
    assert first.json()["accepted"] is True
    assert second.json() == {**first.json(), "repeats": 1}
    rows = sql(server, "SELECT name, status, message, repeats FROM alerts.event WHERE status = 'down'")
    assert rows == [("n8n memory-assemble", "down", "timeout of 3000ms exceeded", 1)]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (r"a\u0000b", "a\N{REPLACEMENT CHARACTER}b"),
        (r"half \ud83d of a pair", "half \N{REPLACEMENT CHARACTER} of a pair"),
        (r"other half \ude00", "other half \N{REPLACEMENT CHARACTER}"),
        (r"whole \ud83d\ude00", "whole \N{GRINNING FACE}"),
        (r"C:\\u0000 and \\ud83d are text, so is \\\\", r"C:\u0000 and \ud83d are text, so is \\"),
        (r"\\\u0000 \"quoted\"\n", '\\\N{REPLACEMENT CHARACTER} "quoted"\n'),
    ],
)
def test_an_alert_with_characters_that_postgres_cannot_keep_is_recorded_without_them(
    server: Droplet, sent: str, kept: str
) -> None:
    """It could be sent again for ever; a key of the body is treated as its values are."""
    body = f'{{"message": "{sent}", "status": "odd", "key {sent}": ["{sent}"]}}'.encode()
    answer = server.webhook("alerts", body)
    assert answer.status == 202, answer
    ((message, payload),) = sql(
        server, f"SELECT message, payload FROM alerts.event WHERE id = {answer.json()['id']}"
    )
    assert message == kept
    assert payload == {"message": kept, "status": "odd", f"key {kept}": [kept]}


def test_what_is_no_alert_is_refused(server: Droplet) -> None:
    answer = server.webhook("alerts", {"nothing": "in here"})
    assert (answer.status, code(answer)) == (422, "not_an_alert")


def test_the_cleanup_is_registered_for_two_at_night_and_runs_by_hand(
    server: Droplet, service: MemoryDouble
) -> None:
    live = server.live("memory-nightly-cleanup")
    assert live["active"] is True
    assert "0 2 * * *" in json.dumps(live["nodes"])
    assert isinstance(live["settings"], dict) and live["settings"]["timezone"] == "Europe/Berlin"
    before = [path for path, *_ in service.calls].count("/v1/cleanup")
    started = time.monotonic()
    completed = server.provision("run", "memory-nightly-cleanup")
    assert completed.returncode == 0, completed.stderr
    assert json.loads(completed.stdout)["result"]["deleted"] == {"facts": 3}
    assert time.monotonic() - started < 30
    assert [path for path, *_ in service.calls].count("/v1/cleanup") == before + 1


def test_the_schedule_fires_and_its_failure_reaches_the_error_workflow(
    server: Droplet, service: MemoryDouble
) -> None:
    """The declared cron, moved close: every two seconds instead of at two at night."""
    path = server.directory / "workflows" / "memory-nightly-cleanup.json"
    declared = path.read_text()
    service.fail_with = 500
    path.write_text(declared.replace("0 2 * * *", "*/2 * * * * *"))
    try:
        server.apply()
        wait_for(
            lambda: sql(server, "SELECT 1 FROM alerts.event WHERE name = 'memory-nightly-cleanup'") != [], 90
        )
        service.fail_with = None
        calls = len(service.calls)
        wait_for(lambda: any(path == "/v1/cleanup" for path, _ in service.calls[calls:]), 90)
    finally:
        path.write_text(declared)
        assert any("differs" in line for line in server.apply())
    ((source, status, message),) = sql(
        server,
        "SELECT source, status, message FROM alerts.event WHERE name = 'memory-nightly-cleanup' LIMIT 1",
    )
    assert (source, status) == ("n8n", "error")
    assert message


def test_a_failure_whose_text_is_cut_amid_a_character_reaches_the_error_workflow(
    server: Droplet, service: MemoryDouble
) -> None:
    """The text is what a node threw, so what an upstream said; it is kept up to a length."""
    path = server.directory / "workflows" / "memory-nightly-cleanup.json"
    declared = path.read_text()
    workflow = json.loads(declared)
    text = "x" * 199 + "\N{GRINNING FACE}" + "\0" * 3
    for node in workflow["nodes"]:
        if node["type"] == "n8n-nodes-base.scheduleTrigger":
            node["parameters"] = {
                "rule": {"interval": [{"field": "cronExpression", "expression": "*/2 * * * * *"}]}
            }
        elif node["id"] == "service":
            stop: dict[str, object] = {"errorMessage": text}
            for key in ("credentials", "onError"):
                node.pop(key, None)
            node |= {"type": "n8n-nodes-base.stopAndError", "typeVersion": 1, "parameters": stop}
    path.write_text(json.dumps(workflow))
    kept = "SELECT message FROM alerts.event WHERE message LIKE 'xxx%'"
    try:
        server.apply()
        wait_for(lambda: sql(server, kept) != [], 90)
    finally:
        path.write_text(declared)
        server.apply()
    assert sql(server, kept)[0] == ("x" * 199 + "\N{REPLACEMENT CHARACTER}",)


def test_n8n_cannot_read_the_memories_of_the_service(server: Droplet) -> None:
    with psycopg.connect(server.postgres.dsn("n8ndb", "postgres"), autocommit=True) as connection:
        connection.execute("SET ROLE memory")
        connection.execute("CREATE TABLE IF NOT EXISTS memory.secret_turns (text text)")
        connection.execute("SET ROLE n8n")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM memory.secret_turns")


# ---- declared = live -----------------------------------------------------------------------------------------------


def edit(server: Droplet, workflow: str, publish: bool, **parameters: object) -> None:
    """Somebody changes the timeout of the call in the editor, and publishes it or leaves it a draft."""
    live = server.live(workflow)
    nodes = live["nodes"]
    assert isinstance(nodes, list)
    for node in nodes:
        if isinstance(node, dict) and node["id"] == "service":
            assert isinstance(node["parameters"], dict)
            node["parameters"]["options"] = {"timeout": 1234}
            node["parameters"].update(parameters)  # type: ignore[arg-type]
    body = {key: live[key] for key in ("name", "nodes", "connections", "settings")}
    if publish:
        server.person("PUT", f"/api/v1/workflows/{workflow}?publishIfActive=true", body)
        wait_for(lambda: (now := server.live(workflow))["versionId"] == now["activeVersionId"], 90)
    else:
        server.person("PUT", f"/api/v1/workflows/{workflow}?publishIfActive=false", body)


def delete(server: Droplet, workflow: str) -> None:
    """Somebody archives a workflow and deletes it, which n8n refuses while it is still unpublishing."""
    server.person("POST", f"/api/v1/workflows/{workflow}/archive", {})
    wait_for(lambda: server.person_status("DELETE", f"/api/v1/workflows/{workflow}") == 200, 90)


def test_a_second_run_changes_nothing_and_logs_in_only_once(server: Droplet) -> None:
    versions = [server.live(workflow)["versionId"] for workflow in WORKFLOWS]
    for _ in range(8):  # n8n refuses the sixth login of a minute
        assert server.plan() == []
        assert server.apply() == []
    assert [server.live(workflow)["versionId"] for workflow in WORKFLOWS] == versions


def test_an_edit_in_the_editor_is_named_by_node_and_field_and_repaired_without_a_failed_call(
    server: Droplet,
) -> None:
    edit(server, "memory-assemble", publish=True, url="http://127.0.0.1:9/?token=sk-pasted-by-somebody")
    differences = server.plan()
    assert differences == [
        f'workflow "memory-assemble": node "Assemble": parameters.url differs, declared '
        f'"{server.service_url}/v1/assemble"',
        'workflow "memory-assemble": node "Assemble": parameters.options.timeout is 1234, declared 1800',
    ]
    assert "sk-pasted" not in str(differences)
    with Caller(server, "memory/writeback") as caller:
        assert len(server.apply()) == 2
    assert caller.failures == []
    assert is_answer(server.webhook("memory/assemble", ASSEMBLE))


def test_repairing_a_workflow_fails_no_call_to_that_very_workflow(server: Droplet) -> None:
    edit(server, "memory-assemble", publish=True)
    with Caller(server) as caller:
        assert len(server.apply()) == 1
    assert caller.failures == []
    print(f"{caller.answers} calls while the workflow was repaired, none failed")


def test_a_draft_that_is_not_published_is_shown_and_removed(server: Droplet) -> None:
    edit(server, "memory-writeback", publish=False)
    assert server.plan() == [
        'workflow "memory-writeback": node "Write back": parameters.options.timeout is 1234, declared 2800',
        'workflow "memory-writeback": has an edit that is not published',
    ]
    with Caller(server, "memory/writeback") as caller:
        server.apply()
    assert caller.failures == []


def test_a_deactivated_workflow_is_shown_and_published_again(server: Droplet) -> None:
    server.person("POST", "/api/v1/workflows/memory-assemble/unpublish", {})
    wait_for(lambda: server.webhook("memory/assemble", ASSEMBLE).status == 404, 90)
    assert server.plan() == ['workflow "memory-assemble": is not published']
    with Caller(server, "memory/writeback") as caller:
        assert server.apply() == ['repaired workflow "memory-assemble": is not published']
        assert is_answer(server.webhook("memory/assemble", ASSEMBLE)), "live as soon as apply has ended"
    assert caller.failures == []


@pytest.mark.parametrize("also_delete", [False, True])
def test_an_archived_or_deleted_workflow_is_shown_and_comes_back(server: Droplet, also_delete: bool) -> None:
    if also_delete:
        delete(server, "memory-alerts")
    else:
        server.person("POST", "/api/v1/workflows/memory-alerts/archive", {})
    expected = ["does not exist"] if also_delete else ["is archived", "is not published"]
    assert server.plan() == [f'workflow "memory-alerts": {text}' for text in expected]
    with Caller(server) as caller:
        server.apply()
    assert caller.failures == []
    assert server.webhook("alerts", {"message": "back"}).status == 202


def test_a_rotated_service_token_is_shown_without_its_value_and_replaced_without_a_failed_call(
    server: Droplet, service: MemoryDouble
) -> None:
    server.write_secret("memory_service_token", SECOND_SERVICE_TOKEN)
    try:
        assert server.plan() == [
            'credential "memory service token" (credMemorySvc): declared value has changed since it was applied'
        ]
        with Caller(server) as caller:
            assert len(server.apply()) == 1
        assert caller.failures == []
        service.tokens.remove(SERVICE_TOKEN)
        assert is_answer(server.webhook("memory/assemble", ASSEMBLE)), "n8n uses the new token"
    finally:
        service.tokens.add(SERVICE_TOKEN)
        server.write_secret("memory_service_token", SERVICE_TOKEN)
        server.apply()


def test_a_credential_changed_in_the_editor_is_shown_and_put_back(server: Droplet) -> None:
    data = {"name": "X-Webhook-Token", "value": "changed by somebody"}
    server.person("PATCH", "/api/v1/credentials/credWebhookToken", {"name": "webhook token", "data": data})
    assert server.webhook("memory/assemble", ASSEMBLE).status == 403
    assert server.plan() == [
        'credential "webhook token" (credWebhookToken): was changed in n8n since it was applied'
    ]
    server.apply()
    assert is_answer(server.webhook("memory/assemble", ASSEMBLE))


def test_a_deleted_credential_is_created_again_under_its_id(server: Droplet) -> None:
    server.person("DELETE", "/api/v1/credentials/credMemorySvc")
    assert server.plan() == ['credential "memory service token" (credMemorySvc): does not exist']
    server.apply()
    assert is_answer(server.webhook("memory/assemble", ASSEMBLE))


def test_lost_state_costs_one_more_write_of_the_credentials_and_no_failed_call(server: Droplet) -> None:
    (server.directory / "provisioner-state" / "credentials.json").write_text("{damaged")
    assert all("was never applied by this host" in sentence for sentence in server.plan())
    with Caller(server) as caller:
        assert len(server.apply()) == 3
    assert caller.failures == []


def test_a_run_killed_at_any_point_converges_when_repeated(server: Droplet) -> None:
    for delay_s in (0.15, 0.3, 0.5, 0.9):
        delete(server, "memory-alerts")
        edit(server, "memory-writeback", publish=False)
        command = [sys.executable, PROVISIONER, "--config", server.directory / "provision.json", "apply"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(delay_s)  # where the run is killed, not a wait for something
        process.send_signal(signal.SIGKILL)
        process.wait()
        server.apply()
        assert server.plan() == []


def test_a_file_with_a_credential_that_does_not_exist_touches_nothing(server: Droplet) -> None:
    path = server.directory / "workflows" / "memory-assemble.json"
    declared = path.read_text()
    path.write_text(declared.replace("credMemorySvc", "credOfNobody").replace("1800", "1500"))
    before = server.live("memory-assemble")["versionId"]
    try:
        completed = server.provision("apply")
        assert completed.returncode == 1
        assert 'node "Assemble" names a credential that does not exist' in completed.stderr
        assert server.live("memory-assemble")["versionId"] == before
    finally:
        path.write_text(declared)


def test_an_edit_is_exported_as_a_file_that_keeps_its_placeholders(server: Droplet) -> None:
    edit(server, "memory-assemble", publish=True)
    completed = server.provision("export", "memory-assemble")
    assert completed.returncode == 0, completed.stderr
    live = json.loads(completed.stdout)["workflows"]["memory-assemble"]
    template = desired.load_templates()["memory-assemble.json"]
    text = desired.file_text(desired.refill_placeholders(template, live, server.values()))  # type: ignore[arg-type]
    assert text == desired.file_text(template).replace('"timeout": 1800', '"timeout": 1234')
    server.apply()


SAVED_BY_THE_DIALOG: dict[str, desired.Json] = {
    "timeSavedMode": "fixed", "binaryMode": "separate", "availableInMCP": False,
}  # fmt: skip


def settings_of(server: Droplet, workflow: str) -> dict[str, desired.Json]:
    settings = server.live(workflow)["settings"]
    assert isinstance(settings, dict)
    return settings


def test_settings_that_the_editor_adds_are_named_and_removed_without_a_failed_call(server: Droplet) -> None:
    """Its dialog saves what it shows, and three settings that nobody chose are among that."""
    declared = settings_of(server, "memory-assemble")
    body = {"settings": {**declared, "executionTimeout": 7, **SAVED_BY_THE_DIALOG}}
    server.person("PATCH", "/rest/workflows/memory-assemble", body)
    assert settings_of(server, "memory-assemble") == body["settings"]
    expected = [
        'workflow "memory-assemble": settings.executionTimeout is 7, declared 5',
        *(
            f'workflow "memory-assemble": settings.{key} is set, but not declared'
            for key in SAVED_BY_THE_DIALOG
        ),
    ]
    assert sorted(server.plan()) == sorted(expected)
    with Caller(server) as caller:
        assert len(server.apply()) == 4
    assert caller.failures == []
    assert settings_of(server, "memory-assemble") == declared
    assert server.plan() == []
    print(f"{caller.answers} calls while the settings were repaired, none failed")


def test_a_run_killed_between_clearing_and_setting_the_settings_is_finished_by_the_next(
    server: Droplet,
) -> None:
    declared = settings_of(server, "memory-assemble")
    server.person("PATCH", "/rest/workflows/memory-assemble", {"settings": None})
    assert len(server.plan()) == 1
    with Caller(server) as caller:
        server.apply()
    assert caller.failures == []
    assert settings_of(server, "memory-assemble") == declared


@pytest.mark.parametrize("also_delete", [False, True])
def test_every_setting_that_the_editor_saves_can_be_declared(server: Droplet, also_delete: bool) -> None:
    """So an export of such a workflow is the same on another droplet, where it is created."""
    path = server.directory / "workflows" / "memory-alerts.json"
    declared = path.read_text()
    workflow = json.loads(declared)
    workflow["settings"] |= SAVED_BY_THE_DIALOG
    path.write_text(json.dumps(workflow))
    try:
        if also_delete:
            delete(server, "memory-alerts")
        server.apply()
        assert server.plan() == []
        assert settings_of(server, "memory-alerts") == workflow["settings"]
    finally:
        path.write_text(declared)
        server.apply()


@pytest.mark.parametrize("new_node", [True, False])
def test_a_group_of_nodes_is_named_and_removed_with_what_was_added_to_it(
    server: Droplet, new_node: bool
) -> None:
    live = server.live("memory-assemble")
    nodes = live["nodes"]
    assert isinstance(nodes, list)
    members: list[desired.Json] = ["respond-refused"]
    if new_node:
        members = ["added"]
        nodes.append(
            {"id": "added", "name": "Added", "type": "n8n-nodes-base.noOp", "typeVersion": 1, "position": [0, 400],
             "parameters": {}}
        )  # fmt: skip
    group = {"id": "g", "name": "sk-pasted-by-somebody", "nodeIds": members}
    body = {**{key: live[key] for key in ("name", "nodes", "connections", "settings")}, "nodeGroups": [group]}
    server.person("PUT", "/api/v1/workflows/memory-assemble?publishIfActive=true", body)
    wait_for(
        lambda: (now := server.live("memory-assemble"))["versionId"] == now["activeVersionId"],
        10,
    )
    expected = ["1 node added by hand"] * new_node + ["1 group of nodes made by hand"]
    assert server.plan() == [f'workflow "memory-assemble": {text}' for text in expected]
    exported = json.loads(server.provision("export", "memory-assemble").stdout)
    assert exported["grouped"] == ["memory-assemble"]
    with Caller(server) as caller:
        server.apply()
    assert caller.failures == []


# ---- load and restarts ---------------------------------------------------------------------------------------------


def test_fifty_concurrent_callers_stay_inside_the_memory_limit(server: Droplet) -> None:
    answers: Counter[int] = Counter()
    peak = 0.0
    stop = time.monotonic() + 20

    def call() -> None:
        while time.monotonic() < stop:
            answers[server.webhook("memory/assemble", ASSEMBLE).status] += 1

    threads = [threading.Thread(target=call) for _ in range(50)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        peak = max(peak, sum(server.memory_used_mb().values()))
        time.sleep(0.5)
    print(f"50 callers: {sum(answers.values())} answers in 20 s, {dict(answers)}, peak {peak:.0f} MiB")
    # A machine that is too slow for fifty at once says so in time, and does not fail.
    assert set(answers) <= {200, 503, 504} and answers[200] > 0.5 * sum(answers.values())
    assert peak < server.memory_mb


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_amid_500_writebacks_loses_none_that_was_acknowledged(
    server: Droplet, service: MemoryDouble, how: signal.Signals
) -> None:
    """Callers repeat until they get the contract's answer; n8n's texts while it boots must not count as one."""
    acknowledged: list[str] = []
    other: Counter[str] = Counter()
    todo = [f"{how.name}-{number}" for number in range(500)]
    service.delay_s = 0.2  # slow enough that n8n does not finish all of them in its orderly end
    stop = time.monotonic() + 400

    def write() -> None:
        while todo and time.monotonic() < stop:
            try:
                message = todo.pop()
            except IndexError:
                return
            body = {"client_id": 1, "message_id": message, "response": "x"}
            while time.monotonic() < stop:
                try:
                    answer = server.webhook("memory/writeback", body)
                except (OSError, http.client.HTTPException) as error:
                    other[type(error).__name__] += 1
                    time.sleep(0.05)
                    continue
                if is_answer(answer):
                    acknowledged.append(message)
                    break
                other[f"{answer.status} {answer.text[:20]}"] += 1
                time.sleep(0.05)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(acknowledged) > 100, 240)
    in_the_middle = len(acknowledged)
    server.stop(how)
    server.start(wait=False)
    for thread in threads:
        thread.join()
    server.wait_ready()
    print(f"{how.name} after {in_the_middle} of 500; meanwhile {dict(other)}")
    assert 100 < in_the_middle < 500
    # Told to end, n8n goes on answering until nothing is left to do; killed, it cannot.
    assert how is signal.SIGTERM or other, "the restart was noticed"
    assert sorted(acknowledged) == sorted(f"{how.name}-{number}" for number in range(500))
    lost = [message for message in acknowledged if message not in service.committed]
    assert lost == []


# ---- what stays behind ---------------------------------------------------------------------------------------------


def test_no_token_and_no_conversation_stays_in_logs_files_or_executions(server: Droplet) -> None:
    words = "a-sentence-from-a-conversation"
    assert is_answer(server.webhook("memory/assemble", {**ASSEMBLE, "query": words}))
    server.webhook("memory/assemble", b'{"query": "' + words.encode() + b'" oops')
    kept = "SELECT 1 FROM n8n.execution_data WHERE data LIKE '%{}%' LIMIT 1"
    for word in (words, WEBHOOK_TOKEN, SERVICE_TOKEN):
        # After a rush n8n removes 100 executions a second, in no order: each word is waited for.
        wait_for(lambda word=word: sql(server, kept.format(word)) == [], 150)
    for token in (WEBHOOK_TOKEN, SERVICE_TOKEN):
        assert sql(server, f"SELECT 1 FROM n8n.credentials_entity WHERE data LIKE '%{token}%'") == []
    for path in [
        server.log,
        *(server.directory / "home").rglob("*"),
        *(server.directory / "provisioner-state").iterdir(),
    ]:
        if path.is_file():
            text = path.read_bytes()
            for word in (WEBHOOK_TOKEN, SERVICE_TOKEN, words):
                assert word.encode() not in text, f"{word} in {path.name}"


def test_an_alert_that_cannot_be_forwarded_leaves_no_token_and_is_recorded_as_a_failure(
    server: Droplet,
) -> None:
    directory = server.directory / "workflows"
    declared = {
        path: path.read_text()
        for path in (directory / "memory-alerts.json", directory / "memory-errors.json")
    }
    for path, text in declared.items():
        workflow = json.loads(text)
        for node in workflow["nodes"]:
            if node["id"] == "forward":
                node["disabled"] = False
                node["parameters"]["url"] = "http://127.0.0.1:9/"
        path.write_text(json.dumps(workflow))
    try:
        server.apply()
        assert server.webhook("alerts", {"message": "an alert that nobody takes"}).status == 202
        failure = "SELECT 1 FROM alerts.event WHERE source = 'n8n' AND name = 'memory-alerts'"
        wait_for(lambda: sql(server, failure) != [], 90)
    finally:
        for path, text in declared.items():
            path.write_text(text)
        server.apply()
    kept = f"SELECT 1 FROM n8n.execution_data WHERE data LIKE '%{WEBHOOK_TOKEN}%'"
    wait_for(lambda: sql(server, kept) == [], 150)


def test_what_the_provisioner_keeps_is_for_root_only(server: Droplet) -> None:
    state = server.directory / "provisioner-state"
    assert state.stat().st_mode & 0o777 == 0o700
    for name in ("session", "credentials.json"):
        assert (state / name).stat().st_mode & 0o777 == 0o600
