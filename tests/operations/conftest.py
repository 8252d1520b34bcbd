"""Operations on two hosts: pyinfra's fake one with scripted facts, and this machine for files and HTTP."""

import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from pyinfra.api import Config, Inventory, State
from pyinfra.api.connect import connect_all
from pyinfra.api.operation import OperationMeta
from pyinfra.api.state import StateStage
from pyinfra.context import ctx_config, ctx_host, ctx_state


@dataclass
class Outcome:
    """What an operation did: its commands as pyinfra shows them, as they are run, and their stdin."""

    shown: list[str] = field(default_factory=list)
    run: list[str] = field(default_factory=list)
    stdin: list[str] = field(default_factory=list)
    summaries: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    failed: str = ""
    said: str = ""

    @property
    def everything(self):
        """All that a person, a log or the host's process list could see."""
        return "\n".join([*self.shown, *self.run, *self.summaries, *self.facts, self.said])


class Host:
    """Runs one operation in one of pyinfra's two phases and reports what came of it."""

    def __init__(self, caplog, name, data=None):
        self._caplog, self._name, self._data = caplog, name, data or {}

    def run(self, op, answers=None, executing=False, diff=True, **arguments):
        """``answers``: a part of a fact's command -> the lines it prints; nothing else prints anything."""
        data = self._data | ({"fake_responses": answers} if answers is not None else {})
        with self._host(data, executing, diff) as (state, host):
            self._caplog.clear()
            outcome = Outcome()
            for command in op._inner(**arguments):
                outcome.shown.append(command.get_masked_value())
                outcome.run.append(command.get_raw_value())
                outcome.stdin.append(command.connector_arguments.get("_stdin") or "")
                outcome.summaries.append(getattr(command, "summary", command.get_masked_value()))
                if executing:
                    done, output = command.execute(state, host, {})
                    if not done:
                        outcome.failed = output.stderr
                        break
            outcome.facts = getattr(host.connector, "executed_commands", [])
            outcome.said = self._caplog.text
            return outcome

    @contextmanager
    def _host(self, data, executing, diff):
        config = Config(DIFF=diff)
        state = State(Inventory(([self._name], {}), **{self._name: ([self._name], data)}), config)
        connect_all(state)
        host = state.inventory.get_host(self._name)
        state.current_stage = StateStage.Execute if executing else StateStage.Prepare
        state.is_executing = executing
        with ctx_state.use(state), ctx_host.use(host), ctx_config.use(config):
            yield state, host


@pytest.fixture
def fake_host(caplog):
    """A host made of scripted answers; a fact without an answer sees a bare machine and prints nothing."""
    caplog.set_level("DEBUG", logger="pyinfra")
    return Host(caplog, "@fake/droplet", {"fake_responses": {}, "fake_delay": 0, "fake_delay_jitter": 0})


@pytest.fixture
def this_machine(caplog):
    """The machine that runs the tests, through pyinfra's local connector."""
    caplog.set_level("DEBUG", logger="pyinfra")
    return Host(caplog, "@local")


@pytest.fixture
def trigger():
    """Makes the result of another operation: what it predicted, and what it did if it has run."""

    def make(will, did=None):
        meta = OperationMeta("other", will)
        if did is not None:
            meta.set_complete(True, ["command"] if did else [], None)
        return meta

    return make


@pytest.fixture
def bare_shell(tmp_path):
    """Runs a command as a machine would that has a shell and coreutils but no docker, curl or systemd."""
    tools = tmp_path / "bin"
    tools.mkdir()
    wanted = (
        "sh sed cut sha256sum stat find sort xargs base64 cmp cat grep tail head dirname mktemp rm timeout"
    )
    for tool in wanted.split():
        found = subprocess.run(
            ["sh", "-c", f"command -v {tool}"], capture_output=True, text=True
        ).stdout.strip()
        (tools / tool).symlink_to(found)

    def run(command):
        return subprocess.run(
            ["/bin/sh", "-c", command.get_raw_value()],
            env={"PATH": str(tools)},
            input="",
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run
