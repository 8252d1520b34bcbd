"""What the laptop serves to its droplets over the wire: an image registry and a stand-in for an LLM provider.

Each runs in its own control group, which is how it is found and ended: no process id is stored that could
later belong to somebody else.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drill import cgroup, network, paths, records
from drill.console import say
from drill.errors import DrillError
from drill.network import Wire
from drill.trees import delete_tree

OPENAI_DOUBLE: Final = paths.REPOSITORY / "tests/doubles/openai_double.py"


@dataclass(frozen=True)
class Service:
    """A process on the laptop that droplets talk to."""

    name: str
    command: tuple[str, ...]
    ready_url: str
    """Answers any HTTP status below 500 once the service is ready."""
    program: Path | None = None
    """A file of this checkout that the process has read and that may be edited while it runs."""

    @property
    def log(self) -> Path:
        return paths.state_dir() / "services" / f"{self.name}.log"

    @property
    def note(self) -> Path:
        """Which content of which program was started."""
        return self.log.with_suffix(".json")

    @property
    def cells(self) -> cgroup.Group:
        return cgroup.Group(cgroup.layout(), f"drill-{self.name}-{records.tag(self.name)}")


def registry(wire: Wire) -> Service:
    """Debian's docker-registry; its content stays in the cache directory."""
    configuration = paths.state_dir() / "services" / "registry.yml"
    return Service(
        "registry",
        ("docker-registry", "serve", str(configuration)),
        f"http://{wire.registry}/v2/",
    )


def render_registry_configuration(storage: Path, address: str) -> str:
    """Configuration of docker-registry."""
    return (
        "version: 0.1\n"
        "log: {level: warn}\n"
        "storage:\n"
        f'  filesystem: {{rootdirectory: "{storage}"}}\n'
        "  delete: {enabled: true}\n"
        f'http: {{addr: "{address}"}}\n'
    )


def openai_double(wire: Wire) -> Service:
    """The double of an OpenAI-compatible API, for droplets with no provider account."""
    port = network.OPENAI_DOUBLE_PORT
    return Service(
        "openai-double",
        (sys.executable, str(OPENAI_DOUBLE), "--host", wire.laptop, "--port", str(port)),
        f"http://{wire.laptop}:{port}/v1/models",
        OPENAI_DOUBLE,
    )


def of(wire: Wire) -> list[Service]:
    """The services of a wire that this laptop can run."""
    found = [registry(wire)]
    if OPENAI_DOUBLE.is_file():
        found.append(openai_double(wire))
    return found


def ensure(wire: Wire) -> None:
    """Start the services that do not run (idempotent; hold the lock)."""
    configuration = paths.state_dir() / "services" / "registry.yml"
    configuration.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    storage = paths.cache_dir() / "registry"
    storage.mkdir(parents=True, exist_ok=True)
    configuration.write_text(render_registry_configuration(storage, wire.registry))
    for service in of(wire):
        if not is_current(service):
            service.cells.kill()
            _start(service)
            say(f"{service.name} serves on {service.ready_url}")


def is_current(service: Service) -> bool:
    """Whether the service runs, from the present content of its program.

    Where it lies does not count: checkouts that share a wire share its services as long as they agree.
    """
    if not service.cells.processes():
        return False
    return service.program is None or records.read_json(service.note) == _state_of(service.program)


def all_current(wire: Wire) -> bool:
    """Whether every service of a wire runs."""
    return all(is_current(service) for service in of(wire))


def remove(wire: Wire) -> None:
    """End the services and remove what they left, but for the registry's images (idempotent; hold the lock)."""
    for service in (registry(wire), openai_double(wire)):
        service.cells.kill()
        service.cells.remove()
    # The whole directory: a killed run may have left a file that was being written.
    delete_tree(paths.state_dir() / "services")


def _state_of(program: Path) -> dict[str, object]:
    return {"sha256": hashlib.sha256(program.read_bytes()).hexdigest()}


def _start(service: Service, timeout_s: float = 120) -> None:
    service.cells.prepare(None)
    if service.program is not None:
        records.write_json(service.note, _state_of(service.program))
    with service.log.open("ab") as stream:
        process = subprocess.Popen(
            service.cells.command(service.command, None),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            cwd=paths.REPOSITORY,
            # The registry reads REGISTRY_* and OTEL_*; nothing of the caller's environment is meant for it.
            env={name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            start_new_session=True,
        )
    deadline = time.monotonic() + timeout_s
    while not _answers(service.ready_url):
        if process.poll() is not None:
            raise DrillError(f"{service.name} ended at once with {process.returncode}; see {service.log}.")
        if time.monotonic() > deadline:
            raise DrillError(
                f"{service.name} did not answer on {service.ready_url} in {timeout_s:g} s; see {service.log}."
            )
        time.sleep(0.1)


def _answers(url: str) -> bool:
    # Never through a proxy of the environment: the address is on our own wire.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False
