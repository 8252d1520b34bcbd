"""Booting and stopping a droplet as a systemd-nspawn machine."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from drill import cgroup, disk, kernel_log, network, records
from drill.commands import run
from drill.errors import BootFailed, DrillError
from drill.network import Wire
from drill.records import Record

MEMORY_BYTES: Final = 2 * 2**30
NETWORK_S: Final = 120

SYSTEM_CALLS: Final = (
    "@aio @debug @keyring @memlock @pkey bpf fanotify_init fanotify_mark open_by_handle_at ~@swap"
)
_RUNTIME: Final = Path("/run/systemd/nspawn")

ENVIRONMENT: Final[Mapping[str, str]] = {
    # Docker writes to /proc/sys/net and to control groups.
    "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "yes",
}


def command(record: Record) -> list[str]:
    """The command line of the machine."""
    fuse = Path("/dev/fuse")
    return [
        "systemd-nspawn",
        "--quiet",
        f"--directory={record.root}",
        f"--machine={record.machine}",
        f"--hostname={record.name}",
        # Neither systemd-machined nor a session of the laptop takes part, so this runs without systemd too.
        "--register=no",
        "--keep-unit",
        "--private-network",
        f"--network-veth-extra={record.veth}:eth0",
        "--capability=all",
        # The clock is the laptop's: `timedatectl set-timezone` alone would shift it by the zone's offset.
        "--drop-capability=CAP_SYS_TIME",
        # What Docker and databases use beyond nspawn's list; and no swap, which would become the laptop's,
        # on a file that `down` deletes.
        f"--system-call-filter={SYSTEM_CALLS}",
        *([f"--bind={fuse}"] if fuse.exists() else []),
        # These three would overwrite what the deploy manages, or leave links in the laptop's journal.
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        "--console=pipe",
        # As --boot would, but by way of what makes the shared kernel look like an own one.
        "--kill-signal=SIGRTMIN+3",
        disk.INIT,
    ]


def group(record: Record) -> cgroup.Group:
    """The control groups of a droplet."""
    return cgroup.Group(cgroup.layout(), record.machine)


def memory(record: Record) -> cgroup.Memory:
    """Memory of a droplet; zeros when it is not running."""
    cells = group(record)
    found = cells.memory()
    if cells.layout.version == 2:
        return found
    # v1 keeps a kill only in the very group of the victim, and a container's group vanishes with it.
    started = records.read_json(record.directory / "started.json") or {}
    since = int(str(started.get("monotonic_us", 0)))
    logged = kernel_log.count_oom_kills(kernel_log.messages(), record.machine, since)
    return dataclasses.replace(found, oom_kills=max(found.oom_kills, logged))


def is_running(record: Record) -> bool:
    """Whether any process of the droplet lives."""
    return bool(group(record).processes())


def start(record: Record, wire: Wire) -> None:
    """Start the machine and plug it into the wire; returns before it has booted.

    Raises:
        BootFailed: systemd-nspawn ended at once; the message has its last words.
    """
    cells = group(record)
    # Remains of a machine whose plug was pulled.
    cells.kill()
    network.unplug(record.veth)
    clear_runtime(record)
    cells.prepare(MEMORY_BYTES)
    disk.install_init(record)
    records.write_json(record.directory / "started.json", {"monotonic_us": time.monotonic_ns() // 1000})
    log = record.directory / "console.log"
    with log.open("ab") as stream:
        process = subprocess.Popen(
            cells.command(command(record), MEMORY_BYTES),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            cwd="/",
            env={**os.environ, **ENVIRONMENT},
            start_new_session=True,
        )
    deadline = time.monotonic() + NETWORK_S
    while not network.exists(record.veth):
        if process.poll() is not None:
            raise BootFailed(f"The droplet {record.name} did not start: {last_words(record)} (see {log}).")
        if time.monotonic() > deadline:
            raise BootFailed(f"The droplet {record.name} has no network after {NETWORK_S} s (see {log}).")
        time.sleep(0.05)
    try:
        cells.check_limit(MEMORY_BYTES)
    except DrillError:
        pull_plug(record)
        raise
    network.plug_in(record.veth, wire)


def leader(record: Record) -> int | None:
    """Process id, on the laptop, of the droplet's PID 1."""
    for pid in group(record).processes():
        try:
            status = Path("/proc", str(pid), "status").read_text()
        except OSError:
            continue
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        # The last number is the one inside the innermost namespace; containers have their own 1, nested deeper.
        numbers = fields.get("NSpid", "").split()
        if len(numbers) >= 2 and numbers[-1] == "1" and fields.get("Name") == "systemd":
            return pid
    return None


def power_off(record: Record, timeout_s: float = 300) -> None:
    """Shut the droplet down as its power button would, keeping its disk.

    Raises:
        DrillError: it still runs after the timeout.
    """
    init = leader(record)
    if init is not None:
        # Asks systemd as PID 1 to power off (systemd(1), "Signals").
        os.kill(init, signal.SIGRTMIN + 4)
    deadline = time.monotonic() + timeout_s
    while is_running(record):
        if time.monotonic() > deadline:
            raise DrillError(
                f"The droplet {record.name} did not power off within {timeout_s:g} s; "
                f"`drill down {record.name}` ends and removes it."
            )
        time.sleep(0.1)
    clean_up(record)


def pull_plug(record: Record) -> None:
    """End the droplet between two instructions, keeping its disk as it is at that moment."""
    group(record).kill()
    clean_up(record)


def clean_up(record: Record) -> None:
    """Remove what a stopped machine leaves on the laptop: its cable, its groups, its mount point."""
    network.unplug(record.veth)
    group(record).remove()
    clear_runtime(record)


def clear_runtime(record: Record) -> None:
    """Remove what systemd-nspawn keeps of a machine in /run, as it does itself unless it was killed."""
    # A file system of its own with Debian 13 (systemd 257), which starts no machine whose last one is still mounted.
    sockets = _RUNTIME / "unix-export" / record.machine
    if sockets.is_mount():
        run(["umount", str(sockets)], purpose=f"unmount what {record.name} left at {sockets}")
    if sockets.is_dir():
        sockets.rmdir()
    propagate = _RUNTIME / "propagate" / record.machine
    if propagate.is_dir():
        propagate.rmdir()
    if record.root.is_dir():
        disk = record.root.stat()
        (_RUNTIME / "locks" / f"inode-{disk.st_dev}:{disk.st_ino}").unlink(missing_ok=True)


def last_words(record: Record, lines: int = 3) -> str:
    """The last lines of the console."""
    log = record.directory / "console.log"
    if not log.is_file():
        return "it left no message"
    said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(said[-lines:]) or "it left no message"
