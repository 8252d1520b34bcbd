"""What runs on a machine: states of the components, and which of them are doubles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from drill import machine, nspawn, records
from drill.cgroup import Memory
from drill.host import Host, of
from settings import names
from settings.hosts import DOUBLE_MODEL

DOUBLE_LABEL: Final = "org.memory-droplet.double=true"
_MARK: Final = "---"
# One round trip. Without Docker there are no containers, and that is no error.
_QUESTION: Final = (
    "systemctl list-units --all --plain --no-legend 'droplet-*.service' memory-service.service 2>/dev/null;"
    f" echo {_MARK};"
    f" docker ps --all --filter label={DOUBLE_LABEL} --format '{{{{.Names}}}}' 2>/dev/null;"
    # The provider's double runs beside the droplet, not on it; its model is what the chat offers.
    f""" grep -qs '"{DOUBLE_MODEL}"' {names.config_path("open-webui", "provision.json")} && echo provider; true"""
)


@dataclass(frozen=True)
class Contents:
    """What a machine says it runs."""

    components: dict[str, str]
    """State by component, as systemd calls it: active, inactive, failed, activating."""
    doubles: tuple[str, ...]
    """Components whose image is a double of the real thing, and `provider` where the models are one."""


@dataclass(frozen=True)
class Row:
    """One line of `drill status`."""

    name: str
    state: str
    address: str
    memory: Memory | None
    contents: Contents


def parse(answer: str) -> Contents:
    """Read what a machine answers to the question."""
    units, _, doubles = answer.partition(f"{_MARK}\n")
    components = {}
    for line in units.splitlines():
        name, loaded, active, *_ = [*line.split(), "", "", ""]
        if name and loaded != "not-found":
            components[name.removesuffix(".service").removeprefix("droplet-")] = active
    return Contents(components, tuple(sorted(doubles.split())))


def contents(host: Host) -> Contents:
    """Ask a machine what it runs; nothing where it does not answer."""
    answer = host.run(_QUESTION)
    return parse(answer.stdout) if answer.returncode == 0 else Contents({}, ())


def local_rows() -> list[Row]:
    """All local droplets."""
    return [_local_row(record) for record in records.load_all()]


def _local_row(record: records.Record) -> Row:
    nothing = Contents({}, ())
    if not nspawn.is_running(record):
        state = "stopped" if record.root.is_dir() else "half made"
        return Row(record.name, state, record.address, None, nothing)
    host = of(machine.find(record.name))
    reachable = machine.answers(record)
    memory = nspawn.memory(record)
    return Row(
        record.name,
        "running" if reachable else "no SSH",
        record.address,
        memory,
        contents(host) if reachable else nothing,
    )


def real_row(host: Host) -> Row:
    """A real host; its memory is what its kernel says."""
    answer = host.run("grep -E '^(MemTotal|MemAvailable):' /proc/meminfo")
    if answer.returncode != 0:
        return Row(host.name, "no SSH", host.address, None, Contents({}, ()))
    fields = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in answer.stdout.splitlines()}
    used = fields["MemTotal"] - fields["MemAvailable"]
    memory = Memory(used=used, peak=0, limit=fields["MemTotal"], failcnt=0, oom_kills=0)
    return Row(host.name, "running", host.address, memory, contents(host))


def table(rows: Sequence[Row]) -> str:
    """Rows as aligned text."""
    lines = [("DROPLET", "STATE", "ADDRESS", "MEMORY", "COMPONENTS", "DOUBLES")]
    for row in rows:
        lines.append(
            (
                row.name,
                row.state,
                row.address,
                memory_text(row.memory),
                components_text(row.contents.components),
                ", ".join(row.contents.doubles) or "-",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def memory_text(memory: Memory | None) -> str:
    """Memory used, of how much, and whether it ever was too little."""
    if memory is None:
        return "-"
    text = f"{memory.used // 2**20} / {memory.limit // 2**20} MiB"
    return f"{text}, {memory.oom_kills} OOM kills" if memory.oom_kills else text


def components_text(components: dict[str, str]) -> str:
    """How many components are active, and the state of each that is not."""
    if not components:
        return "-"
    active = sum(state == "active" for state in components.values())
    others = [f"{name} {state}" for name, state in components.items() if state != "active"]
    return ", ".join([f"{active} of {len(components)} active", *others])
