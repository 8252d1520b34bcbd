"""The frame around every request: an id, limits on the body, a measured time, one line in the log."""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from memory_service import metrics
from memory_service.bodies import Refusal, checked

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("memory_service.requests")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.-]{8,64}")
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})


class Frame:
    """ASGI middleware; see the module."""

    def __init__(self, app: App, max_body_bytes: int, max_depth: int) -> None:
        self._app = app
        self._max_body = max_body_bytes
        self._max_depth = max_depth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request; everything that is not HTTP passes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            try:
                body = await self._body(scope, headers, receive)
            except Refusal as refusal:
                await _refuse(sending, refusal)
                return
            await self._app(scope, _replay(body, receive), sending)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "other")
            metrics.REQUESTS.labels(route, f"{status // 100}xx").observe(seconds)
            level = logging.DEBUG if scope["path"] in _QUIET else logging.INFO
            log.log(
                level,
                "%s %s %d",
                scope["method"],
                route,
                status,
                extra={"request_id": request_id, "milliseconds": round(seconds * 1000, 1)},
            )

    async def _body(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """The whole body, checked. Raises Refusal as soon as it is known to be too large."""
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return b""
        declared = headers.get(b"content-length", b"0")
        too_large = Refusal(413, "too_large", f"the body is larger than {self._max_body} bytes")
        if declared.isdigit() and int(declared[:20]) > self._max_body:
            raise too_large
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refusal(400, "cut_off", "the body ended before its end")
            part = message.get("body", b"")
            size += len(part)
            if size > self._max_body:
                raise too_large
            parts.append(part)
            if not message.get("more_body"):
                break
        body = b"".join(parts)
        return checked(body, self._max_depth) if body.strip() else b""


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replaying() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replaying


async def _refuse(send: Send, refusal: Refusal) -> None:
    content = json.dumps({"error": {"code": refusal.code, "message": refusal.message}}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
