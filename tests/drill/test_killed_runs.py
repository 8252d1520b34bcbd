"""A run that is killed, at whatever point, is healed by the next one."""

import json
import signal

import pytest

from drill import machine
from settings import secrets
from tests.drill.deploying import deploy, deploy_killed_when, dry_run

NAME = "killed"


@pytest.fixture(scope="module")
def droplet():
    machine.remove(NAME)
    secrets.store_path(NAME).unlink(missing_ok=True)
    yield machine.ensure(NAME)
    machine.remove(NAME)


def starting_points(droplet_name):
    """The operations of a run in order, as the run announces them."""
    shown = dry_run(droplet_name)
    report = json.loads(shown.printed[shown.printed.index("{") : shown.printed.rindex("}") + 1])
    return [op["name"] for op in report["plan"]]


def test_a_run_killed_at_every_component_converges_when_it_is_repeated(droplet):
    """Kill at the first and in the middle of each component, each time going on from where it stopped."""
    operations = starting_points(NAME)
    components: dict[str, list[str]] = {}
    for name in operations:
        components.setdefault(name.split(" | ")[0], []).append(name)
    assert len(components) > 6
    killed = 0
    for number, (component, names) in enumerate(components.items()):
        for point in dict.fromkeys([names[0], names[len(names) // 2], names[-1]]):
            sig = signal.SIGINT if number % 4 == 3 else signal.SIGKILL
            was_killed, printed = deploy_killed_when(NAME, lambda line, point=point: point in line, sig)
            assert was_killed, f"{component}: {point} was never reached:\n{printed[-2000:]}"
            killed += 1
    assert killed >= 2 * len(components) - 2
    outcome = deploy(NAME)
    assert outcome.code == 0, outcome.printed[-4000:]
    assert dry_run(NAME).changes == []
    again = deploy(NAME)
    assert (again.code, again.changes) == (0, [])
