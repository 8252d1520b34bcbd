"""The Docker network that all containers share, with a subnet that others rely on.

Reads ``/etc/memory-droplet/docker/network.json``. A network cannot be changed, only made anew; that is
done while no container is on it, and refused otherwise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict

from plan_apply import STATE_DIR, Difference, Refused, run, serve, succeeds, text_of, write_atomically

WANTED = Path("/etc/memory-droplet/docker/network.json")
#: What was made last. While the engine is down it stands for the network, so that a stopped engine is shown
#: as a stopped engine and not as a missing network too.
MADE = STATE_DIR / "docker-network.json"


class Network(TypedDict):
    """The network as wanted."""

    name: str
    subnet: str
    gateway: str
    bridge: str


def options_of(network: Network) -> dict[str, str]:
    """A bridge whose name the firewall knows, and on which `-p 80:80` means 127.0.0.1.

    The engine's own setting ``ip`` is for the default bridge only (seen with Docker 20.10).
    """
    return {
        "com.docker.network.bridge.name": network["bridge"],
        "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
    }


def make(network: Network) -> None:
    """Create it with its subnet and options."""
    argv = ["docker", "network", "create", "--driver", "bridge"]
    argv += ["--subnet", network["subnet"], "--gateway", network["gateway"]]
    for option, value in options_of(network).items():
        argv += ["--opt", f"{option}={value}"]
    run([*argv, network["name"]])


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
    for option, value in options_of(wanted).items():
        present = options.get(option) if isinstance(options, dict) else None
        if present != value:
            phrases.append(f"has {option.rsplit('.', 1)[1]} {present or 'not set'}, expected {value}")
    return phrases


def replace(network: Network, phrases: list[str], attached: list[str]) -> None:
    """Make it anew if nobody is on it."""
    if attached:
        raise Refused(
            f"network {network['name']} {' and '.join(phrases)}, and is in use by {', '.join(sorted(attached))}; "
            f"stop what runs there, `docker network rm {network['name']}`, and deploy again"
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
        if text_of(MADE) == text:
            return []
        raise Refused("the Docker daemon does not answer; see `systemctl status docker`")

    def record() -> None:
        write_atomically(MADE, text)

    def make_and_record() -> None:
        make(wanted)
        record()

    if not succeeds(["docker", "network", "inspect", name]):
        return [Difference(f"network {name} does not exist", make_and_record)]
    found = json.loads(run(["docker", "network", "inspect", name]))[0]
    phrases = problems(found, wanted)
    attached = [str(one["Name"]) for one in found.get("Containers", {}).values()]

    def replace_and_record() -> None:
        replace(wanted, phrases, attached)
        record()

    if phrases:
        return [Difference(f"network {name} {' and '.join(phrases)}", replace_and_record)]
    if text_of(MADE) != text:
        return [Difference(f"{MADE} does not say what network there is", record)]
    return []


if __name__ == "__main__":
    serve(find)
