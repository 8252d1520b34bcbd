"""What Open WebUI is told: its environment, the hook function, the model record, the declared clients.

Pure; the task puts it on the host, the tests start a real server with it. The names and their effect are
those of Open WebUI 0.12.4. The environment is the truth at every start (ENABLE_PERSISTENT_CONFIG=false), so
that nothing clicked together in the admin pages outlives a restart unseen.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote

from settings import names
from settings.schema import Client

FUNCTION: Final[Mapping[str, str]] = {
    "id": "memory_filter",
    "name": "Memory",
    "description": "Recalls what is known about the user before a chat turn and remembers the turn after it.",
}

#: Where the container sees its data; the path is the image's.
CONTAINER_DATA: Final = "/app/backend/data"
CONTAINER_SECRETS: Final = "/run/secrets/open-webui.env"


def plain_environment(model: str, llm_base_url: str, public_url: str, admin_email: str) -> dict[str, str]:
    """The variables that hold no secret.

    ``public_url`` is where browsers reach it, or "" when only an SSH tunnel does.
    """
    connection = {
        "0": {"enable": True, "model_ids": [model], "tags": [], "connection_type": "external"},
    }
    tunnel = f"http://127.0.0.1:{names.OPEN_WEBUI_PORT}"
    return {
        "ENV": "prod",
        # Values below are read at every start instead of once into the database.
        "ENABLE_PERSISTENT_CONFIG": "false",
        "WEBUI_ADMIN_EMAIL": admin_email,  # creates the admin on an empty database, without the wizard
        "WEBUI_ADMIN_NAME": "Admin",
        "WEBUI_URL": public_url or tunnel,
        "CORS_ALLOW_ORIGIN": public_url or f"{tunnel};{tunnel.replace('127.0.0.1', 'localhost')}",
        "WEBUI_SESSION_COOKIE_SECURE": "true" if public_url.startswith("https://") else "false",
        "WEBUI_AUTH_COOKIE_SECURE": "true" if public_url.startswith("https://") else "false",
        "ENABLE_SIGNUP": "false",
        "DEFAULT_USER_ROLE": "pending",
        # The provider. With the ids given, its list of models is never asked for.
        "OPENAI_API_BASE_URL": llm_base_url,
        "OPENAI_API_CONFIGS": json.dumps(connection, separators=(",", ":")),
        "ENABLE_OLLAMA_API": "false",
        "DEFAULT_MODELS": model,
        # Otherwise each chat carries 22 tool definitions (16 KB) to the model.
        "DEFAULT_MODEL_METADATA": json.dumps(
            {"capabilities": {"builtin_tools": False}}, separators=(",", ":")
        ),
        # Scripts and curl: API keys exist for whoever the admin lets make one; their chats pass the hook.
        "ENABLE_API_KEYS": "true",
        "USER_PERMISSIONS_FEATURES_API_KEYS": "true",
        "ENABLE_API_OUTLET_FILTERS": "true",
        # The memory of this stack is the only one.
        "ENABLE_MEMORIES": "false",
        # Functions run inside the server: nothing is installed on their behalf, valves are kept encrypted.
        "ENABLE_PIP_INSTALL_FRONTMATTER_REQUIREMENTS": "false",
        "ENABLE_VALVE_ENCRYPTION": "true",
        # Up to three more model calls per turn.
        "ENABLE_TITLE_GENERATION": "false",
        "ENABLE_TAGS_GENERATION": "false",
        "ENABLE_FOLLOW_UP_GENERATION": "false",
        "ENABLE_SEARCH_QUERY_GENERATION": "false",
        "ENABLE_RETRIEVAL_QUERY_GENERATION": "false",
        "ENABLE_AUTOCOMPLETE_GENERATION": "false",
        # What the stack does not use costs background work and attack surface.
        "ENABLE_CALENDAR": "false",
        "ENABLE_AUTOMATIONS": "false",
        "ENABLE_NOTES": "false",
        "ENABLE_CODE_INTERPRETER": "false",
        "ENABLE_CODE_EXECUTION": "false",
        "ENABLE_TOOLS": "false",
        "ENABLE_TOOL_SERVERS": "false",
        "ENABLE_COMMUNITY_SHARING": "false",
        "ENABLE_USER_STATUS": "false",
        "ENABLE_EVALUATION_ARENA_MODELS": "false",
        "ENABLE_VERSION_UPDATE_CHECK": "false",
        "OFFLINE_MODE": "true",  # no downloads at start
        # By default the database is polled every second.
        "TIMER_POLL_INTERVAL": "30",
        "SCHEDULER_POLL_INTERVAL": "300",
        "DATABASE_POOL_SIZE": "5",
        "THREAD_POOL_SIZE": "8",
        "GLOBAL_LOG_LEVEL": "INFO",
    }


def secret_environment(values: Mapping[str, str]) -> str:
    """A file of shell assignments that the container's entry command reads.

    A mounted file and not variables of the container, which `docker inspect` would show.
    """
    return "".join(f"{name}={shlex.quote(values[name])}\n" for name in sorted(values))


def database_url(password: str) -> str:
    """Where the server keeps its rows; the password may hold any character."""
    role = names.OPEN_WEBUI_DATABASE
    return f"postgresql://{role}:{quote(password, safe='')}@postgres:5432/{role}"


def entry_command() -> tuple[str, ...]:
    """The container's command: take the secrets over, then become the server.

    The server and not the image's start.sh, which may stay in front of it and swallow the stop signal.
    Addresses that visitors are said to have are believed from the Docker network only (the ingress).
    """
    server = (
        f"python3 -m uvicorn open_webui.main:app --host 0.0.0.0 --port {names.OPEN_WEBUI_PORT} "
        f"--forwarded-allow-ips {names.NETWORK_SUBNET} --workers 1"
    )
    return ("bash", "-c", f"set -a && . {CONTAINER_SECRETS} && set +a && exec {server}")


def changelog(version: str) -> str:
    """A changelog of one entry, laid over the image's: at every start the server parses all 1.5 MB of it
    into a tree, which costs 50 MB of memory and 2 s (measured with 0.12.4)."""
    return (
        f"# Changelog\n\n## [{version}] - released\n\n### Added\n\n"
        "- **Release notes**: https://github.com/open-webui/open-webui/releases\n"
    )


def valves(internal_port: int = names.INGRESS_INTERNAL_PORT) -> dict[str, object]:
    """The hook's valves without its token; what is not listed keeps the default in the filter."""
    base = f"http://ingress:{internal_port}/webhook/memory"
    return {
        "assemble_url": f"{base}/assemble",
        "writeback_url": f"{base}/writeback",
        "assemble_timeout_s": 2.0,
        "writeback_timeout_s": 10.0,
        "priority": -10,
    }


def model_record(model: str) -> dict[str, str]:
    """The record that lets plain users see the model; without one they see none."""
    return {
        "id": model,
        "name": model.rsplit("/", 1)[-1],
        "description": "The chat model, readable by everyone",
    }


def declaration(
    *,
    admin_email: str,
    model: str,
    clients: Sequence[Mapping[str, object]],
) -> str:
    """The JSON file that the on-host provisioner compares the live server with."""
    component = "open-webui"
    return (
        json.dumps(
            {
                "url": f"http://127.0.0.1:{names.OPEN_WEBUI_PORT}",
                "state_dir": names.data_path(component),
                "secrets_dir": f"{names.SECRETS_DIR}/{component}",
                "admin": {"email": admin_email},
                "function": {
                    **FUNCTION,
                    "file": names.config_path(component, "memory_filter.py"),
                    "valves": valves(),
                },
                "model": model_record(model),
                "clients": [Client.model_validate(dict(client)).model_dump() for client in clients],
                "memory_service_url": f"http://127.0.0.1:{names.MEMORY_SERVICE_PORT}",
            },
            indent=2,
        )
        + "\n"
    )
