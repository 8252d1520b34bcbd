"""SSH to a droplet: keys made on the laptop, and one ssh_config for people, pyinfra and testinfra."""

from __future__ import annotations

from pathlib import Path

from drill.commands import run
from drill.records import Record

USER = "root"
PORT = 22


def ensure_keys(record: Record) -> None:
    """Make the droplet's host key, its user key, known_hosts and ssh_config (idempotent)."""
    for file, comment in (("ssh_host_ed25519_key", record.name), ("id_ed25519", f"drill@{record.name}")):
        key = record.directory / file
        public = key.with_name(f"{file}.pub")
        if not public.is_file():
            # A killed run may have left the private half only; ssh-keygen would ask whether to replace it.
            key.unlink(missing_ok=True)
            run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(key)],
                purpose=f"make a key for {record.name}",
            )
    host_key = " ".join((record.directory / "ssh_host_ed25519_key.pub").read_text().split()[:2])
    known_hosts(record).write_text(f"{record.address},{record.name} {host_key}\n")
    ssh_config(record).write_text(render_ssh_config(record))


def key_file(record: Record) -> Path:
    """The private key that opens the droplet."""
    return record.directory / "id_ed25519"


def known_hosts(record: Record) -> Path:
    """The file that pins the droplet's host key."""
    return record.directory / "known_hosts"


def ssh_config(record: Record) -> Path:
    """The file for ``ssh -F``."""
    return record.directory / "ssh_config"


def render_ssh_config(record: Record) -> str:
    """Text of the ssh_config of a droplet."""
    return (
        f"Host {record.name} {record.address}\n"
        f"    HostName {record.address}\n"
        f"    Port {PORT}\n"
        f"    User {USER}\n"
        f"    IdentityFile {_quoted(key_file(record))}\n"
        f"    IdentitiesOnly yes\n"
        f"    UserKnownHostsFile {_quoted(known_hosts(record))}\n"
        f"    GlobalKnownHostsFile /dev/null\n"
        f"    StrictHostKeyChecking yes\n"
        f"    ConnectTimeout 60\n"
        f"    ServerAliveInterval 15\n"
        f"    LogLevel ERROR\n"
    )


def _quoted(path: Path) -> str:
    text = str(path)
    return f'"{text}"' if " " in text else text
