"""Run the deploy as a person does, and read what it says it did."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parent.parent.parent
#: How long a killed process may take to be gone: it waits for the disk, which another droplet's removal keeps busy.
DEATH_S = 300


@dataclass(frozen=True)
class Outcome:
    """What a run said: operations that would change (dry) or did, exit code, everything printed."""

    code: int
    changes: list[str]
    operations: int
    failed_hosts: list[str]
    printed: str
    seconds: float


def command(*arguments: str) -> list[str]:
    """The deploy command as the README gives it, in this environment's Python."""
    return [sys.executable, "-m", "pyinfra", "inventory.py", "deploy.py", *arguments]


def environment(droplet: str, **extra: str) -> dict[str, str]:
    """The environment of a run against a local droplet; no answer is preset to any question."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DROPLET_", "PYINFRA_"))}
    return {**kept, "DROPLET_NAME": droplet, "PYINFRA_PROGRESS": "off", **extra}


def _changes(report: dict[str, object]) -> list[str]:
    results = report.get("results")
    if results:
        return [op["name"] for op in results["operations"] if op["success"] or op["error"]]
    return [
        op["name"] for op in report["plan"] if op["hosts_with_change"] or op["hosts_with_conditional_change"]
    ]


def _run(droplet: str, *arguments: str, **extra: str) -> Outcome:
    started = time.monotonic()
    done = subprocess.run(
        command("--json", *arguments),
        cwd=PROJECT,
        env=environment(droplet, **extra),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    report = json.loads(done.stdout) if done.stdout.strip().startswith("{") else {"plan": [], "results": None}
    return Outcome(
        done.returncode,
        _changes(report),
        len(report["plan"]) or len((report["results"] or {"operations": []})["operations"]),
        list((report["results"] or {}).get("failed_hosts", [])),
        done.stdout + done.stderr,
        time.monotonic() - started,
    )


def dry_run(droplet: str, *arguments: str, **extra: str) -> Outcome:
    """What a run would change."""
    return _run(droplet, "--dry", *arguments, **extra)


def deploy(droplet: str, *arguments: str, **extra: str) -> Outcome:
    """Deploy; raises nothing, the outcome says how it went."""
    return _run(droplet, "-y", *arguments, **extra)


def deploy_killed_when(
    droplet: str, reached: Callable[[str], bool], sig: int = signal.SIGKILL
) -> tuple[bool, str]:
    """Deploy and kill the run as soon as a printed line satisfies ``reached``.

    Returns whether it was killed (False: it ended before), and what it printed.
    """
    process = subprocess.Popen(
        command("-y"),
        cwd=PROJECT,
        env=environment(droplet),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    printed = []
    assert process.stdout is not None
    try:
        for line in process.stdout:
            printed.append(line)
            if reached(line):
                os.killpg(process.pid, sig)
                process.wait(DEATH_S)
                return True, "".join(printed)
        process.wait(DEATH_S)
        return False, "".join(printed)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(DEATH_S)
