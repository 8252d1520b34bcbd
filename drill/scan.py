"""What of a droplet can be reached from another machine on the same wire.

The other machine is a process with a network of its own and a cable to the bridge (drill/neighbour.py).
It vanishes with its process, so a scan that is killed leaves nothing behind.
"""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drill import network, records
from drill.commands import run
from drill.errors import DrillError, NoSuchDroplet
from drill.records import Record
from settings import names

# Addresses behind the droplet that a neighbour could route to: the networks of its containers.
BEHIND: Final = (
    *(str(host) for host in list(ipaddress.ip_network(names.NETWORK_SUBNET).hosts())[:24]),
    *(f"172.17.0.{host}" for host in range(1, 9)),
)
# Ports that components listen on, inside containers or on the droplet's loopback.
BEHIND_PORTS: Final = tuple(
    sorted(
        {
            *(22, 53, 80, 443, 2019, 2375, 2376, 5679, 6334, 6379, 8099),
            *(names.POSTGRES_PORT, names.QDRANT_PORT, names.N8N_PORT, names.OPEN_WEBUI_PORT),
            *(names.MEMORY_SERVICE_PORT, names.INGRESS_INTERNAL_PORT),
        }
    )
)


@dataclass(frozen=True)
class Scan:
    """What answered."""

    open: tuple[int, ...]
    """Ports of the droplet's address to which a connection was made."""
    open_ipv6: tuple[int, ...]
    """The same for its link-local IPv6 address (only ports of BEHIND_PORTS are tried)."""
    routed: tuple[str, ...]
    """``address:port`` inside the droplet that answered when the neighbour routed to it through the droplet."""
    loopback: tuple[int, ...]
    """Ports of the droplet's 127.0.0.1 that answered packets sent to 127.0.0.1 over the wire."""


def scan(name: str, ports: Iterable[int] = range(1, 65536)) -> Scan:
    """Scan a running droplet from outside.

    Raises:
        DrillError: there is no such droplet, or the neighbour could not be set up.
    """
    record = records.load(records.checked_name(name))
    if record is None:
        raise NoSuchDroplet(f"There is no droplet named {name}; make it with `drill up {name}`.")
    wire = network.current()
    if wire is None or not network.exists(record.veth):
        raise DrillError(f"The droplet {name} is not running; start it with `drill up {name}`.")
    job = {
        "address": neighbour_address(record, wire),
        "prefix": wire.prefix,
        "target": record.address,
        "ports": list(ports),
        "behind": BEHIND,
        "behind_ports": BEHIND_PORTS,
    }
    return parse(_ask_neighbour(job, wire))


def parse(answer: str) -> Scan:
    """Read what the neighbour found."""
    found = json.loads(answer)
    return Scan(
        open=tuple(int(port) for port in found["open"]),
        open_ipv6=tuple(int(port) for port in found["open_ipv6"]),
        routed=tuple(str(place) for place in found["routed"]),
        loopback=tuple(int(port) for port in found["loopback"]),
    )


def neighbour_address(record: Record, wire: network.Wire) -> str:
    """An address for the neighbour, above those that droplets get."""
    hosts = list(ipaddress.ip_network(wire.subnet).hosts())
    return str(hosts[199 + (int(record.address.rpartition(".")[2]) + os.getpid()) % 55])


def _ask_neighbour(job: dict[str, object], wire: network.Wire) -> str:
    cable = f"drs-{os.getpid()}"
    process = subprocess.Popen(
        ["unshare", "--net", sys.executable, "-m", "drill.neighbour"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() == "ready":
            run(
                [
                    *("ip", "link", "add", cable, "type", "veth"),
                    *("peer", "name", "eth0", "netns", str(process.pid)),
                ],
                purpose="plug a neighbour into the wire",
            )
            network.plug_in(cable, wire)
            said, complaint = process.communicate(json.dumps(job), timeout=600)
        else:
            said, complaint = process.communicate(timeout=10)
    except subprocess.TimeoutExpired as error:
        raise DrillError("The scan did not end within 10 minutes; is this computer overloaded?") from error
    finally:
        process.kill()
        process.wait()
        network.unplug(cable)
    if process.returncode != 0:
        last = (complaint.strip().splitlines() or ["it left no message"])[-1]
        raise DrillError(f"The neighbour that scans failed: {last}.")
    return said
