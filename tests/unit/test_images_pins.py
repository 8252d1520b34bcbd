"""`drill pin` writes the digests a registry tells, changes nothing else, and makes none up."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from drill import images
from drill.errors import DrillError, UsageMistake
from drill.image_pins import pin, resolve, rewrite

DIGEST = f"sha256:{'a1' * 32}"
OTHER = f"sha256:{'b2' * 32}"
TEXT = """# Pins; `drill pin` fills in the digests.

[postgres]   # the database
repository = "docker.io/pgvector/pgvector"
tag = "18"
digest = ""  # never resolved
uid = 999

["open-webui"]
repository = "ghcr.io/open-webui/open-webui"
tag = "v1"
digest = "sha256:old"
uid = 0
"""


class _Registry(BaseHTTPRequestHandler):
    """A registry that wants an anonymous token, as the public ones do."""

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        assert "scope=repository%3A" in self.path and "service=test" in self.path
        self._answer(200, {}, b'{"token": "t0ken"}')

    def do_HEAD(self) -> None:
        if self.headers.get("Authorization") != "Bearer t0ken":
            host = self.headers["Host"]
            self._answer(401, {"WWW-Authenticate": f'Bearer realm="http://{host}/token",service="test"'})
        elif self.path == "/v2/pgvector/pgvector/manifests/18":
            assert "manifest.list" in self.headers["Accept"]
            self._answer(200, {"Docker-Content-Digest": DIGEST})
        elif self.path.endswith("/manifests/odd"):
            self._answer(200, {})
        else:
            self._answer(404, {})

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output to the test."""


@pytest.fixture
def registry() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Registry) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def without_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_rewriting_touches_only_the_digest() -> None:
    changed = rewrite(TEXT, {"postgres": DIGEST, "open-webui": OTHER})
    assert changed == TEXT.replace('digest = ""', f'digest = "{DIGEST}"').replace("sha256:old", OTHER)
    assert rewrite(TEXT, {}) == TEXT
    assert rewrite(changed, {"postgres": DIGEST}) == changed


def test_a_section_without_a_digest_line_is_told() -> None:
    with pytest.raises(UsageMistake, match=r'no `digest = ""` line for n8n'):
        rewrite(TEXT, {"n8n": DIGEST})


def test_a_digest_is_resolved_with_an_anonymous_token(registry: str) -> None:
    assert resolve(registry, "pgvector/pgvector", "18") == DIGEST


def test_what_cannot_be_resolved_is_told(registry: str) -> None:
    with pytest.raises(DrillError, match="manifests/gone: HTTP 404"):
        resolve(registry, "pgvector/pgvector", "gone")
    with pytest.raises(DrillError, match="without a sha256 digest"):
        resolve(registry, "pgvector/pgvector", "odd")
    with pytest.raises(DrillError, match=r"127\.0\.0\.1:9 cannot be reached"):
        resolve("127.0.0.1:9", "pgvector/pgvector", "18")


def test_pinning_writes_what_was_found_and_leaves_the_rest(registry: str, tmp_path: Path) -> None:
    file = tmp_path / "images.toml"
    file.write_text(TEXT)
    outcomes = {outcome.name: outcome for outcome in pin(file, registry)}
    assert outcomes["postgres"].digest == DIGEST
    assert outcomes["open-webui"].digest == ""
    assert "kept sha256:old" in str(outcomes["open-webui"])
    assert file.read_text() == TEXT.replace('digest = ""', f'digest = "{DIGEST}"')
    again = {outcome.name: outcome.detail for outcome in pin(file, registry)}
    assert again["postgres"] == "unchanged"


def run(file: Path, registry: str) -> int:
    parser = argparse.ArgumentParser()
    images.add_parsers(parser.add_subparsers())
    arguments = parser.parse_args(["pin", "--registry", registry, "--file", str(file)])
    return int(arguments.run(arguments))


def test_the_exit_code_says_whether_all_were_resolved(
    registry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "images.toml"
    file.write_text(TEXT)
    assert run(file, registry) == 1
    printed = capsys.readouterr().out
    assert "NOT RESOLVED" in printed and DIGEST in printed
    file.write_text(TEXT[: TEXT.index('["open-webui"]')])
    assert run(file, registry) == 0


def test_a_file_that_is_no_toml_is_told(tmp_path: Path) -> None:
    file = tmp_path / "images.toml"
    file.write_text("[postgres\n")
    with pytest.raises(DrillError, match="is no TOML"):
        pin(file)
