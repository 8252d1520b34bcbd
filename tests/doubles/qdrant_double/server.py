"""The HTTP front: routes, keys, envelopes, and the thread that flushes unasked."""

from __future__ import annotations

import hmac
import json
import logging
import re
import shutil
import socket
import sys
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from . import strict
from .configuration import Configuration
from .errors import ApiError, bad_request
from .store import Store

Json = dict[str, Any]
VERSION: Final = "1.20.0"
TITLE: Final = "qdrant - contract double over the embedded engine (qdrant-edge-py)"
log = logging.getLogger("qdrant_double")


@dataclass(frozen=True)
class Request:
    """What a route gets: the store, the variables of its path, the query string and the body."""

    store: Store
    path: tuple[str, ...]
    query: dict[str, str]
    body: Json

    @property
    def collection(self) -> Any:
        """The collection named by the path, its timeout checked against its strict mode."""
        found = self.store.get(self.path[0])
        timeout = self.query.get("timeout")
        strict.check_timeout(found.strict, int(timeout) if timeout and timeout.isdigit() else None)
        return found

    def done(self, operation: int) -> Json:
        """The result of a write: applied in any case, but `acknowledged` to those who would not wait."""
        waited = self.query.get("wait", "false") == "true"
        return {"operation_id": operation, "status": "completed" if waited else "acknowledged"}


def _batch(request: Request) -> list[Json]:
    collection = request.collection
    results = []
    for one in request.body.get("operations") or []:
        (kind, body), *more = one.items()
        if more:
            raise bad_request("one operation per entry")
        match kind:
            case "upsert":
                number = collection.upsert(body)
            case "delete":
                number = collection.delete(body)
            case "set_payload" | "overwrite_payload" | "delete_payload" | "clear_payload":
                number = collection.write_payload(kind.removesuffix("_payload"), body)
            case "update_vectors":
                number = collection.update_vectors(body)
            case _:
                raise bad_request(f"unknown operation `{kind}`")
        results.append(request.done(number))
    return results


def _retrieve(r: Request) -> list[Json]:
    body = r.body
    return list(
        r.collection.retrieve(body.get("ids") or [], body.get("with_payload"), body.get("with_vector"))
    )


def _retrieve_one(r: Request) -> Json:
    given = r.path[1]
    found = r.collection.retrieve([int(given) if given.isdigit() else given], True, True)
    if not found:
        raise ApiError(404, f"Not found: Point with id {given} does not exists!")
    return dict(found[0])


def _exists(r: Request) -> Json:
    return {"exists": r.store.exists(r.path[0])}


def _recover(r: Request) -> bool:
    location = r.body.get("location")
    if not isinstance(location, str):
        raise bad_request("missing field `location`")
    return r.store.recover(r.path[0], location, r.body.get("checksum"))


_C: Final = r"/collections/([^/]+)"
#: method, path, whether it changes anything, what answers it.
_ROUTES: Final[list[tuple[str, str, bool, Callable[[Request], Any]]]] = [
    ("GET", r"/collections", False, lambda r: {"collections": [{"name": n} for n in r.store.names()]}),
    ("GET", r"/aliases", False, lambda r: {"aliases": r.store.aliases()}),
    ("POST", r"/collections/aliases", True, lambda r: r.store.change_aliases(r.body.get("actions") or [])),
    ("GET", _C, False, lambda r: r.collection.info()),
    ("PUT", _C, True, lambda r: r.store.create(r.path[0], r.body)),
    ("PATCH", _C, True, lambda r: r.collection.patch(r.body) is None),
    ("DELETE", _C, True, lambda r: r.store.delete(r.path[0])),
    ("GET", _C + r"/exists", False, _exists),
    ("GET", _C + r"/aliases", False, lambda r: {"aliases": r.store.aliases(r.collection.name)}),
    (
        "PUT",
        _C + r"/index",
        True,
        lambda r: r.done(
            r.collection.create_index(
                r.body.get("field_name"), r.body.get("field_schema", r.body.get("field_type"))
            )
        ),
    ),
    ("DELETE", _C + r"/index/([^/]+)", True, lambda r: r.done(r.collection.delete_index(r.path[1]))),
    ("PUT", _C + r"/points", True, lambda r: r.done(r.collection.upsert(r.body))),
    ("POST", _C + r"/points", False, _retrieve),
    ("GET", _C + r"/points/([^/]+)", False, _retrieve_one),
    ("POST", _C + r"/points/query", False, lambda r: {"points": r.collection.query(r.body)}),
    (
        "POST",
        _C + r"/points/query/batch",
        False,
        lambda r: [{"points": r.collection.query(one)} for one in r.body.get("searches") or []],
    ),
    ("POST", _C + r"/points/scroll", False, lambda r: r.collection.scroll(r.body)),
    ("POST", _C + r"/points/count", False, lambda r: {"count": r.collection.count(r.body)}),
    ("POST", _C + r"/facet", False, lambda r: {"hits": r.collection.facet(r.body)}),
    ("POST", _C + r"/points/delete", True, lambda r: r.done(r.collection.delete(r.body))),
    ("POST", _C + r"/points/batch", True, _batch),
    ("POST", _C + r"/points/payload", True, lambda r: r.done(r.collection.write_payload("set", r.body))),
    ("PUT", _C + r"/points/payload", True, lambda r: r.done(r.collection.write_payload("overwrite", r.body))),
    (
        "POST",
        _C + r"/points/payload/delete",
        True,
        lambda r: r.done(r.collection.write_payload("delete", r.body)),
    ),
    (
        "POST",
        _C + r"/points/payload/clear",
        True,
        lambda r: r.done(r.collection.write_payload("clear", r.body)),
    ),
    ("PUT", _C + r"/points/vectors", True, lambda r: r.done(r.collection.update_vectors(r.body))),
    ("GET", _C + r"/snapshots", False, lambda r: r.store.snapshots(r.path[0])),
    ("POST", _C + r"/snapshots", True, lambda r: r.store.create_snapshot(r.path[0])),
    ("PUT", _C + r"/snapshots/recover", True, _recover),
    ("DELETE", _C + r"/snapshots/([^/]+)", True, lambda r: r.store.delete_snapshot(*r.path)),
]
_COMPILED: Final = [
    (method, re.compile(pattern), change, answer) for method, pattern, change, answer in _ROUTES
]
_DOWNLOAD: Final = re.compile(_C + r"/snapshots/([^/]+)")
_OPEN_PATHS: Final = {
    "/healthz": "healthz check passed",
    "/livez": "healthz check passed",
    "/readyz": "all shards are ready",
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "qdrant-double"
    sys_version = ""
    # An idle keep-alive connection holds a thread; the peer is expected to come back within this time.
    timeout = 90
    # Status line, headers and body leave in one segment.
    wbufsize = 1 << 16
    disable_nagle_algorithm = True
    server: DoubleServer

    def log_message(self, format: str, *args: object) -> None:
        log.debug("%s %s", self.address_string(), format % args)

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.server.answered(self.command, status)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def _json(self, status: int, value: object) -> None:
        self._send(status, json.dumps(value, separators=(",", ":")).encode(), "application/json")

    def _text(self, status: int, text: str) -> None:
        self._send(status, text.encode(), "text/plain; charset=utf-8")

    def _body(self) -> Json:
        length = self.headers.get("Content-Length")
        if length is None or not length.isdigit():
            if self.headers.get("Transfer-Encoding"):
                self.close_connection = True
                raise ApiError(411, "Format error in JSON body: a Content-Length is required")
            return {}
        size = int(length)
        if size > self.server.configuration.max_request_mb << 20:
            self.close_connection = True
            limit = self.server.configuration.max_request_mb << 20
            raise ApiError(413, f"JSON payload ({size} bytes) is larger than allowed (limit: {limit} bytes).")
        raw = self.rfile.read(size)
        if not raw:
            return {}
        try:
            value = json.loads(raw)
        except ValueError as error:
            raise ApiError(400, f"Format error in JSON body: {error}") from error
        if not isinstance(value, dict):
            raise ApiError(
                400, f"Format error in JSON body: expected an object, found {type(value).__name__}"
            )
        return value

    def _admitted(self, change: bool) -> bool:
        """Check the key as the server does; answers and returns False where it does not fit."""
        configuration = self.server.configuration
        if not configuration.keys_in_force:
            return True
        bearer = self.headers.get("Authorization", "")
        given = self.headers.get("api-key") or (bearer[7:] if bearer.lower().startswith("bearer ") else "")
        if not given:
            self._text(401, "Must provide an API key or an Authorization bearer token")
            return False

        def fits(key: str) -> bool:
            return bool(key) and hmac.compare_digest(given.encode(), key.encode())

        if fits(configuration.api_key) or fits(configuration.alt_api_key):
            return True
        if fits(configuration.read_only_api_key):
            if not change:
                return True
            self._json(403, {"status": {"error": "Forbidden: Global write access is required"}, "time": 0.0})
            return False
        self._text(401, "Invalid API key or JWT")
        return False

    def _download(self, path: Path) -> None:
        self.server.answered(self.command, 200)
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(path.stat().st_size))
        self.end_headers()
        with path.open("rb") as handle:
            shutil.copyfileobj(handle, self.wfile, 1 << 20)
        self.wfile.flush()

    def _handle(self) -> None:
        start = time.perf_counter()
        parts = urllib.parse.urlsplit(self.path)
        path = parts.path.rstrip("/") or "/"
        query = dict(urllib.parse.parse_qsl(parts.query))
        try:
            # Read first: a body left on the wire would be taken for the next request of the connection.
            body = self._body()
            self._route(path, query, body, start)
        except ApiError as error:
            self._json(
                error.status, {"status": {"error": error.message}, "time": time.perf_counter() - start}
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            # A body of the wrong shape; the server's deserializer refuses those before anything runs.
            log.info("refused %s %s: %r", self.command, path, error)
            self._json(
                400,
                {
                    "status": {"error": f"Format error in JSON body: {type(error).__name__} {error}"},
                    "time": time.perf_counter() - start,
                },
            )

    def _route(self, path: str, query: dict[str, str], body: Json, start: float) -> None:
        if self.command == "GET" and path in _OPEN_PATHS:
            self._text(200, _OPEN_PATHS[path])
            return
        routes = [(m, p, change, answer) for m, p, change, answer in _COMPILED if p.fullmatch(path)]
        change = any(changes for method, _, changes, _ in routes if method == self.command)
        if not self._admitted(change):
            return
        if self.command == "GET":
            if path == "/":
                self._json(200, {"title": TITLE, "version": VERSION, "commit": ""})
                return
            if path == "/metrics":
                self._send(200, self.server.metrics().encode(), "text/plain; version=0.0.4")
                return
            if path == "/telemetry":
                self._json(200, {"result": self.server.telemetry(), "status": "ok", "time": 0.0})
                return
            download = _DOWNLOAD.fullmatch(path)
            if download:
                name, snapshot = map(urllib.parse.unquote, download.groups())
                self._download(self.server.store.snapshot_file(name, snapshot))
                return
        for method, pattern, _, answer in routes:
            found = pattern.fullmatch(path)
            if method == self.command and found:
                variables = tuple(urllib.parse.unquote(one) for one in found.groups())
                result = answer(Request(self.server.store, variables, query, body))
                self._json(200, {"result": result, "status": "ok", "time": time.perf_counter() - start})
                return
        self._send(HTTPStatus.METHOD_NOT_ALLOWED if routes else HTTPStatus.NOT_FOUND, b"", "text/plain")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _handle


class DoubleServer(ThreadingHTTPServer):
    """A listening server. `serve_forever` runs it, `close` stops and flushes it."""

    daemon_threads = True
    request_queue_size = 128
    # A restart must not wait for the old connections' TIME_WAIT.
    allow_reuse_address = True

    def __init__(self, configuration: Configuration) -> None:
        """Open the storage and listen; the port is known (and served) once this returns."""
        self.configuration = configuration
        self.store = Store(
            configuration.storage, configuration.snapshots, configuration.snapshot_url_recovery
        )
        self._started = time.time()
        self._answers: Counter[tuple[str, int]] = Counter()
        self._counting = threading.Lock()
        self._stopping = threading.Event()
        super().__init__((configuration.host, configuration.port), _Handler)
        self._flusher = threading.Thread(target=self._flush, name="flusher", daemon=True)
        self._flusher.start()

    @property
    def url(self) -> str:
        """Where it can be reached from this machine."""
        host = "127.0.0.1" if self.configuration.host in ("0.0.0.0", "") else self.configuration.host
        return f"http://{host}:{self.server_address[1]}"

    def _flush(self) -> None:
        while not self._stopping.wait(self.configuration.flush_every_s):
            for collection in self.store:
                try:
                    collection.flush()
                except ApiError as error:
                    # Closed or deleted meanwhile, or a full disk: the log has it, the next round tries again.
                    log.warning("flushing %s failed: %s", collection.name, error.message)

    def handle_error(self, request: object, client_address: object) -> None:
        error = sys.exception()
        if isinstance(error, ConnectionError | TimeoutError):
            log.debug("%s went away: %s", client_address, error)
        else:
            log.exception("answering %s failed", client_address)

    def answered(self, method: str, status: int) -> None:
        """Count an answer for `/metrics`."""
        with self._counting:
            self._answers[method, status] += 1

    def metrics(self) -> str:
        """The numbers a scrape gets, named as the server names them."""
        lines = [
            f'app_info{{name="qdrant-double",version="{VERSION}"}} 1',
            f"app_uptime_seconds {time.time() - self._started:.0f}",
            f"collections_total {len(self.store.names())}",
        ]
        for collection in self.store:
            info = collection.info()
            lines.append(f'collection_points{{id="{collection.name}"}} {info["points_count"]}')
            lines.append(f'collection_vectors{{collection="{collection.name}"}} {info["points_count"]}')
        with self._counting:
            for (method, status), count in sorted(self._answers.items()):
                lines.append(f'rest_responses_total{{method="{method}",status="{status}"}} {count}')
        return "\n".join(lines) + "\n"

    def telemetry(self) -> Json:
        """What the server says of itself."""
        return {
            "app": {"name": "qdrant-double", "version": VERSION},
            "collections": {"number_of_collections": len(self.store.names())},
        }

    def close(self) -> None:
        """Stop listening, let nothing new in, flush the collections."""
        self._stopping.set()
        self.server_close()
        self._flusher.join(timeout=60)
        self.store.close()

    def __enter__(self) -> DoubleServer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        self.close()


def start(configuration: Configuration) -> DoubleServer:
    """Start a server in a thread of this process, for tests::

    with start(Configuration(host="127.0.0.1", port=0, storage=tmp / "s", snapshots=tmp / "n")) as qdrant:
        QdrantClient(url=qdrant.url)
    """
    server = DoubleServer(configuration)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=10):
        return server
