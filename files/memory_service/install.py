"""Installs the memory service on the host: plan shows what is missing, apply installs it.

A version lives in a folder of its own, named after everything that it is made of (the locked requirements,
the wheel, the interpreter). It counts as installed once its marker is there, which is written last, so an
installation that was killed is seen as missing and made anew, and the one in use is never touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path("/etc/memory-droplet/memory-service/install")
ROOT = Path("/opt/memory-service")
CURRENT = ROOT / "current"
NOTE = ROOT / "installed"  # what the unit runs; read by the deploy to see whether to restart it
COMMAND = Path("/usr/local/bin/memory-service")
MARKER = ".complete"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


class Failure(Exception):
    """An installation did not work; the text is for the person who deploys."""


def wheel() -> Path:
    """The uploaded wheel. Raises Failure unless there is exactly one."""
    found = sorted(SOURCES.glob("*.whl"))
    if len(found) != 1:
        raise Failure(f"{SOURCES} holds {len(found)} wheels and should hold one: run the deploy again")
    return found[0]


def version() -> str:
    """The name of the version that should be installed."""
    digest = hashlib.sha256()
    for path in (SOURCES / "requirements.txt", wheel()):
        digest.update(path.read_bytes())
    digest.update(
        f"{sys.implementation.cache_tag} {os.uname().machine} {Path(sys.executable).resolve()}".encode()
    )
    return digest.hexdigest()[:16]


def differences() -> list[str]:
    """What `apply` would do, as sentences."""
    wanted = version()
    target = ROOT / wanted
    found = []
    if not (target / MARKER).is_file():
        found.append(f"install the memory service {wanted} into {target}")
    if not CURRENT.is_symlink() or CURRENT.readlink() != target:
        found.append(f"let {CURRENT} lead to {target}")
    if not NOTE.is_file() or NOTE.read_text(encoding="utf-8").strip() != wanted:
        found.append(f"note in {NOTE} that {wanted} is installed")
    if not COMMAND.is_symlink() or COMMAND.readlink() != CURRENT / "bin/memory-service":
        found.append(f"let {COMMAND} lead to {CURRENT}/bin/memory-service")
    return found


def run(command: list[str | Path]) -> None:
    """Runs a command. Raises Failure with its last lines."""
    environment = {
        **os.environ,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_NO_CACHE_DIR": "1",
    }
    if CERTIFICATES.is_file():  # what the host trusts, not what pip brings along
        environment.setdefault("PIP_CERT", str(CERTIFICATES))
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        last = " | ".join((done.stderr or done.stdout).strip().splitlines()[-4:])
        raise Failure(f"`{' '.join(str(part) for part in command[:6])} ...` failed: {last}")


def install(target: Path) -> None:
    """Builds the virtualenv. Raises Failure."""
    shutil.rmtree(target, ignore_errors=True)
    run([sys.executable, "-m", "venv", target])
    pip: list[str | Path] = [target / "bin/python", "-m", "pip", "install", "--quiet", "--no-deps"]
    requirements: list[str | Path] = [
        "--only-binary",
        ":all:",
        "--require-hashes",
        "-r",
        SOURCES / "requirements.txt",
    ]
    run([*pip, *requirements])
    run([*pip, "--no-index", wheel()])
    run([target / "bin/memory-service", "--help"])
    (target / MARKER).touch()


def link(path: Path, target: Path) -> None:
    """Lets `path` lead to `target`, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        aside.unlink()
    aside.symlink_to(target)
    aside.replace(path)


def apply() -> None:
    """Installs what is missing, switches, and removes versions that nothing uses."""
    wanted = version()
    target = ROOT / wanted
    before = CURRENT.readlink() if CURRENT.is_symlink() else None
    ROOT.mkdir(mode=0o755, exist_ok=True)
    ROOT.chmod(0o755)
    for sentence in differences():
        print(sentence)
    if not (target / MARKER).is_file():
        install(target)
    link(CURRENT, target)
    link(COMMAND, CURRENT / "bin/memory-service")
    aside = NOTE.with_name(".installed.new")
    aside.write_text(wanted + "\n", encoding="utf-8")
    aside.replace(NOTE)
    # The version before stays: the process that still runs may load a module from it.
    for old in ROOT.iterdir():
        if old.is_dir() and not old.is_symlink() and old not in (target, before):
            shutil.rmtree(old, ignore_errors=True)


def main() -> int:
    """`plan` or `apply`; returns the exit status."""
    os.umask(0o022)
    try:
        if sys.argv[1:] == ["plan"]:
            print(json.dumps({"reachable": True, "differences": differences()}))
            return 0
        if sys.argv[1:] == ["apply"]:
            apply()
            return 0
    except (Failure, OSError) as error:
        print(f"the memory service cannot be installed: {error}", file=sys.stderr)
        return 1
    print("usage: memory_service.py plan|apply", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
