"""n8n on a live droplet: its webhooks called over TLS through the ingress, its drift made and repaired."""

import json
import shlex
import time
import uuid
from dataclasses import dataclass

import pytest

PROVISIONER = "python3 /usr/local/lib/memory-droplet/n8n.py"
SECRETS = "/etc/memory-droplet/secrets/n8n"
URL = "http://127.0.0.1:5678"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: str
    text: str
    seconds: float

    def json(self):
        return json.loads(self.text)


@pytest.fixture(scope="module")
def webhook(host, droplet):
    """Call a webhook as the outside world does; ``token``: None sends none, "right" the right one."""
    domain = droplet.settings["domain"]

    def call(path, body, token="right"):
        token_header = {
            None: "",
            "right": f'-H "X-Webhook-Token: $(cat {SECRETS}/webhook_token)"',
        }.get(token, f"-H 'X-Webhook-Token: {token}'")
        command = (
            f"curl -sS -k -i --max-time 40 --resolve n8n.{domain}:443:127.0.0.1 {token_header} "
            f"-H 'Content-Type: application/json' -w '\\n%{{time_total}}' "
            f"-d {shlex.quote(json.dumps(body))} https://n8n.{domain}/webhook/{path}"
        )
        head, _, rest = host.run(command).stdout.replace("\r\n", "\n").partition("\n\n")
        text, _, seconds = rest.rpartition("\n")
        return Answer(int(head.split()[1]), head.lower(), text, float(seconds))

    return call


@pytest.fixture
def client():
    """A client that nobody used before."""
    return f"droplet-test-{uuid.uuid4()}"


def sql(host, statement):
    return host.check_output("docker exec postgres psql -XAtq -U postgres -d n8ndb -c %s", statement)


def plan(host):
    document = json.loads(host.check_output(f"{PROVISIONER} plan"))
    assert document["reachable"], document
    return document["differences"]


def as_owner(host, method, path, body):
    """A call with the owner's session, as the editor makes it."""
    session = host.check_output("cat /var/lib/memory-droplet/n8n-provisioner/session")
    done = host.run(
        f"curl -sS -o /dev/null -w '%{{http_code}}' -X {method} -H 'Cookie: n8n-auth={session}' "
        f"-H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))} {URL}{path}"
    )
    assert done.stdout in ("200", "201"), done.stdout


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.3)


def turn(client, text="I prefer green tea in the morning"):
    return {
        "client_id": client,
        "conversation": [{"role": "user", "content": text}],
        "response": "Noted.",
        "chat_id": f"chat-{client}",
        "message_id": "m1",
    }


def test_the_unit_is_active_enabled_and_its_container_healthy(host):
    unit = host.service("droplet-n8n")
    assert unit.is_running
    assert unit.is_enabled
    assert host.check_output("docker inspect -f '{{.State.Health.Status}}' n8n") == "healthy"


def test_live_is_what_is_declared(host):
    assert plan(host) == []


def test_assemble_answers_its_contract_within_two_seconds(webhook, client):
    answer = webhook(
        "memory/assemble", {"client_id": client, "query": "tea?", "timestamp": "2026-01-02T03:04:05Z"}
    )
    assert answer.status == 200, answer
    assert "x-memory-workflow: memory-assemble" in answer.headers
    assert answer.json().keys() >= {
        "client_id", "profile", "similar_chunks", "recent_episodes", "timestamp", "execution_time_ms", "degraded",
    }  # fmt: skip
    assert answer.seconds < 2


def test_a_writeback_is_in_postgres_and_in_the_index_within_three_seconds_and_found_again(
    host, webhook, client
):
    answer = webhook("memory/writeback", turn(client))
    assert answer.status == 200, answer
    assert answer.json()["success"] is True
    assert answer.seconds < 3
    episode = answer.json()["episode_id"]
    assert sql(host, f"select count(*) from memory.episodes where id = {episode}") == "1"

    def points():
        key = "$(awk '$1 == \"api_key:\" {print $2}' /etc/memory-droplet/secrets/qdrant/production.yaml)"
        count = {"exact": True, "filter": {"must": [{"key": "client_id", "match": {"value": owner}}]}}
        done = host.check_output(
            f"curl -sS -H \"api-key: {key}\" -H 'Content-Type: application/json' "
            f"-d '{json.dumps(count)}' http://127.0.0.1:6333/collections/memory_vectors/points/count"
        )
        return json.loads(done)["result"]["count"]

    owner = int(sql(host, f"select client_id from memory.episodes where id = {episode}"))
    wait_for(lambda: points() > 0, 15)
    found = webhook("memory/assemble", {"client_id": client, "query": "which tea in the morning?"}).json()
    assert any("green tea" in chunk["content"] for chunk in found["similar_chunks"]), found


def test_the_same_writeback_twice_is_one_episode(webhook, client):
    first, second = (webhook("memory/writeback", turn(client)).json() for _ in range(2))
    assert first["episode_id"] == second["episode_id"]


@pytest.mark.parametrize("path", ["memory/assemble", "memory/writeback", "alerts"])
@pytest.mark.parametrize("token", [None, "wrong"])
def test_a_wrong_or_missing_token_is_refused(webhook, client, path, token):
    assert webhook(path, turn(client), token=token).status == 403


def test_a_body_that_the_service_refuses_comes_back_with_its_status_and_reason(webhook):
    answer = webhook("memory/assemble", {"query": "whose?"})
    assert answer.status in (400, 422)
    assert "client_id" in answer.json()["error"]["message"]


def test_the_cleanup_runs_by_hand_within_thirty_seconds(host):
    started = time.monotonic()
    done = json.loads(host.check_output(f"{PROVISIONER} run memory-nightly-cleanup"))
    assert done["status"] == "success"
    assert done["result"]["complete"] is True
    assert time.monotonic() - started < 30


def test_a_stopped_memory_service_is_a_defined_error_and_its_return_needs_nothing_of_n8n(
    host, webhook, client
):
    since = host.check_output("docker inspect -f '{{.State.StartedAt}}' n8n")
    host.check_output("systemctl stop memory-service.socket memory-service.service")
    try:
        answer = webhook("memory/assemble", {"client_id": client, "query": "tea?"})
        assert answer.status == 503, answer
        assert answer.json()["error"]["code"] == "memory_service_unreachable"
        assert "retry-after: " in answer.headers
    finally:
        host.check_output("systemctl start memory-service.socket memory-service.service")
    wait_for(lambda: webhook("memory/assemble", {"client_id": client, "query": "tea?"}).status == 200, 30)
    assert host.check_output("docker inspect -f '{{.State.StartedAt}}' n8n") == since


def test_an_alert_is_recorded(host, webhook):
    name = f"droplet test {uuid.uuid4()}"
    answer = webhook("alerts", {"monitor_name": name, "status": "down", "message": "no answer"})
    assert answer.status == 202, answer
    assert sql(host, f"select status, message from alerts.event where name = '{name}'") == "down|no answer"


def test_a_deactivated_workflow_is_named_and_published_again(host, webhook, client):
    as_owner(host, "POST", "/api/v1/workflows/memory-assemble/unpublish", {})
    try:
        wait_for(lambda: webhook("memory/assemble", {"client_id": client, "query": "x"}).status == 404, 20)
        assert plan(host) == ['workflow "memory-assemble": is not published']
    finally:
        done = host.check_output(f"{PROVISIONER} apply")
    assert done == 'repaired workflow "memory-assemble": is not published'
    assert webhook("memory/assemble", {"client_id": client, "query": "x"}).status == 200


def test_while_n8n_restarts_no_caller_gets_its_boot_page_for_an_answer(host, webhook, client):
    answers = []
    host.check_output("systemctl restart --no-block droplet-n8n")

    def answered_again():
        answer = webhook("memory/assemble", {"client_id": client, "query": "x"})
        answers.append(answer)
        return len(answers) > 3 and answer.status == 200 and any(one.status != 200 for one in answers)

    wait_for(answered_again, 180)
    for answer in answers:
        assert "starting up" not in answer.text
        assert (answer.status == 200) == ("x-memory-workflow" in answer.headers), answer


def test_no_secret_is_in_its_environment_its_log_or_its_unit(host):
    told = host.check_output("docker inspect n8n") + host.check_output("docker logs n8n 2>&1")
    told += host.file("/etc/systemd/system/droplet-n8n.service").content_string
    for name in host.check_output(f"ls {SECRETS}").split():
        value = host.check_output(f"cat {SECRETS}/{name}")
        assert not value or value not in told, name


def test_its_secrets_are_for_their_reader_only(host):
    assert host.file(SECRETS).mode == 0o700
    for name in host.check_output(f"ls {SECRETS}").split():
        assert host.file(f"{SECRETS}/{name}").mode == 0o400, name


def test_the_owner_reaches_the_editor_through_the_ingress(host, droplet):
    domain = droplet.settings["domain"]
    page = host.check_output(
        f"curl -sS -k --resolve n8n.{domain}:443:127.0.0.1 https://n8n.{domain}/ | head -c 3000"
    )
    assert "<title>n8n" in page


def test_its_metrics_are_on_loopback(host):
    metrics = host.check_output(f"curl -sS {URL}/metrics")
    assert "n8n_webhook_request_duration_seconds_count" in metrics


def test_it_stays_inside_its_memory_limit(host):
    limit = int(host.check_output("docker inspect -f '{{.HostConfig.Memory}}' n8n"))
    assert 0 < limit <= 1024 * 2**20
    assert host.check_output("docker inspect -f '{{.State.OOMKilled}}' n8n") == "false"
