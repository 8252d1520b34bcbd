"""A stand-in for the memory service: its contract's shapes, with faults on demand and every body kept."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def refused(code: str, message: str) -> dict[str, object]:
    """A refusal in the shape of the memory service."""
    return {"error": {"code": code, "message": message}}


class MemoryDouble:
    """Answers /v1/assemble, /v1/writeback and /v1/cleanup; ``tokens`` are the bearer tokens it takes."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = set(tokens)
        self.delay_s = 0.0
        self.fail_with: int | None = None
        self.calls: list[tuple[str, dict[str, object]]] = []
        self.committed: dict[str, int] = {}
        self.content_types: list[str] = []
        self._lock = threading.Lock()
        self.start()

    def start(self, port: int = 0) -> None:
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, body, headers = double.answer(self.path, raw, self.headers.get("Authorization", ""))
                with double._lock:
                    double.content_types.append(self.headers.get("Content-Type", ""))
                payload = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a caller that did not wait
                    self.wfile.write(payload)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        ThreadingHTTPServer.request_queue_size = 128
        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(
        self, path: str, raw: bytes, authorization: str
    ) -> tuple[int, dict[str, object], dict[str, str]]:
        if authorization.removeprefix("Bearer ") not in self.tokens:
            return 401, refused("unauthorized", "wrong token"), {}
        time.sleep(self.delay_s)
        if self.fail_with is not None:
            headers = {"Retry-After": "7"} if self.fail_with == 503 else {}
            return self.fail_with, refused("failing", f"told to fail with {self.fail_with}"), headers
        try:
            body = json.loads(raw)
        except ValueError:
            return 400, refused("invalid", "the body is not JSON"), {}
        if not isinstance(body, dict):
            return 422, refused("invalid", "the body is not an object"), {}
        with self._lock:
            self.calls.append((path, body))
        if path == "/v1/cleanup":
            return 200, {"success": True, "deleted": {"facts": 3}, "execution_time_ms": 4}, {}
        if "client_id" not in body:
            return 422, refused("invalid", "client_id: Field required"), {}
        if path == "/v1/assemble":
            return 200, {
                "client_id": body["client_id"], "profile": {"name": "Zoë", "tags": [], "metadata": None},
                "similar_chunks": [], "recent_episodes": [], "timestamp": body.get("timestamp"), "execution_time_ms": 1,
            }, {}  # fmt: skip
        with self._lock:
            key = str(body.get("message_id", len(self.committed)))
            self.committed[key] = self.committed.get(key, 0) + 1
        return (
            200,
            {"success": True, "episode_id": len(self.committed), "facts_upserted": 0, "state_saved": True},
            {},
        )
