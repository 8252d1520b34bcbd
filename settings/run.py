"""What one run of the deploy was asked to do, checked before the first operation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyinfra.api import Host

from settings import hosts, secrets
from settings.cloudflare import token_problem
from settings.schema import RUN_OPTIONS, SettingsError, check, defaults


@dataclass(frozen=True)
class Options:
    """The options of a run: the components it is limited to (none: all) and whether to print the plan."""

    only: tuple[str, ...]
    plan: bool


def dry_run() -> bool:
    """Whether this process only shows what would change."""
    return "--dry" in sys.argv


def _of_connector(name: str) -> bool:
    """Whether a datum is pyinfra's own, such as ``ssh_user``."""
    return name.startswith("ssh_") and name not in defaults()


def prepare(host: Host) -> Options:
    """Check a host's settings and complete its secrets; a dry run stores nothing.

    Raises SettingsError or SecretsError with one sentence per mistake.
    """
    data: dict[str, object] = host.data.dict()  # type: ignore[no-untyped-call]
    given: dict[str, object] = host.state.inventory.get_override_data()  # type: ignore[no-untyped-call]
    override = {k: v for k, v in given.items() if k not in RUN_OPTIONS and not _of_connector(k)}
    settings = {k: v for k, v in data.items() if k in defaults()} | override
    if problems := check(settings):
        raise SettingsError([f"{host.name}: {problem}" for problem in problems])
    if not dry_run():
        if hosts.remote() and (question := secrets.no_store_yet(host.name)):
            raise secrets.SecretsError(question)
        secrets.init(host.name)
    if problems := [p for p in secrets.check(host.name) if "missing" not in p or not dry_run()]:
        raise secrets.SecretsError("\n".join(problems))
    provider = str(data["embedding_base_url"])
    if provider.startswith("https://") and not secrets.host_secrets(host.name)["embedding_api_key"]:
        raise secrets.SecretsError(
            f"'embedding_base_url' is {provider}, which needs a key; run: drill secrets set embedding_api_key"
        )
    if data["ingress"] == "cloudflare":
        token = secrets.host_secrets(host.name)["cloudflare_tunnel_token"].reveal()
        account, tunnel = str(data["cloudflare_account_id"]), str(data["cloudflare_tunnel_id"])
        if problem := token_problem(token, account, tunnel):
            raise secrets.SecretsError(problem)
    only = str(data.get("only", "") or "")
    return Options(tuple(filter(None, only.split(","))), bool(data.get("plan", False)))


def chosen(
    components: Mapping[str, Callable[[], object]], only: tuple[str, ...]
) -> list[Callable[[], object]]:
    """The components a run is limited to, in the order of the deploy; raises SettingsError for a typo."""
    if unknown := [name for name in only if name not in components]:
        raise SettingsError(
            [f"'only' names {', '.join(unknown)}, but the components are {', '.join(components)}."]
        )
    return [task for name, task in components.items() if not only or name in only]
