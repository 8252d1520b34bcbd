"""The pure parts of the script that provisions n8n on the host."""

from __future__ import annotations

import copy
import importlib.util
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from settings import n8n

SCRIPT = Path(__file__).parents[2] / "files/n8n/provision.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("n8n_provision", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


provision = load()
DECLARED = n8n.load_workflows(
    n8n.workflow_values(timezone="UTC", cleanup_hour=2), n8n.credentials("/etc/secrets")
)["memory-assemble.json"]


def live(**changes: Any) -> dict[str, Any]:
    """The declared workflow as n8n answers it, published and current."""
    return {
        **copy.deepcopy(DECLARED), "active": True, "versionId": "v1", "activeVersionId": "v1", "isArchived": False,
        "createdAt": "2026-01-01", **changes,
    }  # fmt: skip


def differences(found: dict[str, Any] | None) -> list[str]:
    sentences: list[str] = provision.workflow_differences(DECLARED, found)
    return sentences


def edited(change: str) -> dict[str, Any]:
    found = live()
    nodes = {node["id"]: node for node in found["nodes"]}
    match change:
        case "boolean":
            nodes["webhook"]["parameters"]["options"]["rawBody"] = False
        case "pasted secret":
            nodes["service"]["parameters"]["url"] = "https://sk-very-secret@evil.example"
        case "new field":
            nodes["service"]["retryOnFail"] = True
        case "lost field":
            del nodes["service"]["onError"]
        case "moved":
            nodes["respond"]["position"] = [1, 2]
        case "removed node":
            found["nodes"].remove(nodes["respond"])
        case "added nodes":
            found["nodes"] += [{"id": "a", "name": "sk-very-secret"}, {"id": "b"}]
        case "reordered":
            found["nodes"].reverse()
        case "connection":
            found["connections"]["Webhook"]["main"] = []
        case "setting":
            found["settings"]["timezone"] = "Asia/Tokyo"
        case "grouped":
            found["nodeGroups"] = [{"id": "g", "name": "sk-very-secret", "nodeIds": ["respond"]}]
        case "name":
            found["name"] = "mine"
    return found


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, ["does not exist"]),
        (live(), []),
        (live(active=False, activeVersionId=None), ["is not published"]),
        (live(versionId="v2"), ["has an edit that is not published"]),
        (live(isArchived=True, active=False), ["is archived", "is not published"]),
        (edited("boolean"), ['node "Webhook": parameters.options.rawBody is false, declared true']),
        (edited("pasted secret"), ['node "Assemble": parameters.url differs, declared "http://172.30.0.1:8765/v1/assemble"']),
        (edited("new field"), ['node "Assemble": retryOnFail is set, but not declared']),
        (edited("lost field"), ['node "Assemble": onError is missing, declared "continueErrorOutput"']),
        (edited("moved"), ['node "Respond": position[0] is 1, declared 480', 'node "Respond": position[1] is 2, declared -100']),
        (edited("removed node"), ['node "Respond" is missing']),
        (edited("added nodes"), ["2 nodes added by hand"]),
        (edited("reordered"), ["the nodes are in another order"]),
        (edited("grouped"), ["1 group of nodes made by hand"]),
        (edited("connection"), ['connections.Webhook.main differs, declared [[{"node": "Assemble", "type": "main", "index": 0}]]']),
        (edited("setting"), ['settings.timezone differs, declared "UTC"']),
        (edited("name"), ['name differs, declared "memory-assemble"']),
    ],
)  # fmt: skip
def test_a_difference_names_the_node_and_the_field_and_never_shows_live_text(
    found: dict[str, Any] | None, expected: list[str]
) -> None:
    assert differences(found) == expected
    assert "sk-very-secret" not in str(differences(found))


@pytest.mark.parametrize(
    ("live_credential", "applied", "expected"),
    [
        (None, {}, ["does not exist"]),
        ({"type": "t", "updatedAt": 1}, {}, ["was never applied by this host, so its value is unknown"]),
        ({"type": "t", "updatedAt": 1}, {"digest": "d", "updatedAt": 1}, []),
        ({"type": "t", "updatedAt": 2}, {"digest": "d", "updatedAt": 1}, ["was changed in n8n since it was applied"]),
        ({"type": "t", "updatedAt": 1}, {"digest": "e", "updatedAt": 1}, ["declared value has changed since it was applied"]),
        ({"type": "u", "updatedAt": 1}, {"digest": "d", "updatedAt": 1}, ["is of another type, declared t"]),
    ],
)  # fmt: skip
def test_a_credential_differs_by_its_hash_its_time_or_its_type(
    live_credential: dict[str, Any] | None, applied: dict[str, Any], expected: list[str]
) -> None:
    assert provision.credential_differences({"type": "t"}, "d", live_credential, applied) == expected


def test_the_state_holds_no_secret_and_another_hash_on_every_host(tmp_path: Path) -> None:
    credential = {"id": "c", "name": "n", "type": "t"}
    digests = []
    for host in ("a", "b"):
        (tmp_path / host).mkdir()
        state = provision.CredentialState(tmp_path / host)
        digests.append(state.digest(credential, {"value": "very secret"}))
        state.remember("c", digests[-1], "now")
        kept = tmp_path / host / "credentials.json"
        assert "very secret" not in kept.read_text()
        assert kept.stat().st_mode & 0o777 == 0o600
        again = provision.CredentialState(tmp_path / host)
        assert again.digest(credential, {"value": "very secret"}) == digests[-1]
        assert again.applied("c") == {"digest": digests[-1], "updatedAt": "now"}
    assert digests[0] != digests[1]


def declare(directory: Path, **changes: object) -> Path:
    document = n8n.provisioner_document(
        url="http://127.0.0.1:9", owner_email="o@example.test", owner_password_file=str(directory / "password"),
        workflows=[], state=str(directory / "state"), credentials=[],
    )  # fmt: skip
    path = directory / "provision.json"
    path.write_text(json.dumps({**document, **changes}))
    return path


def run(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, "--config", config, *arguments], capture_output=True, text=True, check=False
    )


def test_a_plan_without_n8n_is_data_and_no_failure(tmp_path: Path) -> None:
    done = run(declare(tmp_path), "plan")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"reachable": False, "differences": []})


def test_an_apply_without_n8n_fails_with_one_sentence_that_says_where_to_look(tmp_path: Path) -> None:
    done = run(declare(tmp_path), "apply")
    assert done.returncode == 1
    assert done.stderr == "n8n is not ready at http://127.0.0.1:9: see `journalctl -u droplet-n8n`\n"


@pytest.mark.parametrize("command", ["plan", "apply", "export"])
def test_a_missing_declaration_is_one_sentence(tmp_path: Path, command: str) -> None:
    done = run(tmp_path / "nothing.json", command)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "run the deploy again" in done.stderr


def test_a_declared_workflow_file_that_is_damaged_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "memory-x.json"
    broken.write_text("{")
    config = provision.Config(str(declare(tmp_path, workflows=[str(broken)])))
    with pytest.raises(provision.ProvisionError, match=r"memory-x\.json"):
        config.workflows()


def test_the_error_workflow_comes_before_those_that_name_it(tmp_path: Path) -> None:
    files = []
    for name, workflow in n8n.load_templates().items():
        files.append(str(tmp_path / name))
        (tmp_path / name).write_text(n8n.file_text(workflow))
    config = provision.Config(str(declare(tmp_path, workflows=files)))
    assert config.workflows()[0]["id"] == "memory-errors"


def test_the_script_needs_nothing_but_the_standard_library() -> None:
    code = f"import runpy, sys; sys.argv = ['n8n.py', '--help']; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "remove what differs" in done.stdout


class ClosesIdleConnections:
    """A server that answers as n8n does, and like Node closes a connection on which nothing came for a while."""

    def __init__(self, idle_s: float, answer: Callable[[str], str]) -> None:
        self.requests: list[str] = []
        self._idle_s, self._answer = idle_s, answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(self._idle_s)
        with connection, connection.makefile("rb") as stream:
            while True:
                try:
                    line = stream.readline().decode().strip()
                    length = 0
                    while header := stream.readline().strip():
                        if header.lower().startswith(b"content-length:"):
                            length = int(header.partition(b":")[2])
                    stream.read(length)
                except TimeoutError:
                    return
                if not line:
                    return
                request = line.rpartition(" ")[0]
                self.requests.append(request)
                connection.sendall(self._answer(request).encode())


def response(status: str, body: object, *headers: str) -> str:
    text = json.dumps(body)
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(text)}", *headers, "", text])


@pytest.fixture
def quick_n8n(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ClosesIdleConnections]]:
    """n8n with its five seconds, and the provisioner with its two, at a tenth."""
    monkeypatch.setattr(provision, "IDLE_S", 0.2)
    servers: list[ClosesIdleConnections] = []

    def start(answer: Callable[[str], str]) -> ClosesIdleConnections:
        servers.append(ClosesIdleConnections(0.5, answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def ready_and_empty(request: str) -> str:
    return response("200 OK", {"data": [], "nextCursor": None})


def declare_nothing_but(directory: Path, url: str) -> Path:
    """A declaration of one workflow that is live as declared."""
    (directory / "password").write_text("p")
    (directory / "state").mkdir()
    (directory / "state" / "session").write_text("a-session")
    (directory / "memory-assemble.json").write_text(json.dumps({**DECLARED, "nodes": []}))
    return declare(directory, url=url, workflows=[str(directory / "memory-assemble.json")])


def test_an_apply_that_waited_for_another_run_goes_on_although_n8n_has_closed_its_connection(
    tmp_path: Path, quick_n8n: Callable[..., ClosesIdleConnections], capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(request: str) -> str:
        return response("200 OK", live(nodes=[])) if "/workflows/" in request else ready_and_empty(request)

    server = quick_n8n(answer)
    config = declare_nothing_but(tmp_path, server.url)
    with provision.only_one(provision.Config(str(config))):
        waiting = threading.Thread(
            target=lambda: codes.append(provision.main(["--config", str(config), "apply"]))
        )
        codes: list[int] = []
        waiting.start()
        time.sleep(1.2)  # how long the other run takes, not a wait for something
    waiting.join()
    assert (codes, capsys.readouterr().err) == ([0], "")
    assert server.requests == [
        "GET /healthz/readiness", "GET /api/v1/credentials?limit=100", "GET /api/v1/workflows/memory-assemble",
    ]  # fmt: skip


def test_a_login_that_was_told_to_wait_is_repeated_although_n8n_has_closed_its_connection(
    tmp_path: Path, quick_n8n: Callable[..., ClosesIdleConnections]
) -> None:
    answers = [
        response("429 Too Many Requests", {}, "Retry-After: 1"),
        response("200 OK", {}, "Set-Cookie: n8n-auth=another-session; Path=/"),
        response("200 OK", {"id": "w"}),
    ]
    server = quick_n8n(lambda _: answers.pop(0))
    config = declare_nothing_but(tmp_path, server.url)
    (tmp_path / "state" / "session").unlink()
    n8n_client = provision.N8n(provision.Config(str(config)))
    assert n8n_client.workflow("w") == {"id": "w"}
    assert server.requests == ["POST /rest/login", "POST /rest/login", "GET /api/v1/workflows/w"]
