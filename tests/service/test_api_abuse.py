"""What callers may send by mistake or on purpose: always a precise 4xx, never a 5xx."""

from __future__ import annotations

import json

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from memory_service.cli import openapi
from tests.service.conftest import Stack
from tests.service.stack import ADMIN_TOKEN

pytestmark = pytest.mark.real
schema = schemathesis.openapi.from_dict(openapi())


@schema.exclude(path="/v1/reindex").exclude(path="/v1/cleanup").parametrize()
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_request_of_the_document_makes_a_5xx(case: schemathesis.Case, stack: Stack) -> None:
    response = case.call(
        base_url=stack.service.url, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}, timeout=20
    )
    assert response.status_code < 500, f"{response.status_code}: {response.text[:300]}"


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"{", 400, "JSON"),
        (b"\xff\xfe", 400, "UTF-8"),
        (b"[" * 5000 + b"]" * 5000, 400, "deeper"),
        (b'{"client_id": 1, "query": "' + b"x" * 300_000 + b'"}', 413, "larger"),
        (b"", 422, "body"),
        (b"[]", 422, "body"),
        (b'{"query": "x"}', 422, "client_id"),
        (b'{"client_id": 1}', 422, "query"),
        (b'{"client_id": 0, "query": "x"}', 422, "client_id"),
        (b'{"client_id": true, "query": "x"}', 422, "client_id"),
        (b'{"client_id": 1.5, "query": "x"}', 422, "client_id"),
        (b'{"client_id": null, "query": "x"}', 422, "client_id"),
        (b'{"client_id": {"$gt": 0}, "query": "x"}', 422, "client_id"),
        (b'{"client_id": "a\\nb", "query": "x"}', 422, "client_id"),
        (b'{"client_id": 99999999999999999999, "query": "x"}', 422, "client_id"),
        (b'{"client_id": 1, "query": ["x"]}', 422, "query"),
        (b'{"client_id": 1, "query": "x", "timestamp": "yesterday"}', 422, "timestamp"),
        (b'{"client_id": 1, "query": NaN}', 400, "NaN"),
        (b'{"client_id": 2147483647, "query": "x"}', 404, "no client"),
    ],
)
def test_a_wrong_body_is_answered_with_what_is_wrong(
    client: httpx.Client, body: bytes, status: int, word: str
) -> None:
    response = client.post("/v1/assemble", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert word in error["message"] and len(error["message"]) < 500


@pytest.mark.parametrize(
    "conversation",
    [
        [],
        [{"role": "user"}],
        [{"role": "system", "content": "x"}],
        [{"content": "x"}],
        "hello",
        [1],
        [{"role": "user", "content": " "}],
    ],
)
def test_a_conversation_without_words_is_refused(client: httpx.Client, conversation: object) -> None:
    response = client.post("/v1/writeback", json={"client_id": 3, "conversation": conversation})
    assert response.status_code == 422, response.text


def test_unusual_text_is_kept_as_it_is(client: httpx.Client, user: str) -> None:
    said = "naïve 日本語 🦜 'quoted' \"double\" \\back %s {curly} <b>bold</b> ; DROP TABLE x --"
    body = {
        "client_id": user,
        "conversation": [{"role": "user", "content": said}],
        "response": "ok\u0000\ud83d",
    }
    raw = json.dumps(body).encode()
    assert (
        client.post("/v1/writeback", content=raw, headers={"Content-Type": "application/json"}).status_code
        == 200
    )
    found = client.post("/v1/assemble", json={"client_id": user, "query": "naïve quoted bold"}).json()
    assert said in [chunk["content"] for chunk in found["similar_chunks"]]


def test_a_time_that_stands_for_none_harms_no_later_call(
    client: httpx.Client, admin: httpx.Client, user: str
) -> None:
    body = {
        "client_id": user,
        "conversation": [{"role": "user", "content": "I live in Oslo"}],
        "response": "Noted.",
        "timestamp": "0001-01-01T00:00:00+01:00",
    }
    assert client.post("/v1/writeback", json=body).status_code == 200
    answer = client.post("/v1/assemble", json={"client_id": user, "query": "Where in Oslo?"})
    assert answer.status_code == 200 and answer.json()["facts"][0]["valid_from"].startswith("1970-01-01")
    exported = admin.get(f"/v1/clients/{user}/export")
    assert exported.status_code == 200 and '"memory_entries"' in exported.text


def test_a_number_that_is_infinite_when_read_is_refused(admin: httpx.Client, user: str) -> None:
    for path, body in (
        ("state/s/k", b'{"value": 1e999}'),
        ("facts/k", b'{"value": "v", "confidence": 1e999}'),
    ):
        response = admin.put(
            f"/v1/clients/{user}/{path}", content=body, headers={"Content-Type": "application/json"}
        )
        assert response.status_code == 400, response.text
        assert "too large" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Basic dXNlcjpwYXNz"}, 401),
        ({"Authorization": f"Bearer {ADMIN_TOKEN}x"}, 401),
    ],
)
def test_every_call_needs_its_token(stack: Stack, header: dict[str, str], status: int) -> None:
    with httpx.Client(base_url=stack.service.url, headers=header) as stranger:
        for path, item in openapi()["paths"].items():
            if path in ("/healthz", "/readyz", "/metrics"):
                continue
            for method in item:
                url = path.replace("{client}", "1").replace("{episode_id}", "1").replace("{job_id}", "1")
                url = url.replace("{key}", "k").replace("{session}", "s")
                url = url.replace("{memory_id}", "6f0c1b0e-57a5-5c39-9d0e-0d6c1f6f2a11")
                body = {"client_id": 1, "query": "x", "conversation": [{"role": "user", "content": "x"}]}
                body |= {"rating": 1, "confirm": 1, "value": "v", "content": "c"}
                response = stranger.request(method.upper(), url, json=None if method == "get" else body)
                assert response.status_code == status, f"{method} {url}: {response.status_code}"


def test_the_service_token_opens_nothing_that_is_an_operators(client: httpx.Client) -> None:
    for path in ("/v1/clients", "/v1/clients/1", "/v1/clients/1/export", "/v1/clients/1/facts"):
        assert client.get(path).status_code == 403
    assert client.post("/v1/clients/1/forget", json={"confirm": 1}).status_code == 403


def test_metrics_name_no_client_and_no_content(client: httpx.Client, user: str) -> None:
    client.post("/v1/assemble", json={"client_id": user, "query": "zanzibar"})
    text = client.get("/metrics").text
    assert "memory_request_seconds_bucket" in text and user not in text and "zanzibar" not in text


def test_the_document_in_the_repository_is_this_versions() -> None:
    from pathlib import Path

    stored = json.loads((Path(__file__).parents[2] / "docs/openapi.json").read_text())
    assert stored == json.loads(json.dumps(openapi())), "run: memory-service openapi > docs/openapi.json"
