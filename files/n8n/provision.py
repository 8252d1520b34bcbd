#!/usr/bin/env python3
"""Makes a running n8n what its files say: workflows with fixed ids, published, and credentials.

Runs on the host with the standard library only.

    n8n.py plan                 print {"reachable": ..., "differences": [sentence, ...]} and change nothing
    n8n.py apply                remove exactly those differences, printing each; the server keeps answering
    n8n.py run WORKFLOW         run a workflow by hand, wait for it and print how it ended
    n8n.py export [WORKFLOW..]  print live workflows as JSON (the declared ones when none is named)

How it works with n8n 2.41:
- Public API (/api/v1) and internal API (/rest) take the owner's session cookie. Logins are limited to five a minute,
  so the cookie is kept in a file that only root reads.
- Only the internal API creates a workflow with an id of our choice and sets every setting; the public API updates the
  rest, publishes and reads.
  An update of a published workflow is published in the same call and no webhook request fails meanwhile, whereas
  `n8n import:workflow` deactivates it for half a minute.
- n8n never returns a credential's value. What was last applied is remembered as a salted hash beside the time at
  which n8n says that it last changed: a different hash is a rotated secret, a different time a change made elsewhere.

No sentence printed here holds a secret, nor any text of a live workflow: people paste tokens into nodes.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import hmac
import http.client
import json
import os
import secrets
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

DEFAULT_CONFIG = "/etc/memory-droplet/n8n/provision.json"
WORKFLOW_KEYS = ("name", "nodes", "connections", "settings")
PUBLISH_DEADLINE_S = 60
BUSY_DEADLINE_S = 15
LOCK_DEADLINE_S = 300
# n8n closes a connection that was idle for 5 s. One that may be about to close is not used again: a request on it
# fails, and nobody knows whether n8n took it, so it cannot just be sent twice.
IDLE_S = 2.0
RUN_DEADLINE_S = 120

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Object = dict[str, Json]


class ProvisionError(Exception):
    """What failed, what was expected and what fixes it, in one sentence."""


class Unreachable(ProvisionError):
    """n8n does not listen, or is not ready yet."""


# ---- files ---------------------------------------------------------------------------------------------------------


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner reads, from its first byte, and never half."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp creates 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_secret(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\n")
    except OSError as error:
        raise ProvisionError(
            f"cannot read the secret {path} ({error.strerror}): run the deploy again"
        ) from None


def read_object(path: Path) -> Object:
    """A JSON object from a file; what is damaged or absent is an empty one, which only costs one more write."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


class Config:
    """The desired state as the deploy wrote it."""

    def __init__(self, path: str) -> None:
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
            self.url = urllib.parse.urlsplit(document["url"])
            self.owner_email: str = document["owner_email"]
            self.owner_password_file: str = document["owner_password_file"]
            self.workflow_files = [Path(file) for file in document["workflows"]]
            self.state_dir = Path(document["state"])
            self.credentials: list[Object] = document["credentials"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ProvisionError(f"cannot read {path} ({error!r}): run the deploy again") from None

    def workflows(self) -> list[Object]:
        """The declared workflows, those that others name as their error workflow first."""
        found: list[Object] = []
        for path in self.workflow_files:
            try:
                workflow = json.loads(path.read_text(encoding="utf-8"))
                if not isinstance(workflow, dict) or not isinstance(workflow["id"], str):
                    raise ValueError("no workflow with an id")
                missing = [key for key in WORKFLOW_KEYS if key not in workflow]
                if missing:
                    raise ValueError(f"no {missing[0]}")
            except (OSError, ValueError, KeyError) as error:
                raise ProvisionError(f"cannot read {path} ({error}): run the deploy again") from None
            found.append(workflow)
        if not found:
            raise ProvisionError("no workflow is declared: run the deploy again")
        error_workflows = {as_object(workflow["settings"]).get("errorWorkflow") for workflow in found}
        return sorted(found, key=lambda workflow: workflow["id"] not in error_workflows)


def as_object(value: Json) -> Object:
    return value if isinstance(value, dict) else {}


def as_objects(value: Json) -> list[Object]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


# ---- n8n -----------------------------------------------------------------------------------------------------------


class N8n:
    """A keep-alive connection to n8n, logged in as its owner when a call needs it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._session_file = config.state_dir / "session"
        self._connection = http.client.HTTPConnection(
            config.url.hostname or "127.0.0.1", config.url.port or 80, timeout=60
        )
        self._used_at = time.monotonic()
        self._cookie = ""
        with contextlib.suppress(OSError):
            self._cookie = self._session_file.read_text(encoding="utf-8").strip()

    def _send(self, method: str, path: str, body: Json = None) -> tuple[int, Json, http.client.HTTPMessage]:
        headers = {"Accept": "application/json"}
        payload = None
        if body is not None:
            payload = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        if self._cookie:
            headers["Cookie"] = f"n8n-auth={self._cookie}"
        if time.monotonic() - self._used_at > IDLE_S:
            self._connection.close()  # the next request opens another
        try:
            self._connection.request(method, path, payload, headers)
            response = self._connection.getresponse()
            raw = response.read()
            self._used_at = time.monotonic()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise Unreachable(
                f"n8n does not answer at {self._config.url.geturl()} ({type(error).__name__}): "
                f"see `journalctl -u droplet-n8n`"
            ) from None
        try:
            return response.status, json.loads(raw) if raw else None, response.headers
        except ValueError:
            # While it boots n8n answers any path with 200 and a text, later with 404 and HTML.
            return response.status, raw.decode("utf-8", "replace"), response.headers

    def ready(self) -> bool:
        """Whether n8n is up, connected and migrated; /healthz alone says only that the process runs."""
        try:
            status, body, _ = self._send("GET", "/healthz/readiness")
        except Unreachable:
            return False
        return status == 200 and isinstance(body, dict)

    def _log_in(self) -> None:
        password = read_secret(self._config.owner_password_file)
        credentials: Object = {"emailOrLdapLoginId": self._config.owner_email, "password": password}
        self._cookie = ""
        for _ in range(3):
            status, _, headers = self._send("POST", "/rest/login", credentials)
            if status != 429:
                break
            wait = headers.get("Retry-After") or headers.get("X-RateLimit-Reset") or "60"
            until = float(wait) if wait.replace(".", "", 1).isdigit() else 60.0
            time.sleep(min(61.0, until - time.time() if until > 1e9 else until) if until else 1.0)
        for cookie in headers.get_all("Set-Cookie") or []:
            if cookie.startswith("n8n-auth="):
                self._cookie = cookie.partition("=")[2].partition(";")[0]
        if status != 200 or not self._cookie:
            raise ProvisionError(
                f"n8n refuses the login of its owner {self._config.owner_email} (status {status}): the owner's password "
                f"hash is read at start, so restart droplet-n8n after a change of it"
            )
        write_private(self._session_file, self._cookie)

    def call(self, method: str, path: str, body: Json = None) -> tuple[int, Json]:
        """Status and JSON of an authenticated call; logs in when there is no session or it has ended."""
        if not self._cookie:
            self._log_in()
        status, answer, _ = self._send(method, path, body)
        if status == 401:
            self._log_in()
            status, answer, _ = self._send(method, path, body)
        return status, answer

    def get(self, path: str) -> Object:
        status, answer = self.call("GET", path)
        if status != 200 or not isinstance(answer, dict):
            raise ProvisionError(refusal(f"GET {path}", status, answer))
        return answer

    def change(self, what: str, method: str, path: str, body: Json = None) -> Object:
        """A call that must succeed; the error names ``what`` was being done and n8n's reason."""
        deadline = time.monotonic() + BUSY_DEADLINE_S
        while True:
            status, answer = self.call(method, path, body)
            busy = status == 409 and "try again" in str(as_object(answer).get("message")).lower()
            if (
                not busy or time.monotonic() > deadline
            ):  # "Workflow is still being unpublished. Please try again"
                break
            time.sleep(0.2)
        if status not in (200, 201):
            raise ProvisionError(refusal(what, status, answer))
        return as_object(answer)

    def workflow(self, identity: str) -> Object | None:
        path = f"/api/v1/workflows/{urllib.parse.quote(identity, safe='')}"
        status, answer = self.call("GET", path)
        if status == 404:
            return None
        if status != 200 or not isinstance(answer, dict):
            raise ProvisionError(refusal(f"reading workflow {identity}", status, answer))
        return answer

    def pages(self, path: str) -> Iterator[Object]:
        cursor: Json = None
        while True:
            query = "?limit=100" + (f"&cursor={urllib.parse.quote(str(cursor))}" if cursor else "")
            page = self.get(path + query)
            yield from as_objects(page.get("data"))
            cursor = page.get("nextCursor")
            if not cursor:
                return


def refusal(what: str, status: int, answer: Json) -> str:
    """n8n's refusal as one sentence; its own message names paths and types, never values of credentials."""
    reason = as_object(answer).get("message")
    return f"n8n refused {what}: status {status}, {reason if isinstance(reason, str) else 'no reason given'}"


# ---- differences ---------------------------------------------------------------------------------------------------


def shown(value: Json) -> str:
    """A declared value in a sentence: short ones as they are, long ones by their length."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"a value of {len(text)} characters"


def field_differences(path: str, declared: Json, live: Json) -> Iterator[str]:
    """Which fields of ``live`` differ. Live text is never shown, since people paste tokens into nodes."""
    if isinstance(declared, dict) and isinstance(live, dict):
        for key in [*declared, *(key for key in live if key not in declared)]:
            below = f"{path}.{key}" if path else key
            if key not in live:
                yield f"{below} is missing, declared {shown(declared[key])}"
            elif key not in declared:
                yield f"{below} is set, but not declared"
            else:
                yield from field_differences(below, declared[key], live[key])
    elif isinstance(declared, list) and isinstance(live, list) and len(declared) == len(live):
        for index, (one, other) in enumerate(zip(declared, live, strict=True)):
            yield from field_differences(f"{path}[{index}]", one, other)
    elif declared != live or isinstance(declared, bool) != isinstance(live, bool):
        if isinstance(live, (bool, int, float)):
            yield f"{path} is {json.dumps(live)}, declared {shown(declared)}"
        else:
            yield f"{path} differs, declared {shown(declared)}"


def content_differences(declared: Object, live: Object) -> Iterator[str]:
    """What in name, nodes, their groups, connections and settings of a live workflow is not as declared."""
    if declared["name"] != live.get("name"):
        yield f"name differs, declared {shown(declared['name'])}"
    wanted = {str(node.get("id")): node for node in as_objects(declared["nodes"])}
    found = {str(node.get("id")): node for node in as_objects(live.get("nodes"))}
    for identity, node in wanted.items():
        label = f"node {shown(node.get('name'))}"
        if identity not in found:
            yield f"{label} is missing"
        else:
            yield from (f"{label}: {text}" for text in field_differences("", node, found[identity]))
    extra = len(found.keys() - wanted.keys())
    if extra:
        yield f"{extra} node{'s' if extra > 1 else ''} added by hand"
    if list(wanted) != list(found) and wanted.keys() == found.keys():
        yield "the nodes are in another order"
    groups = len(as_objects(live.get("nodeGroups")))
    if groups:
        yield f"{groups} group{'s' if groups > 1 else ''} of nodes made by hand"
    yield from field_differences("connections", declared["connections"], live.get("connections"))
    yield from field_differences("settings", declared["settings"], live.get("settings"))


def workflow_differences(declared: Object, live: Object | None) -> list[str]:
    """Every way in which a live workflow is not the declared one; empty when it is, and is what webhooks run."""
    if live is None:
        return ["does not exist"]
    differences = list(content_differences(declared, live))
    if live.get("isArchived"):
        differences.append("is archived")
    if not live.get("active") or not live.get("activeVersionId"):
        differences.append("is not published")
    elif live.get("activeVersionId") != live.get("versionId"):
        differences.append("has an edit that is not published")
    return differences


class CredentialState:
    """What was last applied: per id a salted hash of the whole credential and n8n's time of change."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "credentials.json"
        stored = read_object(self._path)
        self._salt = str(stored.get("salt") or secrets.token_hex(16))
        self._applied = {key: as_object(value) for key, value in as_object(stored.get("applied")).items()}

    def digest(self, credential: Object, data: Object) -> str:
        text = json.dumps([credential["name"], credential["type"], data], sort_keys=True)
        return hmac.new(self._salt.encode(), text.encode(), hashlib.sha256).hexdigest()

    def applied(self, identity: str) -> Object:
        return self._applied.get(identity, {})

    def remember(self, identity: str, digest: str, updated_at: Json) -> None:
        self._applied[identity] = {"digest": digest, "updatedAt": updated_at}
        write_private(self._path, json.dumps({"salt": self._salt, "applied": self._applied}))


def credential_data(credential: Object) -> Object:
    """The values n8n stores, secrets read from their files."""
    data = dict(as_object(credential["data"]))
    for field, path in as_object(credential["secrets"]).items():
        data[field] = f"{credential.get('prefix', '')}{read_secret(str(path))}"
    return data


def credential_differences(
    credential: Object, digest: str, live: Object | None, applied: Object
) -> list[str]:
    if live is None:
        return ["does not exist"]
    differences: list[str] = []
    if live.get("type") != credential["type"]:
        differences.append(f"is of another type, declared {credential['type']}")
    if not applied:
        return [*differences, "was never applied by this host, so its value is unknown"]
    if applied.get("digest") != digest:
        differences.append("declared value has changed since it was applied")
    if applied.get("updatedAt") != live.get("updatedAt"):
        differences.append("was changed in n8n since it was applied")
    return differences


def label(kind: str, thing: Object) -> str:
    name = str(thing["name"])
    return f'{kind} "{name}"' if name == thing["id"] else f'{kind} "{name}" ({thing["id"]})'


# ---- plan and apply ------------------------------------------------------------------------------------------------


class Plan:
    """Reads n8n once and holds, per declared object, what differs."""

    def __init__(self, config: Config, n8n: N8n, state: CredentialState) -> None:
        self.credentials: list[tuple[Object, Object, str, Object | None, list[str]]] = []
        self.workflows: list[tuple[Object, Object | None, list[str]]] = []
        live_credentials = {str(live["id"]): live for live in n8n.pages("/api/v1/credentials")}
        for credential in config.credentials:
            identity = str(credential["id"])
            data = credential_data(credential)
            digest = state.digest(credential, data)
            live = live_credentials.get(identity)
            differences = credential_differences(credential, digest, live, state.applied(identity))
            self.credentials.append((credential, data, digest, live, differences))
        known = live_credentials.keys() | {str(credential["id"]) for credential in config.credentials}
        for workflow in config.workflows():
            for node in as_objects(workflow["nodes"]):
                for reference in as_object(node.get("credentials")).values():
                    if as_object(reference).get("id") not in known:
                        raise ProvisionError(
                            f"{label('workflow', workflow)}: node {shown(node.get('name'))} names a credential that does "
                            f"not exist: correct its file; nothing was touched"
                        )
            live_workflow = n8n.workflow(str(workflow["id"]))
            self.workflows.append((workflow, live_workflow, workflow_differences(workflow, live_workflow)))

    def sentences(self) -> list[str]:
        return [
            f"{label('credential', credential)}: {text}"
            for credential, _, _, _, differences in self.credentials
            for text in differences
        ] + [
            f"{label('workflow', workflow)}: {text}"
            for workflow, _, differences in self.workflows
            for text in differences
        ]


def apply_credential(
    n8n: N8n, state: CredentialState, credential: Object, data: Object, digest: str, live: Object | None
) -> None:
    identity = str(credential["id"])
    what = f"{label('credential', credential)}"
    if live is not None and live.get("type") != credential["type"]:
        n8n.change(f"deleting {what}", "DELETE", f"/api/v1/credentials/{identity}")
        live = None
    if live is None:
        body: Object = {"id": identity, "name": credential["name"], "type": credential["type"], "data": data}
        answer = n8n.change(f"creating {what}", "POST", "/api/v1/credentials", body)
    else:
        body = {"name": credential["name"], "data": data}
        answer = n8n.change(f"changing {what}", "PATCH", f"/api/v1/credentials/{identity}", body)
    state.remember(identity, digest, answer.get("updatedAt"))


def apply_workflow(n8n: N8n, workflow: Object, live: Object | None) -> None:
    identity = str(workflow["id"])
    what = label("workflow", workflow)
    path = f"/api/v1/workflows/{urllib.parse.quote(identity, safe='')}"
    body: Object = {key: workflow[key] for key in WORKFLOW_KEYS}
    if live is None:
        n8n.change(f"creating {what}", "POST", "/rest/workflows", {"id": identity, **body})
    else:
        if live.get("isArchived"):
            n8n.change(f"unarchiving {what}", "POST", f"{path}/unarchive", {})
        if any(content_differences(workflow, live)):
            if any(field_differences("settings", workflow["settings"], live.get("settings"))):
                replace_settings(n8n, what, identity, as_object(workflow["settings"]), live)
            # Publishes at once when the workflow is published: webhooks go on answering, old version or new. Groups
            # that are not sent are kept, and n8n refuses to remove a node that is in one.
            n8n.change(
                f"changing {what}",
                "PUT",
                f"{path}?publishIfActive=true",
                {**body, "settings": {}, "nodeGroups": []},
            )
    live = n8n.workflow(identity) or {}
    if not live.get("active") or live.get("activeVersionId") != live.get("versionId"):
        n8n.change(f"publishing {what}", "POST", f"{path}/publish", {})
    wait_published(n8n, identity, what)
    left = workflow_differences(workflow, n8n.workflow(identity))
    if left:
        raise ProvisionError(
            f"{what} was written, but n8n still says: {left[0]}; is somebody editing it right now?"
        )


def replace_settings(n8n: N8n, what: str, identity: str, settings: Object, live: Object) -> None:
    """Makes the settings of a workflow exactly these, although n8n adds what it is sent to what it has.

    Only where nothing is set does it take settings as they are, so one that is not declared (the editor's dialog saves
    three of them) is removed by setting nothing first. Calls that come between the two are answered, with n8n's
    defaults; a run killed between the two is finished by the next. The public API would drop ``binaryMode``.
    """
    path = f"/rest/workflows/{urllib.parse.quote(identity, safe='')}"
    if as_object(live.get("settings")).keys() - settings.keys():
        n8n.change(f"clearing the settings of {what}", "PATCH", path, {"settings": None})
    n8n.change(f"changing the settings of {what}", "PATCH", path, {"settings": settings})


def wait_published(n8n: N8n, identity: str, what: str) -> None:
    """Publishing is asynchronous: waits until the live version is the current one and its triggers listen."""
    deadline = time.monotonic() + PUBLISH_DEADLINE_S
    status: Json = None
    while time.monotonic() < deadline:
        answer = n8n.get(f"/rest/workflows/{urllib.parse.quote(identity, safe='')}/publication-status")
        data = as_object(answer.get("data"))
        status = data.get("status")
        wanted = (n8n.workflow(identity) or {}).get("versionId")
        pending = [one for one in as_objects(data.get("triggers")) if one.get("status") != "activated"]
        if status == "published" and data.get("liveVersionId") == wanted and not pending:
            return
        time.sleep(0.2)
    raise ProvisionError(
        f"{what} was not live {PUBLISH_DEADLINE_S} s after publishing (status {status}): see `journalctl -u droplet-n8n`"
    )


@contextlib.contextmanager
def only_one(config: Config) -> Iterator[None]:
    """One change at a time. The kernel drops the lock with its process, so a killed run leaves nothing behind."""
    with (config.state_dir / "lock").open("a", encoding="utf-8") as stream:
        deadline = time.monotonic() + LOCK_DEADLINE_S
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ProvisionError(
                        f"another run has been changing n8n for {LOCK_DEADLINE_S} s: see `fuser {stream.name}`"
                    ) from None
                time.sleep(0.5)
        yield


def command_plan(config: Config) -> int:
    n8n = N8n(config)
    if not n8n.ready():
        print(json.dumps({"reachable": False, "differences": []}))
        return 0
    try:
        differences = Plan(config, n8n, CredentialState(config.state_dir)).sentences()
    except Unreachable:
        print(json.dumps({"reachable": False, "differences": []}))
        return 0
    except ProvisionError as error:
        differences = [str(error)]
    print(json.dumps({"reachable": True, "differences": differences}, ensure_ascii=False))
    return 0


def command_apply(config: Config) -> int:
    n8n = N8n(config)
    if not n8n.ready():
        raise Unreachable(f"n8n is not ready at {config.url.geturl()}: see `journalctl -u droplet-n8n`")
    with only_one(config):
        state = CredentialState(config.state_dir)
        plan = Plan(config, n8n, state)
        for credential, data, digest, live, differences in plan.credentials:
            if differences:
                apply_credential(n8n, state, credential, data, digest, live)
                for text in differences:
                    print(f"repaired {label('credential', credential)}: {text}", flush=True)
        for workflow, live_workflow, differences in plan.workflows:
            if differences:
                apply_workflow(n8n, workflow, live_workflow)
                for text in differences:
                    print(f"repaired {label('workflow', workflow)}: {text}", flush=True)
    return 0


def command_run(config: Config, identity: str) -> int:
    n8n = N8n(config)
    live = n8n.workflow(identity)
    if live is None:
        raise ProvisionError(f"there is no workflow {identity}: `n8n.py export` lists the declared ones")
    triggers = [
        node for node in as_objects(live.get("nodes"))
        if node.get("type") == "n8n-nodes-base.manualTrigger" and not node.get("disabled")
    ]  # fmt: skip
    if not triggers:
        raise ProvisionError(
            f"workflow {identity} has no manual trigger, so it only runs by its webhook or schedule"
        )
    path = f"/rest/workflows/{urllib.parse.quote(identity, safe='')}/run"
    body: Object = {"triggerToStartFrom": {"name": triggers[0]["name"]}}
    started = as_object(n8n.change(f"running {identity}", "POST", path, body).get("data"))
    execution = started.get("executionId")
    deadline = time.monotonic() + RUN_DEADLINE_S
    while time.monotonic() < deadline:
        status, answer = n8n.call("GET", f"/api/v1/executions/{execution}?includeData=true")
        found = as_object(answer)
        if status == 200 and found.get("finished") is not None and found.get("stoppedAt"):
            result = as_object(as_object(found.get("data")).get("resultData"))
            last = str(result.get("lastNodeExecuted", ""))
            runs = as_objects(as_object(result.get("runData")).get(last))
            outputs = as_object(runs[-1].get("data")).get("main") if runs else None
            first = as_objects(outputs[0]) if isinstance(outputs, list) and outputs else []
            error = as_object(result.get("error")).get("message")
            print(json.dumps({
                "execution": execution, "status": found.get("status"), "startedAt": found.get("startedAt"),
                "stoppedAt": found.get("stoppedAt"), "result": first[0].get("json") if first else None, "error": error,
            }, ensure_ascii=False))  # fmt: skip
            return 0 if found.get("status") == "success" else 1
        time.sleep(0.3)
    raise ProvisionError(f"workflow {identity} (execution {execution}) did not end within {RUN_DEADLINE_S} s")


def command_export(config: Config, wanted: list[str]) -> int:
    n8n = N8n(config)
    declared = [str(workflow["id"]) for workflow in config.workflows()]
    exported: Object = {}
    grouped: list[Json] = []
    for identity in wanted or declared:
        live = n8n.workflow(identity)
        if live is None and wanted:
            raise ProvisionError(f"there is no workflow {identity}")
        if live is not None:
            exported[identity] = {key: live.get(key) for key in ("id", *WORKFLOW_KEYS)}
            if live.get("nodeGroups"):
                grouped.append(identity)
    others: list[Json] = [
        {"id": one["id"], "name": one["name"]}
        for one in n8n.pages("/api/v1/workflows")
        if one["id"] not in declared and not one.get("isArchived")
    ]
    print(json.dumps({"workflows": exported, "undeclared": others, "grouped": grouped}, ensure_ascii=False))
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="n8n.py", description="Makes a running n8n what its files say.")
    parser.add_argument(
        "--config", default=DEFAULT_CONFIG, help=f"what is declared (default {DEFAULT_CONFIG})"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("plan", help="print what differs, change nothing")
    commands.add_parser("apply", help="remove what differs")
    run = commands.add_parser("run", help="run a workflow by hand")
    run.add_argument("workflow")
    export = commands.add_parser("export", help="print live workflows")
    export.add_argument("workflow", nargs="*")
    given = parser.parse_args(arguments)
    try:
        config = Config(given.config)
        try:
            config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ProvisionError(
                f"cannot create {config.state_dir} ({error.strerror}): run as root"
            ) from None
        if given.command == "plan":
            return command_plan(config)
        if given.command == "apply":
            return command_apply(config)
        if given.command == "run":
            return command_run(config, given.workflow)
        return command_export(config, given.workflow)
    except ProvisionError as error:
        print(str(error), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
