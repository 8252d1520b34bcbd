"""Who and where the machine is: host name, time zone, locale, administrator, periodic upgrades.

Reads ``/etc/memory-droplet/base/machine.json``; one pass over all of it costs a deploy one round trip.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import shutil
import socket
import stat
from pathlib import Path
from typing import TypedDict

from plan_apply import Difference, Refused, run, serve, succeeds, text_of, write_atomically

WANTED = Path("/etc/memory-droplet/base/machine.json")
ZONES = Path("/usr/share/zoneinfo")


class Machine(TypedDict):
    """What the deploy asks for; an empty string or list leaves that part of the machine alone."""

    hostname: str
    timezone: str
    locale: str
    admin_user: str
    admin_ssh_keys: list[str]
    timers: list[str]


def hostname_differences(wanted: str) -> list[Difference]:
    """The running name, the one of the next boot, and that the name resolves (sudo waits for it if not)."""
    if not wanted:
        return []
    found: list[Difference] = []
    running = socket.gethostname()
    if running != wanted:
        found.append(
            Difference(f"host name is {running}, expected {wanted}", lambda: socket.sethostname(wanted))
        )
    stored = (text_of(Path("/etc/hostname")) or "").strip()
    if stored != wanted:
        found.append(
            Difference(
                f"/etc/hostname says {stored or 'nothing'}, expected {wanted}",
                lambda: write_atomically(Path("/etc/hostname"), f"{wanted}\n"),
            )
        )
    hosts = text_of(Path("/etc/hosts")) or ""
    if not any(wanted in line.split("#")[0].split()[1:] for line in hosts.splitlines()):
        kept = [line for line in hosts.splitlines() if line.split()[:1] != ["127.0.1.1"]]
        found.append(
            Difference(
                f"/etc/hosts does not know {wanted}",
                lambda: write_atomically(
                    Path("/etc/hosts"), "\n".join([*kept, f"127.0.1.1\t{wanted}"]) + "\n"
                ),
            )
        )
    return found


def set_timezone(wanted: str) -> None:
    """Point /etc/localtime at the zone; /etc/timezone follows where the distribution still keeps it."""
    partial = Path("/etc/.localtime.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(ZONES / wanted)
    partial.replace("/etc/localtime")
    if Path("/etc/timezone").exists():
        write_atomically(Path("/etc/timezone"), f"{wanted}\n")


def timezone_differences(wanted: str) -> list[Difference]:
    """/etc/localtime against the wanted zone, refused where the zone does not exist."""
    if not wanted:
        return []
    if not (ZONES / wanted).is_file():
        raise Refused(f"setting timezone is {wanted!r}, which is not a file below {ZONES}")
    link = Path("/etc/localtime")
    current = os.path.relpath(link.resolve(), ZONES) if link.is_symlink() else "no symbolic link"
    stored = text_of(Path("/etc/timezone"))
    if link.is_symlink() and link.resolve() == (ZONES / wanted).resolve():
        if stored is None or stored.strip() == wanted:
            return []
        current = f"{wanted}, but /etc/timezone says {stored.strip()}"
    return [Difference(f"time zone is {current}, expected {wanted}", lambda: set_timezone(wanted))]


def locale_differences(wanted: str) -> list[Difference]:
    """A locale that is not built into the C library has to be generated."""
    if not wanted or wanted.upper() in ("C", "POSIX", "C.UTF-8"):
        return []
    spelled = wanted.lower().replace("-", "")
    if spelled in (name.lower().replace("-", "") for name in run(["locale", "--all-locales"]).split()):
        return []

    def generate() -> None:
        supported = text_of(Path("/usr/share/i18n/SUPPORTED")) or ""
        lines = [line for line in supported.splitlines() if line.split()[:1] == [wanted]]
        if not lines:
            raise Refused(f"setting locale is {wanted!r}, which /usr/share/i18n/SUPPORTED does not list")
        listed = text_of(Path("/etc/locale.gen")) or ""
        if lines[0] not in listed.splitlines():
            write_atomically(Path("/etc/locale.gen"), f"{listed.rstrip()}\n{lines[0]}\n")
        run(["locale-gen"], timeout_s=300)

    return [Difference(f"locale {wanted} is not generated", generate)]


def create_admin(user: str) -> None:
    """An account with a home and no password: only a key opens it."""
    try:
        # Debian has groups of its own named operator, staff, ...; a person gets none of their rights.
        grp.getgrnam(user)
        group = ["--no-user-group", "--gid", "users"]
    except KeyError:
        group = ["--user-group"]
    run(["useradd", "--create-home", *group, "--shell", "/bin/bash", user])


def keys_of_root() -> list[str]:
    """The keys that log in as root already."""
    lines = (text_of(Path("/root/.ssh/authorized_keys")) or "").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def write_keys(user: str, keys: list[str]) -> None:
    """The account's authorized_keys, exactly these, owned by it and unreadable for others."""
    account = pwd.getpwnam(user)
    directory = Path(account.pw_dir) / ".ssh"
    if directory.is_symlink():
        raise Refused(f"{directory} is a symbolic link; make it a directory owned by {user}")
    directory.mkdir(mode=0o700, exist_ok=True)
    directory.chmod(0o700)
    os.chown(directory, account.pw_uid, account.pw_gid)
    path = directory / "authorized_keys"
    write_atomically(path, "".join(f"{key}\n" for key in keys), 0o600)
    os.chown(path, account.pw_uid, account.pw_gid)


def admin_differences(user: str, keys: list[str]) -> list[Difference]:
    """The account, its shell and its keys."""
    if not user:
        return []
    if user == "root" or not re.fullmatch(r"[a-z_][a-z0-9_-]{0,30}", user):
        raise Refused(f"setting admin_user is {user!r}, expected a lower-case account name other than root")
    whose = "setting admin_ssh_keys"
    if not keys:
        keys, whose = keys_of_root(), "root"
    wanted = "".join(f"{key}\n" for key in keys)
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return [
            Difference(f"user {user} does not exist", lambda: create_admin(user)),
            Difference(f"{user} has no SSH keys, expected {len(keys)}", lambda: write_keys(user, keys)),
        ]
    found: list[Difference] = []
    if account.pw_shell != "/bin/bash":
        found.append(
            Difference(
                f"shell of {user} is {account.pw_shell}, expected /bin/bash",
                lambda: run_quietly(["usermod", "--shell", "/bin/bash", user]),
            )
        )
    path = Path(account.pw_dir) / ".ssh" / "authorized_keys"
    if text_of(path) != wanted:
        have = len((text_of(path) or "").splitlines())
        found.append(
            Difference(
                f"{path} holds {have} lines that are not exactly the {len(keys)} of {whose}",
                lambda: write_keys(user, keys),
            )
        )
    elif (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) != (account.pw_uid, 0o600):
        found.append(
            Difference(f"{path} is not 0600 and owned by {user}", lambda: write_keys(user, keys)),
        )
    return found


def run_quietly(argv: list[str]) -> None:
    """A command of which only the failure is of interest."""
    run(argv)


def timer_differences(timers: list[str]) -> list[Difference]:
    """Timers that must run, now and after a boot."""
    return [
        Difference(
            f"{timer} is not both enabled and active",
            lambda timer=timer: run_quietly(["systemctl", "enable", "--now", timer]),  # type: ignore[misc]
        )
        for timer in timers
        if not (
            succeeds(["systemctl", "is-enabled", "--quiet", timer])
            and succeeds(["systemctl", "is-active", "--quiet", timer])
        )
    ]


def find() -> list[Difference]:
    """All differences between this machine and machine.json."""
    text = text_of(WANTED)
    if text is None:
        raise Refused(f"{WANTED} is missing; deploy the component base")
    wanted: Machine = json.loads(text)
    if wanted["admin_user"] and not shutil.which("useradd"):
        raise Refused("useradd is missing; install the package passwd")
    return [
        *hostname_differences(wanted["hostname"]),
        *timezone_differences(wanted["timezone"]),
        *locale_differences(wanted["locale"]),
        *admin_differences(wanted["admin_user"], wanted["admin_ssh_keys"]),
        *timer_differences(wanted["timers"]),
    ]


if __name__ == "__main__":
    serve(find)
