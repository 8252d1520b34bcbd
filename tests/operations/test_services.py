"""Services: what a dry run predicts and what a run does."""

import pytest

from operations import service
from operations.facts import Service

ASK = "# state of a unit and of all it reads"
CONVERGED = [
    "ActiveState=active",
    "UnitFileState=enabled",
    "NeedDaemonReload=no",
    "Stamp=aaa",
    "Inputs=aaa",
]
UNIT = "droplet-demo.service"
RESTART = f"apply to a unit and wait until it is steadily active (unit, verb, seconds): {UNIT} restart 30"
STAMP = "note what the unit runs with (stamp, digest): /var/lib/memory-droplet/applied/droplet-demo.service"
RELOAD_SYSTEMD = "systemctl daemon-reload"


def changed(**values):
    return [f"{k}={values.get(k, v)}" for k, v in (line.split("=", 1) for line in CONVERGED)]


CASES = {
    "a unit as it should be": (CONVERGED, {}, []),
    "a changed input": (changed(Inputs="bbb"), {}, [RELOAD_SYSTEMD, RESTART, f"{STAMP} bbb"]),
    "a stopped unit": (changed(ActiveState="inactive"), {}, [RELOAD_SYSTEMD, RESTART]),
    "a disabled unit": (changed(UnitFileState="disabled"), {}, [f"systemctl enable --quiet -- {UNIT}"]),
    "a check comes first": (
        changed(Inputs="bbb"),
        {"check": "demo -t"},
        [
            f"check the configuration (unit, command): {UNIT} 'demo -t'",
            RELOAD_SYSTEMD,
            RESTART,
            f"{STAMP} bbb",
        ],
    ),
    "reload": (
        changed(Inputs="bbb"),
        {"reload": True, "wait_s": 5},
        [RELOAD_SYSTEMD, RESTART.replace("restart 30", "reload 5"), f"{STAMP} bbb"],
    ),
    "stopped on purpose": (
        CONVERGED,
        {"running": False, "enabled": False},
        [f"systemctl stop --quiet -- {UNIT}", f"systemctl disable --quiet -- {UNIT}"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_commands_are_exactly_these(fake_host, case):
    lines, arguments, commands = CASES[case]
    for executing in (False, True):
        outcome = fake_host.run(service, {ASK: lines}, executing=executing, unit=UNIT, **arguments)
        assert outcome.summaries == commands
        assert len(outcome.facts) == 1 + (len(commands) if executing else 0)


def test_a_bare_machine_plans_everything(fake_host):
    outcome = fake_host.run(service, unit=UNIT, reads=["/etc/x"])
    assert [line.split(":")[0] for line in outcome.summaries] == [
        "systemctl daemon-reload",
        "apply to a unit and wait until it is steadily active (unit, verb, seconds)",
        f"systemctl enable --quiet -- {UNIT}",
        "note what the unit runs with (stamp, digest)",
    ]


def test_a_dry_run_predicts_from_its_triggers(fake_host, trigger):
    quiet = fake_host.run(service, {ASK: CONVERGED}, unit=UNIT, triggers=[trigger(False)])
    loud = fake_host.run(service, {ASK: CONVERGED}, unit=UNIT, triggers=[trigger(False), trigger(True)])
    assert quiet.run == []
    assert loud.summaries == [RELOAD_SYSTEMD, RESTART, f"{STAMP} aaa"]


def test_a_run_does_what_its_triggers_did_not_what_they_predicted(fake_host, trigger):
    did_not = fake_host.run(
        service, {ASK: CONVERGED}, executing=True, unit=UNIT, triggers=[trigger(True, did=False)]
    )
    did = fake_host.run(
        service, {ASK: CONVERGED}, executing=True, unit=UNIT, triggers=[trigger(True, did=True)]
    )
    assert did_not.run == []
    assert did.summaries == [RELOAD_SYSTEMD, RESTART, f"{STAMP} aaa"]


def test_a_failed_check_leaves_the_unit_alone(fake_host):
    answers = {ASK: changed(Inputs="bbb"), "# check the configuration": {"success": False, "stderr": "no"}}
    outcome = fake_host.run(service, answers, executing=True, unit=UNIT, check="demo -t")
    assert [line.split(" (")[0] for line in outcome.summaries] == ["check the configuration"]
    assert outcome.failed == "no"


def test_a_failed_restart_leaves_the_stamp_behind(fake_host):
    answers = {ASK: changed(Inputs="bbb"), "# apply to a unit": {"success": False}}
    outcome = fake_host.run(service, answers, executing=True, unit=UNIT)
    assert outcome.summaries == [RELOAD_SYSTEMD, RESTART]


def test_a_path_that_is_not_absolute_is_refused(fake_host):
    with pytest.raises(ValueError, match="must be absolute"):
        fake_host.run(service, unit=UNIT, reads=["etc/x"])


@pytest.fixture
def digest(bare_shell, tmp_path):
    """The probe's digest, computed for real on the machine that runs the tests."""
    (tmp_path / "conf").write_text("one")
    (tmp_path / "many/sub").mkdir(parents=True)
    (tmp_path / "many/sub/file").write_text("two")

    def compute():
        paths = [str(tmp_path / name) for name in ("conf", "many", "absent")]
        done = bare_shell(Service().command("demo.service", str(tmp_path / "stamp"), paths))
        assert (done.returncode, done.stderr) == (0, "")
        return Service().process(done.stdout.splitlines()).inputs

    return compute


def test_the_digest_stays_while_nothing_changes(digest):
    assert digest() == digest() != ""


CHANGES = {
    "a file's content": lambda root: (root / "conf").write_text("other"),
    "a file in a directory": lambda root: (root / "many/sub/file").write_text("other"),
    "a file more": lambda root: (root / "many/new").write_text(""),
    "a file less": lambda root: (root / "conf").unlink(),
    "an absent file that appears": lambda root: (root / "absent").write_text(""),
    "a file that was written again with what it had": lambda root: (root / "conf").write_text("one"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_digest_changes_with(digest, tmp_path, change):
    before = digest()
    CHANGES[change](tmp_path)
    assert digest() != before
