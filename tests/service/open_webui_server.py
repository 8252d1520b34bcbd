"""A real Open WebUI of the pinned version on this machine, and a webhook that fails in every way wanted.

The server is the PyPI package with the dependency list that the official slim image installs, in a virtual
environment kept in the cache; its database is real Postgres.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg

from settings.images import pins
from settings.open_webui import FUNCTION, model_record, plain_environment
from tests.service.cluster import free_port, running_cluster

PROJECT = Path(__file__).parents[2]
FILTER = PROJECT / "files" / "open_webui" / "memory_filter.py"
PROVISION = PROJECT / "files" / "open_webui" / "provision.py"
MODEL = "double-chat"
READY_S = 300.0


def version() -> str:
    """The pinned version as PyPI writes it, e.g. ``0.12.4``."""
    return pins()["open-webui"].tag.removeprefix("v").removesuffix("-slim")


def wait_until(what: str, done: Callable[[], Any], seconds: float = 120.0) -> Any:
    """The first true value of ``done``; fails with a sentence when the deadline passes."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = done()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds:.0f} s in vain for {what}")


def install() -> Path:
    """The virtual environment with Open WebUI, built on first use (7-60 s)."""
    cache = Path(os.environ.get("MEMORY_DROPLET_CACHE") or Path.home() / ".cache" / "memory-droplet")
    venv = cache / "open-webui" / f"venv-{version()}"
    if (venv / "complete").exists():
        return venv
    building = venv.with_name(f"{venv.name}.{os.getpid()}")
    building.mkdir(parents=True, exist_ok=True)
    run = ["nice", "uv"]
    try:
        subprocess.run([*run, "venv", "--quiet", "--python", "3.11", str(building)], check=True)
        python = str(building / "bin" / "python")
        pip = [*run, "pip", "install", "--quiet", "--python", python]
        subprocess.run([*pip, "--no-deps", f"open-webui=={version()}"], check=True)
        (listed,) = building.glob("lib/python3*/site-packages/open_webui-*.dist-info/RECORD")
        slim = listed.parent.parent / "requirements-slim.txt"
        if not slim.exists():
            slim = _slim_list(building)
        subprocess.run([*pip, "-r", str(slim)], check=True)
        (building / "complete").touch()
        shutil.rmtree(venv, ignore_errors=True)
        # Only the interpreter and `-m` are used, so the moved environment's script headers do not matter.
        building.rename(venv)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return venv


def _slim_list(folder: Path) -> Path:
    """requirements-slim.txt lies in the root of the wheel, outside the package."""
    download = folder / "wheel"
    python = str(folder / "bin" / "python")
    subprocess.run(["nice", "uv", "pip", "install", "--quiet", "--python", python, "pip"], check=True)
    subprocess.run(
        [
            python,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            f"open-webui=={version()}",
            "-d",
            str(download),
        ],
        check=True,
    )
    (wheel,) = download.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extract("requirements-slim.txt", folder)
    shutil.rmtree(download)
    return folder / "requirements-slim.txt"


@dataclass
class Answer:
    """Status and body of an HTTP call."""

    status: int
    text: str
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def http(
    method: str, url: str, body: object = None, token: str = "", timeout: float = 60.0, **headers: str
) -> Answer:
    """One HTTP call without a proxy; an error status is an answer as well."""
    sent = {"Content-Type": "application/json", **headers}
    if token:
        sent["Authorization"] = f"Bearer {token}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers=sent)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    started = time.monotonic()
    try:
        with opener.open(request, timeout=timeout) as response:
            return Answer(response.status, response.read().decode(), time.monotonic() - started)
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.read().decode(errors="replace"), time.monotonic() - started)


# -- the webhook ----------------------------------------------------------------------------------


@dataclass
class Webhook:
    """What n8n and the memory service look like to the filter, with failures on demand.

    ``mode`` per path end: ok, hang, 500, 404, 413, garbage, starting (n8n's 200 while it boots), empty, list,
    huge. A turn with the word in ``stumbles_over`` is answered 502, as n8n does when the service fails. It remembers
    what is written back per client and recalls it, so that a chat can be followed round. Records of clients are the
    operators', who have ``admin_token``.
    """

    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    admin_token: str = ""
    assemble_mode: str = "ok"
    writeback_mode: str = "ok"
    stumbles_over: str = ""
    assembled: list[dict[str, Any]] = field(default_factory=list)
    written: list[dict[str, Any]] = field(default_factory=list)
    refused: int = 0
    profiles: dict[str, list[str]] = field(default_factory=dict)
    clients: dict[str, dict[str, Any]] = field(default_factory=dict)
    released: threading.Event = field(default_factory=threading.Event)
    port: int = 0
    server: ThreadingHTTPServer | None = None

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/webhook/memory/{name}"

    def start(self) -> None:
        """Listen; a second start after a stop takes the same port."""
        self.server = _WebhookServer(("127.0.0.1", self.port), self)
        self.port = self.server.server_address[1]
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()

    def stop(self) -> None:
        """Refuse connections from now on."""
        self.release()
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def release(self) -> None:
        """Let every hanging call end."""
        self.released.set()
        self.released = threading.Event()

    def healthy(self) -> None:
        """Back to a webhook that works and has seen nothing."""
        self.release()
        self.assemble_mode = self.writeback_mode = "ok"
        self.stumbles_over = ""
        self.assembled.clear()
        self.written.clear()
        self.refused = 0
        if self.server is None:
            self.start()

    def context(self, client: str) -> str:
        """What earlier turns of that client left, in the shape in which the memory service renders it."""
        lines = ["Profile:", *self.profiles[client]] if client in self.profiles else []
        turns = [turn for turn in self.written if turn["client_id"] == client]
        if turns:
            lines.append("Earlier messages that may matter:")
            lines += [f"- {turn['conversation'][-1]['content']}" for turn in turns]
        if not lines:
            return ""
        return "\n".join(['<user_memory id="of-the-service">', "A preamble.", *lines, "</user_memory>"])


class _WebhookServer(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], webhook: Webhook) -> None:
        super().__init__(address, _WebhookHandler)
        self.webhook = webhook

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that gave up is what several tests are about."""


class _WebhookHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _WebhookServer

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def _send(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _as_admin(self) -> bool:
        """Whether the call has the memory service's admin token; answered with 401 when it has not."""
        if self.headers.get("Authorization") == f"Bearer {self.server.webhook.admin_token}":
            return True
        self._send(401, b'{"error":{"code":"unauthorized"}}')
        return False

    def do_GET(self) -> None:
        """The memory service's record of a client."""
        if not self._as_admin():
            return
        found = self.server.webhook.clients.get(self.path.rsplit("/", 1)[1])
        self._send(200 if found else 404, json.dumps(found or {"error": {"status": 404}}).encode())

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._as_admin():
            return
        clients = self.server.webhook.clients
        user = self.path.rsplit("/", 1)[1]
        clients[user] = {"id": 1_000_000 + len(clients), **clients.get(user, {}), **body}
        self._send(200, json.dumps(clients[user]).encode())

    def do_POST(self) -> None:
        hook = self.server.webhook
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers.get("X-Webhook-Token") != hook.token:
            hook.refused += 1
            self._send(403, b"Authorization data is wrong!", "text/plain")
            return
        assemble = self.path.endswith("/assemble")
        mode = hook.assemble_mode if assemble else hook.writeback_mode
        if assemble:
            hook.assembled.append(body)
        if mode == "hang":
            hook.released.wait(120)
            self.close_connection = True
        elif mode in ("500", "404", "413"):
            self._send(int(mode), b'{"message":"Error in workflow"}')
        elif mode == "garbage":
            self._send(200, b"<html>\xff\xfe not JSON")
        elif mode == "starting":
            self._send(200, b"n8n is starting up. Please wait", "text/html")
        elif mode == "empty":
            self._send(200, b"")
        elif mode == "list":
            self._send(200, b"[1, 2]")
        elif mode == "huge":
            self._send(200, json.dumps({"success": True, "context": "x" * 3_000_000}).encode())
        elif assemble:
            profile = hook.profiles.get(body["client_id"], {"name": "", "tags": [], "metadata": {}})
            answer = {
                "context": hook.context(body["client_id"]),
                "profile": profile,
                "execution_time_ms": 1.5,
            }
            self._send(200, json.dumps(answer).encode())
        elif hook.stumbles_over and hook.stumbles_over in json.dumps(body):
            self._send(502, b'{"error":{"code":"memory_service_failed","message":"status 500"}}')
        else:
            # As in the memory service, the time is no part of what makes two turns the same.
            if _timeless(body) not in [_timeless(turn) for turn in hook.written]:
                hook.written.append(body)
            self._send(200, b'{"success":true,"episode_id":1}')


def _timeless(turn: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in turn.items() if name != "timestamp"}


# -- the server -----------------------------------------------------------------------------------


@dataclass
class OpenWebui:
    """A running server, its admin and its users."""

    folder: Path
    database_url: str
    llm_url: str
    webhook: Webhook
    memory_service_url: str
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    filter_file: Path = FILTER
    valves: dict[str, Any] = field(default_factory=dict)
    clients: list[dict[str, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def spool(self) -> Path:
        return self.folder / "data" / "memory-spool"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def secret(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text()

    def prepare(self) -> None:
        """Secrets and declaration, as a deploy lays them down."""
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        (self.folder / "secrets").mkdir(exist_ok=True)
        for name in ("admin_password", "client_password", "memory_admin_token", "secret_key"):
            (self.folder / "secrets" / name).write_text(secrets.token_urlsafe(24))
        (self.folder / "secrets" / "webhook_token").write_text(self.webhook.token)
        self.webhook.admin_token = self.secret("memory_admin_token")
        self.clients = [
            {
                "id": f"test-client-00{number}",
                "name": f"Test Client 00{number}",
                "email": f"test-client-00{number}@example.test",
                "group": "memory-test",
                "tags": ["memory-test", "phase3-eval"],
            }
            for number in (1, 2)
        ]
        self.valves = {
            "assemble_url": self.webhook.url("assemble"),
            "writeback_url": self.webhook.url("writeback"),
            "assemble_timeout_s": 2.0,
            "writeback_timeout_s": 3.0,
            "priority": -10,
            "spool_dir": str(self.spool),
        }
        self.declare()

    def declare(self) -> None:
        """Write the declaration that the provisioner reads."""
        declaration = {
            "url": self.url,
            "state_dir": str(self.folder / "state"),
            "secrets_dir": str(self.folder / "secrets"),
            "admin": {"email": "admin@example.test"},
            "function": {**FUNCTION, "file": str(self.filter_file), "valves": self.valves},
            "model": model_record(MODEL),
            "clients": self.clients,
            "memory_service_url": self.memory_service_url,
        }
        (self.folder / "provision.json").write_text(json.dumps(declaration))

    def provision(self, verb: str) -> subprocess.CompletedProcess[str]:
        """Run the on-host provisioner."""
        return subprocess.run(
            ["python3", str(PROVISION), verb],
            env={"PATH": os.environ["PATH"], "OPEN_WEBUI_PROVISION": str(self.folder / "provision.json")},
            capture_output=True,
            text=True,
            check=False,
        )

    def plan(self) -> list[str]:
        """The differences that a dry run would list."""
        done = self.provision("plan")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["reachable"], "the server did not answer the plan"
        return list(found["differences"])

    def start(self) -> None:
        """Start and wait until ready."""
        venv = install()
        data = self.folder / "data"
        environment = {
            **plain_environment(MODEL, self.llm_url, self.url, "admin@example.test"),
            "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "USE_SLIM_DOCKER": "true",
            "FROM_INIT_PY": "true",  # as the package's own command sets it: the pages lie in the package
            "DATA_DIR": str(data),
            "STATIC_DIR": str(self.folder / "static"),
            "WEBUI_SECRET_KEY": self.secret("secret_key"),
            "WEBUI_ADMIN_PASSWORD": self.secret("admin_password"),
            "DATABASE_URL": self.database_url,
            "OPENAI_API_KEY": "key-of-the-double",
            "ENABLE_API_KEYS": "true",
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(venv / "bin" / "python"),
                    *("-m", "uvicorn", "open_webui.main:app"),
                    *("--host", "127.0.0.1", "--port", str(self.port), "--log-level", "warning"),
                ],
                env=environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until("Open WebUI to be ready", self._ready, READY_S)

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"Open WebUI ended: {self.log.read_text()[-2000:]}"
        with contextlib.suppress(OSError):
            return http("GET", f"{self.url}/ready", timeout=5).status == 200
        return False

    def stop(self, kill: bool = False) -> None:
        """Stop it, politely or with SIGKILL."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            self.process.wait(60)
        self.process = None

    def rss_mb(self) -> float:
        """Resident memory of the server process in MiB."""
        assert self.process is not None
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise AssertionError("the server process has no VmRSS")

    def sign_in(self, email: str, password: str) -> str:
        """A session token."""
        answer = http("POST", f"{self.url}/api/v1/auths/signin", {"email": email, "password": password})
        assert answer.status == 200, f"sign-in of {email} answered {answer.status}"
        return str(answer.json["token"])


@dataclass
class Chat:
    """A conversation as the browser holds it: one request per turn, the server saves the chat."""

    url: str
    token: str
    model: str = MODEL
    chat_id: str = ""
    last: str | None = None
    session_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def send(self, text: str, parent: str | None = "last", user_message_id: str = "") -> str:
        """Send a turn without waiting; returns the id of the answer.

        ``parent``: which answer it follows (None: it starts the chat). With the id of a message that the
        chat has already, the answer to that message is generated once more.
        """
        answer_id, user_id = str(uuid.uuid4()), user_message_id or str(uuid.uuid4())
        follows = self.last if parent == "last" else parent
        body: dict[str, Any] = {
            "stream": True,
            "model": self.model,
            "params": {},
            "tool_ids": [],
            "features": {},
            "variables": {},
            "session_id": self.session_id,
            "id": answer_id,
            "parent_id": follows,
            "user_message": {
                "id": user_id,
                "parentId": follows,
                "childrenIds": [answer_id],
                "role": "user",
                "content": text,
                "models": [self.model],
            },
            "background_tasks": {},
        }
        if self.chat_id:
            body["chat_id"] = self.chat_id
        answer = http("POST", f"{self.url}/api/chat/completions", body, self.token)
        assert answer.status == 200, f"the chat answered {answer.status}: {answer.text[:300]}"
        self.chat_id = answer.json["chat_id"]
        self.last = answer_id
        return answer_id

    def go_on(self, message_id: str) -> None:
        """Have an answer continued, as the button below it does."""
        question = self.message(message_id)["parentId"]
        body = {
            "stream": True,
            "model": self.model,
            "session_id": self.session_id,
            "chat_id": self.chat_id,
            "id": message_id,
            "assistant_message_id": message_id,
            "parent_id": self.message(question).get("parentId"),
            "user_message": self.message(question),
            "background_tasks": {},
        }
        answer = http("POST", f"{self.url}/api/chat/completions", body, self.token)
        assert answer.status == 200, f"the chat answered {answer.status}: {answer.text[:300]}"

    def message(self, message_id: str) -> dict[str, Any]:
        """A saved message, or an empty one."""
        answer = http("GET", f"{self.url}/api/v1/chats/{self.chat_id}", token=self.token)
        if answer.status != 200:
            return {}
        found = answer.json["chat"].get("history", {}).get("messages", {}).get(message_id, {})
        return dict(found)

    def wait(self, message_id: str, seconds: float = 120.0) -> str:
        """The text of an answer once it is saved as done."""

        def finished() -> dict[str, Any] | None:
            found = self.message(message_id)
            return found if found.get("done") else None

        message = wait_until("the answer to be saved as done", finished, seconds)
        assert not message.get("error"), f"the chat failed: {message['error']}"
        return text_of(message)

    def say(self, text: str) -> str:
        """Send a turn and return its answer."""
        return self.wait(self.send(text))


def text_of(message: dict[str, Any]) -> str:
    """The text of a saved message, which newer chats keep in ``output``."""
    if message.get("content"):
        return str(message["content"])
    parts = [part for item in message.get("output") or [] for part in item.get("content") or []]
    return "".join(part.get("text", "") for part in parts)


@contextlib.contextmanager
def database() -> Iterator[str]:
    """A real Postgres with an empty database, as a URL for Open WebUI."""
    with running_cluster() as cluster:
        with psycopg.connect(cluster.dsn("postgres", "postgres"), autocommit=True) as admin:
            admin.execute("CREATE DATABASE openwebui")
        yield f"postgresql://postgres@127.0.0.1:{cluster.port}/openwebui"
