"""Open WebUI on a live droplet: a chat that remembers, used as people and programs use it."""

from __future__ import annotations

import json
import secrets as random_source
import socket
import threading
import time
from pathlib import Path

import pytest

from settings.secrets import host_secrets
from tests.service.open_webui_browser import person
from tests.service.open_webui_server import Chat, http, text_of, wait_until

DOMAIN = "droplet.test"
SITE = f"https://openweb.{DOMAIN}"
ARTEFACTS = Path(__file__).parents[2] / "artefacts"
PLAN = "python3 /usr/local/lib/memory-droplet/open_webui.py"
SQL = "docker exec -i postgres psql -XAtq -v ON_ERROR_STOP=1 -U postgres -d n8ndb"
ASSEMBLE_TIMEOUT_S = 2.0


# -- who and where --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reachable(droplet, root_certificate):
    """The name of the chat leads to the droplet, whose own certificate authority is trusted."""
    if not droplet.local:
        pytest.skip("these chats are answered by the double of the provider, which only local droplets ask")
    resolve = socket.getaddrinfo

    def getaddrinfo(name, *arguments, **options):
        return resolve(droplet.address if str(name).endswith(DOMAIN) else name, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        patch.setenv("SSL_CERT_FILE", str(root_certificate))
        yield


@pytest.fixture(scope="module")
def model(host, reachable):
    """The declared model's id."""
    return json.loads(host.check_output("cat /etc/memory-droplet/open-webui/provision.json"))["model"]["id"]


@pytest.fixture(scope="module")
def client(host):
    """The test client as the deploy recorded it."""
    return json.loads(host.check_output("cat /var/lib/memory-droplet/open-webui/clients.json"))[
        "test-client-001"
    ]


def sign_in(email, password):
    answer = http("POST", f"{SITE}/api/v1/auths/signin", {"email": email, "password": password})
    assert answer.status == 200, f"the sign-in of {email} answered {answer.status}"
    return answer.json["token"]


@pytest.fixture(scope="module")
def client_password(droplet):
    return host_secrets(droplet.name)["openwebui_client_password"].reveal()


@pytest.fixture(scope="module")
def token(client, client_password, reachable):
    """A session of the test client."""
    return sign_in(client["email"], client_password)


@pytest.fixture(scope="module")
def admin(host, reachable):
    """A session of the admin: the one that the deploy keeps."""
    kept = host.check_output("cat /var/lib/memory-droplet/open-webui/provision-session.json")
    return json.loads(kept)["token"]


@pytest.fixture(scope="module")
def stranger(admin):
    """A second user, for the time of this module."""
    name = f"stranger-{random_source.token_hex(4)}"
    password = random_source.token_urlsafe(16)
    body = {"name": name, "email": f"{name}@example.test", "password": password, "role": "user"}
    added = http("POST", f"{SITE}/api/v1/auths/add", body, admin)
    assert added.status == 200, added.text
    yield sign_in(body["email"], password)
    http("DELETE", f"{SITE}/api/v1/users/{added.json['id']}", token=admin)


# -- what the stores hold -------------------------------------------------------------------------


def sql(host, statement):
    """Rows of a query as the superuser, whom row security does not bind."""
    done = host.run(f"{SQL} <<'EOS'\n{statement}\nEOS")
    assert done.rc == 0, done.stderr
    return done.stdout.strip().splitlines()


def facts(host, word):
    """(client, key, value) of every fact with that word in its key."""
    key = word.replace("-", "_")
    rows = sql(
        host,
        f"SELECT client_id, fact_key, fact_value FROM memory.memory_facts WHERE strpos(fact_key, '{key}') > 0",
    )
    return [tuple(row.split("|")) for row in rows]


def entries(host, word):
    """(client, id, role) of every remembered text with that word."""
    rows = sql(
        host,
        f"SELECT client_id, id, role FROM memory.memory_entries WHERE strpos(content, '{word}') > 0 ORDER BY slot",
    )
    return [tuple(row.split("|")) for row in rows]


def episodes(host, word):
    """The distinct episodes that hold that word."""
    return sql(
        host,
        "SELECT DISTINCT episode_id FROM memory.memory_entries "
        f"WHERE strpos(content, '{word}') > 0 AND episode_id IS NOT NULL",
    )


def vectors(host, ids):
    """Which of these entries Qdrant holds, with the client in their payload."""
    body = json.dumps({"ids": list(ids), "with_payload": True})
    answer = host.run(
        "curl -sS --fail-with-body -H @/etc/memory-droplet/secrets/qdrant/api_key_header "
        "-H 'Content-Type: application/json' --data-binary @- "
        f"http://127.0.0.1:6333/collections/memory_vectors/points <<'EOS'\n{body}\nEOS"
    )
    assert answer.rc == 0, answer.stdout
    return {point["id"]: point["payload"]["client_id"] for point in json.loads(answer.stdout)["result"]}


def remembered(host, word, seconds=120.0):
    """Wait until the turn with that word is a fact."""
    return wait_until(f"a fact about {word}", lambda: facts(host, word), seconds)


@pytest.fixture
def word():
    """A word that nothing else on the droplet contains."""
    return f"token{random_source.token_hex(4)}"


def complete(token, model, text, **more):
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    return http("POST", f"{SITE}/api/chat/completions", body, token)


def said(answer):
    assert answer.status == 200, f"the chat answered {answer.status}: {answer.text[:200]}"
    return answer.json["choices"][0]["message"]["content"]


def recalled(token, model, question, answer):
    """Ask until the answer comes. On a busy machine a recall may miss its 2 s, and the chat goes on without."""
    wait_until(repr(answer), lambda: said(complete(token, model, question)) == answer)


# -- the machine ----------------------------------------------------------------------------------


def test_the_unit_is_active_enabled_and_ready(host):
    unit = host.service("droplet-open-webui")
    assert unit.is_running and unit.is_enabled
    assert host.check_output("curl -sS -o /dev/null -w '%{http_code}' http://127.0.0.1:8080/ready") == "200"


def test_the_container_is_walled_in(host):
    inspected = json.loads(host.check_output("docker inspect open-webui"))[0]
    settings = inspected["HostConfig"]
    assert settings["ReadonlyRootfs"] is True
    assert settings["CapDrop"] == ["ALL"] and not settings["CapAdd"]
    assert 0 < settings["Memory"] <= 640 * 1024 * 1024
    assert settings["PortBindings"] == {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}


def test_the_secrets_are_in_a_file_that_only_root_reads(host):
    file = host.file("/etc/memory-droplet/secrets/open-webui/open-webui.env")
    assert (file.user, file.mode) == ("root", 0o400)
    environment = json.loads(host.check_output("docker inspect open-webui"))[0]["Config"]["Env"]
    for name in ("WEBUI_SECRET_KEY", "WEBUI_ADMIN_PASSWORD", "OPENAI_API_KEY", "DATABASE_URL"):
        assert all(entry.split("=", 1)[1] == "" for entry in environment if entry.startswith(f"{name}="))


def test_its_rows_are_in_postgres_and_nothing_is_configured_there(host):
    statement = 'SELECT (SELECT count(*) FROM "user") > 1, (SELECT count(*) FROM config)'
    done = host.check_output(f"docker exec postgres psql -XAtq -U postgres -d openwebui -c '{statement}'")
    assert done == "t|0"


def test_nobody_can_sign_up(reachable):
    body = {"name": "x", "email": "x@example.test", "password": "x" * 12}
    assert http("POST", f"{SITE}/api/v1/auths/signup", body).status == 403


def test_nothing_differs_from_what_was_declared(host):
    assert json.loads(host.check_output(f"{PLAN} plan")) == {"reachable": True, "differences": []}


@pytest.mark.disruptive
def test_a_hook_that_was_switched_off_is_seen_and_repaired(host, admin):
    path = f"{SITE}/api/v1/functions/id/memory_filter"
    assert http("POST", f"{path}/toggle", token=admin).json["is_active"] is False
    sentence = "the function memory_filter is not active"
    assert json.loads(host.check_output(f"{PLAN} plan"))["differences"] == [sentence]
    assert host.check_output(f"{PLAN} apply") == sentence
    assert http("GET", path, token=admin).json["is_active"] is True


def test_the_client_has_a_user_groups_and_a_profile_with_its_tags(host, client, token, admin):
    me = http("GET", f"{SITE}/api/v1/auths/", token=token).json
    assert me["id"] == client["open_webui_user_id"] and me["name"] == "Test Client 001"
    groups = http("GET", f"{SITE}/api/v1/groups/", token=admin).json
    assert {"memory-test", "phase3-eval"} <= {group["name"] for group in groups}
    row = sql(host, f"SELECT id, tags FROM memory.client_profiles WHERE user_id = '{me['id']}'")
    assert row == [f"{client['client_id']}|{{memory-test,phase3-eval}}"]


# -- it remembers ---------------------------------------------------------------------------------


def test_a_person_in_a_browser_is_remembered_in_the_next_chat(
    droplet, host, reachable, client, client_password
):
    boat = f"Kestrel {random_source.randbelow(9000) + 1000}"
    with person(SITE, ARTEFACTS, f"MAP *.{DOMAIN} {droplet.address}", ignore_certificates=True) as ada:
        ada.sign_in(client["email"], client_password)
        ada.say(f"My boat is called {boat}.", expect="Noted")
        ada.picture("open-webui-told")
        wait_until("the boat as a fact", lambda: boat in [value for _, _, value in facts(host, "boat")], 120)
        for _ in range(3):  # on a busy machine a recall may miss its 2 s, and the chat goes on without
            ada.new_chat()
            answer = ada.say(
                "What is my boat called?", expect=(f"Your boat is {boat}", "I do not know your boat")
            )
            if boat in answer:
                break
        assert boat in answer
        ada.picture("open-webui-remembered")
        assert "user_memory" not in ada.page_text()


def test_a_turn_is_in_both_stores_once_and_for_its_client_only(host, client, token, model, word):
    chat = Chat(SITE, token, model)
    assert chat.say(f"My {word} is a blue heron.").startswith("Noted")
    ((owner, _, value),) = remembered(host, word)
    assert (owner, value) == (str(client["client_id"]), "a blue heron")
    assert len(episodes(host, word)) == 1
    texts = entries(host, word)
    assert [role for _, _, role in texts] == ["user", "assistant"]
    assert {owner for owner, _, _ in texts} == {str(client["client_id"])}
    ids = {identity for _, identity, _ in texts}
    found = wait_until("both vectors in Qdrant", lambda: len(v := vectors(host, ids)) == 2 and v, 120)
    assert found == dict.fromkeys(ids, client["client_id"])


def test_a_second_user_asking_the_same_gets_nothing(host, token, stranger, model, word):
    assert said(complete(token, model, f"My {word} is a grey owl.")).startswith("Noted")
    remembered(host, word)
    recalled(token, model, f"What is my {word}?", f"Your {word} is a grey owl.")
    assert said(complete(stranger, model, f"What is my {word}?")) == f"I do not know your {word}."


def test_a_program_with_an_api_key_recalls_streaming_and_not(host, token, model, word):
    key = http("POST", f"{SITE}/api/v1/auths/api_key", token=token).json["api_key"]
    assert said(complete(key, model, f"My {word} is a barn owl.")).startswith("Noted")
    remembered(host, word)
    recalled(key, model, f"What is my {word}?", f"Your {word} is a barn owl.")

    def streamed():
        answer = complete(key, model, f"What is my {word}?", stream=True)
        assert "user_memory" not in answer.text
        pieces = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        return "".join(p["choices"][0]["delta"].get("content") or "" for p in pieces if p.get("choices"))

    wait_until("the streamed answer to know", lambda: streamed() == f"Your {word} is a barn owl.")


# -- the same turn, another turn ------------------------------------------------------------------


def test_the_same_api_call_again_is_the_same_episode(host, token, model, word):
    for _ in range(3):
        complete(token, model, f"My {word} is a snipe.")
    remembered(host, word)
    later = f"later{random_source.token_hex(4)}"
    complete(token, model, f"My {later} is a crane.")
    remembered(host, later)  # what was sent after the repetitions has arrived
    assert len(facts(host, word)) == 1
    assert len(episodes(host, word)) == 1
    assert [role for _, _, role in entries(host, word)] == ["user", "assistant"]


def test_a_regenerated_answer_doubles_no_fact(host, token, model, word):
    chat = Chat(SITE, token, model)
    first = chat.send(f"My {word} is a wren.")
    chat.wait(first)
    remembered(host, word)
    again = chat.send(f"My {word} is a wren.", parent=None, user_message_id=chat.message(first)["parentId"])
    chat.wait(again)
    told = "SELECT count(*) FROM memory.episodes"
    wait_until(
        "both answers to be written back",
        lambda: sql(host, f"{told} WHERE strpos(summary, '{word}') > 0") == ["2"],
    )
    assert len(facts(host, word)) == 1


def test_an_edited_message_replaces_the_fact(host, token, model, word):
    chat = Chat(SITE, token, model)
    chat.say(f"My {word} is a wren.")
    remembered(host, word)
    chat.wait(chat.send(f"My {word} is a robin.", parent=None))
    wait_until("the fact to be replaced", lambda: [f[2] for f in facts(host, word)] == ["a robin"], 120)


@pytest.fixture
def slow_model(droplet):
    """The double of the provider, which local droplets ask, pauses before each word; calls its journal."""
    provider = droplet.settings["llm_base_url"].removesuffix("/v1")
    slowed = http("PUT", f"{provider}/control", {"target": "chat", "mode": "slow", "seconds": 0.2})
    assert slowed.status == 200, slowed.text
    yield lambda: http("GET", f"{provider}/journal").json["counts"].get("chat", 0)
    http("DELETE", f"{provider}/control")


@pytest.mark.disruptive
def test_an_answer_that_the_user_stops_is_kept_in_the_chat_and_not_remembered(
    host, token, model, word, slow_model
):
    asked = slow_model()
    chat = Chat(SITE, token, model)
    question = f"Tell me a story of {word}: " + "once more " * 190  # the double repeats it word by word
    stopped = chat.send(question)
    wait_until("the question at the provider", lambda: slow_model() > asked)
    time.sleep(5.0)  # let some words arrive: the state to be tested is an answer cut in its middle
    answer = http("POST", f"{SITE}/api/tasks/chat/{chat.chat_id}/stop", token=token)
    assert answer.status == 200, answer.text
    text = chat.wait(stopped)
    assert text.startswith("You said") and len(text) < len(question)
    later = f"later{random_source.token_hex(4)}"
    assert said(complete(token, model, f"My {later} is a crane.")).startswith("Noted")
    remembered(host, later)  # what was sent after the stopped answer has arrived
    assert entries(host, word) == []


def test_two_tabs_at_once_are_both_remembered(host, token, model, word):
    tabs = [Chat(SITE, token, model) for _ in range(2)]
    threads = [
        threading.Thread(target=tab.say, args=(f"My {word}{side} is a {side} duck.",))
        for tab, side in zip(tabs, ("left", "right"), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert remembered(host, f"{word}left")[0][2] == "a left duck"
    assert remembered(host, f"{word}right")[0][2] == "a right duck"


# -- when memory is down --------------------------------------------------------------------------


def answers_without_memory(token, model, word, at_most_s):
    """The chat answers in time, not knowing what it was told before."""
    started = time.monotonic()
    assert said(complete(token, model, f"What is my {word}?")) == f"I do not know your {word}."
    assert time.monotonic() - started < at_most_s


@pytest.mark.disruptive
@pytest.mark.parametrize(
    ("break_it", "mend_it"),
    [
        pytest.param("systemctl stop droplet-n8n", "systemctl start droplet-n8n", id="n8n stopped"),
        pytest.param("docker pause n8n", "docker unpause n8n", id="n8n hanging"),
        pytest.param(
            "systemctl stop memory-service.socket memory-service.service",
            "systemctl start memory-service.socket memory-service.service",
            id="memory service stopped",
        ),
        pytest.param(
            "systemctl kill --signal STOP memory-service.service",
            "systemctl kill --signal CONT memory-service.service",
            id="memory service hanging",
        ),
        pytest.param(
            f"{SQL} -c 'ALTER ROLE memory NOLOGIN' "
            "-c \"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'memory'\" < /dev/null",
            f"{SQL} -c 'ALTER ROLE memory LOGIN' < /dev/null",
            id="Postgres closed to the memory",
        ),
    ],
)
def test_the_chat_goes_on_without_memory_and_the_turns_are_written_later(
    host, token, model, word, break_it, mend_it
):
    assert said(complete(token, model, f"My {word} is a raven.")).startswith("Noted")
    remembered(host, word)
    assert host.run(break_it).rc == 0, f"failed: {break_it}"
    try:
        answers_without_memory(token, model, word, ASSEMBLE_TIMEOUT_S + 20.0)
        late = f"late{word}"
        assert said(complete(token, model, f"My {late} is a jackdaw.")).startswith("Noted")
    finally:
        assert host.run(mend_it).rc == 0, f"failed: {mend_it}"
    assert remembered(host, late, 400)[0][2] == "a jackdaw"
    recalled(token, model, f"What is my {late}?", f"Your {late} is a jackdaw.")
    spool = "/var/lib/memory-droplet/open-webui/data/memory-spool"
    wait_until("an empty spool", lambda: host.check_output(f"find {spool} -name '*.json'") == "", 400)


# -- no way past the hook -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/openai/chat/completions",
        "/openai/v1/chat/completions",
        "/openai/responses",
        "/OPENAI/chat/completions",
        "/%6Fpenai/chat/completions",
        "//openai/chat/completions",
        "/./openai/chat/completions",
        "/x/../openai/chat/completions",
        "/openai/config/../chat/completions",
        "/openai%2Fchat/completions",
    ],
)
def test_the_model_cannot_be_reached_past_the_hook(token, model, path, word):
    body = {"model": model, "messages": [{"role": "user", "content": f"{word} past the hook"}]}
    answer = http("POST", SITE + path, body, token)
    assert answer.status in (400, 403, 404, 405), f"{path} answered {answer.status}"
    assert "choices" not in answer.text


def test_the_provider_settings_are_open_to_the_admin_only(admin, token):
    assert http("GET", f"{SITE}/openai/config", token=admin).status == 200
    assert http("GET", f"{SITE}/openai/config", token=token).status in (401, 403)
    assert http("GET", f"{SITE}/openai/config").status in (401, 403)


def test_the_log_names_no_words_of_a_chat(host, token, model, word):
    complete(token, model, f"My {word} is a magpie.")
    remembered(host, word)
    log = host.check_output("docker logs --since 10m open-webui 2>&1")
    assert "writeback: accepted" in log and "assemble:" in log
    assert word not in log


def test_it_stays_within_its_memory(host):
    inside = "docker exec open-webui sh -c 'grep VmRSS /proc/1/status'"
    rss_mb = int(host.check_output(inside).split()[1]) / 1024
    print(f"Open WebUI: RSS {rss_mb:.0f} MB")
    assert rss_mb < 420


def test_saved_messages_hold_no_memory_block(token, model, word):
    chat = Chat(SITE, token, model)
    answer = chat.send(f"What is my {word}?")
    chat.wait(answer)
    saved = http("GET", f"{SITE}/api/v1/chats/{chat.chat_id}", token=token)
    assert "user_memory" not in saved.text
    assert text_of(chat.message(answer)).endswith(f"{word}.")
