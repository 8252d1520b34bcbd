"""How long a deploy takes, and how often it speaks to the machine.

    uv run python -m benchmarks.deploy [--droplet benchmark]

A local droplet is made, deployed to, verified and removed again, images at hand; then come a dry run and two runs
that have nothing to do. Its peer in the same run: as many logins with a command that does nothing, which is how a
shell script over ssh would send them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable

from drill import cycle, machine
from drill.machine import Droplet
from drill.paths import REPOSITORY

#: Runs pyinfra as its command does, and prints how many commands and files it sent.
COUNTING = """
import atexit, json, sys
from pyinfra.connectors.ssh import SSHConnector
sent = {"commands": 0, "files": 0}
def counted(kind, send):
    def call(*arguments, **options):
        sent[kind] += 1
        return send(*arguments, **options)
    return call
SSHConnector.run_shell_command = counted("commands", SSHConnector.run_shell_command)
SSHConnector.put_file = counted("files", SSHConnector.put_file)
atexit.register(lambda: print("\\nSENT " + json.dumps(sent), file=sys.stderr))
from pyinfra_cli.main import main
sys.argv = ["pyinfra", *sys.argv[1:]]
main()
"""


def timed(work: Callable[[], int]) -> float:
    """Seconds that a phase took; ends the benchmark when it failed."""
    started = time.monotonic()
    if code := work():
        raise SystemExit(f"a phase failed with exit code {code}; what it printed is above")
    return time.monotonic() - started


def run(name: str, *arguments: str) -> tuple[float, dict[str, int]]:
    """One run of the deploy: seconds, and how many commands and files it sent."""
    environment = {**os.environ, "DROPLET_NAME": name, "PYINFRA_PROGRESS": "off"}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", COUNTING, "inventory.py", "deploy.py", *arguments],
        cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.monotonic() - started
    if done.returncode:
        raise SystemExit(f"{done.stdout}{done.stderr}\nthe run failed with exit code {done.returncode}")
    sent = re.search(r"^SENT (.*)$", done.stderr, re.M)
    assert sent is not None, "pyinfra ended without its exit handlers"
    return seconds, json.loads(sent[1])


def logins(droplet: Droplet, count: int) -> float:
    """Seconds for that many commands that do nothing, each in a login of its own."""
    started = time.monotonic()
    for _ in range(count):
        droplet.run("true")
    return time.monotonic() - started


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--droplet", default="benchmark", help="name of the local droplet (default: benchmark)"
    )
    name = parser.parse_args().droplet
    machine.remove(name)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            up = timed(lambda: 0 if machine.ensure(name) else 1)
            bare, listed = run(name, "--dry")
            deploy = timed(lambda: cycle.deploy(name, []))
            verify = timed(lambda: cycle.verify(name, ["-q"]))
        rows = [
            ("a bare machine boots", up, ""),
            ("dry run of the bare machine", bare, f"{listed['commands']} commands"),
            ("bare to converged", deploy, ""),
            ("verified, a browser's chat included", verify, ""),
            ("in all, without the dry run", up + deploy + verify, ""),
        ]
        for text, arguments in (
            ("dry run, nothing to do", ["--dry"]),
            ("run, nothing to do", ["-y"]),
            ("run, nothing to do", ["-y"]),
        ):
            seconds, sent = run(name, *arguments)
            rows.append((text, seconds, f"{sent['commands']} commands, {sent['files']} files"))
        peer = logins(machine.find(name), sent["commands"])
        rows.append((f"{sent['commands']} logins that do nothing", peer, f"ratio {seconds / peer:.1f}"))
    finally:
        machine.remove(name)
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    for text, seconds, more in rows:
        print(f"{text:<36}{seconds:8.1f} s   {more}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
