"""n8n's desired state as data: its environment, its workflows and its credentials.

Pure: reads the workflow files of the repository and nothing else, so that a mistake in them is refused on the
machine that runs the deploy, before any host is touched.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from settings.names import MEMORY_DATABASE, MEMORY_SERVICE_PORT, N8N_SCHEMA, NETWORK_GATEWAY
from settings.schema import SettingsError

REPOSITORY: Final = Path(__file__).resolve().parent.parent
WORKFLOWS: Final = REPOSITORY / "files" / "n8n" / "workflows"
NODE_TYPES: Final = REPOSITORY / "files" / "n8n" / "node_types.json"

SECRETS_IN_CONTAINER: Final = "/run/secrets/n8n"
MEMORY_SERVICE_URL: Final = f"http://{NETWORK_GATEWAY}:{MEMORY_SERVICE_PORT}"

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Workflow = dict[str, Json]

# Everything that this stack does not use. n8n refuses to start when a name in here is unknown to it, so a change of
# version that renames a module shows at once (the list is that of 2.41).
DISABLED_MODULES: Final = [
    "insights",
    "external-secrets",
    "community-packages",
    "data-table",
    "oauth-server",
    "mcp",
    "provisioning",
    "breaking-changes",
    "source-control",
    "dynamic-credentials",
    "chat-hub",
    "sso-oidc",
    "sso-saml",
    "log-streaming",
    "ldap",
    "quick-connect",
    "workflow-builder",
    "favorites",
    "instance-registry",
    "otel",
    "token-exchange",
    "instance-version-history",
    "oauth-jwe",
    "n8n-packages",
    "runtime-credentials",
    "mcp-registry",
    "workflow-reviews",
    "instance-ai",
    "agents",
]

BESIDE_THE_HEAP_MB: Final = 320
"""What a container needs beside the heap: code and buffers of the main process (190 at its peak), the task runner."""
MIN_MEMORY_MB: Final = 320 + BESIDE_THE_HEAP_MB


def heap_mb(memory_mb: int) -> int:
    """V8's heap for n8n's main process in a container of ``memory_mb``.

    The editor needs 320 MB of heap (256 aborts at boot). With a heap of 384 in 640 MB, n8n was killed for memory under
    50 callers on a machine that was short of processor time, with 573 MB in the main process.

    >>> heap_mb(640)
    320
    """
    if memory_mb < MIN_MEMORY_MB:
        raise SettingsError(
            [
                f"n8n_memory_mb is {memory_mb}, but n8n with its editor needs at least {MIN_MEMORY_MB}: "
                "raise n8n_memory_mb in settings.yml."
            ]
        )
    return memory_mb - BESIDE_THE_HEAP_MB


def environment(
    *,
    memory_mb: int,
    timezone: str,
    owner_email: str,
    public_url: str,
    database_host: str = "postgres",
    database_port: int = 5432,
    secrets_dir: str = SECRETS_IN_CONTAINER,
) -> dict[str, str]:
    """n8n's environment. Holds no secret: those are files below ``secrets_dir``, named by ``*_FILE`` variables.

    ``public_url`` is where a browser reaches the editor, e.g. ``https://n8n.example.org``; over plain HTTP the
    session cookie is not marked Secure, or no browser would send it back.
    """
    return {
        # Without it a refused body is answered with a stack trace.
        "NODE_ENV": "production",
        # Small semi-spaces: the peak of 50 concurrent callers fell from 579 to 478 MB, and they waited no longer.
        "NODE_OPTIONS": f"--max-old-space-size={heap_mb(memory_mb)} --max-semi-space-size=4",
        "MALLOC_ARENA_MAX": "2",
        "HOME": "/home/node",
        "N8N_USER_FOLDER": "/home/node",
        "N8N_ENCRYPTION_KEY_FILE": f"{secrets_dir}/encryption_key",
        "N8N_LISTEN_ADDRESS": "0.0.0.0",
        "N8N_PORT": "5678",
        "N8N_EDITOR_BASE_URL": public_url,
        "N8N_WEBHOOK_URL": public_url,
        "N8N_PROXY_HOPS": "1",
        "N8N_SECURE_COOKIE": "true" if public_url.startswith("https://") else "false",
        "GENERIC_TIMEZONE": timezone,
        "TZ": timezone,
        # The owner without the wizard, re-applied at every start.
        "N8N_INSTANCE_OWNER_MANAGED_BY_ENV": "true",
        "N8N_INSTANCE_OWNER_EMAIL": owner_email,
        "N8N_INSTANCE_OWNER_FIRST_NAME": "Memory",
        "N8N_INSTANCE_OWNER_LAST_NAME": "Droplet",
        "N8N_INSTANCE_OWNER_PASSWORD_HASH_FILE": f"{secrets_dir}/owner_password_hash",
        # All state is in Postgres. Two connections, the default, throttle concurrent webhooks (21 against 43 a second).
        "DB_TYPE": "postgresdb",
        "DB_POSTGRESDB_HOST": database_host,
        "DB_POSTGRESDB_PORT": str(database_port),
        "DB_POSTGRESDB_DATABASE": MEMORY_DATABASE,
        "DB_POSTGRESDB_SCHEMA": N8N_SCHEMA,
        "DB_POSTGRESDB_USER": "n8n",
        "DB_POSTGRESDB_PASSWORD_FILE": f"{secrets_dir}/postgres_password",
        "DB_POSTGRESDB_POOL_SIZE": "4",
        # An isolate per execution is the most expensive thing n8n does: one is taken only when an expression runs.
        "N8N_EXPRESSION_ENGINE_LAZY_ACQUIRE": "true",
        "N8N_EXPRESSION_ENGINE_COMPILE_CACHE": "true",
        "N8N_RUNNERS_MAX_OLD_SPACE_SIZE": "64",
        "N8N_RUNNERS_TASK_TIMEOUT": "60",
        "N8N_DISABLED_MODULES": ",".join(DISABLED_MODULES),
        "N8N_COMMUNITY_PACKAGES_ENABLED": "false",
        "N8N_PAYLOAD_SIZE_MAX": "4",
        "EXECUTIONS_DATA_SAVE_ON_SUCCESS": "none",
        "EXECUTIONS_DATA_SAVE_ON_ERROR": "all",
        # n8n stores every execution while it runs, body and webhook token included. One that is not to be kept is only
        # marked at its end, and removed by a timer whose default is 15 minutes.
        "EXECUTIONS_DATA_PRUNE_HARD_DELETE_INTERVAL": "1",
        "EXECUTIONS_DATA_MAX_AGE": "168",
        "EXECUTIONS_DATA_PRUNE_MAX_COUNT": "2000",
        "N8N_GRACEFUL_SHUTDOWN_TIMEOUT": "30",
        "N8N_LOG_LEVEL": "info",
        "N8N_LOG_FORMAT": "json",
        "N8N_LOG_OUTPUT": "console",
        "N8N_METRICS": "true",
        "N8N_METRICS_INCLUDE_WEBHOOK_METRICS": "true",
        "N8N_METRICS_INCLUDE_DB_POOL_METRICS": "true",
        "N8N_DIAGNOSTICS_ENABLED": "false",
        "N8N_VERSION_NOTIFICATIONS_ENABLED": "false",
        "N8N_VERSION_NOTIFICATIONS_WHATS_NEW_ENABLED": "false",
        "N8N_TEMPLATES_ENABLED": "false",
        "N8N_PERSONALIZATION_ENABLED": "false",
        "N8N_HIRING_BANNER_ENABLED": "false",
        "N8N_DYNAMIC_BANNERS_ENABLED": "false",
    }


@dataclass(frozen=True)
class Credential:
    """A credential with a fixed id; ``secrets`` names the field that is read from a file on the host."""

    id: str
    name: str
    type: str
    data: Mapping[str, str | int]
    secrets: Mapping[str, str]
    """field -> path of the file on the host that holds its value"""
    prefix: str = ""
    """put before the secret, e.g. ``"Bearer "``"""

    def document(self) -> dict[str, Json]:
        """The credential as the provisioner on the host reads it. Holds paths, not values."""
        return {
            "id": self.id,
            "name": self.name,
            "type": self.type,
            "data": dict(self.data),
            "secrets": dict(self.secrets),
            "prefix": self.prefix,
        }


def credentials(
    secrets_dir: str, *, database_host: str = "postgres", database_port: int = 5432, llm_base_url: str = ""
) -> list[Credential]:
    """The declared credentials; their secrets are read by the host from files in ``secrets_dir``.

    ``llm_base_url`` empty means that there is no provider account, and then there is no credential for it.
    """
    declared = [
        Credential(
            "credWebhookToken", "webhook token", "httpHeaderAuth",
            {"name": "X-Webhook-Token"}, {"value": f"{secrets_dir}/webhook_token"},
        ),
        Credential(
            "credMemorySvc", "memory service token", "httpHeaderAuth",
            {"name": "Authorization"}, {"value": f"{secrets_dir}/memory_service_token"}, prefix="Bearer ",
        ),
        Credential(
            "credPostgresN8n", "postgres as n8n", "postgres",
            {
                "host": database_host, "port": database_port, "database": MEMORY_DATABASE, "user": "n8n",
                "ssl": "disable", "maxConnections": 2,
            },
            {"password": f"{secrets_dir}/postgres_password"},
        ),
    ]  # fmt: skip
    if llm_base_url:
        declared.append(
            Credential(
                "credLlmProvider", "language model provider", "openAiApi",
                {"url": llm_base_url}, {"apiKey": f"{secrets_dir}/llm_api_key"},
            )
        )  # fmt: skip
    return declared


def provisioner_document(
    *,
    url: str,
    owner_email: str,
    owner_password_file: str,
    workflows: Sequence[str],
    state: str,
    credentials: Sequence[Credential],
) -> dict[str, Json]:
    """What ``files/n8n/provision.py`` reads on the host: addresses and paths, no secret."""
    return {
        "url": url,
        "owner_email": owner_email,
        "owner_password_file": owner_password_file,
        "workflows": list(workflows),
        "state": state,
        "credentials": [credential.document() for credential in credentials],
    }


# ---- workflows ------------------------------------------------------------------------------------------------------

_PLACEHOLDER: Final = re.compile(r"@([a-z][a-z0-9_]*)@")


class WorkflowFileError(SettingsError):
    """Workflow files that must not be deployed; ``problems`` names each reason."""


def workflow_values(*, timezone: str, cleanup_hour: int, alert_forward_url: str = "") -> dict[str, Json]:
    """What replaces the ``@placeholders@`` of the workflow files."""
    return {
        "timezone": timezone,
        "cleanup_hour": cleanup_hour,
        "memory_service_url": MEMORY_SERVICE_URL,
        "alert_forward_url": alert_forward_url or "http://127.0.0.1:9/alert_forward_url-is-not-set",
        "alert_forward_disabled": not alert_forward_url,
    }


def render(template: Json, values: Mapping[str, Json]) -> Json:
    """Replaces ``@name@`` in every string. A string that is only a placeholder takes the value's own type.

    >>> render({"cron": "0 @hour@ * * *", "off": "@off@"}, {"hour": 2, "off": True})
    {'cron': '0 2 * * *', 'off': True}
    """
    if isinstance(template, dict):
        return {key: render(value, values) for key, value in template.items()}
    if isinstance(template, list):
        return [render(value, values) for value in template]
    if not isinstance(template, str):
        return template

    def value_of(match: re.Match[str]) -> Json:
        if match[1] not in values:
            known = ", ".join(f"@{name}@" for name in sorted(values))
            raise WorkflowFileError([f"unknown placeholder @{match[1]}@; known are {known}"])
        return values[match[1]]

    whole = _PLACEHOLDER.fullmatch(template)
    return value_of(whole) if whole else _PLACEHOLDER.sub(lambda match: str(value_of(match)), template)


def load_templates(directory: Path = WORKFLOWS) -> dict[str, Workflow]:
    """File name -> workflow as it lies in the repository, placeholders and all."""
    loaded: dict[str, Workflow] = {}
    for path in sorted(directory.glob("*.json")):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise WorkflowFileError([f"{path.name} is not JSON: {error}"]) from None
        if not isinstance(document, dict):
            raise WorkflowFileError([f"{path.name} holds no workflow object but {type(document).__name__}"])
        loaded[path.name] = document
    if not loaded:
        raise WorkflowFileError([f"no workflow file in {directory}"])
    return loaded


def load_workflows(
    values: Mapping[str, Json],
    declared: Sequence[Credential],
    *,
    directory: Path = WORKFLOWS,
    node_types: Path = NODE_TYPES,
) -> dict[str, Workflow]:
    """File name -> workflow ready for n8n; :class:`WorkflowFileError` with all problems when any is unfit."""
    types = json.loads(node_types.read_text(encoding="utf-8"))["types"]
    workflows: dict[str, Workflow] = {}
    problems: list[str] = []
    for name, template in load_templates(directory).items():
        try:
            rendered = render(template, values)
        except WorkflowFileError as error:
            problems.append(f"{name}: {error}")
            continue
        assert isinstance(rendered, dict)
        workflows[name] = rendered
    problems += check_workflows(workflows, {credential.id: credential.type for credential in declared}, types)
    if problems:
        raise WorkflowFileError(["Workflow files refused, nothing was touched:", *problems])
    return workflows


def check_workflows(
    workflows: Mapping[str, Workflow],
    credential_types: Mapping[str, str],
    node_types: Mapping[str, Sequence[float]],
) -> list[str]:
    """Every reason not to deploy these workflows, as sentences; empty when there is none.

    Demands what makes a file reproducible: n8n fills a missing node id or webhookId with a random one, does not
    check that a credential exists, and lets two workflows claim one path only until the second is published.
    """
    problems: list[str] = []
    ids: dict[str, str] = {}
    paths: dict[str, str] = {}
    known = {workflow.get("id") for workflow in workflows.values()}
    for file, workflow in workflows.items():
        missing = [key for key in ("id", "name", "nodes", "connections", "settings") if key not in workflow]
        unknown = sorted(set(workflow) - {"id", "name", "nodes", "connections", "settings"})
        if missing or unknown:
            problems += [f"{file}: has no {key!r}" for key in missing]
            problems += [f"{file}: {key!r} does not belong in a workflow file" for key in unknown]
            continue
        identity, nodes, connections, settings = (
            workflow[key] for key in ("id", "nodes", "connections", "settings")
        )
        if not isinstance(identity, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,36}", identity):
            problems.append(f"{file}: id {identity!r} is not 1 to 36 letters, digits, _ or -")
            continue
        if not isinstance(nodes, list) or not isinstance(connections, dict) or not isinstance(settings, dict):
            problems.append(f"{file}: nodes must be a list, connections and settings objects")
            continue
        if identity in ids:
            problems.append(f"{file}: id {identity!r} is already used by {ids[identity]}")
        ids[identity] = file
        problems += _node_problems(file, nodes, credential_types, node_types, paths)
        names = [node.get("name") for node in nodes if isinstance(node, dict)]
        problems += [
            f"{file}: connection to or from {name!r}, which is not a node of it"
            for name in sorted(set(_connected(connections)) - {str(name) for name in names})
        ]
        error_workflow = settings.get("errorWorkflow")
        if error_workflow is not None and error_workflow not in known:
            problems.append(f"{file}: errorWorkflow {error_workflow!r} is not the id of a workflow file")
    return problems


def _connected(connections: Mapping[str, Json]) -> Iterable[str]:
    for source, by_type in connections.items():
        yield source
        if not isinstance(by_type, dict):
            continue
        for outputs in by_type.values():
            for output in outputs if isinstance(outputs, list) else []:
                for target in output if isinstance(output, list) else []:
                    if isinstance(target, dict):
                        yield str(target.get("node"))


def _node_problems(
    file: str,
    nodes: Sequence[Json],
    credential_types: Mapping[str, str],
    node_types: Mapping[str, Sequence[float]],
    paths: dict[str, str],
) -> list[str]:
    problems: list[str] = []
    seen_ids: set[object] = set()
    seen_names: set[object] = set()
    for node in nodes:
        if not isinstance(node, dict):
            problems.append(f"{file}: a node is not an object")
            continue
        where = f"{file}: node {node.get('name')!r}"
        for key in ("id", "name", "type", "typeVersion", "position", "parameters"):
            if key not in node:
                problems.append(f"{where} has no {key!r}")
        if str(node.get("id")) in seen_ids or str(node.get("name")) in seen_names:
            problems.append(f"{where}: its id {node.get('id')!r} or its name is used twice")
        seen_ids.add(str(node.get("id")))
        seen_names.add(str(node.get("name")))
        kind, version = node.get("type"), node.get("typeVersion")
        if isinstance(kind, str) and kind not in node_types:
            problems.append(
                f"{where}: node type {kind!r} is not known to the pinned n8n (files/n8n/node_types.json)"
            )
        elif isinstance(kind, str) and version not in node_types[kind]:
            problems.append(
                f"{where}: {kind} has no version {version!r} in the pinned n8n, only "
                f"{', '.join(str(one) for one in node_types[kind])}"
            )
        parameters = node.get("parameters")
        if kind == "n8n-nodes-base.webhook" and isinstance(parameters, dict):
            if "webhookId" not in node:
                problems.append(f"{where} has no 'webhookId': n8n would invent one")
            if parameters.get("authentication") != "headerAuth":
                problems.append(
                    f"{where}: a webhook must demand header authentication (authentication: headerAuth)"
                )
            path = str(parameters.get("path"))
            if path in paths:
                problems.append(f"{where}: webhook path {path!r} is already used by {paths[path]}")
            paths[path] = file
        used = node.get("credentials", {})
        for credential_type, reference in used.items() if isinstance(used, dict) else []:
            identity = str(reference.get("id")) if isinstance(reference, dict) else ""
            if identity not in credential_types:
                problems.append(
                    f"{where}: credential {identity!r} does not exist; declared are {', '.join(sorted(credential_types))}"
                )
            elif credential_types[identity] != credential_type:
                problems.append(
                    f"{where}: credential {identity!r} is of type {credential_types[identity]}, not {credential_type}"
                )
    return problems


def refill_placeholders(template: Json, live: Json, values: Mapping[str, Json]) -> Json:
    """The live value, with the template's placeholders kept wherever they still say the same.

    The way back of :func:`render`, for writing a person's edit into the files: a URL that was rendered from
    ``@memory_service_url@/v1/assemble`` stays that, an edited one becomes what the person typed.
    """
    if isinstance(template, str) and render(template, values) == live:
        return template
    if isinstance(template, dict) and isinstance(live, dict):
        ordered = [key for key in template if key in live] + [key for key in live if key not in template]
        return {key: refill_placeholders(template.get(key), live[key], values) for key in ordered}
    if isinstance(template, list) and isinstance(live, list):
        return [
            refill_placeholders(template[index] if index < len(template) else None, value, values)
            for index, value in enumerate(live)
        ]
    return live


def file_text(workflow: Mapping[str, Json]) -> str:
    """A workflow as the text of its file: two spaces, one key a line, so that a diff names what changed."""
    return json.dumps(workflow, indent=2, ensure_ascii=False) + "\n"
