"""Put the firewall's rule set in force, and notice when the live one is no longer it.

The wanted rules lie in ``/etc/memory-droplet/firewall/wanted.nft``. They become the ones of the next boot
(``rules.nft`` beside it) and of this moment only after a rehearsal: in a network of its own, made for the
purpose, a packet from outside must reach the SSH port and none must reach a port that is not opened.
Because rules are loaded in an empty network anyway, that is also where their canonical listing comes from,
with which the live table is compared line by line.
"""

from __future__ import annotations

import ctypes
import difflib
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plan_apply import Difference, Refused, run, serve, text_of, write_atomically

WANTED = Path("/etc/memory-droplet/firewall/wanted.nft")
BOOT = Path("/etc/memory-droplet/firewall/rules.nft")
TABLE = ("inet", "memory_droplet")
# Without counters and without the addresses a rate limit has seen.
LISTING = ["nft", "--stateless", "--terse", "list", "table", *TABLE]
CLONE_NEWNET = 0x40000000
CLOSED_PORT = 9999
# Addresses of documentation networks: they exist nowhere but in the rehearsal.
NEAR = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
FAR = {socket.AF_INET: "192.0.2.2", socket.AF_INET6: "2001:db8::2"}

_libc = ctypes.CDLL(None, use_errno=True)


def enter(descriptor: int) -> None:
    """Move this process to the network a descriptor stands for (os.setns is in Python 3.12)."""
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise Refused(f"a network for the rehearsal cannot be entered: {os.strerror(ctypes.get_errno())}")


def new_network() -> int:
    """Move this process to a new, empty network; returns the descriptor that stands for it."""
    if _libc.unshare(CLONE_NEWNET) != 0:
        raise Refused(f"a network for the rehearsal cannot be made: {os.strerror(ctypes.get_errno())}")
    run(["ip", "link", "set", "lo", "up"])
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def empty_network() -> Iterator[int]:
    """A network nobody else is in; yields its descriptor, and leads back to the machine's own."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        here = new_network()
        try:
            yield here
        finally:
            os.close(here)
    finally:
        enter(home)
        os.close(home)


def live() -> str | None:
    """The table the kernel has now, or None."""
    done = subprocess.run(LISTING, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None


def canonical(rules: Path) -> str:
    """How the kernel would list these rules."""
    with empty_network():
        run(["nft", "--file", str(rules)])
        return run(LISTING)


def ssh_ports() -> set[int]:
    """The ports that must stay open: those sshd listens on, and that of the connection that deploys."""
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    ports = {int(port) for port in re.findall(r"^port (\d+)$", run(["/usr/sbin/sshd", "-T"]), re.MULTILINE)}
    connection = os.environ.get("SSH_CONNECTION", "").split()
    if len(connection) == 4:
        ports.add(int(connection[3]))
    return ports


def reaches(family: socket.AddressFamily, port: int, wait_s: float) -> bool:
    """Whether a new connection from where this process is gets to the near side."""
    with socket.socket(family, socket.SOCK_STREAM) as caller:
        caller.settimeout(wait_s)
        try:
            caller.connect((NEAR[family], port))
        except OSError:
            return False
    return True


def rehearse(rules: Path) -> None:
    """Refuse rules that do not load, that keep SSH out, or that let anything else in."""
    families = [socket.AF_INET]
    if Path("/proc/sys/net/ipv6").exists():
        families.append(socket.AF_INET6)
    ports = sorted(ssh_ports())
    with empty_network() as near:
        run(["nft", "--file", str(rules)])
        far = new_network()
        try:
            veth = ["ip", "link", "add", "near0", "type", "veth", "peer", "name", "far0"]
            enter(near)
            # These networks have no name; ip also takes the path of a descriptor.
            run([*veth, "netns", f"/proc/{os.getpid()}/fd/{far}"])
            for descriptor, interface, addresses in ((near, "near0", NEAR), (far, "far0", FAR)):
                enter(descriptor)
                for family in families:
                    size = ["24"] if family == socket.AF_INET else ["64"]
                    extra = [] if family == socket.AF_INET else ["nodad"]
                    run(["ip", "address", "add", f"{addresses[family]}/{size[0]}", "dev", interface, *extra])
                run(["ip", "link", "set", interface, "up"])
            try_out(families, ports, near, far)
        finally:
            os.close(far)


def try_out(families: list[socket.AddressFamily], ports: list[int], near: int, far: int) -> None:
    """Listen on the near side, call from the far side."""
    enter(near)
    listeners = [
        socket.create_server((NEAR[family], port), family=family)
        for family in families
        for port in (*ports, CLOSED_PORT)
    ]
    enter(far)
    try:
        for family in families:
            kind = "IPv4" if family == socket.AF_INET else "IPv6"
            for port in ports:
                if not reaches(family, port, 3):
                    raise Refused(
                        f"they keep SSH out (port {port}, {kind}); setting sshd_port must name the port sshd uses"
                    )
            if reaches(family, CLOSED_PORT, 0.5):
                raise Refused(f"they let port {CLOSED_PORT} in ({kind}), which nobody opened")
    finally:
        for listener in listeners:
            listener.close()


def put_in_force() -> None:
    """Rehearse the wanted rules, load them in one transaction, and keep them for the next boot."""
    try:
        rehearse(WANTED)
        run(["nft", "--check", "--file", str(WANTED)])
    except Refused as refusal:
        raise Refused(f"firewall rules refused, the old ones stay in force: {refusal}") from refusal
    run(["nft", "--file", str(WANTED)])
    write_atomically(BOOT, WANTED.read_text())


def rule_lines(listing: str) -> list[str]:
    """The lines of a listing that say something."""
    return [line.strip() for line in listing.splitlines() if line.strip() not in ("", "}")]


def table_differences(expected: str, actual: str | None) -> list[str]:
    """What is wrong with the live table, one sentence a line of it."""
    if actual is None:
        return [f"table {' '.join(TABLE)} is not loaded: the firewall is off"]
    if actual == expected:
        return []
    found: list[str] = []
    for line in difflib.ndiff(rule_lines(actual), rule_lines(expected)):
        if line.startswith("+ "):
            found.append(f"the live rules lack: {line[2:]}")
        elif line.startswith("- "):
            found.append(f"the live rules have too much: {line[2:]}")
    return found or ["the live rules stand in another order"]


def find() -> list[Difference]:
    """All differences between the wanted rules, the live ones and those of the next boot."""
    wanted = text_of(WANTED)
    if wanted is None:
        raise Refused(f"{WANTED} is missing; deploy the component firewall")
    try:
        sentences = table_differences(canonical(WANTED), live())
    except Refused as refusal:
        raise Refused(f"firewall rules refused, the old ones stay in force: {refusal}") from refusal
    if text_of(BOOT) != wanted:
        sentences.append(f"{BOOT}, which the next boot loads, is {'edited' if BOOT.exists() else 'missing'}")
    if not sentences:
        return []
    # One load repairs them all.
    first, *others = sentences
    return [Difference(first, put_in_force), *(Difference(other, lambda: None) for other in others)]


if __name__ == "__main__":
    serve(find)
