"""The drill's cycle: deploy, verify, and the rebuild of a lost machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from drill import host, inspection, machine, paths
from drill.console import say
from drill.errors import CannotRunHere, CommandFailed, NoSuchDroplet
from drill.host import Host


def deploy(name: str | None, arguments: Sequence[str]) -> int:
    """Run the deploy on the host that is meant, making a local droplet if it is not there.

    Args:
        arguments: passed on to pyinfra; ``--dry`` shows what a run would do.

    Returns:
        The exit code of pyinfra.
    """
    target = host.real(name) or host.of(machine.ensure(host.local_name(name)))
    say(f"deploying to {target.name} at {target.address}")
    environment = dict(target.environment())
    # With -y, also from the environment, pyinfra does not find out what would change.
    environment.pop("PYINFRA_YES", None)
    done = subprocess.run(
        [sys.executable, "-m", "pyinfra", *pyinfra_arguments(arguments)],
        cwd=paths.REPOSITORY,
        env=environment,
        check=False,
    )
    return done.returncode


def pyinfra_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of pyinfra for a run or, with ``--dry`` among them, for a dry run."""
    confirmed = {"--dry", "-y", "--yes"} & set(arguments)
    return ["inventory.py", "deploy.py", *([] if confirmed else ["-y"]), *arguments]


def verify(name: str | None, arguments: Sequence[str]) -> int:
    """Check the host that is meant by using it, and name the components that are doubles.

    Returns:
        The exit code of pytest.
    """
    target = host.existing(name)
    # Also the check of the host key: testinfra 10.2's paramiko backend, ten times as fast as its ssh one,
    # reads the rest of ssh_config but only warns about a host key that it does not know.
    if target.run("true").returncode != 0:
        raise CommandFailed(
            f"{target.name} does not answer SSH at {target.address}, so it cannot be verified; "
            f"`drill status` shows its state."
        )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/droplet", *pytest_arguments(target), *arguments],
        cwd=paths.REPOSITORY,
        env=target.environment(),
        check=False,
    )
    doubles = inspection.contents(target).doubles
    print(f"Doubles in place of the real software: {', '.join(doubles) or 'none'}", flush=True)
    return done.returncode


def pytest_arguments(target: Host) -> list[str]:
    """Which machine the checks look at, and that they leave it running."""
    return [f"--hosts=paramiko://{target.name}", f"--ssh-config={target.ssh_config}", "-m", "not disruptive"]


def down(name: str | None) -> int:
    """Remove a local droplet; switch a real host off once its name was typed."""
    target = host.real(name)
    if target is None:
        meant = host.local_name(name)
        say(f"{meant} is gone" if machine.remove(meant) else f"there is no droplet named {meant}")
        return 0
    _confirm(target, "switches it off; deleting it is then done at its provider")
    done = target.run("systemctl poweroff")
    # The connection may break before the command could answer.
    if done.returncode not in (0, 255):
        raise CommandFailed(f"{target.name} did not power off: {done.stderr.strip() or 'no message'}.")
    say(f"{target.name} is powering off; delete it at its provider")
    return 0


def rebuild(name: str | None) -> int:
    """Lose a local droplet and bring it back: down, up, deploy, verify, each with its time.

    The secrets lie on the laptop and stay, as they would when a server is lost.
    """
    target = host.real(name)
    if target is not None:
        _confirm(target, "would mean to delete the machine and make it again")
        raise CannotRunHere(
            f"{target.name} is a real host, and recreating it is its provider's job; once it is an empty Debian "
            "server again, `drill deploy` and `drill verify` do the rest."
        )
    meant = host.local_name(name)

    def up() -> int:
        machine.ensure(meant)
        return 0

    phases: list[tuple[str, Callable[[], int]]] = [
        ("down", lambda: down(meant)),
        ("up", up),
        ("deploy", lambda: deploy(meant, [])),
        ("verify", lambda: verify(meant, [])),
    ]
    return run_phases(meant, phases)


def run_phases(name: str, phases: Sequence[tuple[str, Callable[[], int]]]) -> int:
    """Run phases until one fails, and print how long each took."""
    took: list[tuple[str, float]] = []
    code = 0
    for phase, work in phases:
        began = time.monotonic()
        code = work()
        took.append((phase, time.monotonic() - began))
        if code != 0:
            break
    for phase, seconds in took:
        print(f"{phase:<8}{seconds:8.1f} s")
    print(f"{'total':<8}{sum(seconds for _phase, seconds in took):8.1f} s", flush=True)
    if code != 0:
        print(f"drill: the rebuild of {name} failed at {took[-1][0]} (exit {code}).", file=sys.stderr)
    return code


def log_in(name: str | None, command: Sequence[str]) -> int:
    """Replace this process by a login, or by a command on the machine."""
    target = host.existing(name)
    if target.local and not machine.find(target.name).is_running():
        raise NoSuchDroplet(f"The droplet {target.name} is stopped; start it with `drill up {target.name}`.")
    argv = [*target.ssh_command(), *command]
    os.execvp(argv[0], argv)


def _confirm(target: Host, consequence: str) -> None:
    if not sys.stdin.isatty():
        raise CannotRunHere(
            f"{target.name} is a real host, and this {consequence}: it needs its name typed at a terminal."
        )
    print(f"{target.name} ({target.address}) is a real host, and this {consequence}.")
    if input("Type its name to go on: ").strip() != target.name:
        raise CannotRunHere(f"Nothing was done: what was typed is not {target.name}.")
