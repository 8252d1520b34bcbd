"""The disk of one droplet: unpacked from the cached one, with its own name, address and keys."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Final

from drill import network, packages_kept, rootfs, work
from drill.console import step
from drill.records import Record
from drill.trees import delete_tree

INIT: Final = "/usr/local/sbin/drill-init"
_INIT_SOURCE: Final = Path(__file__).parent / "machine_files" / "drill-init"


def unpack(record: Record) -> None:
    """Give a droplet its disk (idempotent: a disk that is there stays as it is)."""
    if record.root.is_dir():
        return
    partial = record.directory / "root.partial"
    tarball = rootfs.cached()
    delete(record)
    with step(f"unpacking the disk of {record.name}"):
        partial.mkdir()
        work.run_alone(
            _work(record),
            ["tar", "-C", str(partial), "--numeric-owner", "--xattrs", "-xpf", str(tarball)],
            purpose=f"unpack the disk of {record.name}",
        )
        _personalise(partial, record)
        packages_kept.lay_out(partial)
        partial.rename(record.root)


def delete(record: Record) -> None:
    """Remove a droplet's disk, also one that is half made."""
    work.end(_work(record))
    delete_tree(record.directory / "root.partial")
    packages_kept.collect(record.root)
    delete_tree(record.root)


def _work(record: Record) -> str:
    return f"disk-{record.name}"


def install_init(record: Record) -> None:
    """Write the droplet's first program, so that every boot runs the current one."""
    target = record.root / INIT.lstrip("/")
    target.write_text(_INIT_SOURCE.read_text())
    target.chmod(0o755)


def _personalise(root: Path, record: Record) -> None:
    """Write what tells this droplet from others: names, addresses, keys."""
    (root / "etc/hostname").write_text(f"{record.name}\n")
    (root / "etc/hosts").write_text(
        f"127.0.0.1 localhost\n127.0.1.1 {record.name}\n::1 localhost ip6-localhost ip6-loopback\n"
    )
    (root / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").write_text("".join(f"nameserver {each}\n" for each in network.nameservers()))
    (root / "etc/network/interfaces").write_text(
        "auto lo\niface lo inet loopback\n\n"
        f"auto eth0\niface eth0 inet static\n    address {record.address}/24\n    gateway {record.gateway}\n"
    )
    host_key = record.directory / "ssh_host_ed25519_key"
    for name, mode in (("ssh_host_ed25519_key", 0o600), ("ssh_host_ed25519_key.pub", 0o644)):
        target = root / "etc/ssh" / name
        target.touch(mode=mode)
        target.write_text(host_key.with_name(name).read_text())
    ssh = root / "root/.ssh"
    ssh.mkdir(mode=0o700, exist_ok=True)
    (ssh / "authorized_keys").touch(mode=0o600)
    (ssh / "authorized_keys").write_text((record.directory / "id_ed25519.pub").read_text())
