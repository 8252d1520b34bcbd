"""Kernel settings and swap, as far as this machine lets us have them.

A rented virtual machine has its own kernel; a container shares one, so there a swap device or a ``vm.``
setting would change somebody else's machine. Reads ``/etc/memory-droplet/base/kernel.json``, does what is
possible, and writes what was left out and why to ``/var/lib/memory-droplet/kernel.json``.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from plan_apply import STATE_DIR, Difference, Refused, run, serve, succeeds, text_of, write_atomically

WANTED = Path("/etc/memory-droplet/base/kernel.json")
STATE = STATE_DIR / "kernel.json"
# Last in the order of names: Debian's own protect-links.conf comes after any number.
SYSCTL_FILE = Path("/etc/sysctl.d/zz-memory-droplet.conf")
ZRAM_FILE = Path("/etc/systemd/zram-generator.conf")
ZRAM_UNIT = "systemd-zram-setup@zram0.service"
SWAP_FILE = Path("/swapfile")
SWAP_UNIT = Path("/etc/systemd/system/swapfile.swap")
MIB = 1024 * 1024

SWAP_UNIT_TEXT = f"""\
[Unit]
Description=Swap file behind the compressed swap in memory

[Swap]
What={SWAP_FILE}
# zram has 100: this file is only used once zram is full.
Priority=10

[Install]
WantedBy=swap.target
"""


class Wanted(TypedDict):
    """What the deploy asks for: sizes in MiB, sysctl values as written to /proc/sys."""

    zram: bool
    swap_mb: int
    sysctl: dict[str, str]
    sysctl_with_zram: dict[str, str]


@dataclass
class Skips:
    """What is left out, by name, with the reason."""

    reasons: dict[str, str] = field(default_factory=dict)

    def unless(self, name: str, reason: str) -> bool:
        """True if there is no reason against it; otherwise the reason is kept."""
        if reason:
            self.reasons[name] = reason
        return not reason


def container() -> str:
    """The kind of container this is ("systemd-nspawn", "docker", ...), or "" on a machine of its own."""
    done = subprocess.run(["systemd-detect-virt", "--container"], capture_output=True, text=True, check=False)
    kind = done.stdout.strip()
    return "" if kind in ("", "none") else kind


def against_zram(wanted: bool, inside: str) -> str:
    """Why there can be no zram here, or ""."""
    if not wanted:
        return "setting zram is off"
    if inside:
        return f"this is a {inside} container: swap belongs to the machine that runs it"
    if not Path("/sys/class/zram-control").exists() and not succeeds(["modprobe", "--dry-run", "zram"]):
        return "this kernel has no zram module"
    if not Path("/usr/lib/systemd/system-generators/zram-generator").exists():
        return "the package systemd-zram-generator is not installed"
    return ""


def filesystem_of_root() -> str:
    """The type of the root filesystem, as /proc/mounts gives it last."""
    kinds = [
        line.split()[2] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[1] == "/"
    ]
    return kinds[-1] if kinds else "unknown"


def against_swap_file(size_mb: int, inside: str) -> str:
    """Why there can be no swap file here, or ""."""
    if size_mb == 0:
        return "setting swap_mb is 0"
    if inside:
        return f"this is a {inside} container: swap belongs to the machine that runs it"
    if not Path("/proc/swaps").exists():
        return "this kernel is built without swap"
    kind = filesystem_of_root()
    if kind not in ("ext4", "ext3", "xfs"):
        return f"the root filesystem is {kind}, on which a swap file needs preparation by hand"
    space = os.statvfs("/")
    free_mb = space.f_bavail * space.f_frsize // MIB
    if not SWAP_FILE.exists() and free_mb < size_mb + 1024:
        return f"{free_mb} MiB are free on /, a swap file of {size_mb} MiB would leave less than 1 GiB"
    return ""


def swaps() -> list[str]:
    """The devices and files the kernel swaps to now."""
    return [line.split()[0] for line in (text_of(Path("/proc/swaps")) or "").splitlines()[1:]]


def compression() -> str:
    """The best algorithm this kernel offers for zram; zstd where the device cannot be asked yet."""
    offered = (
        (text_of(Path("/sys/block/zram0/comp_algorithm")) or "zstd").replace("[", "").replace("]", "").split()
    )
    return next(name for name in ("zstd", "lz4", "lzo-rle", offered[0]) if name in offered)


def zram_text() -> str:
    """The configuration of systemd-zram-generator."""
    return (
        "# As large as memory: cold pages of the chat stack shrink to about 28 % with zstd.\n"
        "[zram0]\n"
        "zram-size = ram\n"
        f"compression-algorithm = {compression()}\n"
        "swap-priority = 100\n"
        "fs-type = swap\n"
    )


def start_zram() -> None:
    """Write the generator's configuration and let it make the device."""
    if not Path("/sys/class/zram-control").exists():
        run(["modprobe", "zram"])
    write_atomically(ZRAM_FILE, zram_text())
    run(["systemctl", "daemon-reload"])
    if "/dev/zram0" in swaps():
        run(["systemctl", "stop", "dev-zram0.swap"])
    run(["systemctl", "restart", ZRAM_UNIT])
    run(["systemctl", "start", "dev-zram0.swap"])


def stop_zram() -> None:
    """Take the device away and forget its configuration; only what we configured ourselves."""
    if "/dev/zram0" in swaps():
        run(["systemctl", "stop", "dev-zram0.swap"])
        run(["systemctl", "stop", ZRAM_UNIT])
    ZRAM_FILE.unlink(missing_ok=True)
    run(["systemctl", "daemon-reload"])


def zram_differences(possible: bool) -> list[Difference]:
    """zram swap on or off, and with which algorithm."""
    stored = text_of(ZRAM_FILE)
    if not possible:
        if stored is None:
            return []
        return [Difference(f"{ZRAM_FILE} is present, but zram is not to be used here", stop_zram)]
    if stored != zram_text():
        return [Difference(f"{ZRAM_FILE} is {'edited' if stored else 'missing'}", start_zram)]
    if "/dev/zram0" not in swaps():
        return [Difference("compressed swap /dev/zram0 is not in use", start_zram)]
    return []


def make_swap_file(size_mb: int) -> None:
    """A swap file of this size, never readable by others, in use now and after a boot."""
    if str(SWAP_FILE) in swaps():
        run(["swapoff", str(SWAP_FILE)])
    if not SWAP_FILE.exists() or SWAP_FILE.stat().st_size != size_mb * MIB:
        partial = SWAP_FILE.with_name(".swapfile.partial")
        partial.unlink(missing_ok=True)
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        run(["fallocate", "--length", f"{size_mb}MiB", str(partial)])
        run(["mkswap", str(partial)])
        partial.replace(SWAP_FILE)
    SWAP_FILE.chmod(0o600)
    write_atomically(SWAP_UNIT, SWAP_UNIT_TEXT)
    run(["systemctl", "daemon-reload"])
    run(["systemctl", "enable", "--now", SWAP_UNIT.name])


def drop_swap_file() -> None:
    """Stop swapping to our file and remove it with its unit."""
    run(["systemctl", "disable", "--now", SWAP_UNIT.name])
    SWAP_FILE.unlink(missing_ok=True)
    SWAP_UNIT.unlink(
        missing_ok=True
    )  # last: while it is there, the next run sees that something is left to do
    run(["systemctl", "daemon-reload"])


def swap_file_differences(possible: bool, size_mb: int) -> list[Difference]:
    """The swap file: size, mode, unit and use."""
    if not possible:
        if not SWAP_UNIT.exists():
            return []
        return [Difference(f"{SWAP_FILE} is present, but is not to be used here", drop_swap_file)]
    problems: list[str] = []
    if not SWAP_FILE.exists():
        problems.append("is missing")
    else:
        status = SWAP_FILE.stat()
        if status.st_size != size_mb * MIB:
            problems.append(f"has {status.st_size // MIB} MiB")
        if status.st_mode & 0o777 != 0o600:
            problems.append(f"has mode {status.st_mode & 0o777:04o}")
        if str(SWAP_FILE) not in swaps():
            problems.append("is not in use")
        if text_of(SWAP_UNIT) != SWAP_UNIT_TEXT or not succeeds(["systemctl", "is-enabled", SWAP_UNIT.name]):
            problems.append("is not mounted at boot")
    if not problems:
        return []
    return [
        Difference(
            f"{SWAP_FILE} {', '.join(problems)}, expected {size_mb} MiB in use",
            lambda: make_swap_file(size_mb),
        )
    ]


def recorded_refusals() -> dict[str, str]:
    """Settings the kernel refused on an earlier run, so that the same refusal is not tried for ever."""
    refused = json.loads(text_of(STATE) or "{}").get("refused", {})
    return {str(name): str(reason) for name, reason in refused.items()}


def record(skipped: dict[str, str], refused: dict[str, str]) -> None:
    """Keep what is left out and why, where a person and the next run find it."""
    write_atomically(STATE, json.dumps({"skipped": skipped, "refused": refused}, indent=2) + "\n")
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}")


def sysctl_path(name: str) -> Path:
    """Where a setting lies; a slash in a name stands for a dot of an interface."""
    return Path("/proc/sys") / name.replace(".", "/")


def sysctl_differences(
    wanted: dict[str, str], inside: str, skips: Skips, refused: dict[str, str]
) -> list[Difference]:
    """Live values and the file that sets them at boot, without those that cannot be set here."""
    settable: dict[str, str] = {}
    found: list[Difference] = []

    def write(name: str, value: str) -> Callable[[], None]:
        def repair() -> None:
            try:
                sysctl_path(name).write_text(f"{value}\n")
            except OSError as error:
                if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                    raise Refused(f"sysctl {name} cannot be set to {value}: {error.strerror}") from error
                refused[name] = f"the kernel refused it: {error.strerror}"
                record({}, refused)

        return repair

    for name, value in sorted(wanted.items()):
        if inside and not name.startswith("net."):
            reason = f"this is a {inside} container: the setting belongs to the machine that runs it"
        elif not sysctl_path(name).exists():
            reason = "this kernel, or this container's network, has no such setting"
        else:
            reason = refused.get(name, "")
        if not skips.unless(f"sysctl {name}", reason):
            continue
        settable[name] = value
        current = " ".join(sysctl_path(name).read_text().split())
        if current != value:
            found.append(Difference(f"sysctl {name} is {current}, expected {value}", write(name, value)))
    text = "# What this machine lets us set; the reasons for the rest are in " + f"{STATE}.\n"
    text += "".join(f"{name} = {value}\n" for name, value in settable.items())
    if text_of(SYSCTL_FILE) != text:
        found.append(
            Difference(
                f"{SYSCTL_FILE} is {'edited' if SYSCTL_FILE.exists() else 'missing'}",
                lambda: write_atomically(SYSCTL_FILE, text),
            )
        )
    return found


def find() -> list[Difference]:
    """All differences between this machine and kernel.json, as far as it can be had here."""
    text = text_of(WANTED)
    if text is None:
        raise Refused(f"{WANTED} is missing; deploy the component base")
    wanted: Wanted = json.loads(text)
    inside = container()
    skips = Skips()
    refused = recorded_refusals()
    zram = skips.unless("zram", against_zram(wanted["zram"], inside))
    swap_file = skips.unless("swap file", against_swap_file(wanted["swap_mb"], inside))
    settings = wanted["sysctl"] | (wanted["sysctl_with_zram"] if zram else {})
    found = [
        *zram_differences(zram),
        *swap_file_differences(swap_file, wanted["swap_mb"]),
        *sysctl_differences(settings, inside, skips, refused),
    ]

    stored = json.loads(text_of(STATE) or "{}")
    if stored != {"skipped": skips.reasons, "refused": refused}:
        listed = ", ".join(skips.reasons) or "nothing"
        found.append(
            Difference(f"left out on this machine: {listed}", lambda: record(skips.reasons, refused))
        )
    return found


if __name__ == "__main__":
    serve(find)
