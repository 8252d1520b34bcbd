"""Throwaway local droplets, and the deploy of the stack on them or on $DROPLET_HOST."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from drill import cycle, host, images, inspection, machine, n8n_export, tunnel
from drill.console import elapsed_s, say
from drill.errors import DrillError, UsageMistake
from settings import secrets
from settings.schema import SettingsError
from settings.secrets import SecretsError

# Commands that hand arguments on to another program.
_PASSING_ON: Final = ("ssh", "deploy", "verify")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors are one sentence on stderr and exit code 1."""
    own, passed_on = split(list(sys.argv[1:] if argv is None else argv))
    arguments = _parser().parse_args(own)
    try:
        if arguments.takes_more:
            return int(arguments.run(arguments, passed_on))
        return int(arguments.run(arguments))
    except (DrillError, SettingsError, SecretsError) as error:
        print(f"drill: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "drill: stopped; everything made so far is written down: the same command goes on from there, "
            "`drill down` removes it.",
            file=sys.stderr,
        )
        return 130


def split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Separate our own arguments from those for ssh, pyinfra or pytest.

    The first argument that is no option is the droplet's name; from the first option, or after ``--``,
    all of it belongs to the other program.
    """
    if not argv or argv[0] not in _PASSING_ON or argv[1:2] in (["-h"], ["--help"]):
        return argv, []
    named = 2 if len(argv) > 1 and not argv[1].startswith("-") else 1
    rest = argv[named:]
    return argv[:named], rest[1:] if rest[:1] == ["--"] else rest


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="drill", description=__doc__)
    parser.set_defaults(takes_more=False)
    commands = _Commands(parser)
    commands.add("up", _up, "make a local droplet, or start a stopped one")
    commands.add("ssh", _ssh, "log in, or run a command", passes_on="[-- COMMAND]")
    commands.add("status", _status, "show droplets, their memory and their components", named=False)
    commands.add("deploy", _deploy, "run the deploy", passes_on="[PYINFRA OPTIONS]")
    commands.add("verify", _verify, "check a deployed machine by using it", passes_on="[PYTEST OPTIONS]")
    commands.add("scan", _scan, "find out what a neighbour on the wire can reach of a droplet")
    commands.add("off", _off, "shut a local droplet down and keep its disk")
    commands.add("down", _down, "remove a local droplet and every trace of it")
    commands.add("rebuild", _rebuild, "down, up, deploy and verify, with the time of each")
    _add_secrets(commands)
    for module in (images, tunnel, n8n_export):
        module.add_parsers(commands.subparsers)
    return parser


@dataclass
class _Commands:
    """The subcommands."""

    parser: argparse.ArgumentParser

    def __post_init__(self) -> None:
        self.subparsers = self.parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        self,
        name: str,
        run: Callable[[argparse.Namespace, list[str]], int],
        text: str,
        *,
        named: bool = True,
        passes_on: str = "",
    ) -> argparse.ArgumentParser:
        """Add a subcommand that may take a droplet's name."""
        usage = f"drill {name} [NAME] {passes_on}" if passes_on else None
        added = self.subparsers.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", usage=usage
        )
        added.set_defaults(run=run, takes_more=True)
        if named:
            name_help = f"default: $DROPLET_NAME or {host.hosts.LOCAL_DROPLET}"
            added.add_argument("name", nargs="?", metavar="NAME", help=name_help)
        return added


def _add_secrets(commands: _Commands) -> None:
    parser = commands.add(
        "secrets", _secrets_check, "make, check, give and read the laptop's secrets", named=False
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    rows: list[tuple[str, Callable[[argparse.Namespace, list[str]], int], str, bool]] = [
        ("init", _secrets_init, "make the secrets that are missing", False),
        ("check", _secrets_check, "say what is missing or weak", False),
        ("set", _secrets_set, "store a secret of your own, read from the terminal or from stdin", True),
        ("show", _secrets_show, "print a secret", True),
    ]
    for name, run, text, of_one in rows:
        action = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        action.set_defaults(run=run, takes_more=True)
        if of_one:
            action.add_argument("secret", metavar="SECRET", choices=list(secrets.DECLARED))
        action.add_argument("name", nargs="?", metavar="NAME")


def _up(arguments: argparse.Namespace, _passed_on: list[str]) -> int:
    if real := host.real(arguments.name):
        raise UsageMistake(
            f"DROPLET_HOST is set and {real.name} is there already; go on with `drill deploy`."
        )
    droplet = machine.ensure(host.local_name(arguments.name))
    say(f"{droplet.name} is up at {droplet.address} after {elapsed_s():.1f} s: drill ssh {droplet.name}")
    return 0


def _ssh(arguments: argparse.Namespace, passed_on: list[str]) -> int:
    return cycle.log_in(arguments.name, passed_on)


def _status(_arguments: argparse.Namespace, _passed_on: list[str]) -> int:
    real = host.real(None)
    rows = [inspection.real_row(real)] if real else inspection.local_rows()
    print(inspection.table(rows) if rows else "There are no droplets; `drill up` makes one.")
    return 0


def _deploy(arguments: argparse.Namespace, passed_on: list[str]) -> int:
    return cycle.deploy(arguments.name, passed_on)


def _verify(arguments: argparse.Namespace, passed_on: list[str]) -> int:
    return cycle.verify(arguments.name, passed_on)


def _scan(arguments: argparse.Namespace, _passed_on: list[str]) -> int:
    from drill.scan import scan

    if real := host.real(arguments.name):
        raise UsageMistake(
            f"A scan needs a neighbour on the wire of a local droplet; {real.name} is a real host."
        )
    found = scan(host.local_name(arguments.name))
    for label, values in (
        ("open ports", found.open),
        ("open ports, IPv6", found.open_ipv6),
        ("reached by routing through the droplet", found.routed),
        ("reached on the droplet's 127.0.0.1", found.loopback),
    ):
        print(f"{label}: {', '.join(str(value) for value in values) or 'none'}")
    return 0


def _off(arguments: argparse.Namespace, _passed_on: list[str]) -> int:
    if real := host.real(arguments.name):
        raise UsageMistake(f"{real.name} is a real host; `drill down` switches it off.")
    machine.find(host.local_name(arguments.name)).power_off()
    return 0


def _down(arguments: argparse.Namespace, _passed_on: list[str]) -> int:
    return cycle.down(arguments.name)


def _rebuild(arguments: argparse.Namespace, _passed_on: list[str]) -> int:
    return cycle.rebuild(arguments.name)


def _owner(arguments: argparse.Namespace) -> str:
    real = host.real(arguments.name)
    return real.name if real else host.local_name(arguments.name)


def _secrets_init(arguments: argparse.Namespace, _passed_on: list[str]) -> int:
    owner = _owner(arguments)
    added = secrets.init(owner)
    print(f"{owner}: made {', '.join(added)}" if added else f"{owner}: nothing was missing")
    return 0


def _secrets_check(arguments: argparse.Namespace, _passed_on: list[str]) -> int:
    owner = _owner(arguments)
    problems = secrets.check(owner)
    print("\n".join(problems) if problems else f"{owner}: all secrets are there and strong")
    return 1 if problems else 0


def _secrets_set(arguments: argparse.Namespace, _passed_on: list[str]) -> int:
    asked = f"{arguments.secret}: "
    value = getpass.getpass(asked) if sys.stdin.isatty() else sys.stdin.read().rstrip("\n")
    secrets.put(_owner(arguments), arguments.secret, value)
    return 0


def _secrets_show(arguments: argparse.Namespace, _passed_on: list[str]) -> int:
    value = secrets.read(_owner(arguments)).get(arguments.secret)
    if value is None:
        raise SecretsError(f"The secret {arguments.secret} is not stored; run: drill secrets init")
    print(value)
    return 0


if __name__ == "__main__":
    sys.exit(main())
