"""Operations against pyinfra's fake host: scripted facts in, commands out."""

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
    facts: list[str] = field(default_factory=list)
    said: str = ""

    @property
    def everything(self) -> str:
        """All that a person or the host's process list could see."""
        return "\n".join([*self.shown, *self.run, *self.facts, self.said])


class FakeHost:
    """A host that answers facts from ``answers``: a part of the fact's command -> its lines."""

    def __init__(self, caplog):
        self._caplog = caplog

    def run(self, op, answers=None, executing=False, diff=True, **arguments):
        """Run one operation; ``executing`` is pyinfra's second phase."""
        with self._state(answers, executing, diff) as (state, host):
            self._caplog.clear()
            commands = list(op._inner(**arguments))
            return Outcome(
                shown=[command.get_masked_value() for command in commands],
                run=[command.get_raw_value() for command in commands],
                stdin=[command.connector_arguments.get("_stdin") or "" for command in commands],
                facts=host.connector.executed_commands,
                said=self._caplog.text,
            )

    def _state(self, answers, executing, diff):
        from contextlib import contextmanager

        @contextmanager
        def using():
            data = {"fake_responses": answers or {}, "fake_delay": 0, "fake_delay_jitter": 0}
            inventory = Inventory((["@fake/droplet"], {}), **{"@fake/droplet": (["@fake/droplet"], data)})
            state = State(inventory, Config(DIFF=diff))
            host = inventory.get_host("@fake/droplet")
            state.init(inventory, Config(DIFF=diff)) if not state.initialised else None
            connect_all(state)
            state.current_stage = StateStage.Execute if executing else StateStage.Prepare
            state.is_executing = executing
            with ctx_state.use(state), ctx_host.use(host), ctx_config.use(state.config):
                yield state, host

        return using()


@pytest.fixture
def fake_host(caplog):
    """A host made of scripted answers; an unanswered fact sees a bare machine that prints nothing."""
    caplog.set_level("DEBUG", logger="pyinfra")
    return FakeHost(caplog)


def trigger(will: bool, did: bool | None = None) -> OperationMeta:
    """The result of another operation: what it predicted, and what it did if it has run."""
    meta = OperationMeta("other", will)
    if did is not None:
        meta.set_complete(True, ["command"] if did else [], None)
    return meta
