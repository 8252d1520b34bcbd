"""Write what somebody changed in n8n's editor back into the workflow files, to keep it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drill.console import say
from drill.errors import DrillError
from drill.host import Host, existing
from settings import n8n, names
from settings.hosts import settings_file
from settings.schema import defaults, read_settings_file

PROVISIONER: Final = f"{names.SCRIPTS_DIR}/n8n.py"


@dataclass(frozen=True)
class Export:
    """Workflows as they are live, those that no file declares (id -> name), and those whose nodes have groups."""

    workflows: Mapping[str, n8n.Workflow]
    undeclared: Mapping[str, str]
    grouped: Sequence[str] = ()


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``drill n8n export [WORKFLOW...]``."""
    text = "workflows: write what was changed in n8n's editor back into files/n8n/workflows"
    parser = commands.add_parser("n8n", help=text, description=__doc__)
    parser.add_argument("action", choices=["export"])
    parser.add_argument(
        "workflow", nargs="*", help="ids, also of workflows without a file yet (default: all declared ones)"
    )
    parser.set_defaults(run=_run)


def parse_export(text: str) -> Export:
    """What ``n8n.py export`` printed; DrillError when it is something else."""
    try:
        document = json.loads(text)
        workflows = {str(key): dict(value) for key, value in document["workflows"].items()}
        undeclared = {str(one["id"]): str(one["name"]) for one in document["undeclared"]}
        grouped = tuple(str(identity) for identity in document.get("grouped", ()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DrillError(f"{PROVISIONER} on the host printed no export ({error}); deploy first") from None
    return Export(workflows, undeclared, grouped)


def merge(live: n8n.Workflow, template: n8n.Workflow | None, values: Mapping[str, n8n.Json]) -> n8n.Workflow:
    """The file of a live workflow: placeholders are kept where they still say the same, nodes in their order."""
    if template is None:
        return dict(live)
    matched = dict(live)
    old_nodes, new_nodes = template.get("nodes"), live.get("nodes")
    if isinstance(old_nodes, list) and isinstance(new_nodes, list):
        # By id and not by place: a node that was added or removed must not make its neighbours lose their placeholders.
        by_id = {node["id"]: node for node in new_nodes if isinstance(node, dict)}
        kept = [node for node in old_nodes if isinstance(node, dict) and node["id"] in by_id]
        added = [node for node in by_id.values() if node["id"] not in {one["id"] for one in kept}]
        template = {**template, "nodes": [*kept]}
        matched["nodes"] = [*(by_id[node["id"]] for node in kept), *added]
    merged = n8n.refill_placeholders(template, matched, values)
    assert isinstance(merged, dict)
    return merged


def new_node_types(
    workflows: Sequence[n8n.Workflow], known: Mapping[str, Sequence[float]]
) -> dict[str, list[float]]:
    """The node types that these workflows use, beside those already known: they run, so the pinned n8n has them."""
    types = {name: list(versions) for name, versions in known.items()}
    for workflow in workflows:
        nodes = workflow.get("nodes")
        for node in nodes if isinstance(nodes, list) else []:
            if not isinstance(node, dict):
                continue
            name, version = node.get("type"), node.get("typeVersion")
            if isinstance(name, str) and isinstance(version, int | float):
                versions = types.setdefault(name, [])
                if version not in versions:
                    versions.append(version)
                    versions.sort()
    return types


def node_types_text(version: str, types: Mapping[str, Sequence[float]]) -> str:
    """The text of ``files/n8n/node_types.json``, one type a line."""
    lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(list(types[name]))}" for name in sorted(types))
    return f'{{\n  "n8n": {json.dumps(version)},\n  "types": {{\n{lines}\n  }}\n}}\n'


def write_back(
    export: Export, values: Mapping[str, n8n.Json], directory: Path, node_types: Path
) -> list[str]:
    """Writes the files that changed; what was written, and what a deploy would refuse, as sentences."""
    templates = n8n.load_templates(directory)
    files = {str(workflow["id"]): (name, workflow) for name, workflow in templates.items()}
    said: list[str] = []
    for identity, live in export.workflows.items():
        name, template = files.get(identity, (f"{identity}.json", None))
        text = n8n.file_text(merge(live, template, values))
        path = directory / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            said.append(f"wrote {name}")
    said += [
        f"left out: the groups of nodes of {identity}; a deploy removes them and keeps their nodes"
        for identity in export.grouped
    ]
    pinned = json.loads(node_types.read_text(encoding="utf-8"))
    types = new_node_types(list(export.workflows.values()), pinned["types"])
    if types != pinned["types"]:
        node_types.write_text(node_types_text(pinned["n8n"], types), encoding="utf-8")
        said.append(
            f"wrote {node_types.name}: {', '.join(sorted(types.keys() - pinned['types'].keys())) or 'versions'}"
        )
    return said


def refusals(values: Mapping[str, n8n.Json], directory: Path, node_types: Path) -> list[str]:
    """What a deploy would say against the files as they are now."""
    declared = n8n.credentials("/", llm_base_url="https://provider.example")
    try:
        n8n.load_workflows(values, declared, directory=directory, node_types=node_types)
    except n8n.WorkflowFileError as error:
        return error.problems
    return []


def _fetch(where: Host, workflows: Sequence[str]) -> Export:
    as_root = (
        f'if [ "$(id -u)" = 0 ]; then set --; else set -- sudo -n; fi; exec "$@" python3 {PROVISIONER} export'
    )
    done = where.run(" ".join([as_root, *workflows]), timeout_s=120)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise DrillError(f"{where.name}: {last}")
    return parse_export(done.stdout)


def _run(arguments: argparse.Namespace) -> int:
    for identity in arguments.workflow:
        if not identity.replace("-", "").replace("_", "").isalnum():
            raise DrillError(f"{identity!r} is not the id of a workflow: letters, digits, - and _")
    where = existing(None)
    settings = {**defaults(), **read_settings_file(settings_file())}
    values = n8n.workflow_values(
        timezone=str(settings["timezone"]),
        cleanup_hour=int(settings["cleanup_hour"]),
        alert_forward_url=str(settings.get("alert_forward_url", "")),
    )
    export = _fetch(where, arguments.workflow)
    said = write_back(export, values, n8n.WORKFLOWS, n8n.NODE_TYPES)
    for sentence in said or ["the files already say what is live"]:
        say(sentence)
    for identity, name in export.undeclared.items():
        if identity not in export.workflows:
            say(f"not in a file: {name!r}; keep it with `drill n8n export {identity}`")
    problems = refusals(values, n8n.WORKFLOWS, n8n.NODE_TYPES)
    if problems:
        raise DrillError("a deploy would refuse what was written:\n  " + "\n  ".join(problems))
    return 0
