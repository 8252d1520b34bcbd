"""How long assemble and writeback take, and how much memory the service holds.

    python -m benchmarks.latency --memories 10000 --requests 300

Runs the service in its own process over real PostgreSQL and the Qdrant double, which holds the real engine
behind a Python front: the service's share is measured, the front's milliseconds are in it too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
import psycopg

from benchmarks.filling import fill, percentiles, question, resident, sentence
from memory_service.service import build
from memory_service.settings import Settings
from tests.service.cluster import running_cluster
from tests.service.stack import (
    IN_A_HURRY,
    QDRANT_KEY,
    SERVICE_TOKEN,
    QdrantProcess,
    ServiceProcess,
    settings_for,
)

CALLERS = (1, 8, 32)


def used_cpu(process: ServiceProcess) -> float:
    """CPU seconds that the service has used so far: unlike the clock, hardly changed by a busy machine."""
    assert process.process is not None
    fields = Path(f"/proc/{process.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def timed(
    url: str, path: str, bodies: list[dict[str, object]], callers: int, lacking: Counter[str] | None = None
) -> list[float]:
    """Sends the bodies with so many callers at a time; seconds of each. Counts what answers did without."""
    seconds: list[float] = []
    waiting = iter(bodies)
    headers = {"Authorization": f"Bearer {SERVICE_TOKEN}"}

    async def caller(client: httpx.AsyncClient) -> None:
        for body in waiting:
            begun = time.perf_counter()
            response = await client.post(path, json=body)
            seconds.append(time.perf_counter() - begun)
            assert response.status_code == 200, response.text
            if lacking is not None:
                lacking.update(response.json().get("degraded", []))

    limits = httpx.Limits(max_connections=callers, max_keepalive_connections=callers)
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=60, limits=limits, trust_env=False
    ) as client:
        await asyncio.gather(*(caller(client) for _ in range(callers)))
    return seconds


async def run(memories: int, clients: int, requests: int, soak: int) -> None:
    """The whole benchmark."""
    source = random.Random(7)
    with running_cluster() as cluster, tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        cluster.create_database("m")
        storage = directory / "qdrant"
        storage.mkdir()
        qdrant = QdrantProcess(storage)
        qdrant.start()
        filling = build(
            Settings(
                postgres_port=cluster.port,
                postgres_database="m",
                qdrant_url=qdrant.url,
                qdrant_api_key=QDRANT_KEY,  # type: ignore[arg-type]  # pydantic makes it a secret
            )
        )
        assert filling.qdrant is not None
        await filling.qdrant.create(filling.qdrant.active)
        begun = time.perf_counter()
        await fill(filling, clients, memories // clients)
        stored = time.perf_counter() - begun
        begun = time.perf_counter()
        while await filling.worker.drain_once():
            pass
        drained = time.perf_counter() - begun
        await filling.close()
        # Autovacuum does this to a database that grew over months; here it would come in the middle.
        with psycopg.connect(cluster.dsn("m", "postgres"), autocommit=True) as admin:
            admin.execute("VACUUM ANALYZE")
        service = ServiceProcess(
            settings_for(cluster, "m", qdrant.url, "", directory, log_level="WARNING", **IN_A_HURRY),
            directory,
        )
        service.start()
        assert service.process is not None
        pid = service.process.pid
        print(
            f"{memories} memories of {clients} clients; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
        )
        print(
            f"stored {memories / stored:.0f}/s, delivered to the index {memories / max(drained, 0.001):.0f}/s"
        )
        print(f"resident memory when idle: {resident(pid)} MB")
        print(
            f"| call ({requests}, writeback {requests // 2}) | callers | p50 ms | p95 ms | p99 ms "
            "| CPU ms of the service per call | answers without |\n|---|---|---|---|---|---|---|"
        )

        async def row(path: str, bodies: list[dict[str, object]], callers: int) -> None:
            before, lacking = used_cpu(service), Counter[str]()
            seconds = await timed(service.url, f"/v1/{path}", bodies, callers, lacking)
            spent = 1000 * (used_cpu(service) - before) / len(bodies)
            without = ", ".join(f"{reason} {number}" for reason, number in lacking.items()) or "-"
            print(f"| {path} | {callers} | {percentiles(seconds)} | {spent:.1f} | {without} |", flush=True)

        def asks(count: int) -> list[dict[str, object]]:
            return [
                {"client_id": source.randint(1, clients), "query": question(source)} for _ in range(count)
            ]

        await timed(service.url, "/v1/assemble", asks(50), 4)
        for callers in CALLERS:
            await row("assemble", asks(requests), callers)
        for callers in (1, 8):
            turns: list[dict[str, object]] = [
                {
                    "client_id": source.randint(1, clients),
                    "conversation": [{"role": "user", "content": sentence(source)}],
                    "response": sentence(source),
                    "message_id": f"{callers}.{number}",
                    "chat_id": f"new {number % 20}",
                }
                for number in range(requests // 2)
            ]
            await row("writeback", turns, callers)
        if soak:
            await timed(service.url, "/v1/assemble", asks(soak), 8)
            print(f"resident memory after {soak} more requests: {resident(pid)} MB")
        service.stop()
        qdrant.stop()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--memories", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=10, help="whose memories they are, in equal parts")
    parser.add_argument("--requests", type=int, default=300, help="assemble calls per number of callers")
    parser.add_argument("--soak", type=int, default=0, help="requests before the memory is measured again")
    arguments = parser.parse_args()
    asyncio.run(run(arguments.memories, arguments.clients, arguments.requests, arguments.soak))


if __name__ == "__main__":
    main()
