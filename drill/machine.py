"""Local droplets: making, finding, stopping and removing them.

from drill.machine import ensure
droplet = ensure("example")
droplet.run("uname -r").stdout
"""

from __future__ import annotations

import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from drill import access, disk, laptop, network, nspawn, paths, records, rootfs, services
from drill.cgroup import Memory
from drill.console import say, step
from drill.errors import BootFailed, NoSuchDroplet
from drill.records import Record
from drill.trees import delete_tree


@dataclass(frozen=True)
class Droplet:
    """A local droplet and how to reach it."""

    name: str
    address: str
    port: int
    user: str
    key_file: Path
    ssh_config: Path
    state_dir: Path
    registry: str
    """``address:port`` of the image registry that the laptop serves to it."""
    llm_base_url: str
    """The double of an LLM provider that the laptop serves to it, where the checkout has one."""

    def run(
        self, command: str, *, input_text: str | None = None, timeout_s: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command as root over SSH; a non-zero exit is the caller's to judge (255: SSH failed)."""
        return subprocess.run(
            ["ssh", "-F", str(self.ssh_config), self.name, command],
            input=input_text if input_text is not None else "",
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def is_running(self) -> bool:
        """Whether the machine is switched on."""
        return nspawn.is_running(_record(self.name))

    def start(self) -> None:
        """Switch a stopped droplet on, with its disk as it was, and wait for SSH."""
        ensure(self.name)

    def power_off(self) -> None:
        """Shut down cleanly; the disk stays."""
        with records.only_one():
            nspawn.power_off(_record(self.name))

    def pull_plug(self) -> None:
        """SIGKILL the machine with everything in it; the disk stays as it is at that moment.

        What programs had written but not yet synced survives, as the page cache is the laptop's.
        """
        with records.only_one():
            nspawn.pull_plug(_record(self.name))

    def memory(self) -> Memory:
        """Memory of the whole droplet: used, peak, limit, times the limit was hit, OOM kills."""
        return nspawn.memory(_record(self.name))


def ensure(name: str) -> Droplet:
    """Return a running droplet of that name, making or starting it if need be.

    Raises:
        DrillError: it cannot be made here, or does not come up; says why and what to do.
    """
    record = records.load(records.checked_name(name))
    wire = network.current()
    if record is not None and wire is not None and services.all_current(wire) and is_up(record):
        return _droplet(record)
    laptop.prepare()
    with records.only_one():
        record = _make(name)
        _wait_for_ssh(record)
    return _droplet(record)


def running() -> list[Droplet]:
    """The local droplets that are switched on."""
    return [_droplet(record) for record in records.load_all() if nspawn.is_running(record)]


def find(name: str) -> Droplet:
    """The droplet of that name, running or not.

    Raises:
        NoSuchDroplet: there is none.
    """
    return _droplet(_record(name))


def remove(name: str) -> bool:
    """Remove every trace of a droplet, whatever state it is in; the last one takes the wire along.

    Returns:
        Whether there was anything to remove.
    """
    records.checked_name(name)
    if not paths.droplet_dir(name).exists() and not _files_of_the_wire():
        return False
    with records.only_one():
        record = records.load(name)
        directory = paths.droplet_dir(name)
        there = record is not None or directory.exists()
        if record is not None:
            nspawn.pull_plug(record)
            disk.delete(record)
        if directory.exists():
            # The record goes last, so that an interrupted removal can be repeated.
            for path in sorted(directory.iterdir(), key=lambda each: each.name == "droplet.json"):
                delete_tree(path)
            directory.rmdir()
        if not records.load_all():
            _remove_wire()
    return there


def is_up(record: Record) -> bool:
    """Whether the droplet is switched on, complete, and lets us log in."""
    return record.root.is_dir() and nspawn.is_running(record) and answers(record)


def answers(record: Record) -> bool:
    """Whether the droplet lets us log in."""
    try:
        with socket.create_connection((record.address, access.PORT), timeout=1) as connection:
            connection.settimeout(5)
            if not connection.recv(4).startswith(b"SSH"):
                return False
    except OSError:
        return False
    # The banner comes before logins are allowed (pam_nologin) and proves no key.
    try:
        return _droplet(record).run("true", timeout_s=30).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _remove_wire() -> None:
    rootfs.abandon()
    wire = network.current()
    if wire is not None:
        services.remove(wire)
        network.remove()
    if network.current() is None:
        for half_written in _files_of_the_wire():
            half_written.unlink()
    for directory in (paths.droplets_dir(), paths.state_dir()):
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()


def _files_of_the_wire() -> list[Path]:
    """Files directly in the state directory: network.json, or one that was being written."""
    state = paths.state_dir()
    return [path for path in state.iterdir() if path.is_file()] if state.is_dir() else []


def _make(name: str) -> Record:
    wire = network.ensure()
    record = records.load(name)
    if record is None:
        taken = [each.address for each in records.load_all()]
        record = Record(name, network.free_address(wire, taken), wire.laptop, wire.bridge)
        records.save(record)
    services.ensure(wire)
    if not nspawn.is_running(record):
        access.ensure_keys(record)
        if record.root.is_dir():
            say(f"{name} is stopped; starting it with its disk as it was")
        disk.unpack(record)
        with step(f"booting {name} at {record.address}"):
            nspawn.start(record, wire)
            _wait_for_boot(record)
    elif not _plugged_in(record):
        network.plug_in(record.veth, wire)
    return record


def _plugged_in(record: Record) -> bool:
    return Path("/sys/class/net", record.bridge, "brif", record.veth).exists()


def _wait_for_boot(record: Record, timeout_s: float = 300) -> None:
    _wait_for_ssh(record, timeout_s)
    state = _droplet(record).run("systemctl is-system-running --wait", timeout_s=timeout_s).stdout.strip()
    if state != "running":
        failed = _droplet(record).run("systemctl --failed --plain --no-legend | cut -d' ' -f1").stdout.split()
        say(f"{record.name}: systemd says {state}; failed units: {', '.join(failed) or 'none'}")


def _wait_for_ssh(record: Record, timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while not answers(record):
        if not nspawn.is_running(record):
            raise BootFailed(
                f"The droplet {record.name} ended while booting: {nspawn.last_words(record)} "
                f"(see {record.directory}/console.log)."
            )
        if time.monotonic() > deadline:
            raise BootFailed(
                f"The droplet {record.name} does not answer SSH at {record.address} after {timeout_s:g} s: "
                f"{nspawn.last_words(record)} (see {record.directory}/console.log)."
            )
        time.sleep(0.2)


def _record(name: str) -> Record:
    record = records.load(records.checked_name(name))
    if record is None:
        known = ", ".join(each.name for each in records.load_all()) or "none"
        raise NoSuchDroplet(
            f"There is no droplet named {name} (there are: {known}); make it with `drill up {name}`."
        )
    return record


def _droplet(record: Record) -> Droplet:
    return Droplet(
        name=record.name,
        address=record.address,
        port=access.PORT,
        user=access.USER,
        key_file=access.key_file(record),
        ssh_config=access.ssh_config(record),
        state_dir=record.directory,
        registry=f"{record.gateway}:{network.REGISTRY_PORT}",
        llm_base_url=f"http://{record.gateway}:{network.OPENAI_DOUBLE_PORT}/v1",
    )
