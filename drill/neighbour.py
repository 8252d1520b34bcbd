"""The other machine on the wire: runs in a network namespace of its own and tries to get into a droplet.

Says "ready", waits to be plugged in as eth0 and for a job as JSON on stdin, and answers with JSON.
"""

from __future__ import annotations

import asyncio
import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from drill.packets import SYN, SYN_ACK, Segment, frame, link_local, parse

INTERFACE: Final = "eth0"
ETH_P_IP: Final = 0x0800
# One per kind of knock, so that a late answer is never counted for another kind.
DIRECT_PORT: Final = 40401
ROUTED_PORT: Final = 40402
LOOPBACK_PORT: Final = 40403
# Sent a few at a time, and all of it twice, because a full queue drops packets silently.
BURST: Final = 200
ROUNDS: Final = 2
LINGER_S: Final = 1.5


def main() -> None:
    """Answer one job."""
    print("ready", flush=True)
    text = sys.stdin.read()
    if not text:  # whoever started us is gone
        return
    json.dump(answer(json.loads(text)), sys.stdout)


def answer(job: dict[str, Any]) -> dict[str, list[Any]]:
    """Scan what the job names."""
    _configure(f"{job['address']}/{job['prefix']}")
    target_mac = _mac_of(job["target"])
    own_mac = bytes.fromhex(Path(f"/sys/class/net/{INTERFACE}/address").read_text().strip().replace(":", ""))

    def answering(own_port: int, destinations: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
        return knock((job["address"], own_port), list(destinations), own_mac, target_mac)

    behind = [(address, port) for address in job["behind"] for port in job["behind_ports"]]
    direct = answering(DIRECT_PORT, ((job["target"], port) for port in job["ports"]))
    routed = answering(ROUTED_PORT, behind)
    loopback = answering(LOOPBACK_PORT, (("127.0.0.1", port) for port in job["behind_ports"]))
    ipv6 = f"{link_local(target_mac)}%{INTERFACE}"
    connected = asyncio.run(connect_all([(job["target"], port) for _address, port in sorted(direct)]))
    connected_ipv6 = asyncio.run(connect_all([(ipv6, port) for port in job["behind_ports"]]))
    return {
        "open": sorted({port for _address, port in connected}),
        "open_ipv6": sorted(port for _address, port in connected_ipv6),
        "routed": sorted(f"{address}:{port}" for address, port in routed),
        "loopback": sorted({port for _address, port in loopback}),
    }


def knock(
    own: tuple[str, int], destinations: list[tuple[str, int]], own_mac: bytes, target_mac: bytes
) -> set[tuple[str, int]]:
    """Send a SYN to each address and port by way of the target; return the addresses and ports that accept.

    Answers count whatever their source, as translation inside the droplet may change it.
    """
    accepted: set[tuple[str, int]] = set()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP)) as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 2**20)
        wire.bind((INTERFACE, ETH_P_IP))

        def listen(seconds: float) -> None:
            deadline = time.monotonic() + seconds
            while select.select([wire], [], [], max(0.0, deadline - time.monotonic()))[0]:
                segment = parse(wire.recv(2048))
                if segment and segment.flags == SYN_ACK and segment.destination_port == own[1]:
                    accepted.add((segment.source, segment.source_port))

        for _round in range(ROUNDS):
            for start in range(0, len(destinations), BURST):
                for address, port in destinations[start : start + BURST]:
                    syn = Segment(*own, address, port, SYN)
                    wire.send(frame(syn, source_mac=own_mac, destination_mac=target_mac))
                listen(0.005)
            listen(LINGER_S)
    return accepted


async def connect_all(destinations: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Connect to each address and port; return those that accepted."""

    async def connect(address: str, port: int) -> bool:
        try:
            async with asyncio.timeout(3):
                _reader, writer = await asyncio.open_connection(address, port)
        except OSError:
            return False
        writer.close()
        return True

    made = await asyncio.gather(*(connect(*destination) for destination in destinations))
    return [destination for destination, success in zip(destinations, made, strict=True) if success]


def _configure(address: str) -> None:
    # Without duplicate address detection the IPv6 address is usable at once.
    Path(f"/proc/sys/net/ipv6/conf/{INTERFACE}/accept_dad").write_text("0")
    for arguments in (["addr", "add", address, "dev", INTERFACE], ["link", "set", INTERFACE, "up"]):
        subprocess.run(["ip", *arguments], check=True)


def _mac_of(address: str, timeout_s: float = 10) -> bytes:
    """Hardware address of a machine on the wire, asked of the kernel by sending it something."""
    deadline = time.monotonic() + timeout_s
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nudge:
        while time.monotonic() < deadline:
            nudge.sendto(b"", (address, 9))
            for line in Path("/proc/net/arp").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[0] == address and fields[3] != "00:00:00:00:00:00":
                    return bytes.fromhex(fields[3].replace(":", ""))
            time.sleep(0.1)
    raise SystemExit(f"{address} does not answer on the wire")


if __name__ == "__main__":
    main()
