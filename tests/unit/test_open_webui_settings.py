"""What Open WebUI is told."""

from __future__ import annotations

import json
import subprocess

from settings import open_webui
from settings.images import pins


def environment(public_url: str = "https://openweb.example.com") -> dict[str, str]:
    return open_webui.plain_environment(
        "vendor/model", "https://llm.example.com/v1", public_url, "a@example.com"
    )


def test_the_environment_is_the_truth_and_the_doors_are_closed() -> None:
    told = environment()
    assert told["ENABLE_PERSISTENT_CONFIG"] == "false"
    assert told["ENABLE_SIGNUP"] == "false"
    assert told["ENABLE_MEMORIES"] == "false"
    assert told["ENABLE_PIP_INSTALL_FRONTMATTER_REQUIREMENTS"] == "false"
    assert told["CORS_ALLOW_ORIGIN"] == "https://openweb.example.com"
    assert "*" not in told["CORS_ALLOW_ORIGIN"]
    assert "SAFE_MODE" not in told, "it switches every function off at start"
    assert not [name for name in told if "PASSWORD" in name or ("KEY" in name and "API_KEYS" not in name)]


def test_only_the_declared_model_is_offered() -> None:
    connection = json.loads(environment()["OPENAI_API_CONFIGS"])
    assert connection["0"]["model_ids"] == ["vendor/model"]
    assert open_webui.model_record("vendor/model")["id"] == "vendor/model"


def test_without_a_public_address_the_tunnel_is_the_origin_and_cookies_work_on_http() -> None:
    told = environment("")
    assert told["CORS_ALLOW_ORIGIN"] == "http://127.0.0.1:8080;http://localhost:8080"
    assert told["WEBUI_SESSION_COOKIE_SECURE"] == "false"
    assert environment()["WEBUI_SESSION_COOKIE_SECURE"] == "true"


def test_any_secret_survives_the_shell_that_reads_it() -> None:
    value = "a'b\"c$HOME `id` \\ #;&\t!"
    text = open_webui.secret_environment({"X": value, "A": "1"})
    done = subprocess.run(
        ["bash", "-c", f'{text}\nprintf %s "$X"'], capture_output=True, text=True, check=True
    )
    assert done.stdout == value
    assert text.startswith("A=1\n")


def test_the_entry_command_reads_the_mounted_file_and_becomes_the_server() -> None:
    shell, flag, script = open_webui.entry_command()
    assert (shell, flag) == ("bash", "-c")
    assert script.startswith("set -a && . /run/secrets/open-webui.env && set +a && exec python3 -m uvicorn ")
    assert "--forwarded-allow-ips 172.30.0.0/24" in script


def test_a_password_with_any_character_makes_a_url() -> None:
    assert (
        open_webui.database_url("a/b@c:d") == "postgresql://openwebui:a%2Fb%40c%3Ad@postgres:5432/openwebui"
    )


def test_the_declaration_holds_no_secret_and_names_the_hook_inside_the_network() -> None:
    client = {"id": "c", "name": "C", "email": "c@example.com"}
    declared = json.loads(open_webui.declaration(admin_email="a@example.com", model="m", clients=[client]))
    assert "token" not in declared["function"]["valves"]
    assert declared["function"]["valves"]["assemble_url"] == "http://ingress:8081/webhook/memory/assemble"
    assert declared["clients"] == [{**client, "group": "", "tags": []}], "what was left out has its default"


def test_the_changelog_has_the_shape_that_the_server_parses() -> None:
    version = pins()["open-webui"].tag.removeprefix("v").removesuffix("-slim")
    lines = open_webui.changelog(version).splitlines()
    assert f"## [{version}] - released" in lines and "### Added" in lines
