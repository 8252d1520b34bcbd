"""The plan of a dry run: every command, no secret."""

import io

import pytest
from pyinfra.api import Config, Inventory, State
from pyinfra.api.command import FileUploadCommand, QuoteString, StringCommand
from pyinfra.api.connect import connect_all
from pyinfra.api.hiddenvalue import HiddenValue
from pyinfra.api.operation import add_op, operation
from pyinfra.context import ctx_host, ctx_state

from operations import reconcile, secret_file, service
from operations.plan import described, print_plan
from operations.shell import script


@operation()
def demo(word):
    """Two commands, one with something hidden."""
    yield StringCommand("echo", QuoteString(word))
    yield StringCommand("login", QuoteString(HiddenValue("hunter2")), _stdin="feed me")


@pytest.fixture
def dry_run(caplog):
    """A function that adds operations to fake bare hosts and gives the lines of their plans."""
    caplog.set_level("INFO", logger="pyinfra")

    def run(*calls, hosts=("one",), executing=False):
        data = {"fake_delay": 0, "fake_delay_jitter": 0}
        state = State(Inventory(([f"@fake/{host}" for host in hosts], data)), Config())
        connect_all(state)
        for op, arguments in calls:
            add_op(state, op, **arguments)
        caplog.clear()
        state.is_executing = executing
        for host in state.inventory:
            with ctx_state.use(state), ctx_host.use(host):
                print_plan(state)
        return [record.message.strip() for record in caplog.records]

    return run


def test_every_command_is_printed_under_the_name_of_its_operation(dry_run):
    printed = dry_run((demo, {"name": "Say hello", "word": "a b"}), (demo, {"name": "Say bye", "word": "x"}))
    assert printed == [
        "[@fake/one] Say hello",
        "[@fake/one]     echo 'a b'",
        "[@fake/one]     login '*MASKED*' <<< (7 characters)",
        "[@fake/one] Say bye",
        "[@fake/one]     echo x",
        "[@fake/one]     login '*MASKED*' <<< (7 characters)",
    ]


def test_a_host_shows_only_its_own_plan(dry_run):
    printed = dry_run((demo, {"name": "Say", "word": "x"}), hosts=("one", "two"))
    assert [line.split("]")[0] for line in printed] == ["[@fake/one"] * 3 + ["[@fake/two"] * 3


def test_the_plan_announces_nothing_a_second_time(dry_run):
    printed = dry_run((reconcile, {"name": "Import", "script": "/x.py"}))
    assert printed == [
        "[@fake/one] Import",
        "[@fake/one]     reconcile (script, note): /x.py /var/lib/memory-droplet/applied/reconciled-x.py",
    ]


def test_our_scripts_are_shown_by_title_and_in_full_when_asked():
    command = script("# greet (whom)\necho hello $1", "a b")
    assert described(command) == "greet (whom): 'a b'"
    assert described(command, full=True) == "sh -c '# greet (whom)\necho hello $1' sh 'a b'"


def test_an_upload_names_no_content():
    text = described(FileUploadCommand(io.StringIO("content"), "/etc/x"))
    assert text == "upload (rendered text) to /etc/x"


def test_a_secret_is_not_in_the_plan_of_a_bare_host(dry_run):
    secret = {"dest": "/etc/memory-droplet/secrets/x/KEY", "content": "hunter2-hunter2"}
    printed = "\n".join(
        dry_run(
            (secret_file, {"name": "Key", "user": "root", "group": "root", **secret}),
            (service, {"name": "Run", "unit": "x.service"}),
        )
    )
    assert "/etc/memory-droplet/secrets/x/KEY 15 root:root 0400 077 <<< (21 characters)" in printed
    assert "x.service restart 30" in printed
    assert "hunter2" not in printed


def test_nothing_is_printed_while_a_run_executes(dry_run):
    assert dry_run((demo, {"name": "Say", "word": "x"}), executing=True) == []
