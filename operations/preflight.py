"""Look at a machine before anything on it is touched, and refuse one that cannot work."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass

from pyinfra.api.command import PyinfraCommand, StringCommand
from pyinfra.api.exceptions import OperationError
from pyinfra.api.facts import FactBase
from pyinfra.api.operation import operation
from pyinfra.context import host

#: What Debian calls the releases that the deploy was written for.
SUPPORTED = {("debian", "12"), ("debian", "13"), ("ubuntu", "24.04")}

#: Processes that hold our own ports: Docker for containers, systemd and the memory service for its socket.
OURS = frozenset({"docker-proxy", "dockerd", "memory-service", "systemd"})


@dataclass(frozen=True)
class Machine:
    """What the preflight saw: release, free disk in MiB, memory in MiB, and listeners by TCP port."""

    system: str
    version: str
    free_mb: int
    memory_mb: int
    uid: int
    listeners: Mapping[int, str]


class MachineFact(FactBase[Machine]):
    """The state of a machine that decides whether it can be deployed to; one command."""

    def command(self) -> str:
        return (
            'sh -c \'. /etc/os-release; echo "os $ID $VERSION_ID"; echo "uid $(id -u)"; '
            'df -Pm /var | tail -n 1 | { read -r _ _ _ free _; echo "free $free"; }; '
            'while read -r key value _; do [ "$key" = MemTotal: ] && echo "memory $((value / 1024))"; '
            "done < /proc/meminfo; "
            "ss -Hltnp 2>/dev/null | while read -r _ _ _ local _ users; do "
            'echo "listen ${local##*:} $users"; done; true\''
        )

    def process(self, output: Iterable[str]) -> Machine:
        return parse_machine(output)


def parse_machine(lines: Iterable[str]) -> Machine:
    """Read the fact's lines; of several listeners on a port the last one counts."""
    values: dict[str, list[str]] = {}
    listeners: dict[int, str] = {}
    for line in lines:
        key, _, rest = line.partition(" ")
        if key == "listen":
            port, _, users = rest.partition(" ")
            listeners[int(port)] = users.split('"')[1] if '"' in users else "a process"
        else:
            values[key] = rest.split()
    system, version = (values.get("os") or ["unknown"]), ""
    if len(system) > 1:
        version = system[1]
    return Machine(
        system[0],
        version,
        int((values.get("free") or ["0"])[0]),
        int((values.get("memory") or ["0"])[0]),
        int((values.get("uid") or ["0"])[0]),
        listeners,
    )


def problems(machine: Machine, ports: Mapping[int, str], least_free_mb: int) -> list[str]:
    """Why a machine cannot be deployed to, one sentence each.

    ``ports`` names, for each TCP port we need, the setting or component that asks for it.
    """
    found = []
    if machine.uid != 0:
        found.append("the deploy must log in as root (set DROPLET_USER=root)")
    if (machine.system, machine.version) not in SUPPORTED:
        found.append(
            f"the machine runs {machine.system} {machine.version}, but Debian 12 or 13 or Ubuntu 24.04 is needed"
        )
    if machine.free_mb < least_free_mb:
        found.append(
            f"only {machine.free_mb} MiB are free on /var, but {least_free_mb} MiB are needed; make room first"
        )
    for port, owner in sorted(ports.items()):
        holder = machine.listeners.get(port)
        if holder is not None and holder not in OURS:
            found.append(f"TCP port {port} ({owner}) is already taken by {holder}; stop it first")
    return found


@operation(is_idempotent=True)
def machine_fit(ports: Mapping[int, str], least_free_mb: int) -> Generator[PyinfraCommand, None, None]:
    """Refuse a machine of another system, with a full disk or with one of our ports taken.

    Never changes anything; a machine that cannot work ends the run before the first change.

    Example::

        machine_fit(name="Check the machine", ports={5432: "postgres"}, least_free_mb=500)
    """
    machine = host.get_fact(MachineFact)
    if found := problems(machine, ports, least_free_mb):
        raise OperationError(f"{host.name} cannot be deployed to: {'; '.join(found)}.")
    host.noop("the machine can be deployed to")
    return
    yield StringCommand("true")  # makes this a generator; never reached
