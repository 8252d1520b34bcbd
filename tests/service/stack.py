"""The memory service with everything around it, for tests and benchmarks: real PostgreSQL, the Qdrant
double (the real engine behind it), the double of the OpenAI API, and the service in its own process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.service.cluster import PATIENCE_S, Cluster, free_port

SERVICE_TOKEN = "service-token-0123456789abcdef"
ADMIN_TOKEN = "admin-token-0123456789abcdefgh"
QDRANT_KEY = "qdrant-key-0123456789abcdefghijk"
ROOT = Path(__file__).parents[2]


def until(condition: object, what: str, seconds: float = 60.0) -> None:
    """Waits for a condition (a callable), failing with what was waited for."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:g} s still not: {what}")
        time.sleep(0.05)


#: The deadlines of a real deploy, for the tests that are about them. Otherwise the service takes its time: on a busy
#: machine an answer that comes late, or without a part, is right and not what is tested.
IN_A_HURRY = {
    "postgres_wait_s": "0.2",
    "qdrant_timeout_s": "0.4",
    "assemble_deadline_s": "1.2",
    "writeback_deadline_s": "2.0",
}
PATIENT = dict.fromkeys(IN_A_HURRY, "20")


@dataclass
class QdrantProcess:
    """The Qdrant double as a process of its own, which can be killed."""

    directory: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it and waits until it answers."""
        environment = {**os.environ, "QDRANT__SERVICE__API_KEY": QDRANT_KEY, "QDRANT__LOG_LEVEL": "ERROR"}
        command = [sys.executable, "-m", "tests.doubles.qdrant_double", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--storage", str(self.directory)]
        with (self.directory.parent / "qdrant.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        until(self.answers, "the Qdrant double answers")

    def answers(self) -> bool:
        """Whether it is up."""
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/readyz", timeout=1).status_code == 200
        return False

    def count(self, collection: str = "memory_vectors") -> int:
        """The exact number of points; of a collection that is not there, none."""
        response = httpx.post(
            f"{self.url}/collections/{collection}/points/count",
            json={"exact": True},
            headers={"api-key": QDRANT_KEY},
            timeout=PATIENCE_S,
        )
        return 0 if response.status_code == 404 else int(response.json()["result"]["count"])

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends it."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(PATIENCE_S)
            self.process = None


@dataclass
class ServiceProcess:
    """The memory service as a process of its own, which can be killed."""

    environment: dict[str, str]
    directory: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What it logged."""
        return self.directory / "service.log"

    def start(self) -> None:
        """Starts it and waits until it answers."""
        environment = {**os.environ, **self.environment, "MEMORY_LISTEN_PORT": str(self.port)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "memory_service", "serve"], env=environment, stdout=log, stderr=log
            )
        until(self.answers, f"the memory service answers; its log: {self.log.read_text()[-2000:]}")

    def answers(self) -> bool:
        """Whether it is up."""
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"the memory service ended: {self.log.read_text()[-2000:]}")
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/healthz", timeout=1).status_code == 200
        return False

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends it."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(PATIENCE_S)
            self.process = None

    def client(self, token: str = SERVICE_TOKEN, timeout: float = 30.0) -> httpx.Client:
        """An HTTP client with a token."""
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=timeout, trust_env=False
        )


def settings_for(
    cluster: Cluster, database: str, qdrant_url: str, provider: str, directory: Path, **more: str
) -> dict[str, str]:
    """The environment of a service in this stack; its secrets are files in `directory`."""
    secrets = directory / "credentials"
    secrets.mkdir(mode=0o700, exist_ok=True)
    for name, value in (
        ("service_token", SERVICE_TOKEN),
        ("admin_token", ADMIN_TOKEN),
        ("qdrant_api_key", QDRANT_KEY),
    ):
        (secrets / name).write_text(value)
    return {
        "CREDENTIALS_DIRECTORY": str(secrets),
        "MEMORY_POSTGRES_PORT": str(cluster.port),
        "MEMORY_POSTGRES_DATABASE": database,
        "MEMORY_QDRANT_URL": qdrant_url,
        "MEMORY_LLM_BASE_URL": provider,
        "MEMORY_LLM_MODEL": "double-chat" if provider else "",
        **{f"MEMORY_{name.upper()}": value for name, value in (PATIENT | more).items()},
    }


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="memory-service-") as name:
        yield Path(name)
