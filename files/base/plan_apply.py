"""What every on-host script of this project speaks: ``SCRIPT plan`` and ``SCRIPT apply``.

``plan`` changes nothing and prints one JSON object,
``{"reachable": true, "differences": ["sentence", ...]}``; ``apply`` repairs exactly the differences it
finds, printing each before it touches anything, and ends with 1 and one sentence on standard error when
it must not or cannot go on. A script states its differences as pairs of a sentence and its repair, so
that what a dry run lists cannot come apart from what a run does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

STATE_DIR = Path("/var/lib/memory-droplet")
PASSES = 2


class Refused(Exception):
    """Something must not be changed, or could not be: one sentence for the person who reads it."""


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it should be, and what puts it right."""

    sentence: str
    repair: Callable[[], None]


def run(argv: Sequence[str], *, stdin: str | None = None, timeout_s: float = 120) -> str:
    """Standard output of a command; ``Refused`` with its complaint if it fails."""
    try:
        done = subprocess.run(
            list(argv), input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(f"{argv[0]} could not run: {error}") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        complaint = next((line.strip() for line in said if "error" in line.lower()), said[-1].strip())
        raise Refused(f"`{' '.join(argv)}` ended with {done.returncode}: {complaint}")
    return done.stdout


def succeeds(argv: Sequence[str], *, timeout_s: float = 30) -> bool:
    """Whether a command exists and ends with 0."""
    try:
        done = subprocess.run(
            list(argv), stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def write_atomically(path: Path, content: str, mode: int = 0o644) -> None:
    """Replace a root-owned file in one step, with its final mode from the first byte."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "w") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def text_of(path: Path) -> str | None:
    """The text of a file, or None where there is none."""
    try:
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None


def serve(find: Callable[[], list[Difference]]) -> None:
    """Run as ``plan`` or ``apply`` over what ``find`` reports; ends the process."""
    if len(sys.argv) != 2 or sys.argv[1] not in ("plan", "apply"):
        sys.exit(f"usage: python3 {sys.argv[0]} plan|apply")
    applying = sys.argv[1] == "apply"
    try:
        if applying:
            repair_all(find)
        else:
            report([one.sentence for one in find()])
    except Refused as refusal:
        if applying:
            sys.exit(str(refusal))
        # A plan never fails the run: what cannot be looked at is itself something to report.
        report([str(refusal)])


def report(sentences: list[str]) -> None:
    """The answer to ``plan``."""
    print(json.dumps({"reachable": True, "differences": sentences}))


def repair_all(find: Callable[[], list[Difference]]) -> None:
    """Repair until nothing differs; what a repair brings to light is repaired too, but not for ever."""
    for _ in range(PASSES):
        found = find()
        if not found:
            return
        for one in found:
            print(one.sentence, flush=True)
            one.repair()
    left = find()
    if left:
        raise Refused(f"repaired {PASSES} times and still: {left[0].sentence}")
