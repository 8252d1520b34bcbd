"""Reconcile scripts, run for real on the machine that runs the tests."""

import json

import pytest

from operations import reconcile
from operations.facts import Reconcile, ReconcilePlan

SCRIPT = """
import json, pathlib, sys
here = pathlib.Path(__file__).parent
if (here / "down").exists():
    if sys.argv[1] == "apply":
        sys.exit("the service does not answer; start it")
    print(json.dumps({"reachable": False, "differences": []}))
    sys.exit()
live = here / "live"
found = live.read_text() if live.exists() else "nothing"
differences = [] if found == "wanted" else [f"object: {found} -> wanted"]
if sys.argv[1] == "plan":
    print(json.dumps({"reachable": True, "differences": differences}))
else:
    live.write_text("wanted")
    print(*differences)
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.setattr("settings.names.APPLIED_DIR", str(tmp_path / "applied"))
    path = tmp_path / "demo.py"
    path.write_text(SCRIPT)
    return path


def test_differences_are_shown_repaired_and_then_gone(this_machine, script, tmp_path):
    planned = this_machine.run(reconcile, diff=False, script=str(script))
    assert len(planned.run) == 1
    assert "object: nothing -> wanted" in planned.said
    done = this_machine.run(reconcile, executing=True, script=str(script))
    assert (done.failed, (tmp_path / "live").read_text()) == ("", "wanted")
    for executing in (False, True):
        assert this_machine.run(reconcile, executing=executing, script=str(script)).run == []
    (tmp_path / "live").write_text("drifted")
    assert "object: drifted -> wanted" in this_machine.run(reconcile, script=str(script)).said


def test_a_trigger_predicts_and_the_fresh_plan_decides(this_machine, script, trigger):
    this_machine.run(reconcile, executing=True, script=str(script))
    dry = this_machine.run(reconcile, script=str(script), triggers=[trigger(True)])
    run = this_machine.run(reconcile, executing=True, script=str(script), triggers=[trigger(True, did=True)])
    assert (len(dry.run), run.run) == (1, [])


def test_a_stopped_service_is_not_shown_twice(this_machine, script, tmp_path):
    (tmp_path / "down").touch()
    never_applied = this_machine.run(reconcile, script=str(script))
    assert len(never_applied.run) == 1
    (tmp_path / "down").unlink()
    this_machine.run(reconcile, executing=True, script=str(script))
    (tmp_path / "down").touch()
    assert this_machine.run(reconcile, script=str(script)).run == []
    failed = this_machine.run(reconcile, executing=True, script=str(script))
    assert "the service does not answer; start it" in failed.failed


def test_a_script_that_is_not_there_is_planned_and_refused_when_it_should_run(this_machine, script, tmp_path):
    absent = str(tmp_path / "absent.py")
    assert len(this_machine.run(reconcile, script=absent).run) == 1
    failed = this_machine.run(reconcile, executing=True, script=absent).failed
    assert f"the reconcile script {absent} is not on the host" in failed


BROKEN = {
    "a crash": ("import sys; sys.exit('no such setting')", "no such setting"),
    "no JSON": ("print('hello')", "did not print its JSON object but: hello"),
    "another object": ("print('[]')", "did not print its JSON object"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plan_is_said_and_does_not_fail_the_dry_run(this_machine, script, case):
    text, sentence = BROKEN[case]
    script.write_text(text)
    planned = this_machine.run(reconcile, script=str(script))
    assert len(planned.run) == 1
    assert sentence in planned.said


def test_a_shell_without_python_is_no_failure(bare_shell, script):
    asked = bare_shell(Reconcile().command(str(script), "/nowhere/note"))
    assert asked.returncode == 0
    assert Reconcile().process(asked.stdout.splitlines()) == ReconcilePlan()


def test_the_plan_is_read():
    lines = ["before", json.dumps({"reachable": True, "differences": ["a", "b"]})]
    assert Reconcile().process(lines) == ReconcilePlan(True, ("a", "b"), before=True)
