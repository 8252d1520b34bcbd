"""Tasks are lists of named operations: what could lie in a dry run, leak or be lost is not written there."""

import ast
import importlib
from pathlib import Path

import pytest

TASKS = sorted((Path(__file__).parent.parent.parent / "tasks").glob("*.py"))

FORBIDDEN_CALLS = {
    "server.shell": "always counts as a change; use an operation that looks first",
    "server.script": "always counts as a change; use an operation that looks first",
    "server.wait": "never gives up; use http_ready",
    "python.call": "always counts as a change and hides what it does from a dry run",
    "docker.container": "does not see changed arguments; use container",
    "docker.compose": "always counts as a change; use container",
    "systemd.service": "loses a restart when a run dies; use service",
    "host.get_fact": "is frozen before the run; decide inside an operation",
    "host.when": "drops the arguments of the deploy around it; decide inside an operation",
}
FORBIDDEN_ATTRIBUTES = {
    "changed": "is decided before the run; pass the result in triggers=[...]",
    "did_change": "is decided before the run; pass the result in triggers=[...]",
    "will_change": "is decided before the run; pass the result in triggers=[...]",
}
OWNED = {"files.put", "files.template", "files.directory", "files.file"}
# Everything in these is shown by --diff, by `systemctl cat` or by `docker inspect`.
SHOWN = {"BundleFile", "ContainerUnit", "bundle", "container"}


def operations_of(tree: ast.Module) -> dict[str, str]:
    """Local name -> module, for what a file imports from our operations and from pyinfra's."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "operations":
            for alias in node.names:
                if hasattr(getattr(importlib.import_module(node.module), alias.name, None), "_inner"):
                    found[alias.asname or alias.name] = node.module
        if isinstance(node, ast.ImportFrom) and node.module == "pyinfra.operations":
            found.update({f"{alias.asname or alias.name}.": node.module for alias in node.names})
    return found


def violations(text: str) -> list[str]:
    """One sentence per broken rule, with its line."""
    tree = ast.parse(text)
    operations = operations_of(tree)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in FORBIDDEN_ATTRIBUTES:
            found.append(f"line {node.lineno}: .{node.attr} {FORBIDDEN_ATTRIBUTES[node.attr]}")
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if called in FORBIDDEN_CALLS:
            found.append(f"line {node.lineno}: {called} {FORBIDDEN_CALLS[called]}")
        is_operation = called in operations or f"{called.split('.')[0]}." in operations
        if is_operation and "name" not in given:
            found.append(f"line {node.lineno}: {called} has no name=, so its arguments are printed")
        if called in OWNED and not {"user", "group", "mode"} <= given.keys():
            found.append(f"line {node.lineno}: {called} needs user, group and mode")
        if "_if" in given and not isinstance(given["_if"], ast.List):
            found.append(f"line {node.lineno}: _if must be a list; a function alone fails in nested deploys")
        if called in SHOWN and any(
            isinstance(inner, ast.Call) and ast.unparse(inner.func).endswith(".reveal")
            for inner in ast.walk(node)
        ):
            found.append(f"line {node.lineno}: {called} would show a secret; use secret_file")
    return found


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.name)
def test_a_task_keeps_the_rules(path):
    assert violations(path.read_text("utf-8")) == []


def test_there_are_tasks_to_look_at():
    assert len(TASKS) > 3


IMPORTS = "from operations import bundle, BundleFile, service\nfrom pyinfra.operations import files, server\n"
BROKEN = {
    "service(unit='x')": "service has no name=",
    "files.link(path='/x')": "files.link has no name=",
    "files.put(name='x', src='a', dest='/b', user='root', group='root')": "needs user, group and mode",
    "server.shell(name='x', commands=['true'])": "server.shell always counts as a change",
    "python.call(name='x', function=f)": "python.call always counts",
    "docker.container(name='x')": "docker.container does not see",
    "host.get_fact(File, path='/x')": "host.get_fact is frozen",
    "with host.when(f):\n    pass": "host.when drops",
    "if op.changed:\n    pass": ".changed is decided before the run",
    "service(name='x', unit='x', _if=op.did_change)": "_if must be a list",
    "bundle(name='x', files=[BundleFile('/x', secret.reveal(), 'a', 'b', '0600')])": "would show a secret",
}


@pytest.mark.parametrize("line", BROKEN)
def test_a_broken_rule_is_found(line):
    assert any(BROKEN[line] in sentence for sentence in violations(IMPORTS + line))


def test_a_proper_task_breaks_none():
    text = """
from operations import BundleFile, bundle, service
from pyinfra.operations import files

conf = bundle(name="Configure", files=[BundleFile("/etc/x", "text", "root", "root", "0644")])
files.put(name="Key", src="files/key", dest="/etc/key", user="root", group="root", mode="644")
service(name="Run", unit="x.service", reads=["/etc/x"], triggers=[conf])
"""
    assert violations(text) == []
