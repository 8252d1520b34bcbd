"""Running programs on the laptop, with failures turned into sentences."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from drill.errors import CommandFailed


def run(
    argv: Sequence[str],
    *,
    purpose: str,
    input_text: str | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> str:
    """Run a program and return its stdout.

    Raises:
        CommandFailed: it is missing, ran too long or exited non-zero; says for what it was run.
    """
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, input=input_text, env=env, timeout=timeout_s, check=False
        )
    except FileNotFoundError as error:
        raise CommandFailed(f"Could not {purpose}: the program {argv[0]} is not installed.") from error
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"Could not {purpose}: {argv[0]} did not end within {timeout_s:g} s.") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise CommandFailed(
            f"Could not {purpose}: `{' '.join(argv[:6])}` exited with {done.returncode}: {' / '.join(said[-3:])}"
        )
    return done.stdout


def succeeds(argv: Sequence[str]) -> bool:
    """Run a program only for its verdict."""
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0
