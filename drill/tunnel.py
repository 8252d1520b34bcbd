"""Routes and DNS of a Cloudflare tunnel as code, from the laptop.

The tunnel is remotely managed: Cloudflare holds which host name goes where. This step reads that and the
DNS records, compares them with the settings, and writes only what differs. The API token stays here.
API: https://developers.cloudflare.com/api/ (cfd_tunnel configurations, dns records).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import requests

from drill.console import say
from drill.errors import DrillError
from settings import secrets
from settings.hosts import settings_file
from settings.schema import defaults, read_settings_file

API = "https://api.cloudflare.com/client/v4"
ORIGIN = "http://ingress:80"
SITES = ("n8n", "openweb")

Json = dict[str, Any]


class TunnelError(DrillError):
    """Cloudflare's API refused, or a setting that it needs is missing."""


@dataclass(frozen=True)
class Change:
    """One difference in words, and the call that removes it."""

    sentence: str
    method: str
    path: str
    body: Json


@dataclass(frozen=True)
class Declared:
    """What the settings say: ids of account, zone and tunnel, and the host names."""

    account: str
    zone: str
    tunnel: str
    hosts: tuple[str, ...]

    @property
    def target(self) -> str:
        """What the DNS records point at."""
        return f"{self.tunnel}.cfargotunnel.com"


def declared(settings: Mapping[str, Any]) -> Declared:
    """The declaration from the settings; raises TunnelError unless ``ingress`` is ``cloudflare``."""
    if settings["ingress"] != "cloudflare":
        raise TunnelError(f"'ingress' is '{settings['ingress']}'; a tunnel needs ingress: cloudflare.")
    return Declared(
        settings["cloudflare_account_id"],
        settings["cloudflare_zone_id"],
        settings["cloudflare_tunnel_id"],
        tuple(f"{site}.{settings['domain']}" for site in SITES),
    )


def _essence(rule: Json) -> Json:
    """What a route does; Cloudflare adds numbers and empty options of its own."""
    return {key: rule[key] for key in ("hostname", "path", "service", "originRequest") if rule.get(key)}


def route_changes(wanted: Declared, live: Json) -> list[Change]:
    """What differs in the tunnel's routes. Routes of other host names are kept, the catch-all is last."""
    rules: list[Json] = list((live.get("config") or {}).get("ingress") or [])
    foreign = [rule for rule in rules if rule.get("hostname") and rule["hostname"] not in wanted.hosts]
    ours = [{"hostname": name, "service": ORIGIN} for name in wanted.hosts]
    new = [*ours, *foreign, {"service": "http_status:404"}]
    if [_essence(rule) for rule in rules] == [_essence(rule) for rule in new]:
        return []
    live_by_name = {rule.get("hostname"): rule.get("service") for rule in rules}
    words = [
        f"{name} goes to {live_by_name.get(name, 'nowhere')}, not {ORIGIN}"
        for name in wanted.hosts
        if live_by_name.get(name) != ORIGIN
    ] or ["a path, an option, the order or the catch-all differs"]
    config = {**(live.get("config") or {}), "ingress": new}
    path = f"/accounts/{wanted.account}/cfd_tunnel/{wanted.tunnel}/configurations"
    return [Change(f"tunnel routes: {'; '.join(words)}", "PUT", path, {"config": config})]


def record_changes(wanted: Declared, host_name: str, records: Sequence[Json]) -> list[Change]:
    """What differs in the DNS records of a host name; raises TunnelError for a record that is not ours."""
    body = {"type": "CNAME", "name": host_name, "content": wanted.target, "proxied": True}
    path = f"/zones/{wanted.zone}/dns_records"
    if not records:
        return [Change(f"DNS: {host_name} does not exist", "POST", path, body)]
    if len(records) > 1 or records[0]["type"] != "CNAME":
        kinds = ", ".join(f"{record['type']} {record['content']}" for record in records)
        raise TunnelError(
            f"{host_name} has records of its own ({kinds}); remove them in the dashboard first."
        )
    record = records[0]
    if record["content"] == wanted.target and record.get("proxied") is True:
        return []
    return [Change(f"DNS: {host_name} points at {record['content']}", "PUT", f"{path}/{record['id']}", body)]


class Cloudflare:
    """A thin client: JSON in, ``result`` out; every refusal is a TunnelError."""

    def __init__(self, token: str, api: str = API) -> None:
        self._api = api
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {token}"

    def call(self, method: str, path: str, body: Json | None = None) -> Any:
        """One call; at most 30 seconds."""
        try:
            answer = self._session.request(method, f"{self._api}{path}", json=body, timeout=30)
            content = answer.json()
        except (requests.RequestException, ValueError) as error:
            raise TunnelError(
                f"Cloudflare's API did not answer {method} {path}: {type(error).__name__}."
            ) from None
        if not content.get("success"):
            reasons = (
                "; ".join(str(e.get("message")) for e in content.get("errors") or []) or answer.status_code
            )
            raise TunnelError(
                f"Cloudflare refused {method} {path}: {reasons}. Check the ids in the settings and the rights "
                "of cloudflare_api_token (Tunnel: Edit, DNS: Edit)."
            )
        return content["result"]


def plan(wanted: Declared, cloudflare: Cloudflare) -> list[Change]:
    """Every difference between the settings and Cloudflare."""
    path = f"/accounts/{wanted.account}/cfd_tunnel/{wanted.tunnel}/configurations"
    changes = route_changes(wanted, cloudflare.call("GET", path) or {})
    for host_name in wanted.hosts:
        records = cloudflare.call("GET", f"/zones/{wanted.zone}/dns_records?name={host_name}")
        changes += record_changes(wanted, host_name, records)
    return changes


def apply(changes: Sequence[Change], cloudflare: Cloudflare) -> None:
    """Make the changes, saying each."""
    for change in changes:
        cloudflare.call(change.method, change.path, change.body)
        say(f"changed: {change.sentence}")


def add_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``drill tunnel plan|apply``."""
    text = "routes and DNS of the Cloudflare tunnel: show or write the differences to the settings"
    parser = commands.add_parser("tunnel", help=text, description=__doc__)
    parser.add_argument("action", choices=["plan", "apply"])
    parser.add_argument("--host", required=True, help="the droplet's name, for its secrets")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    wanted = declared({**defaults(), **read_settings_file(settings_file())})
    token = secrets.host_secrets(arguments.host)["cloudflare_api_token"]
    if not token:
        raise TunnelError("The API token is not stored; run: drill secrets set cloudflare_api_token")
    cloudflare = Cloudflare(token.reveal())
    changes = plan(wanted, cloudflare)
    if not changes:
        say("Cloudflare is as the settings say")
    elif arguments.action == "plan":
        for change in changes:
            say(change.sentence)
    else:
        apply(changes, cloudflare)
    return 0
