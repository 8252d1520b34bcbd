"""`memory-service`: runs the service, and an operator's calls to a running one."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx

from memory_service.errors import ConfigurationError
from memory_service.settings import load

DEFAULT_URL = "http://127.0.0.1:8765"


def _token() -> str:
    path = os.environ.get("MEMORY_ADMIN_TOKEN_FILE")
    if path is None:
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        path = (
            f"{directory}/admin_token"
            if directory
            else "/etc/memory-droplet/secrets/memory-service/admin_token"
        )
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(
            f"the admin token cannot be read from {path} ({error.strerror}): run as root, or name the file in "
            "MEMORY_ADMIN_TOKEN_FILE"
        ) from None


def _call(arguments: argparse.Namespace, method: str, path: str, body: object | None = None) -> int:
    url = arguments.url.rstrip("/") + path
    headers = {"Authorization": f"Bearer {_token()}"}
    try:
        with httpx.stream(method, url, json=body, headers=headers, timeout=330, trust_env=False) as response:
            if response.headers.get("content-type", "").startswith("application/x-ndjson"):
                for chunk in response.iter_bytes():
                    sys.stdout.buffer.write(chunk)
                return 0
            text = response.read().decode()
            status = response.status_code
    except httpx.HTTPError as error:
        print(
            f"memory-service: {url} cannot be reached ({type(error).__name__}): is it running?",
            file=sys.stderr,
        )
        return 2
    if status >= 400:
        try:
            message = json.loads(text)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = text[:200]
        print(f"memory-service: {status}: {message}", file=sys.stderr)
        return 1
    if text:
        print(json.dumps(json.loads(text), indent=2, ensure_ascii=False))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="memory-service", description="The memory service and its operator's tool"
    )
    parser.add_argument(
        "--url", default=os.environ.get("MEMORY_URL", DEFAULT_URL), help="where the service listens"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="run the service (settings from MEMORY_* and $CREDENTIALS_DIRECTORY)")
    commands.add_parser("check", help="check the settings and exit")
    commands.add_parser("openapi", help="print the OpenAPI document")
    commands.add_parser("status", help="is it ready, and what is degraded")
    commands.add_parser("clients", help="list clients")
    for name, text in (
        ("client", "show a client's profile"),
        ("facts", "list what is believed about a client"),
        ("export", "everything about a client, as NDJSON"),
    ):
        commands.add_parser(name, help=text).add_argument("client")
    history = commands.add_parser("history", help="every value that a fact had")
    history.add_argument("client")
    history.add_argument("key")
    search = commands.add_parser("search", help="search a client's memories")
    search.add_argument("client")
    search.add_argument("query")
    forget = commands.add_parser("forget", help="forget a client in both stores, for good")
    forget.add_argument("client")
    forget.add_argument("--confirm", help="the client once more; without it only counts are shown")
    cleanup = commands.add_parser("cleanup", help="remove what has expired")
    cleanup.add_argument("--dry-run", action="store_true")
    commands.add_parser("reindex", help="rebuild the vector index from PostgreSQL and switch to it")
    commands.add_parser("job", help="how a job is going").add_argument("job", type=int)
    jobs = commands.add_parser("jobs", help="all jobs").add_subparsers(dest="action", required=True)
    jobs.add_parser("retry", help="try the extractions that were given up once more")
    return parser


def openapi() -> dict[str, Any]:
    """The OpenAPI document of this version; needs no settings and touches nothing."""
    from pydantic import SecretStr

    from memory_service.api import create_app
    from memory_service.service import build
    from memory_service.settings import Settings

    settings = Settings(
        service_token=SecretStr("x" * 16),
        admin_token=SecretStr("y" * 16),
        embedding_base_url="http://127.0.0.1/v1",
        embedding_model="none",
        qdrant_url="",
    )
    document: dict[str, Any] = create_app(build(settings), background=False).openapi()
    return document


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return _run(arguments)
    except ConfigurationError as error:
        print(f"memory-service: {error}", file=sys.stderr)
        return 2


def _run(arguments: argparse.Namespace) -> int:
    command = arguments.command
    if command in ("serve", "check"):
        settings = load()
        if command == "serve":
            from memory_service.serving import run

            run(settings)
        else:
            print("the settings are valid")
        return 0
    if command == "openapi":
        print(json.dumps(openapi(), indent=2, sort_keys=True))
        return 0
    if command == "status":
        return _call(arguments, "GET", "/readyz")
    if command == "clients":
        return _call(arguments, "GET", "/v1/clients?limit=500")
    if command == "cleanup":
        return _call(arguments, "POST", "/v1/cleanup", {"dry_run": arguments.dry_run})
    if command == "reindex":
        return _call(arguments, "POST", "/v1/reindex")
    if command == "job":
        return _call(arguments, "GET", f"/v1/jobs/{arguments.job}")
    if command == "jobs":
        return _call(arguments, "POST", f"/v1/jobs/{arguments.action}")
    client = httpx.URL(path=f"/v1/clients/{arguments.client}").raw_path.decode()
    if command == "client":
        return _call(arguments, "GET", client)
    if command == "search":
        return _call(arguments, "POST", f"{client}/search", {"query": arguments.query})
    if command == "history":
        return _call(arguments, "GET", f"{client}/facts/{arguments.key}/history")
    if command == "forget":
        confirmed = arguments.confirm is not None
        body = {"confirm": arguments.confirm or arguments.client, "dry_run": not confirmed}
        return _call(arguments, "POST", f"{client}/forget", body)
    return _call(arguments, "GET", f"{client}/{command}")


if __name__ == "__main__":
    sys.exit(main())
