"""The command line: ``uv run drill --help``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final

from drill import machine
from drill.console import elapsed_s, say
from drill.errors import DrillError

DEFAULT_NAME: Final = "droplet"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors are one sentence on stderr and exit code 1."""
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return command(arguments)
    except DrillError as error:
        print(f"drill: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "drill: stopped; everything made so far is written down: the same command goes on from there, "
            "`drill down` removes it.",
            file=sys.stderr,
        )
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="drill", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = _add(commands, "up", _up, "make a droplet, or start a stopped one")
    _name(up)
    ssh = _add(commands, "ssh", _ssh, "log in, or run a command: drill ssh [NAME] [-- COMMAND]")
    _name(ssh)
    ssh.add_argument("command", nargs="*", metavar="COMMAND")
    down = _add(commands, "down", _down, "remove a droplet and every trace of it")
    _name(down)
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    return parser


def _name(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get("DROPLET_NAME") or DEFAULT_NAME
    parser.add_argument(
        "name", nargs="?", default=default, metavar="NAME", help=f"default: $DROPLET_NAME or {DEFAULT_NAME}"
    )


def _up(arguments: argparse.Namespace) -> int:
    droplet = machine.ensure(arguments.name)
    say(
        f"{droplet.name} is up at {droplet.address} after {elapsed_s():.1f} s; log in with `drill ssh {droplet.name}`"
    )
    return 0


def _ssh(arguments: argparse.Namespace) -> int:
    droplet = machine.find(arguments.name)
    os.execvp("ssh", ["ssh", "-F", str(droplet.ssh_config), droplet.name, *arguments.command])


def _down(arguments: argparse.Namespace) -> int:
    there = machine.remove(arguments.name)
    say(f"{arguments.name} is gone" if there else f"there is no droplet named {arguments.name}")
    return 0
