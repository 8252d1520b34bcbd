"""The wire between the laptop and its droplets: a bridge, addresses, and a way out through NAT."""

from __future__ import annotations

import ipaddress
import json
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from drill import paths, records
from drill.commands import run, succeeds
from drill.console import say
from drill.errors import DrillError

REGISTRY_PORT: Final = 5000
OPENAI_DOUBLE_PORT: Final = 4010
_FORWARD: Final = Path("/proc/sys/net/ipv4/ip_forward")
# One value for the whole laptop, whatever the number of state directories; gone after a restart, as the
# setting itself is.
_FORWARD_BEFORE: Final = Path("/run/memory-droplet-ip-forward")


@dataclass(frozen=True)
class Wire:
    """A bridge and its subnet."""

    bridge: str
    subnet: str

    @property
    def laptop(self) -> str:
        """The laptop's address on the wire."""
        return str(ipaddress.ip_network(self.subnet)[1])

    @property
    def prefix(self) -> int:
        return ipaddress.ip_network(self.subnet).prefixlen

    @property
    def registry(self) -> str:
        """Address of the image registry, as image references begin with it."""
        return f"{self.laptop}:{REGISTRY_PORT}"


def candidates() -> list[Wire]:
    """Wires in order of preference."""
    return [Wire(f"drill{n}", f"10.{90 + n}.0.0/24") for n in range(10)]


def first_free(links: Iterable[str], routes: Iterable[str]) -> Wire:
    """The first wire whose bridge name is unused and whose subnet meets no route of this laptop.

    Args:
        links: names of the interfaces that exist.
        routes: destinations of the routes that exist; ``default`` is no obstacle.

    Raises:
        DrillError: all of them are taken.
    """
    taken = set(links)
    networks = [ipaddress.ip_network(route, strict=False) for route in routes if route != "default"]
    for wire in candidates():
        subnet = ipaddress.ip_network(wire.subnet)
        if wire.bridge not in taken and not any(subnet.overlaps(network) for network in networks):
            return wire
    raise DrillError(
        "All of 10.90.0.0/24 to 10.99.0.0/24 are in use on this computer, so droplets have no network; "
        "remove a bridge named drill0 to drill9 that nothing uses (`ip link del drill0`)."
    )


def rules(wire: Wire) -> list[list[str]]:
    """The laptop's packet filter rules for a wire, as arguments of iptables after -I or -D.

    They go to the front of the built-in chains, because Docker and firewalls drop forwarded packets.
    Packets between droplets are bridged, and pass here all the same where br_netfilter is loaded; none of
    them may be masqueraded, whatever strange address a scan sends to.
    """
    mark = ["-m", "comment", "--comment", _mark(wire)]
    services = f"{REGISTRY_PORT},{OPENAI_DOUBLE_PORT}"
    return [
        ["nat", "POSTROUTING", "-s", wire.subnet, "!", "-o", wire.bridge, *mark, "-j", "MASQUERADE"],
        ["filter", "FORWARD", "-i", wire.bridge, *mark, "-j", "ACCEPT"],
        ["filter", "FORWARD", "-o", wire.bridge, *mark, "-j", "ACCEPT"],
        [
            *("filter", "INPUT", "-i", wire.bridge, "-p", "tcp", "-m", "multiport"),
            *("--dports", services, *mark, "-j", "ACCEPT"),
        ],
    ]


def current() -> Wire | None:
    """The wire that was written down, whether it is up or not."""
    content = records.read_json(paths.state_dir() / "network.json")
    return None if content is None else Wire(str(content["bridge"]), str(content["subnet"]))


def ensure() -> Wire:
    """Bring the wire up, choosing one first where none was written down (idempotent; hold the lock)."""
    wire = current()
    if wire is None:
        wire = first_free(_links(), _routes())
        records.write_json(paths.state_dir() / "network.json", asdict(wire))
    if not _exists(wire.bridge):
        say(f"network: bridge {wire.bridge}, {wire.subnet}, laptop at {wire.laptop}")
        run(["ip", "link", "add", wire.bridge, "type", "bridge"], purpose=f"make the bridge {wire.bridge}")
    address = f"{wire.laptop}/{wire.prefix}"
    run(["ip", "addr", "replace", address, "dev", wire.bridge], purpose=f"give {wire.bridge} its address")
    run(["ip", "link", "set", wire.bridge, "up"], purpose=f"bring {wire.bridge} up")
    if _FORWARD.read_text().strip() == "0":
        _FORWARD_BEFORE.write_text("0")
        _FORWARD.write_text("1")
    if len(_our_rules(wire)) != len(rules(wire)) or not all(
        succeeds(_iptables("-C", rule)) for rule in rules(wire)
    ):
        _remove_rules(wire)
        for rule in rules(wire):
            run(_iptables("-I", rule), purpose=f"let packets of {wire.bridge} through the laptop")
    return wire


def remove() -> None:
    """Take the wire down and leave the laptop's network as it was (idempotent; hold the lock)."""
    wire = current()
    if wire is None:
        return
    if _exists(wire.bridge) and (strangers := _ports(wire.bridge)):
        say(f"network: {wire.bridge} stays, because {', '.join(strangers)} is plugged into it")
        return
    _remove_rules(wire)
    if _exists(wire.bridge):
        run(["ip", "link", "del", wire.bridge], purpose=f"remove the bridge {wire.bridge}")
    others = [each.bridge for each in candidates() if each.bridge != wire.bridge and _exists(each.bridge)]
    if _FORWARD_BEFORE.exists() and not others:
        _FORWARD.write_text(_FORWARD_BEFORE.read_text())
        _FORWARD_BEFORE.unlink()
    (paths.state_dir() / "network.json").unlink()


def free_address(wire: Wire, taken: Iterable[str]) -> str:
    """The lowest address of the wire that no droplet has."""
    used = {*taken, wire.laptop}
    # The last ones are left for neighbours that scan.
    for host in list(ipaddress.ip_network(wire.subnet).hosts())[:199]:
        if str(host) not in used:
            return str(host)
    raise DrillError(f"No address of {wire.subnet} is free; remove a droplet with `drill down NAME`.")


def plug_in(interface: str, wire: Wire) -> None:
    """Attach an interface to the bridge."""
    run(
        ["ip", "link", "set", interface, "master", wire.bridge, "up"],
        purpose=f"plug {interface} into {wire.bridge}",
    )


def unplug(interface: str) -> None:
    """Remove an interface if it exists."""
    if _exists(interface) and not succeeds(["ip", "link", "del", interface]) and _exists(interface):
        raise DrillError(f"Could not remove the interface {interface}; try `ip link del {interface}`.")


def exists(interface: str) -> bool:
    """Whether an interface is there."""
    return _exists(interface)


def nameservers() -> list[str]:
    """DNS servers that a droplet can reach too: those of the laptop which are not on its loopback.

    Where a local stub resolver answers (systemd-resolved), the servers behind it are taken.
    """
    for file in (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")):
        if file.is_file():
            found = usable_nameservers(file.read_text())
            if found:
                return found
    return ["9.9.9.9", "1.1.1.1"]


def usable_nameservers(text: str) -> list[str]:
    """IPv4 name servers in the text of a resolv.conf, without loopback ones."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                address = ipaddress.ip_address(words[1])
            except ValueError:
                continue
            if address.version == 4 and not address.is_loopback:
                found.append(str(address))
    return found


def marked(listing: str, mark: str) -> list[list[str]]:
    """The rules with a comment in the output of ``iptables -S``, as arguments after -I or -D."""
    rows = (shlex.split(line) for line in listing.splitlines())
    return [row[1:] for row in rows if row[:1] == ["-A"] and mark in row]


def _mark(wire: Wire) -> str:
    return f"memory-droplet {wire.bridge}"


def _our_rules(wire: Wire) -> list[list[str]]:
    found = []
    for table in ("nat", "filter"):
        listing = run(["iptables", "-w", "-t", table, "-S"], purpose=f"list the rules of table {table}")
        found += [[table, *rule] for rule in marked(listing, _mark(wire))]
    return found


def _remove_rules(wire: Wire) -> None:
    # Found by their comment, not by what this version would write: another version may have made them.
    for rule in _our_rules(wire):
        run(_iptables("-D", rule), purpose=f"remove the rules of {wire.bridge}")


def _iptables(action: str, rule: list[str]) -> list[str]:
    table, *rest = rule
    return ["iptables", "-w", "-t", table, action, *rest]


def _exists(interface: str) -> bool:
    return Path("/sys/class/net", interface).exists()


def _ports(bridge: str) -> list[str]:
    return sorted(path.name for path in Path("/sys/class/net", bridge, "brif").iterdir())


def _links() -> list[str]:
    return [path.name for path in Path("/sys/class/net").iterdir()]


def _routes() -> list[str]:
    rows = json.loads(run(["ip", "-j", "-4", "route", "show", "table", "all"], purpose="list routes"))
    return [str(row["dst"]) for row in rows]
