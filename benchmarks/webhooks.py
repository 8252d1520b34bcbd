"""What n8n and the ingress cost: the same calls to the memory service alone, through n8n, and through all.

    uv run python benchmarks/webhooks.py [--seconds 10] [--callers 1,8,50]

Measures the machine that a deploy would act on ($DROPLET_HOST, or the local droplet $DROPLET_NAME), from a process on
that machine, so that the network is no part of it; the caller shares its processors with what it measures. Asks for
a context (assemble) and writes turns back, each with a new message id, for a client of its own that is forgotten
afterwards.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass

from drill import host
from settings.hosts import LOCAL_DOMAIN, settings_file
from settings.schema import defaults, read_settings_file

#: Runs on the machine. Reads a JSON line with the plan, prints one JSON line per measurement.
CALLER = r"""
import http.client, json, ssl, sys, threading, time, uuid

plan = json.loads(PLAN)
secret = lambda name: open("/etc/memory-droplet/secrets/n8n/" + name).read().strip()
webhook = {"X-Webhook-Token": secret("webhook_token"), "Content-Type": "application/json"}
bearer = {"Authorization": "Bearer " + secret("memory_service_token"), "Content-Type": "application/json"}
client = "benchmark-" + uuid.uuid4().hex
domain = "n8n." + plan["domain"]

class Ingress(http.client.HTTPSConnection):
    def connect(self):
        self.sock = None
        http.client.HTTPConnection.connect(self)
        context = ssl.create_default_context(); context.check_hostname = False; context.verify_mode = ssl.CERT_NONE
        self.sock = context.wrap_socket(self.sock, server_hostname=domain)

def connect(way):
    if way == "service alone":
        return http.client.HTTPConnection("127.0.0.1", 8765, timeout=40), "/v1/", bearer
    if way == "n8n + service":
        return http.client.HTTPConnection("127.0.0.1", 5678, timeout=40), "/webhook/memory/", webhook
    return Ingress("127.0.0.1", 443, timeout=40), "/webhook/memory/", {**webhook, "Host": domain}

def body(what):
    if what == "assemble":
        return {"client_id": client, "query": "what did we say about tea in the morning?"}
    text = "I wrote down note " + uuid.uuid4().hex
    return {"client_id": client, "conversation": [{"role": "user", "content": text}], "response": "Noted.",
            "chat_id": client, "message_id": uuid.uuid4().hex}

def memory():
    for path in ("/sys/fs/cgroup/memory/system.slice/docker-%s.scope/memory.stat", "/sys/fs/cgroup/system.slice/docker-%s.scope/memory.stat",
                 "/sys/fs/cgroup/memory/docker/%s/memory.stat"):
        try:
            stat = dict(line.split() for line in open(path % plan["container"]))
            return int(stat.get("anon", stat.get("total_rss", 0))) / 2**20
        except OSError:
            continue
    return 0.0

for way in plan["ways"]:
    for what in plan["calls"]:
        for callers in plan["callers"]:
            seconds, bad, peak = [], {}, 0.0
            stop = time.monotonic() + plan["seconds"]
            def call():
                connection, prefix, headers = connect(way)
                while time.monotonic() < stop:
                    started = time.monotonic()
                    try:
                        connection.request("POST", prefix + what, json.dumps(body(what)), headers)
                        answer = connection.getresponse(); answer.read()
                        outcome = answer.status
                    except (OSError, http.client.HTTPException) as error:
                        connection.close(); outcome = type(error).__name__
                    if outcome == 200: seconds.append(time.monotonic() - started)
                    else: bad[str(outcome)] = bad.get(str(outcome), 0) + 1
            threads = [threading.Thread(target=call) for _ in range(callers)]
            began = time.monotonic()
            for thread in threads: thread.start()
            while any(thread.is_alive() for thread in threads):
                peak = max(peak, memory()); time.sleep(0.2)
            took = time.monotonic() - began
            seconds.sort()
            at = lambda share: seconds[min(len(seconds) - 1, int(len(seconds) * share))] * 1000 if seconds else 0.0
            print(json.dumps({"way": way, "what": what, "callers": callers, "answers": len(seconds), "bad": bad,
                              "rate": len(seconds) / took, "p50": at(.5), "p95": at(.95), "p99": at(.99),
                              "n8n_mb": peak}), flush=True)

admin = open("/etc/memory-droplet/secrets/memory-service/admin_token").read().strip()
connection = http.client.HTTPConnection("127.0.0.1", 8765, timeout=60)
headers = {"Authorization": "Bearer " + admin, "Content-Type": "application/json"}
connection.request("POST", "/v1/clients/" + client + "/forget", json.dumps({"confirm": client}), headers)
answer = connection.getresponse()
if answer.status not in (200, 404):
    sys.exit("the benchmark's client was not forgotten: status %d, %s" % (answer.status, answer.read().decode()))
"""

WAYS = ("service alone", "n8n + service", "ingress + n8n + service")


@dataclass(frozen=True)
class Machine:
    """How to run a command on the machine under test."""

    name: str
    ssh_config: str

    def run(self, command: str, stdin: str = "") -> str:
        """Output of a command on the machine; what it says on stderr is passed on when it fails."""
        done = subprocess.run(
            ["ssh", "-F", self.ssh_config, self.name, command],
            input=stdin, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{self.name}: {done.stderr.strip()[-500:]}")
        return done.stdout


def table(rows: list[dict[str, object]]) -> str:
    """The measurements as a Markdown table; times in milliseconds."""
    lines = [
        "| calls | way | callers | calls/s | p50 ms | p95 ms | p99 ms | n8n MiB | failed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(
        rows, key=lambda one: (str(one["what"]), int(str(one["callers"])), WAYS.index(str(one["way"])))
    ):
        lines.append(
            f"| {row['what']} | {row['way']} | {row['callers']} | {row['rate']:.1f} | {row['p50']:.0f} | {row['p95']:.0f} "
            f"| {row['p99']:.0f} | {row['n8n_mb']:.0f} | {row['bad'] or 0} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10, help="per measurement (default 10)")
    parser.add_argument(
        "--callers", default="1,8", help="concurrent callers, separated by commas (default 1,8)"
    )
    parser.add_argument("--calls", default="assemble,writeback", help="which calls (default both)")
    parser.add_argument("--ways", type=int, nargs="*", default=[0, 1, 2], help="0 service, 1 n8n, 2 ingress")
    given = parser.parse_args()
    where = host.existing(None)
    machine = Machine(where.name, str(where.ssh_config))
    settings = {
        **defaults(),
        **({"domain": LOCAL_DOMAIN} if where.local else {}),
        **read_settings_file(settings_file()),
    }
    domain = str(settings["domain"])
    plan = {
        "seconds": given.seconds,
        "callers": [int(count) for count in given.callers.split(",")],
        "ways": [WAYS[way] for way in given.ways if domain or way < 2],
        "calls": given.calls.split(","),
        "domain": domain,
        "container": machine.run("docker inspect -f '{{.Id}}' n8n").strip(),
    }
    output = machine.run("python3 -", stdin=f"PLAN = {json.dumps(plan)!r}\n{CALLER}")
    print(table([json.loads(line) for line in output.splitlines()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
