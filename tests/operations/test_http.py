"""HTTP on the host: against a real server on this machine, and where nothing listens."""

import http.server
import json
import threading

import pytest

from operations import http_object, http_ready
from operations.facts import HttpObject, HttpReady
from operations.http_probe import HttpAnswer, Readiness, parse_answer, ready_marker

TOKEN = "token-that-nobody-may-see"


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.headers.get("api-key") not in (None, TOKEN):
            self._answer(403, {})
        elif self.path == "/health":
            self._answer(self.server.health, {"status": "ok"})
        elif self.path in self.server.objects:
            self._answer(200, self.server.objects[self.path])
        else:
            self._answer(404, {})

    def do_PUT(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.puts.append((self.path, self.headers.get("api-key"), body))
        if self.server.refuse:
            self._answer(422, {"error": "no"})
            return
        self.server.objects[self.path] = {"id": 7, **self.server.objects.get(self.path, {}), **body}
        self._answer(200, {})

    def _answer(self, status, body):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        running.objects, running.puts, running.health, running.refuse = {}, [], 200, False
        running.url = f"http://127.0.0.1:{running.server_port}"
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def header_file(tmp_path):
    path = tmp_path / "header"
    path.write_text(f"api-key: {TOKEN}\n")
    return str(path)


def test_an_object_is_written_once_and_repaired_when_it_drifts(this_machine, server, header_file):
    arguments = {"url": f"{server.url}/alice", "desired": {"quota": 5}, "header_file": header_file}
    created = this_machine.run(http_object, executing=True, **arguments)
    assert (created.failed, server.puts) == ("", [("/alice", TOKEN, {"quota": 5})])
    assert this_machine.run(http_object, executing=True, **arguments).run == []
    server.objects["/alice"]["quota"] = 9
    planned = this_machine.run(http_object, **arguments)
    assert "quota: 9 -> 5" in planned.said
    this_machine.run(http_object, executing=True, **arguments)
    assert server.objects["/alice"] == {"id": 7, "quota": 5}


def test_neither_the_token_nor_a_redacted_field_is_seen(this_machine, server, header_file):
    arguments = {"url": f"{server.url}/a", "desired": {"password": "hunter2"}, "header_file": header_file}
    for executing in (False, True):
        seen = this_machine.run(http_object, executing=executing, redact=["password"], **arguments).everything
        assert "password: <redacted>" in seen or executing
        assert TOKEN not in seen
        assert "hunter2" not in seen
    assert server.puts[0][2] == {"password": "hunter2"}


def test_a_refused_write_fails_with_a_sentence(this_machine, server):
    server.refuse = True
    done = this_machine.run(http_object, executing=True, url=f"{server.url}/a", desired={"x": 1})
    assert f"PUT {server.url}/a: expected a 2xx answer, got 422" in done.failed


def test_wrong_credentials_fail_with_a_sentence_and_nothing_is_written(this_machine, server, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("api-key: other\n")
    done = this_machine.run(
        http_object, executing=True, url=f"{server.url}/a", desired={"x": 1}, header_file=str(wrong)
    )
    assert "was answered with status 403, expected 200 or 404; check the credentials in" in done.failed
    assert server.puts == []


def test_an_object_of_a_service_that_is_not_there_is_planned_but_not_attempted(this_machine):
    arguments = {"url": "http://127.0.0.1:9/a", "desired": {"x": 1}}
    assert len(this_machine.run(http_object, **arguments).run) == 1
    assert (
        "wait for its service with http_ready first"
        in this_machine.run(http_object, executing=True, **arguments).failed
    )


@pytest.fixture
def noted(monkeypatch, tmp_path):
    """Notes of readiness go into the test's own directory."""
    monkeypatch.setattr("operations.http.ready_marker", lambda url: str(tmp_path / "applied/ready"))
    return tmp_path / "applied/ready"


def test_the_first_readiness_is_noted_and_later_waits_are_no_change(this_machine, server, noted):
    arguments = {"url": f"{server.url}/health", "attempts": 2, "delay_s": 0.1, "expect_json_key": "status"}
    assert len(this_machine.run(http_ready, **arguments).run) == 1
    done = this_machine.run(http_ready, executing=True, **arguments)
    assert (done.failed, len(done.run)) == ("", 1)
    assert noted.read_text() == f"{server.url}/health\n"
    for executing in (False, True):
        assert this_machine.run(http_ready, executing=executing, **arguments).run == []
    server.health = 503
    assert len(this_machine.run(http_ready, **arguments).run) == 1


def test_a_restart_is_waited_for_without_being_a_change(this_machine, server, noted):
    arguments = {"url": f"{server.url}/health", "attempts": 100, "delay_s": 0.1}
    this_machine.run(http_ready, executing=True, **arguments)
    server.health = 503
    threading.Timer(1, lambda: setattr(server, "health", 200)).start()
    assert this_machine.run(http_ready, executing=True, **arguments).run == []


NOT_READY = {
    "another status": ({"expect_status": 204}, "expected status 204, got 200"),
    "a key that is not in the body": ({"expect_json_key": "title"}, "expected status 200, got 200"),
}


@pytest.mark.parametrize("case", NOT_READY)
def test_waiting_ends_with_a_sentence(this_machine, server, noted, case):
    changes, sentence = NOT_READY[case]
    done = this_machine.run(
        http_ready, executing=True, url=f"{server.url}/health", attempts=2, delay_s=0.1, **changes
    )
    assert f"{server.url}/health is not ready after 2 attempts 0.1 s apart" in done.failed
    assert sentence in done.failed
    assert not noted.exists()


JOURNALS = {
    "an error before a new start": ("ERR it was refused\nINF starting\n", "errors", "ERR it was refused"),
    "no error": ("INF one\nINF two\n", "lines", "INF one\nINF two"),
}


@pytest.mark.parametrize("journal", JOURNALS)
def test_a_failure_ends_with_the_hint_and_the_log_of_the_unit(
    this_machine, server, noted, monkeypatch, tmp_path, journal
):
    said, kind, shown = JOURNALS[journal]
    journalctl = tmp_path / "bin/journalctl"
    journalctl.parent.mkdir()
    journalctl.write_text(f"#!/bin/sh\n[ \"$1 $2\" = '-u demo.service' ] && printf %s '{said}'\n")
    journalctl.chmod(0o755)
    monkeypatch.setenv("PATH", str(journalctl.parent), prepend=":")
    server.health = 503
    done = this_machine.run(
        http_ready,
        executing=True,
        url=f"{server.url}/health",
        attempts=2,
        delay_s=0.1,
        hint="set 'demo_token'",
        unit="demo.service",
    )
    assert "after 2 attempts 0.1 s apart: expected status 200, got 503; set 'demo_token'\n" in done.failed
    assert done.failed.endswith(f"The last {kind} of demo.service:\n{shown}")


def test_a_failure_of_what_was_ready_before_says_how_long_was_waited(this_machine, server, noted):
    arguments = {"url": f"{server.url}/health", "attempts": 3, "delay_s": 0.1}
    this_machine.run(http_ready, executing=True, **arguments)
    server.health = 503
    assert "after 3 attempts" in this_machine.run(http_ready, executing=True, **arguments).failed


def test_a_shell_without_curl_is_no_failure(bare_shell):
    asked = bare_shell(HttpObject().command("http://127.0.0.1:9/", None))
    assert (asked.returncode, HttpObject().process(asked.stdout.splitlines())) == (0, HttpAnswer())
    asked = bare_shell(HttpReady().command("http://127.0.0.1:9/", 200, None, "/nowhere/note", 1, 1))
    assert (asked.returncode, HttpReady().process(asked.stdout.splitlines())) == (0, Readiness())


ANSWERS = {
    "json": (['{"a": 1}', "##HTTP##200"], HttpAnswer(200, {"a": 1})),
    "several lines": (["{", '"a": 1}', "##HTTP##201"], HttpAnswer(201, {"a": 1})),
    "no json": (["<html>", "##HTTP##502"], HttpAnswer(502, None)),
    "no body": (["", "##HTTP##204"], HttpAnswer(204, None)),
    "nothing": ([], HttpAnswer(0, None)),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_is_read(answer):
    lines, expected = ANSWERS[answer]
    assert parse_answer(lines) == expected


def test_a_note_has_a_name_that_says_what_it_is():
    assert ready_marker("http://127.0.0.1:6333/readyz") == (
        "/var/lib/memory-droplet/applied/ready-http-127.0.0.1-6333-readyz"
    )
