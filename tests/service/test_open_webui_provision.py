"""The on-host provisioner against a real Open WebUI: everything from nothing, then exactly what drifted."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doubles.openai_double import serving
from tests.service.open_webui_server import FILTER, MODEL, OpenWebui, Webhook, database, http

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenWebui]:
    folder = tmp_path_factory.mktemp("open-webui")
    with database() as database_url, serving() as (llm_url, _):
        webhook = Webhook()
        webhook.start()
        server = OpenWebui(folder, database_url, llm_url, webhook, f"http://127.0.0.1:{webhook.port}")
        server.filter_file = folder / "memory_filter.py"
        server.filter_file.write_bytes(FILTER.read_bytes())
        server.prepare()
        server.start()
        first = server.provision("apply")
        assert first.returncode == 0, first.stderr
        server.first_apply = first.stdout  # type: ignore[attr-defined]
        yield server
        server.stop()
        webhook.stop()


def admin(server: OpenWebui) -> str:
    return str(json.loads((server.folder / "state" / "provision-session.json").read_text())["token"])


def post(server: OpenWebui, path: str, body: object = None) -> None:
    answer = http("POST", server.url + path, body, admin(server))
    assert answer.status == 200, f"{path} answered {answer.status}"


def repaired(server: OpenWebui, expected: list[str]) -> None:
    """The plan lists exactly these, the apply prints exactly these, and then nothing is left."""
    assert server.plan() == expected
    done = server.provision("apply")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected
    assert server.plan() == []


def test_the_first_run_makes_everything_and_the_second_finds_nothing(server: OpenWebui) -> None:
    lines = server.first_apply.splitlines()  # type: ignore[attr-defined]
    assert "the function memory_filter does not exist" in lines
    assert "the user test-client-001@example.test does not exist" in lines
    assert "the group phase3-eval does not exist" in lines
    assert server.plan() == []
    assert server.provision("apply").stdout == ""


def test_clients_json_names_each_client_with_the_id_that_the_server_chose(server: OpenWebui) -> None:
    path = server.folder / "state" / "clients.json"
    clients = json.loads(path.read_text())
    assert path.stat().st_mode & 0o777 == 0o600
    token = server.sign_in("test-client-001@example.test", server.secret("client_password"))
    me = http("GET", f"{server.url}/api/v1/auths/", token=token).json
    assert clients["test-client-001"]["open_webui_user_id"] == me["id"]
    assert me["role"] == "user" and me["name"] == "Test Client 001"
    assert server.webhook.clients[me["id"]]["tags"] == ["memory-test", "phase3-eval"]
    assert clients["test-client-001"]["client_id"] != clients["test-client-002"]["client_id"]


def test_a_plain_user_sees_the_model(server: OpenWebui) -> None:
    token = server.sign_in("test-client-002@example.test", server.secret("client_password"))
    models = http("GET", f"{server.url}/api/models", token=token).json["data"]
    assert [model["id"] for model in models] == [MODEL]


def test_no_secret_is_in_any_output_and_the_kept_session_is_private(server: OpenWebui) -> None:
    post(
        server,
        "/api/v1/functions/id/memory_filter/valves/update",
        {"token": "stolen-and-replaced", "priority": -10},
    )
    plan, apply = server.provision("plan"), server.provision("apply")
    shown = plan.stdout + plan.stderr + apply.stdout + apply.stderr
    assert "token differs" in shown
    assert "stolen-and-replaced" not in shown
    for name in ("admin_password", "client_password", "webhook_token", "memory_admin_token"):
        assert server.secret(name) not in shown
    session = server.folder / "state" / "provision-session.json"
    assert session.stat().st_mode & 0o777 == 0o600
    assert server.secret("admin_password") not in session.read_text()
    assert server.plan() == []


def test_many_runs_sign_in_once(server: OpenWebui) -> None:
    before = server.log.read_text().count("POST /api/v1/auths/signin")
    for _ in range(5):
        assert server.plan() == []
    assert server.log.read_text().count("POST /api/v1/auths/signin") == before


def test_edited_code_is_put_back(server: OpenWebui) -> None:
    answer = http("GET", f"{server.url}/api/v1/functions/id/memory_filter", token=admin(server)).json
    body = {key: answer[key] for key in ("id", "name", "meta")} | {
        "content": answer["content"] + "\n# edited\n"
    }
    post(server, "/api/v1/functions/id/memory_filter/update", body)
    repaired(server, ["the code of the function memory_filter differs"])


def test_the_stored_code_is_the_file_byte_for_byte(server: OpenWebui) -> None:
    answer = http("GET", f"{server.url}/api/v1/functions/id/memory_filter", token=admin(server)).json
    assert answer["content"].encode() == FILTER.read_bytes()


def test_a_changed_valve_a_deactivated_function_and_a_lost_global_flag_are_each_repaired(
    server: OpenWebui,
) -> None:
    path = "/api/v1/functions/id/memory_filter"
    valves = http("GET", f"{server.url}{path}/valves", token=admin(server)).json
    post(server, f"{path}/valves/update", {**valves, "assemble_timeout_s": 9.0})
    repaired(server, ["valves of the function memory_filter: assemble_timeout_s is 9.0, wanted 2.0"])
    post(server, f"{path}/toggle")
    repaired(server, ["the function memory_filter is not active"])
    post(server, f"{path}/toggle/global")
    repaired(server, ["the function memory_filter is not global"])


def test_a_deleted_function_comes_back_with_its_valves_active_and_global(server: OpenWebui) -> None:
    http("DELETE", f"{server.url}/api/v1/functions/id/memory_filter/delete", token=admin(server))
    repaired(
        server,
        [
            "the function memory_filter does not exist",
            "valves of the function memory_filter: none is set",
            "the function memory_filter is not active",
            "the function memory_filter is not global",
        ],
    )


def test_a_renamed_user_a_lost_membership_and_a_closed_model_are_repaired(server: OpenWebui) -> None:
    clients = json.loads((server.folder / "state" / "clients.json").read_text())
    user_id = clients["test-client-001"]["open_webui_user_id"]
    post(server, f"/api/v1/users/{user_id}/update", {"name": "Somebody", "role": "pending"})
    repaired(
        server,
        [
            "the user test-client-001@example.test is named 'Somebody', wanted 'Test Client 001' "
            "and has the role 'pending', wanted 'user'"
        ],
    )
    groups = http("GET", f"{server.url}/api/v1/groups/", token=admin(server)).json
    group = next(group for group in groups if group["name"] == "memory-test")
    post(server, f"/api/v1/groups/id/{group['id']}/users/remove", {"user_ids": [user_id]})
    repaired(server, ["the user test-client-001@example.test is not in the group memory-test"])
    post(
        server,
        "/api/v1/models/model/access/update",
        {"id": MODEL, "name": MODEL, "access_grants": []},
    )
    repaired(server, [f"the model {MODEL} is not readable by every user"])


def test_changed_tags_in_the_memory_service_are_repaired(server: OpenWebui) -> None:
    clients = json.loads((server.folder / "state" / "clients.json").read_text())
    server.webhook.clients[clients["test-client-001"]["open_webui_user_id"]]["tags"] = ["other"]
    repaired(server, ["the profile of test-client-001 differs in tags"])


def test_a_rotated_admin_password_is_set_through_the_kept_session(server: OpenWebui) -> None:
    (server.folder / "secrets" / "admin_password").write_text("another-Long-one-4711")
    repaired(server, ["the password of the admin admin@example.test is not the one in the secret store"])
    assert server.sign_in("admin@example.test", "another-Long-one-4711")


def test_a_rotated_client_password_is_set(server: OpenWebui) -> None:
    (server.folder / "secrets" / "client_password").write_text("another-Client-one-4711")
    assert len(server.plan()) == 2
    assert server.provision("apply").returncode == 0
    assert server.sign_in("test-client-002@example.test", "another-Client-one-4711")


def test_a_server_that_does_not_answer_is_data_for_a_plan_and_one_sentence_for_an_apply(
    server: OpenWebui, tmp_path: Path
) -> None:
    declared = json.loads((server.folder / "provision.json").read_text())
    original = (server.folder / "provision.json").read_text()
    (server.folder / "provision.json").write_text(json.dumps({**declared, "url": "http://127.0.0.1:9"}))
    try:
        plan, apply = server.provision("plan"), server.provision("apply")
    finally:
        (server.folder / "provision.json").write_text(original)
    assert json.loads(plan.stdout)["reachable"] is False and plan.returncode == 0
    assert apply.returncode == 1 and len(apply.stderr.splitlines()) == 1
    assert "docker logs" in apply.stderr


def test_settings_survive_a_restart_only_when_they_come_from_the_environment(server: OpenWebui) -> None:
    """ENABLE_PERSISTENT_CONFIG=false: what is clicked together in the admin pages is gone after a restart."""
    path = f"{server.url}/api/v1/configs/banners"
    banner = {
        "id": "b",
        "type": "info",
        "title": "",
        "content": "clicked",
        "dismissible": True,
        "timestamp": 1,
    }
    assert http("POST", path, {"banners": [banner]}, admin(server)).status == 200
    assert len(http("GET", path, token=admin(server)).json) == 1
    server.stop()
    started = time.monotonic()
    server.start()
    assert http("GET", path, token=admin(server)).json == []
    assert server.plan() == [], "functions, valves, users and groups are rows and stay"
    print(f"restart to ready: {time.monotonic() - started:.1f} s, RSS {server.rss_mb():.0f} MB")
