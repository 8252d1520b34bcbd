"""The disk a droplet starts from: a stock Debian 12 server, made once and unpacked per droplet.

It holds what a cloud provider's image holds and nothing that a deploy has to install.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Final

from drill import network, paths, records
from drill.commands import run
from drill.console import say, step
from drill.errors import DrillError
from drill.records import Record

SUITE: Final = "bookworm"
MIRROR: Final = "http://deb.debian.org/debian"
SECURITY: Final = "http://deb.debian.org/debian-security"
KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"
PACKAGES: Final = (
    "apt-utils",
    "ca-certificates",
    "curl",
    "dbus",
    "debian-archive-keyring",
    "ifupdown",
    "iproute2",
    "iputils-ping",
    "kmod",
    "less",
    "libpam-systemd",
    "locales",
    "netbase",
    "openssh-server",
    "procps",
    "python3",
    "sudo",
    "systemd",
    "systemd-sysv",
    "tzdata",
)
SOURCES: Final = f"""\
deb {MIRROR} {SUITE} main
deb {MIRROR} {SUITE}-updates main
deb {SECURITY} {SUITE}-security main
"""
LAPTOP_CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
MACHINE_IMAGE: Final = Path(__file__).parent / "machine_image"
# What goes where in the image, and with which mode.
_ADDED: Final = (
    ("drill-kernel", "usr/local/sbin/drill-kernel", 0o755),
    ("drill-kernel.service", "etc/systemd/system/drill-kernel.service", 0o644),
)
_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def key() -> str:
    """Content hash of everything the disk is made from."""
    inputs: dict[str, object] = {
        "recipe": Path(__file__).read_text(),
        "files": {name: (MACHINE_IMAGE / name).read_text() for name, _to, _mode in _ADDED},
        "certificates": LAPTOP_CERTIFICATES.read_text() if LAPTOP_CERTIFICATES.is_file() else "",
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def cached() -> Path:
    """The tarball of the disk; made when it is missing, outdated or damaged (hold the lock)."""
    directory = paths.cache_dir() / "rootfs"
    tarball = directory / f"{SUITE}-{key()}.tar"
    note = tarball.with_suffix(".json")
    noted = records.read_json(note)
    if noted is not None and tarball.is_file():
        if _sha256(tarball) == noted.get("sha256"):
            return tarball
        say(f"the cached disk {tarball.name} is damaged (its sha256 is not the recorded one): making it anew")
    directory.mkdir(parents=True, exist_ok=True)
    # Also what a killed run left behind, and disks made from outdated inputs.
    for old in directory.iterdir():
        _delete(old)
    with step(f"making the disk of a Debian 12 server (once; kept in {directory})"):
        building = directory / "building"
        _build(building)
        partial = directory / "partial.tar"
        run(
            ["tar", "-C", str(building), "--numeric-owner", "--xattrs", "-cf", str(partial), "."],
            purpose="pack the droplet's disk",
        )
        _delete(building)
        records.write_json(note, {"sha256": _sha256(partial), "suite": SUITE, "packages": PACKAGES})
        partial.rename(tarball)
    return tarball


def unpack(record: Record) -> None:
    """Give a droplet its disk (idempotent: a disk that is there stays as it is)."""
    if record.root.is_dir():
        return
    partial = record.directory / "root.partial"
    _delete(partial)
    tarball = cached()
    with step(f"unpacking the disk of {record.name}"):
        partial.mkdir()
        run(
            ["tar", "-C", str(partial), "--numeric-owner", "--xattrs", "-xpf", str(tarball)],
            purpose=f"unpack the disk of {record.name}",
        )
        _personalise(partial, record)
        partial.rename(record.root)


def delete(record: Record) -> None:
    """Remove a droplet's disk."""
    _delete(record.directory / "root.partial")
    _delete(record.root)


def certificates(bundle: str) -> list[str]:
    """The certificates in a bundle in PEM form."""
    return _PEM.findall(bundle)


def _build(root: Path) -> None:
    run(
        [
            *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
            *("--format=directory", f"--keyring={KEYRING}", SUITE, str(root), "-"),
        ],
        input_text=SOURCES,
        purpose="make a Debian 12 disk with mmdebstrap (it needs to reach http://deb.debian.org)",
    )
    for source, target, mode in _ADDED:
        (root / target).write_text((MACHINE_IMAGE / source).read_text())
        (root / target).chmod(mode)
    (root / "etc/locale.gen").write_text("C.UTF-8 UTF-8\nen_US.UTF-8 UTF-8\n")
    _inside(root, ["locale-gen"])
    _inside(root, ["systemctl", "enable", "drill-kernel.service"])
    # Every droplet gets its own key from the laptop; keys from the package would be the same everywhere.
    for host_key in (root / "etc/ssh").glob("ssh_host_*"):
        host_key.unlink()
    (root / "etc/machine-id").write_text("")
    _trust_what_the_laptop_trusts(root)


def _trust_what_the_laptop_trusts(root: Path) -> None:
    if not LAPTOP_CERTIFICATES.is_file():
        return
    stock = set(certificates((root / "etc/ssl/certs/ca-certificates.crt").read_text()))
    extra = [pem for pem in certificates(LAPTOP_CERTIFICATES.read_text()) if pem not in stock]
    for number, pem in enumerate(extra, start=1):
        target = root / f"usr/local/share/ca-certificates/laptop-{number:03}.crt"
        target.write_text(f"{pem}\n")
    if extra:
        _inside(root, ["update-ca-certificates"])


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


def _inside(root: Path, argv: list[str]) -> None:
    run(
        ["chroot", str(root), *argv],
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
        purpose=f"prepare the droplet's disk with {argv[0]}",
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        done = subprocess.run(
            ["rm", "-rf", "--one-file-system", str(path)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise DrillError(f"Could not delete {path}: {done.stderr.strip()}.")
    elif path.exists() or path.is_symlink():
        path.unlink()


def free_space_mb(directory: Path) -> int:
    """Free space in MiB where a directory is, or will be."""
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free // 2**20
