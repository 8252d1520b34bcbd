"""Nothing of one client reaches another, on any path."""

from __future__ import annotations

import json
import uuid

import httpx
import pytest

from tests.service.calls import ask, write
from tests.service.conftest import Stack
from tests.service.stack import until

pytestmark = pytest.mark.real

SECRET = "xylophone"


@pytest.fixture
def alice(client: httpx.Client, admin: httpx.Client) -> str:
    """A client with a word of her own in every kind of memory."""
    name = f"alice-{uuid.uuid4()}"
    write(
        client,
        name,
        f"My favourite instrument is the {SECRET}",
        f"A {SECRET}, nice",
        chat_id="shared-chat",
        session_id="shared-session",
    )
    admin.put(
        f"/v1/clients/{name}", json={"full_name": f"Alice {SECRET}", "metadata": {"plays": SECRET}}
    ).raise_for_status()
    admin.put(f"/v1/clients/{name}/state/shared-session/task", json={"value": SECRET}).raise_for_status()
    admin.post(
        f"/v1/clients/{name}/memories", json={"content": f"note about the {SECRET}"}
    ).raise_for_status()
    return name


def test_what_alice_stores_bob_reads_nowhere(
    client: httpx.Client, admin: httpx.Client, stack: Stack, alice: str
) -> None:
    bob = f"bob-{uuid.uuid4()}"
    wanted = "SELECT count(*) FROM memory.memory_entries WHERE embedding IS NOT NULL AND NOT quarantined"
    until(lambda: stack.rows(wanted) == [(stack.qdrant.count(),)], "as many points as rows")
    write(client, bob, "I like weather", chat_id="shared-chat", session_id="shared-session")
    episode = admin.get(f"/v1/clients/{alice}/episodes").json()[0]["id"]
    memory = admin.post(f"/v1/clients/{alice}/search", json={"query": SECRET}).json()["results"][0]["id"]
    question = f"What is my favourite instrument, the {SECRET}?"
    here = {"chat_id": "shared-chat", "session_id": "shared-session"}
    answers = [json.dumps(ask(client, bob, question, **here))]
    base = f"/v1/clients/{bob}"
    for path in (
        "",
        "/facts",
        "/facts?as_of=2030-01-01T00:00:00Z",
        "/facts/favorite_instrument/history",
        "/episodes",
        "/state/shared-session",
        "/export",
    ):
        response = admin.get(base + path)
        assert response.status_code == 200, f"{path}: {response.text}"
        answers.append(response.text)
    answers.append(admin.post(f"{base}/search", json={"query": SECRET}).text)
    answers.append(admin.post(f"{base}/episodes/search", json={"query": SECRET}).text)
    assert not [answer for answer in answers if SECRET in answer]
    for method, path in (
        ("GET", f"/episodes/{episode}"),
        ("DELETE", f"/episodes/{episode}"),
        ("DELETE", f"/memories/{memory}"),
        ("DELETE", "/facts/favorite_instrument"),
        ("DELETE", "/state/shared-session/task"),
    ):
        assert admin.request(method, base + path).status_code == 404, path
    rating = client.post(f"/v1/episodes/{episode}/rating", json={"client_id": bob, "rating": 1})
    assert rating.status_code == 404
    mine = ask(client, alice, question)
    assert mine["facts"][0]["value"].endswith(SECRET)
    assert mine["recent_episodes"][0]["rating"] is None


def test_every_path_of_a_client_is_covered_by_the_test_above(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    reading = {path for path, item in paths.items() if "{client}" in path and "get" in item}
    assert reading == {
        "/v1/clients/{client}",
        "/v1/clients/{client}/export",
        "/v1/clients/{client}/facts",
        "/v1/clients/{client}/facts/{key}/history",
        "/v1/clients/{client}/episodes",
        "/v1/clients/{client}/episodes/{episode_id}",
        "/v1/clients/{client}/state/{session}",
    }


def test_the_same_words_of_two_clients_are_two_turns(client: httpx.Client, stack: Stack) -> None:
    users = [str(uuid.uuid4()) for _ in range(2)]
    episodes = {write(client, user, "Good morning to the world")["episode_id"] for user in users}
    assert len(episodes) == 2


def test_forgetting_removes_a_client_from_both_stores_and_nobody_else(
    client: httpx.Client, admin: httpx.Client, stack: Stack, alice: str
) -> None:
    carol = f"carol-{uuid.uuid4()}"
    write(client, carol, "I keep bees")
    number = ask(client, alice, "x")["client_id"]
    wanted = "SELECT count(*) FROM memory.memory_entries WHERE embedding IS NOT NULL AND NOT quarantined"
    until(lambda: stack.rows(wanted) == [(stack.qdrant.count(),)], "as many points as rows")
    before = stack.qdrant.count()
    refused = admin.post(f"/v1/clients/{alice}/forget", json={"confirm": "somebody else"})
    assert refused.status_code == 422
    shown = admin.post(f"/v1/clients/{alice}/forget", json={"confirm": alice, "dry_run": True}).json()
    assert shown["postgres"]["memory_entries"] == 3 and shown["qdrant"] == 3
    assert stack.qdrant.count() == before
    gone = admin.post(f"/v1/clients/{alice}/forget", json={"confirm": alice}).json()
    assert gone["postgres"] == shown["postgres"]
    assert (gone["qdrant"], gone["qdrant_pending"]) == (3, False)
    assert stack.qdrant.count() == before - 3
    for table in (
        "memory_entries",
        "memory_facts",
        "fact_history",
        "working_state",
        "episodes",
        "conversations",
        "chat_messages",
        "memory_terms",
        "jobs",
        "vector_outbox",
    ):
        left = stack.rows(f"SELECT count(*) FROM memory.{table} WHERE client_id = {number}")
        assert left == [(0,)], table
    assert admin.get(f"/v1/clients/{alice}").status_code == 404
    assert admin.get(f"/v1/clients/{alice}/export").status_code == 404
    assert ask(client, carol, "bees")["similar_chunks"]


def test_an_export_has_every_table_and_no_vector(admin: httpx.Client, alice: str) -> None:
    lines = [json.loads(line) for line in admin.get(f"/v1/clients/{alice}/export").text.splitlines()]
    assert lines[0]["table"] == "client_profiles"
    assert {line["table"] for line in lines} >= {
        "memory_facts",
        "fact_history",
        "working_state",
        "conversations",
        "episodes",
        "memory_entries",
    }
    assert all("embedding" not in line["row"] for line in lines)
