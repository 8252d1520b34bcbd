"""n8n on a live droplet: its webhooks called over TLS through the ingress, its drift made and repaired."""

import collections
import contextlib
import http.client
import json
import shlex
import socket
import ssl
import threading
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
    """Call a webhook as the outside world does; ``token``: None sends none, "right" the right one.

    Without an ingress the outside world is n8n's port on the loopback address.
    """
    site = f"n8n.{droplet.settings['domain']}"
    where = (
        f"--resolve {site}:443:127.0.0.1 https://{site}" if droplet.settings["ingress"] == "caddy" else URL
    )

    def call(path, body, token="right"):
        token_header = {
            None: "",
            "right": f'-H "X-Webhook-Token: $(cat {SECRETS}/webhook_token)"',
        }.get(token, f"-H 'X-Webhook-Token: {token}'")
        command = (
            f"curl -sS -k -i --max-time 40 {token_header} "
            f"-H 'Content-Type: application/json' -w '\\n%{{time_total}}' "
            f"-d {shlex.quote(json.dumps(body))} {where}/webhook/{path}"
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
    wait_for(lambda: host.check_output("docker inspect -f '{{.State.Health.Status}}' n8n") == "healthy", 120)


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
        count = {"exact": True, "filter": {"must": [{"key": "client_id", "match": {"value": owner}}]}}
        done = host.check_output(
            "curl -sS -H @/etc/memory-droplet/secrets/qdrant/api_key_header -H 'Content-Type: application/json' "
            f"-d '{json.dumps(count)}' http://127.0.0.1:6333/collections/memory_vectors/points/count"
        )
        return json.loads(done)["result"]["count"]

    owner = int(sql(host, f"select client_id from memory.episodes where id = {episode}"))
    wait_for(lambda: points() > 0, 120)

    def found():  # on a busy machine an assemble may miss its time, and answers without
        answer = webhook("memory/assemble", {"client_id": client, "query": "which tea in the morning?"})
        chunks = answer.json()["similar_chunks"] if answer.status == 200 else []
        return any("green tea" in chunk["content"] for chunk in chunks)

    wait_for(found, 60)


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


@pytest.mark.disruptive
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
    wait_for(lambda: webhook("memory/assemble", {"client_id": client, "query": "tea?"}).status == 200, 120)
    assert host.check_output("docker inspect -f '{{.State.StartedAt}}' n8n") == since


def test_an_alert_is_recorded(host, webhook):
    name = f"droplet test {uuid.uuid4()}"
    answer = webhook("alerts", {"monitor_name": name, "status": "down", "message": "no answer"})
    assert answer.status == 202, answer
    assert sql(host, f"select status, message from alerts.event where name = '{name}'") == "down|no answer"


@pytest.mark.disruptive
def test_a_deactivated_workflow_is_named_and_published_again(host, webhook, client):
    as_owner(host, "POST", "/api/v1/workflows/memory-assemble/unpublish", {})
    try:
        wait_for(lambda: webhook("memory/assemble", {"client_id": client, "query": "x"}).status == 404, 90)
        assert plan(host) == ['workflow "memory-assemble": is not published']
    finally:
        done = host.check_output(f"{PROVISIONER} apply")
    assert done == 'repaired workflow "memory-assemble": is not published'
    assert webhook("memory/assemble", {"client_id": client, "query": "x"}).status == 200


@pytest.mark.disruptive
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


class Outside:
    """A caller on another machine: TLS to the ingress on one connection that is made anew when it breaks."""

    def __init__(self, droplet, token):
        self._droplet, self._token = droplet, token
        self._name = f"n8n.{droplet.settings['domain']}"
        self._trust = ssl.create_default_context()
        self._trust.check_hostname, self._trust.verify_mode = False, ssl.CERT_NONE
        self._connection = None

    def call(self, path, body):
        """Status and whether it is the contract's answer; OSError or HTTPException when there is none."""
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(self._name, timeout=120)
            plain = socket.create_connection((self._droplet.address, 443), timeout=120)
            self._connection.sock = self._trust.wrap_socket(plain, server_hostname=self._name)
        try:
            headers = {"X-Webhook-Token": self._token, "Content-Type": "application/json"}
            self._connection.request("POST", f"/webhook/{path}", json.dumps(body), headers)
            answer = self._connection.getresponse()
            answer.read()
            return answer.status, answer.status == 200 and answer.getheader("x-memory-workflow") is not None
        except (OSError, http.client.HTTPException):
            self.close()
            raise

    def close(self):
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def all_at_once(count, work):
    """Start ``work`` in that many threads, and return them."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


@pytest.fixture
def token(host):
    return host.check_output(f"cat {SECRETS}/webhook_token")


@pytest.mark.disruptive
@pytest.mark.parametrize("end", ["systemctl restart droplet-n8n", "docker kill n8n"])
def test_an_end_of_n8n_amid_500_writebacks_loses_none_that_was_acknowledged(
    host, droplet, token, client, end
):
    """Callers repeat until they get the contract's answer; the database says what became of each turn."""
    todo = [f"m{number}" for number in range(500)]
    acknowledged, other = [], collections.Counter()
    stop = time.monotonic() + 600

    def write():
        caller = Outside(droplet, token)
        with contextlib.suppress(IndexError):
            while message := todo.pop():
                body = {**turn(client, f"This is note {message} of many"), "message_id": message}
                while time.monotonic() < stop:
                    try:
                        status, answered = caller.call("memory/writeback", body)
                    except (OSError, http.client.HTTPException) as error:
                        status, answered = type(error).__name__, False
                    if answered:
                        acknowledged.append(message)
                        break
                    other[status] += 1
                    time.sleep(0.2)
        caller.close()

    since = host.check_output("docker inspect -f '{{.State.StartedAt}}' n8n")
    threads = all_at_once(8, write)
    wait_for(lambda: len(acknowledged) > 100, 240)
    before = len(acknowledged)
    host.check_output(end)
    for thread in threads:
        thread.join()
    print(f"{end} after {before} of 500; meanwhile {dict(other)}")
    # Told to end, n8n goes on answering until nothing is left to do; killed, it cannot.
    assert 100 < before < 500 and (other or "kill" not in end), "it was in the middle, and was noticed"
    wait_for(
        lambda: host.run("docker inspect -f '{{.State.StartedAt}}' n8n").stdout.strip() not in ("", since),
        180,
    )
    assert len(acknowledged) == 500
    kept = sql(
        host,
        "select count(*), count(distinct content) from memory.memory_entries e join memory.client_profiles c "
        f"on c.id = e.client_id where c.user_id = '{client}' and role = 'user'",
    )
    assert kept == "500|500"


@pytest.mark.disruptive
def test_fifty_callers_for_five_minutes_stay_inside_the_memory_limit(host, droplet, token, client):
    outcomes, stop = collections.Counter(), time.monotonic() + 300
    since = host.check_output("docker inspect -f '{{.State.StartedAt}}' n8n")

    def ask():
        caller = Outside(droplet, token)
        while time.monotonic() < stop:
            try:
                status, answered = caller.call("memory/assemble", {"client_id": client, "query": "tea?"})
            except (OSError, http.client.HTTPException) as error:
                status, answered = type(error).__name__, False
            outcomes["answered" if answered else status] += 1
        caller.close()

    peak_mb = 0.0
    threads = all_at_once(50, ask)
    while any(thread.is_alive() for thread in threads):
        used = host.check_output("docker stats --no-stream --format '{{.MemUsage}}' n8n")
        peak_mb = max(peak_mb, float(used.partition("MiB")[0]))
    print(f"50 callers, 5 minutes: {dict(outcomes)}, n8n at most {peak_mb:.0f} MiB")
    assert host.check_output("docker inspect -f '{{.State.StartedAt}}' n8n") == since
    counted = host.check_output(
        "docker exec n8n sh -c "
        "'cat /sys/fs/cgroup/memory/memory.oom_control /sys/fs/cgroup/memory.events 2>/dev/null | grep oom_kill'"
    )
    assert "oom_kill 0" in counted.splitlines()
    # The callers share this computer's processors with the droplet: a late answer is told as one, in JSON.
    assert set(outcomes) <= {"answered", 503, 504}
    # Fifty at once are close to what two processors can do in time: on a slower machine more of them are late.
    assert outcomes["answered"] > 0.5 * sum(outcomes.values())


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
    if droplet.settings["ingress"] != "caddy":
        pytest.skip("without an ingress the editor is reached through a tunnel of ssh")
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
