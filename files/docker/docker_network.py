"""The Docker network that all containers share, with a subnet that others rely on.

Reads ``/etc/memory-droplet/docker/network.json``. A network cannot be changed, only made anew; that is
done while no container is on it, and refused otherwise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict

from plan_apply import Difference, Refused, run, serve, succeeds, text_of

WANTED = Path("/etc/memory-droplet/docker/network.json")


class Network(TypedDict):
    """The network as wanted."""

    name: str
    subnet: str
    gateway: str
    bridge: str


def make(network: Network) -> None:
    """Create it; the name of the bridge is fixed because the firewall names it."""
    options = ["--driver", "bridge", "--subnet", network["subnet"], "--gateway", network["gateway"]]
    bridge = f"com.docker.network.bridge.name={network['bridge']}"
    run(["docker", "network", "create", *options, "--opt", bridge, network["name"]])


def problems(found: dict[str, object], wanted: Network) -> list[str]:
    """How an existing network differs, each as a phrase."""
    phrases: list[str] = []
    if found.get("Driver") != "bridge":
        phrases.append(f"has driver {found.get('Driver')}, expected bridge")
    ipam = found.get("IPAM")
    configs = ipam.get("Config") if isinstance(ipam, dict) else None
    first = configs[0] if isinstance(configs, list) and configs and isinstance(configs[0], dict) else {}
    for key, value in (("Subnet", wanted["subnet"]), ("Gateway", wanted["gateway"])):
        if first.get(key) != value:
            phrases.append(f"has {key.lower()} {first.get(key, 'none')}, expected {value}")
    options = found.get("Options")
    bridge = options.get("com.docker.network.bridge.name") if isinstance(options, dict) else None
    if bridge != wanted["bridge"]:
        phrases.append(f"has bridge {bridge or 'without a name'}, expected {wanted['bridge']}")
    return phrases


def replace(network: Network, phrases: list[str], attached: list[str]) -> None:
    """Make it anew if nobody is on it."""
    if attached:
        raise Refused(
            f"network {network['name']} {' and '.join(phrases)}, and {', '.join(sorted(attached))} "
            f"is on it; stop what runs there, `docker network rm {network['name']}`, and deploy again"
        )
    run(["docker", "network", "rm", network["name"]])
    make(network)


def find() -> list[Difference]:
    """The network, absent or different."""
    text = text_of(WANTED)
    if text is None:
        raise Refused(f"{WANTED} is missing; deploy the component docker")
    wanted: Network = json.loads(text)
    name = wanted["name"]
    if not succeeds(["docker", "version"]):
        raise Refused("the Docker daemon does not answer; see `systemctl status docker`")
    if not succeeds(["docker", "network", "inspect", name]):
        return [Difference(f"network {name} does not exist", lambda: make(wanted))]
    found = json.loads(run(["docker", "network", "inspect", name]))[0]
    phrases = problems(found, wanted)
    if not phrases:
        return []
    attached = [str(one["Name"]) for one in found.get("Containers", {}).values()]
    return [
        Difference(f"network {name} {' and '.join(phrases)}", lambda: replace(wanted, phrases, attached)),
    ]


if __name__ == "__main__":
    serve(find)
