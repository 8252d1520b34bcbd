"""What the memory costs a chat: time to the first word with and without the hook, each hop, and memory.

    uv run python -m benchmarks.chat                    a real Open WebUI on this machine, a webhook that answers at once
    uv run python -m benchmarks.chat --droplet NAME     the deployed droplet, through its ingress

On this machine the figures show what the filter itself costs. On a droplet they show the whole way, and the
share of each hop, measured from inside Open WebUI's container.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import ssl
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

from drill.machine import Droplet, find
from settings import names
from settings.secrets import host_secrets
from tests.doubles.openai_double import serving
from tests.service.open_webui_server import MODEL, OpenWebui, Webhook, database, http

QUESTION = "What is my favourite colour?"


@dataclass(frozen=True)
class Target:
    """An Open WebUI to measure: where, as whom, which model, and how to read its memory."""

    url: str
    token: str
    model: str
    memory_mb: Callable[[], dict[str, float]]
    trust: ssl.SSLContext | None = None


def first_word_ms(target: Target, text: str) -> float:
    """Milliseconds from the request to the first word of a streamed answer, on a fresh connection."""
    parts = urlsplit(target.url)
    assert parts.hostname
    started = time.perf_counter()
    connection = (
        HTTPSConnection(parts.hostname, parts.port or 443, context=target.trust, timeout=60)
        if parts.scheme == "https"
        else HTTPConnection(parts.hostname, parts.port or 80, timeout=60)
    )
    body = {"model": target.model, "stream": True, "messages": [{"role": "user", "content": text}]}
    headers = {"Authorization": f"Bearer {target.token}", "Content-Type": "application/json"}
    try:
        connection.request("POST", "/api/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != 200:
            raise SystemExit(f"the chat answered {response.status}: {response.read(200)!r}")
        while line := response.readline():
            if line.startswith(b"data: {"):
                choices = json.loads(line[6:]).get("choices") or [{}]
                if choices[0].get("delta", {}).get("content"):
                    elapsed = (time.perf_counter() - started) * 1000
                    response.read()
                    return elapsed
    finally:
        connection.close()
    raise SystemExit("the stream ended without a word")


def spread(values: list[float]) -> str:
    """p50 and p95 of milliseconds."""
    ordered = sorted(values)
    return f"p50 {statistics.median(ordered):7.1f} ms   p95 {ordered[int(0.95 * (len(ordered) - 1))]:7.1f} ms"


def use_hook(target: Target, on: bool) -> None:
    """The user's own switch, so that nobody else's chats change while this runs."""
    path = f"{target.url}/api/v1/functions/id/memory_filter/valves/user/update"
    answer = http("POST", path, {"enabled": on}, target.token)
    if answer.status != 200:
        raise SystemExit(f"the hook could not be switched for the user (HTTP {answer.status})")


def measure(target: Target, turns: int, chats: int) -> None:
    """Print the figures of one target."""
    idle = target.memory_mb()
    for _ in range(3):
        first_word_ms(target, QUESTION)
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(5):  # in turns, so that a slow moment of the machine hits both alike
        for on in (False, True):
            use_hook(target, on)
            times[on] += [first_word_ms(target, QUESTION) for _ in range(turns // 5)]
    use_hook(target, True)
    print(f"time to the first word, {len(times[True])} chats each, one at a time")
    print(f"  without the hook   {spread(times[False])}")
    print(f"  with the hook      {spread(times[True])}")
    print(
        f"  the hook costs     p50 {statistics.median(times[True]) - statistics.median(times[False]):7.1f} ms"
    )
    started = time.perf_counter()
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda number: first_word_ms(target, f"My item {number} is {number}."), range(chats)))
    print(f"{chats} chats, 5 at a time: {time.perf_counter() - started:.1f} s")
    after = target.memory_mb()
    for name, before in idle.items():
        print(f"memory, {name}: {before:6.0f} MB before, {after[name]:6.0f} MB after {chats} chats")


@contextmanager
def this_machine() -> Iterator[Target]:
    """A real server, the double as its model, a webhook that answers at once."""
    with tempfile.TemporaryDirectory() as name, serving() as (llm_url, _):
        folder = Path(name)
        with database() as database_url:
            webhook = Webhook()
            webhook.start()
            server = OpenWebui(folder, database_url, llm_url, webhook, f"http://127.0.0.1:{webhook.port}")
            server.prepare()
            server.start()
            try:
                applied = server.provision("apply")
                if applied.returncode != 0:
                    raise SystemExit(applied.stderr)
                email = server.clients[0]["email"]
                token = server.sign_in(email, server.secret("client_password"))
                yield Target(server.url, token, MODEL, lambda: {"Open WebUI (RSS)": server.rss_mb()})
            finally:
                server.stop()
                webhook.stop()


def on(droplet: Droplet, command: str, text: str = "") -> str:
    """The output of a command on the droplet; ends the benchmark when it fails."""
    done = droplet.run(command, input_text=text)
    if done.returncode != 0:
        raise SystemExit(f"on {droplet.name}: {command.split()[0]} failed: {done.stderr.strip()[-300:]}")
    return done.stdout


def droplet_memory_mb(droplet: Droplet) -> dict[str, float]:
    """Open WebUI's resident memory, and the whole machine's against its limit."""
    status = on(droplet, "docker exec open-webui grep VmRSS /proc/1/status")
    used = on(droplet, "docker stats --no-stream --format '{{.Name}} {{.MemUsage}}'")
    units = {"B": 1e-6, "KiB": 1 / 1024, "MiB": 1.0, "GiB": 1024.0}
    found = {"Open WebUI (RSS)": int(status.split()[1]) / 1024}
    for line in used.splitlines():
        name, amount = line.split()[:2]
        number = amount.rstrip("BKMGi")
        found[f"container {name}"] = float(number) * units[amount[len(number) :]]
    whole = droplet.memory()
    found[f"the whole droplet, of {whole.limit / 2**20:.0f} MB"] = whole.used / 2**20
    return found


def hops(droplet: Droplet, user_id: str, calls: int) -> None:
    """Print how long assemble takes at each hop, called from where the filter calls."""
    secrets = host_secrets(droplet.name)
    body = json.dumps({"client_id": user_id, "query": QUESTION, "timestamp": ""})
    rows = (
        (
            "memory service",
            f"http://{names.NETWORK_GATEWAY}:{names.MEMORY_SERVICE_PORT}/v1/assemble",
            f"Authorization: Bearer {secrets['memory_service_token'].reveal()}",
        ),
        (
            "+ n8n",
            f"http://n8n:{names.N8N_PORT}/webhook/memory/assemble",
            f"X-Webhook-Token: {secrets['webhook_token'].reveal()}",
        ),
        (
            "+ ingress",
            f"http://ingress:{names.INGRESS_INTERNAL_PORT}/webhook/memory/assemble",
            f"X-Webhook-Token: {secrets['webhook_token'].reveal()}",
        ),
    )
    print(f"assemble from inside Open WebUI's container, {calls} calls each, one at a time")
    times: dict[str, list[float]] = {name: [] for name, _, _ in rows}
    for _ in range(5):  # in turns, so that a slow moment of the machine hits all alike
        for name, url, header in rows:
            # curl reads its options, the token among them, from its standard input.
            options = "\n".join(
                [
                    f'header = "{header}"',
                    'header = "Content-Type: application/json"',
                    f"data = {json.dumps(body)}",
                    'write-out = "%{http_code} %{time_total}\\n"',
                    "silent",
                    *(f'url = "{url}"\noutput = "/dev/null"' for _ in range(calls // 5)),
                ]
            )
            lines = on(droplet, "docker exec -i open-webui curl --config -", options).splitlines()
            bad = [line for line in lines if not line.startswith("200 ")]
            if bad:
                raise SystemExit(
                    f"{name}: {len(bad)} of {len(lines)} calls failed, one with {bad[0].split()[0]}"
                )
            times[name] += [float(line.split()[1]) * 1000 for line in lines]
    for name, values in times.items():
        print(f"  {name:<16} {spread(values)}")


@contextmanager
def deployed(droplet: Droplet, domain: str) -> Iterator[tuple[Target, str]]:
    """The droplet's Open WebUI through its ingress, as the first declared client."""
    clients = json.loads(on(droplet, "cat /var/lib/memory-droplet/open-webui/clients.json"))
    model = json.loads(on(droplet, "cat /etc/memory-droplet/open-webui/provision.json"))["model"]["id"]
    client = next(iter(clients.values()))
    root = on(droplet, "cat /var/lib/memory-droplet/ingress/caddy/pki/authorities/local/root.crt")
    url = f"https://openweb.{domain}"
    resolve = socket.getaddrinfo

    def resolve_droplet(name: str, *arguments: object, **options: object) -> object:
        address = droplet.address if str(name).endswith(domain) else name
        return resolve(address, *arguments, **options)  # type: ignore[arg-type]

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "root.crt"
        file.write_text(root)
        os.environ["SSL_CERT_FILE"] = str(file)
        socket.getaddrinfo = resolve_droplet  # type: ignore[assignment]
        try:
            password = host_secrets(droplet.name)["openwebui_client_password"].reveal()
            signed_in = http(
                "POST", f"{url}/api/v1/auths/signin", {"email": client["email"], "password": password}
            )
            if signed_in.status != 200:
                raise SystemExit(f"the sign-in of {client['email']} answered {signed_in.status}")
            trust = ssl.create_default_context(cafile=str(file))
            target = Target(url, signed_in.json["token"], model, lambda: droplet_memory_mb(droplet), trust)
            yield target, client["open_webui_user_id"]
        finally:
            socket.getaddrinfo = resolve


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--droplet", metavar="NAME", help="a running local droplet with the stack on it")
    parser.add_argument(
        "--domain", default="droplet.test", help="the droplet's domain (default: %(default)s)"
    )
    parser.add_argument("--turns", type=int, default=40, help="timed chats with and without the hook")
    parser.add_argument("--chats", type=int, default=100, help="chats before memory is read again")
    options = parser.parse_args()
    if not options.droplet:
        with this_machine() as target:
            measure(target, options.turns, options.chats)
        return
    droplet = find(options.droplet)
    with deployed(droplet, options.domain) as (target, user_id):
        measure(target, options.turns, options.chats)
    hops(droplet, user_id, options.turns)


if __name__ == "__main__":
    main()
