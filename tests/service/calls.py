"""The two calls of a chat turn, as short as tests want them."""

from __future__ import annotations

from typing import Any

import httpx


def write(
    client: httpx.Client, user: object, said: str, answer: str | None = "Noted.", **more: object
) -> dict[str, Any]:
    """Writes a turn back and returns the answer."""
    body: dict[str, object] = {
        "client_id": user,
        "conversation": [{"role": "user", "content": said}],
        "timestamp": "2026-11-22T15:00:00Z",
        **more,
    }
    if answer is not None:
        body["response"] = answer
    response = client.post("/v1/writeback", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


def ask(client: httpx.Client, user: object, query: str, **more: object) -> dict[str, Any]:
    """Assembles the context for a query and returns the answer."""
    body = {"client_id": user, "query": query, "timestamp": "2026-11-22T15:00:00Z", **more}
    response = client.post("/v1/assemble", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())
