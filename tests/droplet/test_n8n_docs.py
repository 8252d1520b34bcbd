"""Every command of docs/n8n.md and docs/webhook-contracts.md, run where it says, with the output it shows."""

import os
import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.disruptive  # the guide writes turns and alerts, and measures

PROJECT = Path(__file__).parents[2]
BLOCK = re.compile(
    r"^```sh(?P<where>[^\n]*)\n(?P<command>.*?)^```\n(?:\n```output\n(?P<output>.*?)^```)?", re.S | re.M
)
STEPS = [
    pytest.param(match["where"].strip(), match["command"], match["output"], id=f"{page}-{number}")
    for page in ("webhook-contracts", "n8n")
    for number, match in enumerate(BLOCK.finditer((PROJECT / "docs" / f"{page}.md").read_text()))
]


def shown(output):
    """The output of the page as a pattern: … stands for anything."""
    return "".join(".*" if part == "…" else re.escape(part) for part in re.split("(…)", output.strip()))


@pytest.mark.parametrize(("where", "command", "output"), STEPS)
def test_the_command_of_the_page_does_what_the_page_shows(droplet, where, command, output):
    assert where in ("test", "laptop", "laptop benchmark"), "every command is marked with where it is run"
    if where.startswith("laptop"):
        command = re.sub(r"--seconds \d+", "--seconds 1", command)  # that it runs, not what it finds
        environment = {**os.environ, "DROPLET_NAME": droplet.name}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command], cwd=PROJECT, env=environment,
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    else:
        script = f"set -euo pipefail; DOMAIN={droplet.settings['domain']}\n{command}"
        done = droplet.run("bash -s", input_text=script)
    assert done.returncode == 0, done.stderr
    printed = done.stdout + (done.stderr if where.startswith("laptop") else "")
    if output is not None:
        assert re.fullmatch(shown(output), printed.strip(), re.S), printed
