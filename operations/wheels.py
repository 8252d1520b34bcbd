"""A wheel of a pure Python package, the same bytes for the same sources on every laptop."""

from __future__ import annotations

import base64
import hashlib
import io
import tomllib
import zipfile
from pathlib import Path
from typing import Final

# The earliest time that a zip file can hold: a time of its own would make every build a new file.
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


def wheel(project: Path, package: str) -> tuple[str, bytes]:
    """File name and bytes of the wheel of ``project/package``, from ``project/pyproject.toml``.

    Dependencies are left out of the metadata on purpose: they are installed from a list with hashes, and
    the wheel with ``--no-deps``. Raises FileNotFoundError or KeyError for a folder that is no such project.
    """
    metadata = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, version = str(metadata["name"]).replace("-", "_"), str(metadata["version"])
    folder = f"{name}-{version}.dist-info"
    files = {
        path.relative_to(project).as_posix(): path.read_bytes()
        for path in sorted((project / package).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    files[f"{folder}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: {metadata['name']}\nVersion: {version}\n"
        f"Requires-Python: {metadata['requires-python']}\n"
    ).encode()
    files[f"{folder}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: memory-droplet\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    scripts = "".join(f"{command} = {target}\n" for command, target in metadata.get("scripts", {}).items())
    files[f"{folder}/entry_points.txt"] = f"[console_scripts]\n{scripts}".encode()
    lines = [f"{path},sha256={_digest(content)},{len(content)}\n" for path, content in files.items()]
    files[f"{folder}/RECORD"] = ("".join(lines) + f"{folder}/RECORD,,\n").encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            archive.writestr(entry, content)
    return f"{name}-{version}-py3-none-any.whl", buffer.getvalue()


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
