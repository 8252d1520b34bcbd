"""The control groups that hold a droplet: its memory limit, and the surest list of its processes.

Every process of a droplet, its containers included, lives below the droplet's own group, so the group
answers "is it running?" and is what gets killed; no recorded process id can ever mean a stranger.

Layouts: v1 (also "hybrid") has one tree per controller under /sys/fs/cgroup, v2 a single tree
(kernel: Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from drill.commands import succeeds
from drill.errors import CannotRunHere, CommandFailed

MOUNTS: Final = Path("/proc/self/mounts")
SLICE: Final = "drill.slice"


@dataclass(frozen=True)
class Memory:
    """Memory of a whole droplet in bytes; counts are since its last boot."""

    used: int
    """Held right now, without page cache that the kernel would give up at once."""
    peak: int
    limit: int
    failcnt: int
    """How often the limit was hit and something had to be reclaimed (or killed)."""
    oom_kills: int


@dataclass(frozen=True)
class Layout:
    """Where control groups live on this laptop."""

    version: Literal[1, 2]
    hierarchies: tuple[Path, ...]
    """Mount points of all trees (v2: the one tree)."""
    memory: Path
    """Mount point of the tree with the memory controller."""
    systemd: bool
    """Whether systemd manages the laptop, so that v2 groups must be asked of it."""


def parse_layout(mounts: str, *, systemd: bool) -> Layout:
    """Find the layout in the text of /proc/self/mounts."""
    v1: dict[Path, set[str]] = {}
    v2: list[Path] = []
    for line in mounts.splitlines():
        _source, point, kind, options, *_ = line.split()
        if kind == "cgroup":
            v1[Path(point)] = set(options.split(","))
        elif kind == "cgroup2":
            v2.append(Path(point))
    memory = [point for point, options in v1.items() if "memory" in options]
    if memory:
        return Layout(1, (*v1, *v2), memory[0], systemd)
    if v2:
        return Layout(2, (v2[0],), v2[0], systemd)
    raise CannotRunHere(
        "No control group tree with a memory controller is mounted on this computer, so a droplet cannot be "
        "held to its memory; set DROPLET_HOST to a real server instead."
    )


def layout() -> Layout:
    """The layout of this laptop."""
    return parse_layout(MOUNTS.read_text(), systemd=Path("/run/systemd/system").is_dir())


@dataclass(frozen=True)
class Group:
    """The control groups of one droplet."""

    layout: Layout
    machine: str

    @property
    def directories(self) -> tuple[Path, ...]:
        """One directory per tree."""
        if self.layout.version == 2 and self.layout.systemd:
            return (self.layout.memory / SLICE / f"{self.machine}.scope",)
        return tuple(tree / self.machine for tree in self.layout.hierarchies)

    @property
    def memory_directory(self) -> Path:
        if self.layout.version == 2 and self.layout.systemd:
            return self.directories[0]
        return self.layout.memory / self.machine

    def prepare(self, limit_bytes: int | None) -> None:
        """Make the groups with the limit (if any) in force, before anything runs in them."""
        if self.layout.version == 2 and self.layout.systemd:
            return
        if self.layout.version == 2:
            _enable_controllers(self.layout.memory)
        for directory in self.directories:
            directory.mkdir(exist_ok=True)
            # A v1 cpuset accepts no process until it is told its CPUs and memory nodes.
            for setting in ("cpuset.cpus", "cpuset.mems"):
                if self.layout.version == 1 and (directory / setting).exists():
                    (directory / setting).write_text((directory.parent / setting).read_text())
        for setting, value in limit_settings(self.layout.version, limit_bytes) if limit_bytes else ():
            file = self.memory_directory / setting
            if file.exists():
                file.write_text(value)

    def command(self, argv: Iterable[str], limit_bytes: int | None) -> list[str]:
        """The command line that runs `argv` inside the groups, replacing itself with it."""
        if self.layout.version == 2 and self.layout.systemd:
            limit = (
                [f"--property=MemoryMax={limit_bytes}", "--property=MemorySwapMax=0"] if limit_bytes else []
            )
            return [
                *("systemd-run", "--scope", "--quiet", "--collect", f"--unit={self.machine}.scope"),
                *(f"--slice={SLICE}", "--property=Delegate=yes", *limit, "--", *argv),
            ]
        join = 'n=$1; shift; while [ "$n" -gt 0 ]; do echo $$ > "$1" || exit 97; shift; n=$((n-1)); done; exec "$@"'
        joined = [str(directory / "cgroup.procs") for directory in self.directories]
        return ["/bin/sh", "-c", join, "sh", str(len(joined)), *joined, *argv]

    def check_limit(self, limit_bytes: int) -> None:
        """Make sure that the limit is in force, because nothing else shows that it is not.

        Raises:
            CannotRunHere: it is not, as where the kernel was started with its memory controller off.
        """
        found = self.memory().limit
        if found != limit_bytes:
            raise CannotRunHere(
                f"{self.machine} is not held to {limit_bytes // 2**20} MiB: {self.memory_directory} has "
                f"{f'a limit of {found} bytes' if found else 'no memory limit'}. Look for cgroup_disable=memory in "
                "/proc/cmdline; set DROPLET_HOST to a real server instead."
            )

    def processes(self) -> list[int]:
        """Every process of the droplet."""
        found: set[int] = set()
        for directory in self._tree(self.memory_directory):
            try:
                found.update(int(line) for line in (directory / "cgroup.procs").read_text().split())
            except OSError:  # the group went away while we looked
                continue
        return sorted(found - {0})

    def kill(self, timeout_s: float = 300) -> None:
        """SIGKILL everything in the group and wait until it is empty.

        What waits for the disk ends only when the disk answers.

        Raises:
            CommandFailed: something survives, as a process stuck in the kernel does.
        """
        deadline = time.monotonic() + timeout_s
        while processes := self.processes():
            for pid in processes:
                # Between the reading of the list and the signal the process may end, but its number is
                # not given to another before the whole number space went round.
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if time.monotonic() > deadline:
                raise CommandFailed(
                    f"Could not end all processes of {self.machine}: {processes} survive SIGKILL for {timeout_s:g} s."
                )
            time.sleep(0.05)

    def remove(self) -> None:
        """Remove the (empty) groups."""
        for directory in self.directories:
            for each in sorted(self._tree(directory), reverse=True):
                _remove_group(each)
        if self.layout.version == 2 and self.layout.systemd:
            _end_slice(self.layout.memory / SLICE)

    def memory(self) -> Memory:
        """Read the droplet's memory; zeros when it is not running."""
        return read_memory(self.memory_directory, self.layout.version)

    @staticmethod
    def _tree(directory: Path) -> Iterator[Path]:
        if directory.is_dir():
            for parent, _children, _files in os.walk(directory):
                yield Path(parent)


def limit_settings(version: Literal[1, 2], limit_bytes: int) -> list[tuple[str, str]]:
    """Files and values that hold a group to its memory, without a loophole into the laptop's swap."""
    if version == 1:
        # The sum of memory and swap may not be set below the memory limit, so it comes second. It is one
        # page higher, so that it is always the memory limit that is hit: Linux 6.18 counts no failures of the
        # other one.
        return [
            ("memory.limit_in_bytes", str(limit_bytes)),
            ("memory.memsw.limit_in_bytes", str(limit_bytes + 4096)),
        ]
    return [("memory.max", str(limit_bytes)), ("memory.swap.max", "0")]


def read_memory(directory: Path, version: Literal[1, 2]) -> Memory:
    """Read memory figures from a group's directory (fields that the kernel lacks are 0)."""
    if version == 1:
        statistics = _pairs(directory / "memory.stat")
        # v1 counts an OOM kill only in the very group of the victim, so the tree is summed; kills in groups
        # that are gone are missing. os.walk passes over a group that ends while it is looked at.
        groups = (Path(path) for path, _, _ in os.walk(directory))
        kills = sum(_pairs(group / "memory.oom_control").get("oom_kill", 0) for group in groups)
        return Memory(
            used=max(
                0, _number(directory / "memory.usage_in_bytes") - statistics.get("total_inactive_file", 0)
            ),
            peak=_number(directory / "memory.max_usage_in_bytes"),
            limit=_number(directory / "memory.limit_in_bytes"),
            failcnt=_number(directory / "memory.failcnt"),
            oom_kills=kills,
        )
    events = _pairs(directory / "memory.events")
    return Memory(
        used=max(
            0,
            _number(directory / "memory.current") - _pairs(directory / "memory.stat").get("inactive_file", 0),
        ),
        peak=_number(directory / "memory.peak"),
        limit=_number(directory / "memory.max"),
        failcnt=events.get("max", 0),
        oom_kills=events.get("oom_kill", 0),
    )


def _number(file: Path) -> int:
    try:
        text = file.read_text().strip()
    except FileNotFoundError:
        return 0
    return int(text) if text.isdigit() else 0


def _pairs(file: Path) -> dict[str, int]:
    try:
        text = file.read_text()
    except FileNotFoundError:
        return {}
    rows = (line.split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def _enable_controllers(root: Path) -> None:
    wanted = set((root / "cgroup.controllers").read_text().split()) & {
        "memory",
        "pids",
        "cpu",
        "io",
        "cpuset",
    }
    missing = wanted - set((root / "cgroup.subtree_control").read_text().split())
    if missing:
        (root / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in sorted(missing)))


def _end_slice(directory: Path) -> None:
    """Remove the slice once no scope is left in it.

    systemd makes it for the first scope, never ends it by itself, and puts its directory back.
    """
    if directory.is_dir() and not any(child.is_dir() for child in directory.iterdir()):
        succeeds(["systemctl", "stop", "--quiet", directory.name])


def _remove_group(directory: Path) -> None:
    deadline = time.monotonic() + 60
    while directory.is_dir():
        try:
            directory.rmdir()
        except OSError as error:  # a process that was killed may take a moment to be gone
            if time.monotonic() > deadline:
                raise CommandFailed(
                    f"Could not remove the control group {directory}: {error.strerror}."
                ) from error
            time.sleep(0.05)
