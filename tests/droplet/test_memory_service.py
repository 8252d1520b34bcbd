"""The memory service on a live droplet, used as n8n and an operator use it."""

import json
import shlex
import uuid

import pytest

SECRETS = "/etc/memory-droplet/secrets/memory-service"
LOCAL, CONTAINERS = "http://127.0.0.1:8765", "http://172.30.0.1:8765"

# Runs on the droplet, so that a token is never in an argument list: reads it from its file.
CALL = """
import json, sys, urllib.error, urllib.request
method, url, token_file, body = sys.argv[1:5]
headers = {"Content-Type": "application/json"}
if token_file:
    headers["Authorization"] = "Bearer " + open(token_file).read().strip()
request = urllib.request.Request(url, body.encode() if body else None, headers, method=method)
try:
    with urllib.request.urlopen(request, timeout=60) as answer:
        print(answer.status); print(answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code); print(error.read().decode())
"""

# Eight callers ask without a pause, half of them on connections that they keep, while the unit is restarted five
# times; prints how many answers came and what went wrong.
THROUGH_RESTARTS = """
import http.client, json, subprocess, threading, time
good, bad, over = [0] * 8, [], threading.Event()
def ask(number, keep):
    connection = None
    while not over.is_set():
        try:
            connection = connection or http.client.HTTPConnection("127.0.0.1", 8765, timeout=120)
            connection.request("GET", "/healthz")
            with connection.getresponse() as answer:
                answer.read()
                good[number] += answer.status == 200
                if keep and answer.headers["Connection"] != "close":
                    time.sleep(0.01)
                    continue
        except (OSError, http.client.HTTPException) as error:
            bad.append(repr(error))
        connection.close()
        connection = None
callers = [threading.Thread(target=ask, args=(number, number % 2 == 0)) for number in range(8)]
for caller in callers:
    caller.start()
for _ in range(5):
    before = list(good)
    while any(now < then + 5 for now, then in zip(good, before)):
        time.sleep(0.05)
    subprocess.run(["systemctl", "restart", "memory-service.service"], check=True)
over.set()
for caller in callers:
    caller.join()
print(json.dumps({"fewest": min(good), "bad": bad}))
"""


def call(host, method, path, token="service_token", body=None, base=LOCAL):
    """Status and decoded answer of a call made on the droplet."""
    token_file = f"{SECRETS}/{token}" if token else ""
    arguments = [method, base + path, token_file, json.dumps(body) if body is not None else ""]
    done = host.check_output("python3 -c %s " + " ".join(["%s"] * 4), CALL, *arguments)
    status, _, text = done.partition("\n")
    return int(status), json.loads(text) if text.strip().startswith(("{", "[")) else text


@pytest.fixture
def user(host):
    """A user that is forgotten afterwards."""
    name = f"droplet-test-{uuid.uuid4()}"
    yield name
    call(host, "POST", f"/v1/clients/{name}/forget", "admin_token", {"confirm": name})


def test_the_units_are_active_and_start_at_boot(host):
    for unit in ("memory-service.socket", "memory-service.service"):
        assert host.service(unit).is_running
        assert host.service(unit).is_enabled


def test_it_listens_on_this_machine_and_the_containers_network_only(host):
    listening = host.check_output("ss -Hltn 'sport = :8765' | awk '{print $4}'").split()
    assert sorted(listening) == ["127.0.0.1:8765", "172.30.0.1:8765"]


def test_it_is_ready_and_says_from_what(host):
    status, answer = call(host, "GET", "/readyz", token=None)
    assert status == 200 and answer["checks"]["postgres"] == "ok" and answer["checks"]["qdrant"] == "ok"


def test_a_turn_is_kept_and_recalled_over_both_addresses(host, user):
    body = {
        "client_id": user,
        "conversation": [{"role": "user", "content": "My dog is called Biscuit"}],
        "response": "A fine name",
        "chat_id": "droplet-test",
        "message_id": "1",
    }
    status, written = call(host, "POST", "/v1/writeback", body=body, base=CONTAINERS)
    assert status == 200 and written["success"] is True
    again = call(host, "POST", "/v1/writeback", body=body)
    assert again == (200, written)
    status, answer = call(
        host, "POST", "/v1/assemble", body={"client_id": user, "query": "What is my dog called?"}
    )
    assert status == 200
    assert "My dog is called Biscuit" in [chunk["content"] for chunk in answer["similar_chunks"]]
    assert "Biscuit" in answer["context"]
    forgotten = call(host, "POST", f"/v1/clients/{user}/forget", "admin_token", {"confirm": user})
    assert forgotten[0] == 200 and forgotten[1]["postgres"]["memory_entries"] == 2
    assert not forgotten[1]["qdrant_pending"]


def test_without_or_with_a_wrong_token_nothing_is_told(host):
    for token in (None, "qdrant_api_key"):
        status, answer = call(host, "POST", "/v1/assemble", token, {"client_id": 1, "query": "x"})
        assert status == 401 and answer["error"]["code"] == "unauthorized"
    assert call(host, "GET", "/v1/clients")[0] == 403


def test_the_sandbox_is_tight_and_the_process_is_nobody_in_particular(host):
    verdict = host.check_output("systemd-analyze security memory-service.service --no-pager | tail -1")
    assert float(verdict.split(":")[1].split()[0]) <= 2.0
    pid = host.check_output("systemctl show -P MainPID memory-service.service")
    status = host.check_output(f"cat /proc/{pid}/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert "0" not in fields["Uid"].split() and int(fields["CapEff"], 16) == 0 and fields["NoNewPrivs"] == "1"
    assert int(fields["VmRSS"].split()[0]) < 100 * 1024


def test_no_secret_is_in_its_environment_arguments_or_journal(host):
    pid = host.check_output("systemctl show -P MainPID memory-service.service")
    seen = host.check_output(f"tr '\\0' '\\n' < /proc/{pid}/environ; tr '\\0' ' ' < /proc/{pid}/cmdline")
    seen += host.check_output("journalctl -u memory-service --no-pager -o cat | tail -n 2000")
    for name in host.check_output(f"ls {SECRETS}").split():
        secret = host.file(f"{SECRETS}/{name}").content_string.strip()
        assert not secret or secret not in seen, name
        assert host.file(f"{SECRETS}/{name}").mode == 0o400


@pytest.mark.disruptive
def test_a_restart_refuses_no_connection_and_resets_none(host):
    printed = json.loads(host.check_output("python3 -c %s", THROUGH_RESTARTS))
    assert printed["bad"] == [] and printed["fewest"] >= 20


@pytest.mark.disruptive
def test_a_process_that_hangs_is_restarted_by_the_watchdog_setting(host):
    shown = host.check_output(
        "systemctl show -P WatchdogUSec -P Type -P Restart memory-service.service"
    ).split()
    assert shown == ["30s", "notify", "always"] or set(shown) == {"30s", "notify", "always"}
    before = host.check_output("systemctl show -P MainPID memory-service.service")
    host.check_output(f"kill -9 {shlex.quote(before)}")
    host.check_output(
        "for i in $(seq 100); do curl -sf -m 5 http://127.0.0.1:8765/healthz >/dev/null && exit 0; sleep 0.2; done; exit 1"
    )
    assert host.check_output("systemctl show -P MainPID memory-service.service") != before


def test_the_operators_tool_answers_on_the_host(host):
    assert json.loads(host.check_output("memory-service status"))["status"] in ("ready", "degraded")
    assert json.loads(host.check_output("memory-service cleanup --dry-run"))["dry_run"] is True
