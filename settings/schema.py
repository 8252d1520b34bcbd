"""Check settings before anything runs: one clear sentence per mistake.

The names, types and defaults are read from ``group_data/all.py``, so that a setting is written once.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import runpy
import typing
import zoneinfo
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pydantic
import yaml

from settings import cloudflare

DEFAULTS_FILE = Path(__file__).parent.parent / "group_data" / "all.py"

HOST_NAME = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
#: One bare address: it stands in configuration files of others.
EMAIL = r"[^@\s<>()\[\],;:\"\\]+@[^@\s<>()\[\],;:\"\\]+"

#: Names that a run may be given with ``--data`` beside the settings.
RUN_OPTIONS = frozenset({"only", "plan"})

#: What a setting used to be called, or is called elsewhere, and what to write instead.
RENAMED: Mapping[str, str] = {
    "ingress_mode": "the setting is called 'ingress'",
    "time_zone": "the setting is called 'timezone'",
    "tz": "the setting is called 'timezone'",
    "registry": "the setting is called 'image_registry'",
    "openrouter_api_key": "keys are secrets: run `drill secrets set llm_api_key`",
    "openai_api_key": "keys are secrets: run `drill secrets set llm_api_key`",
    "llm_api_key": "keys are secrets: run `drill secrets set llm_api_key`",
    "postgres_password": "passwords are secrets: run `drill secrets set postgres_superuser_password`",
    "n8n_encryption_key": "keys are secrets: run `drill secrets set n8n_encryption_key`",
    "openwebui_admin_email": "the setting is called 'open_webui_admin_email'",
}


class SettingsError(Exception):
    """The settings are wrong; ``problems`` holds one sentence per mistake."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class Client(pydantic.BaseModel):
    """A person whose chats are remembered."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    id: str = pydantic.Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    name: str = pydantic.Field(min_length=1)
    email: str = pydantic.Field(pattern=f"^{EMAIL}$")
    group: str = ""
    tags: list[str] = []


@cache
def defaults() -> dict[str, Any]:
    """Every setting with its default."""
    namespace = runpy.run_path(str(DEFAULTS_FILE))
    return {name: namespace[name] for name in namespace["__annotations__"]}


@cache
def _model() -> type[pydantic.BaseModel]:
    namespace = runpy.run_path(str(DEFAULTS_FILE))
    fields: dict[str, Any] = {}
    for name, annotation in namespace["__annotations__"].items():
        hint = typing.get_type_hints(_Holder(name, annotation), namespace)[name]
        fields[name] = (hint, namespace[name])
    fields["clients"] = (list[Client], namespace["clients"])
    return pydantic.create_model(
        "Settings", __config__=pydantic.ConfigDict(strict=True, extra="forbid"), **fields
    )


class _Holder:
    def __init__(self, name: str, annotation: str) -> None:
        self.__annotations__ = {name: annotation}


def read_settings_file(path: Path) -> dict[str, Any]:
    """What a user's settings file says; an absent file says nothing.

    Raises SettingsError when it is not a YAML mapping or names an unknown setting.
    """
    if not path.exists():
        return {}
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = str(error).splitlines()[0]
        raise SettingsError([f"{path} is not valid YAML: {first}."]) from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise SettingsError([f"{path} must hold lines of the form 'name: value'."])
    problems = check(content)
    if problems:
        raise SettingsError([f"{path}: {problem}" for problem in problems])
    return content


def check(changed: Mapping[str, Any]) -> list[str]:
    """The mistakes in settings laid over the defaults, one sentence each, none when they are right."""
    problems = [sentence for name in changed if (sentence := _unknown(name))]
    known = {name: value for name, value in changed.items() if name in defaults()}
    try:
        _model()(**{**defaults(), **known})
    except pydantic.ValidationError as error:
        problems += [_sentence(dict(detail)) for detail in error.errors()]
        return problems
    merged = {**defaults(), **known}
    problems += [sentence for rule in RULES if (sentence := rule(merged))]
    return problems


def _unknown(name: str) -> str | None:
    if name in defaults():
        return None
    if name in RENAMED:
        return f"'{name}' is not a setting: {RENAMED[name]}."
    close = difflib.get_close_matches(name, defaults(), n=1)
    hint = f" Did you mean '{close[0]}'?" if close else " group_data/all.py lists them all."
    return f"'{name}' is not a setting.{hint}"


_EXPECTED = {
    "int_type": "a whole number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
}


def _sentence(detail: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    found = detail["input"]
    match detail["type"]:
        case "literal_error":
            return f"'{where}' must be {detail['ctx']['expected']}, but is {found!r}."
        case "missing":
            return f"'{where}' is missing."
        case "extra_forbidden":
            return f"'{where}' is not known here; remove it."
        case kind if kind in _EXPECTED:
            return f"'{where}' must be {_EXPECTED[kind]}, but is {found!r}."
        case _:
            return f"'{where}' is {found!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}."


# --- Rules over values and combinations -------------------------------------------------------------


def _timezone(s: Mapping[str, Any]) -> str | None:
    if s["timezone"] in zoneinfo.available_timezones():
        return None
    return f"'timezone' must be an IANA name such as 'Europe/Berlin', but is {s['timezone']!r}."


def _domain(s: Mapping[str, Any]) -> str | None:
    if s["ingress"] != "none" and not s["domain"]:
        return f"'ingress' is '{s['ingress']}', which needs 'domain' to be set."
    if s["domain"] and not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", s["domain"]):
        return f"'domain' must be a bare domain name such as 'example.com', but is {s['domain']!r}."
    return None


def _acme(s: Mapping[str, Any]) -> str | None:
    if s["ingress"] == "caddy" and s["ingress_tls"] == "acme" and not re.fullmatch(EMAIL, s["acme_email"]):
        return (
            f"'ingress_tls' is 'acme', which needs 'acme_email' (an e-mail address), but it is {s['acme_email']!r}; "
            "set it or choose ingress_tls: internal."
        )
    return None


def _tunnel(s: Mapping[str, Any]) -> str | None:
    if s["ingress"] != "cloudflare":
        return None
    for name, (pattern, words) in cloudflare.IDS.items():
        if not re.fullmatch(pattern, s[name]):
            return f"'ingress' is 'cloudflare', which needs '{name}': {words}, as the Cloudflare dashboard shows it."
    return None


def _hostname(s: Mapping[str, Any]) -> str | None:
    if not s["hostname"] or re.fullmatch(HOST_NAME, s["hostname"]):
        return None
    return f"'hostname' must be a host name such as 'memory-1', but is {s['hostname']!r}."


def _registry(s: Mapping[str, Any]) -> str | None:
    if not s["image_registry"] or re.fullmatch(r"[A-Za-z0-9.-]+(:\d{1,5})?", s["image_registry"]):
        return None
    return f"'image_registry' must be host[:port], without a scheme or path, but is {s['image_registry']!r}."


def _insecure_registry(s: Mapping[str, Any]) -> str | None:
    if not s["image_registry_insecure"]:
        return None
    host = s["image_registry"].rsplit(":", 1)[0]
    try:
        private = ipaddress.ip_address(host).is_private
    except ValueError:
        private = False
    if private:
        return None
    return (
        "'image_registry_insecure' allows plain HTTP only to a private IP address, "
        f"but 'image_registry' is {s['image_registry']!r}."
    )


def _ports(s: Mapping[str, Any]) -> str | None:
    if 1 <= s["sshd_port"] <= 65535 and s["sshd_port"] not in (80, 443):
        return None
    return f"'sshd_port' must be a free port from 1 to 65535, but is {s['sshd_port']}."


def _hour(s: Mapping[str, Any]) -> str | None:
    if 0 <= s["cleanup_hour"] <= 23:
        return None
    return f"'cleanup_hour' must be from 0 to 23, but is {s['cleanup_hour']}."


_SMALLEST_MB = {  # below these the software was seen to fail at start
    "postgres_memory_mb": 192,
    "qdrant_memory_mb": 128,
    "ingress_memory_mb": 48,
    "tunnel_memory_mb": 48,
    "n8n_memory_mb": 512,
    "open_webui_memory_mb": 400,
    "memory_service_memory_mb": 96,
}


def _limits(s: Mapping[str, Any]) -> str | None:
    for name, least in _SMALLEST_MB.items():
        if s[name] < least:
            return f"'{name}' must be at least {least} (MiB), but is {s[name]}."
    return None


_RANGES: Mapping[str, tuple[int, int | None]] = {
    "journald_max_mb": (1, None),
    "swap_mb": (0, None),
    "memory_ttl_days": (1, 36_500),  # what the memory service takes; so for the next
    "context_token_budget": (100, 32_000),
    "llm_daily_token_budget": (0, None),
    # The pools of the memory service, n8n and Open WebUI hold up to 19, three are reserved, and people want one.
    "postgres_max_connections": (25, 1_000),
    "qdrant_shard_number": (1, None),
    "qdrant_replication_factor": (1, None),
}


def _numbers(s: Mapping[str, Any]) -> str | None:
    for name, (least, most) in _RANGES.items():
        if s[name] < least or (most is not None and s[name] > most):
            bounds = f"from {least} to {most}" if most is not None else f"{least} or more"
            return f"'{name}' must be {bounds}, but is {s[name]}."
    return None


def _urls(s: Mapping[str, Any]) -> str | None:
    for name in ("llm_base_url", "embedding_base_url"):
        value = s[name]
        if value and "@" in value.split("//", 1)[-1].split("/")[0]:
            return f"'{name}' must not carry a password; use `drill secrets set`."
        if value and not re.fullmatch(r"https?://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._~%/-]*)?", value):
            return f"'{name}' must be an http(s) URL such as https://api.example.com/v1, but is {value!r}."
    for name in ("llm_model", "embedding_model"):
        if not re.fullmatch(r"[A-Za-z0-9._:/@+~-]*", s[name]):
            return f"'{name}' must be a model's name as the provider's API knows it, but is {s[name]!r}."
    return None


def _emails(s: Mapping[str, Any]) -> str | None:
    for name in ("n8n_owner_email", "open_webui_admin_email"):
        if not re.fullmatch(EMAIL, s[name]):
            return f"'{name}' must be an e-mail address, but is {s[name]!r}."
    return None


def _unique_clients(s: Mapping[str, Any]) -> str | None:
    for field in ("id", "email"):
        seen = [client[field].lower() for client in s["clients"]]
        for value in seen:
            if seen.count(value) > 1:
                return f"'clients' holds {field} {value!r} twice."
            if value == s["open_webui_admin_email"].lower():
                return f"'clients' holds {value!r}, which is the admin's account ('open_webui_admin_email')."
    return None


def _admin(s: Mapping[str, Any]) -> str | None:
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", s["admin_user"]) or s["admin_user"] == "root":
        return f"'admin_user' must be a plain user name other than root, but is {s['admin_user']!r}."
    for key in s["admin_ssh_keys"]:
        if not re.match(r"(ssh-ed25519|ecdsa-sha2-\S+|ssh-rsa|sk-\S+) AAAA", key):
            return f"'admin_ssh_keys' holds a line that is not an SSH public key: {key[:30]!r}."
    return None


RULES: tuple[Callable[[Mapping[str, Any]], str | None], ...] = (
    _timezone,
    _domain,
    _acme,
    _hostname,
    _registry,
    _tunnel,
    _insecure_registry,
    _ports,
    _hour,
    _limits,
    _numbers,
    _urls,
    _emails,
    _unique_clients,
    _admin,
)
