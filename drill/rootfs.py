"""The disk a droplet starts from: a stock Debian 12 server, made once and kept as a tarball.

It holds what a cloud provider's image holds and nothing that a deploy has to install.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Final

from drill import paths, records, work
from drill.console import say, step
from drill.trees import delete_tree

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
# Disks of other versions of the recipe stay for a while: people switch branches.
_KEPT: Final = 3
_HALF_MADE: Final = ("building", "partial.tar")
WORK: Final = "disk"
_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def key() -> str:
    """Content hash of everything the disk is made from."""
    inputs: dict[str, object] = {
        "recipe": Path(__file__).read_text(),
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
            tarball.touch()
            return tarball
        say(f"the cached disk {tarball.name} is damaged (its sha256 is not the recorded one): making it anew")
    directory.mkdir(parents=True, exist_ok=True)
    abandon()
    tarballs = sorted(directory.glob("*.tar"), key=lambda each: each.stat().st_mtime)
    for outdated in tarballs[: -(_KEPT - 1)]:
        delete_tree(outdated.with_suffix(".json"))
        delete_tree(outdated)
    with step(f"making the disk of a Debian 12 server (once; kept in {directory})"):
        building = directory / "building"
        _build(building)
        partial = directory / "partial.tar"
        work.run_alone(
            WORK,
            ["tar", "-C", str(building), "--numeric-owner", "--xattrs", "-cf", str(partial), "."],
            purpose="pack the droplet's disk",
        )
        delete_tree(building)
        records.write_json(note, {"sha256": _sha256(partial), "suite": SUITE, "packages": PACKAGES})
        partial.rename(tarball)
    return tarball


def abandon() -> None:
    """End and remove what a killed run may have left half made (idempotent; hold the lock)."""
    work.end(WORK)
    for name in _HALF_MADE:
        delete_tree(paths.cache_dir() / "rootfs" / name)


def certificates(bundle: str) -> list[str]:
    """The certificates in a bundle in PEM form."""
    return _PEM.findall(bundle)


def _build(root: Path) -> None:
    work.run_alone(
        WORK,
        [
            *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
            *("--format=directory", f"--keyring={KEYRING}", SUITE, str(root), "-"),
        ],
        input_text=SOURCES,
        purpose="make a Debian 12 disk with mmdebstrap (it needs to reach http://deb.debian.org)",
    )
    (root / "etc/locale.gen").write_text("C.UTF-8 UTF-8\nen_US.UTF-8 UTF-8\n")
    _inside(root, ["locale-gen"])
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


def _inside(root: Path, argv: list[str]) -> None:
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    work.run_alone(
        WORK,
        ["env", "-i", f"PATH={path}", "LC_ALL=C.UTF-8", "chroot", str(root), *argv],
        purpose=f"prepare the droplet's disk with {argv[0]}",
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
