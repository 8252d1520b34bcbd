"""A container as a systemd unit: the unit file is the whole specification of the container."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from operations.systemd_quoting import quote_command, quote_setting, quote_word
from settings import names

DOCKER: Final = "/usr/bin/docker"
# RestartSteps= and RestartMaxDelaySec= came with systemd 254; Debian 12 has 252 and would warn.
_BACKOFF_SINCE: Final = 254
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_PUBLISH = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3}|\[[0-9a-f:]+\]):\d+(-\d+)?:\d+(-\d+)?(/(tcp|udp))?")
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


@dataclass(frozen=True)
class ContainerUnit:
    """One container and its limits; ``render`` turns it into the text of a systemd unit.

    Sizes are MiB (``*_mb``), times seconds (``*_s``), ``cpus`` may be a fraction.
    ``publish`` entries name the host address (``127.0.0.1:5678:5678``), because Docker publishes on
    every address when it is left out and bypasses the host's firewall.
    ``volumes`` are ``/host/path:/container/path[:ro]`` (the host path must exist) or
    ``volume:/container/path[:ro]``. Mount a directory where a running container has to see a changed
    file: a single file that is mounted stays the one it was at the start. ``tmpfs`` entries are ``/path`` or ``/path:options``.
    ``environment`` is in the unit file and in ``docker inspect``, so secrets do not belong there:
    mount them as files.
    """

    name: str
    image: str
    description: str
    memory_mb: int
    pids: int = 256
    cpus: float = 1.0
    network: str = names.NETWORK
    aliases: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    read_only: bool = True
    tmpfs: tuple[str, ...] = ()
    cap_add: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    entrypoint: str | None = None
    health_cmd: str | None = None
    health_interval_s: int = 30
    health_timeout_s: int = 5
    health_retries: int = 3
    health_start_period_s: int = 60
    after: tuple[str, ...] = ()
    restart: Literal["always", "on-failure"] = "always"
    restart_delay_s: int = 5
    stop_timeout_s: int = 30
    shm_mb: int | None = None
    add_hosts: tuple[str, ...] = ()
    ulimits: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    log_max_mb: int = 10
    log_files: int = 3
    oom_score_adjust: int | None = None

    def __post_init__(self) -> None:
        """Refuse what would render into a unit that fails later or opens a port by accident."""
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"container name {self.name!r} must be lower-case letters, digits, '_', '.' or '-'"
            )
        if not self.image or re.search(r"\s", self.image):
            raise ValueError(f"container {self.name}: image {self.image!r} is not an image reference")
        for published in self.publish:
            if not _PUBLISH.fullmatch(published):
                raise ValueError(
                    f"container {self.name}: publish {published!r} must name the host address, "
                    "like '127.0.0.1:5678:5678'; without it Docker opens the port to everyone"
                )
        for key, value in self.environment.items():
            if not _ENVIRONMENT_NAME.fullmatch(key):
                raise ValueError(f"container {self.name}: {key!r} is not a name for an environment variable")
            if not isinstance(value, str):
                raise TypeError(
                    f"container {self.name}: environment {key} is a {type(value).__name__}, not a string; "
                    "a secret must be mounted as a file, because `docker inspect` shows the environment"
                )
        if self.memory_mb < 6:
            raise ValueError(f"container {self.name}: memory_mb is {self.memory_mb}, Docker's least is 6")

    @property
    def unit(self) -> str:
        """The name of the systemd unit, such as ``droplet-n8n.service``."""
        return names.unit(self.name)

    @property
    def unit_path(self) -> str:
        """Where the unit file lies on the host."""
        return f"/etc/systemd/system/{self.unit}"

    def run_words(self) -> tuple[str, ...]:
        """The words after ``docker run``, unquoted."""
        words = ["--rm", "--name", self.name, "--hostname", self.name]
        # What was pulled and recorded is what runs: a start never waits for a registry.
        words += ["--pull", "never"]
        words += ["--log-driver", "json-file", "--log-opt", f"max-size={self.log_max_mb}m"]
        words += ["--log-opt", f"max-file={self.log_files}"]
        words += ["--network", self.network]
        for alias in self.aliases:
            words += ["--network-alias", alias]
        for published in self.publish:
            words += ["--publish", published]
        for entry in self.add_hosts:
            words += ["--add-host", entry]
        words += ["--memory", f"{self.memory_mb}m", "--pids-limit", str(self.pids)]
        words += ["--cpus", f"{self.cpus:g}"]
        if self.shm_mb is not None:
            words += ["--shm-size", f"{self.shm_mb}m"]
        for limit in self.ulimits:
            words += ["--ulimit", limit]
        if self.oom_score_adjust is not None:
            words += ["--oom-score-adj", str(self.oom_score_adjust)]
        words += ["--security-opt", "no-new-privileges", "--cap-drop", "ALL"]
        for capability in self.cap_add:
            words += ["--cap-add", capability]
        if self.user is not None:
            words += ["--user", self.user]
        if self.read_only:
            words += ["--read-only"]
        for mount in self.tmpfs:
            words += ["--tmpfs", mount if ":" in mount else f"{mount}:rw,noexec,nosuid,nodev,size=64m"]
        for volume in self.volumes:
            words += ["--mount", _mount(self.name, volume)]
        for key in sorted(self.environment):
            words += ["--env", f"{key}={self.environment[key]}"]
        for key in sorted(self.labels):
            words += ["--label", f"{key}={self.labels[key]}"]
        if self.health_cmd is not None:
            words += ["--health-cmd", self.health_cmd]
            words += ["--health-interval", f"{self.health_interval_s}s"]
            words += ["--health-timeout", f"{self.health_timeout_s}s"]
            words += ["--health-retries", str(self.health_retries)]
            words += ["--health-start-period", f"{self.health_start_period_s}s"]
        words += ["--stop-timeout", str(self.stop_timeout_s)]
        if self.entrypoint is not None:
            words += ["--entrypoint", self.entrypoint]
        return (*words, self.image, *self.command)

    def render(self, systemd: int = 252) -> str:
        """The text of the unit file for that version of systemd."""
        after = " ".join(("docker.service", *self.after))
        # In a shell, because Docker complains of a container that is not there, which is the usual case.
        remove = f'/bin/sh -c "exec {DOCKER} rm --force --volumes {self.name} >/dev/null 2>&1"'
        lines = [
            "# Written by the deploy; changes made here are repaired by the next run.",
            "[Unit]",
            f"Description={quote_setting(self.description)}",
            f"After={after}",
            "Requires=docker.service",
        ]
        if self.after:
            lines.append(f"Wants={' '.join(self.after)}")
        lines += [
            # Never give up: a dependency that comes back after an hour must find us trying.
            "StartLimitIntervalSec=0",
            "",
            "[Service]",
            "Type=exec",
            f"ExecStartPre=-{remove}",
            f"ExecStart={DOCKER} run \\\n  {quote_command(self.run_words())}",
            f"ExecStop={DOCKER} stop -t {self.stop_timeout_s} {quote_word(self.name)}",
            # The client may have been killed and have left its container running.
            f"ExecStopPost=-{remove}",
            # `docker logs` goes away with a container that dies; the journal still has its last words.
            f"SyslogIdentifier={quote_setting(self.name)}",
            f"Restart={self.restart}",
            f"RestartSec={self.restart_delay_s}",
        ]
        if systemd >= _BACKOFF_SINCE:
            lines += ["RestartSteps=5", "RestartMaxDelaySec=60"]
        lines += [
            # The client passes on the status of a container that ended on SIGTERM.
            "SuccessExitStatus=143",
            "TimeoutStartSec=120",
            f"TimeoutStopSec={self.stop_timeout_s + 15}",
            "",
            "[Install]",
            "WantedBy=multi-user.target",
            "",
        ]
        return "\n".join(lines)


def _mount(container: str, volume: str) -> str:
    """``--mount`` text of a volume; unlike ``--volume`` it fails when the host path is missing."""
    parts = volume.split(":")
    if len(parts) not in (2, 3) or (len(parts) == 3 and parts[2] not in ("ro", "rw")) or "," in volume:
        raise ValueError(
            f"container {container}: volume {volume!r} must be 'source:/target' or 'source:/target:ro'"
        )
    kind = "bind" if parts[0].startswith("/") else "volume"
    read_only = ",readonly" if parts[2:] == ["ro"] else ""
    return f"type={kind},source={parts[0]},target={parts[1]}{read_only}"
