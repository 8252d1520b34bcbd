"""The wheel of the memory service is the same bytes every time, and installs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

from operations.wheels import wheel

PROJECT = Path(__file__).parents[2] / "files/memory_service"


def test_the_same_sources_give_the_same_bytes_whenever_they_were_touched(tmp_path: Path) -> None:
    name, first = wheel(PROJECT, "memory_service")
    for path in PROJECT.rglob("*.py"):
        status = path.stat()
        os.utime(path, (status.st_atime, status.st_mtime + 100))
    assert wheel(PROJECT, "memory_service") == (name, first)


def test_it_holds_the_package_and_a_record_of_every_file() -> None:
    _, content = wheel(PROJECT, "memory_service")
    with zipfile.ZipFile(BytesIO(content)) as archive:
        names = set(archive.namelist())
        (record,) = [name for name in names if name.endswith("RECORD")]
        recorded = {line.split(",")[0] for line in archive.read(record).decode().splitlines()}
    assert recorded == names
    assert "memory_service/api.py" in names and not [name for name in names if "__pycache__" in name]


def test_the_locked_requirements_are_those_of_the_lock_file() -> None:
    command = ["uv", "export", "--package", "memory-service", "--no-dev", "--no-emit-project"]
    command += ["--format", "requirements-txt", "--quiet", "--no-header", "--frozen"]
    exported = subprocess.run(command, cwd=PROJECT.parents[1], capture_output=True, text=True, check=True)
    stored = (PROJECT / "requirements.txt").read_text()
    assert stored == exported.stdout, f"run: {' '.join(command)} > files/memory_service/requirements.txt"
    assert "--hash=sha256:" in stored


def test_the_installer_sees_a_killed_installation_as_missing(tmp_path: Path) -> None:
    sources = tmp_path / "install"
    sources.mkdir()
    (sources / "requirements.txt").write_text("x==1\n")
    (sources / "a-1-py3-none-any.whl").write_bytes(b"wheel")
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import install\n"
        "base = Path(sys.argv[2]); install.SOURCES = base / 'install'; install.ROOT = base / 'opt'\n"
        "install.CURRENT = install.ROOT / 'current'; install.NOTE = install.ROOT / 'installed'\n"
        "install.COMMAND = base / 'memory-service'\n"
        "target = install.ROOT / install.version()\n"
        "assert len(install.differences()) == 4, install.differences()\n"
        "(target / 'bin').mkdir(parents=True)\n"
        "assert any('install the memory service' in one for one in install.differences())\n"
        "(target / install.MARKER).touch(); install.link(install.CURRENT, target)\n"
        "install.link(install.COMMAND, install.CURRENT / 'bin/memory-service')\n"
        "install.NOTE.write_text(install.version())\n"
        "assert install.differences() == [], install.differences()\n"
        "(install.SOURCES / 'requirements.txt').write_text('x==2\\n')\n"
        "assert len(install.differences()) == 3, install.differences()\n"
    )
    subprocess.run([sys.executable, "-c", program, str(PROJECT), str(tmp_path)], check=True)
