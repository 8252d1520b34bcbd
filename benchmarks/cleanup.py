"""How long the nightly cleanup takes, for a normal night and for a backlog.

    python -m benchmarks.cleanup --rows 1000000

Entries live 90 days, so a normal night removes a ninetieth of them; the backlog is ten times that.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time

import psycopg

from memory_service.service import build
from memory_service.settings import Settings
from tests.service.cluster import running_cluster

# Vectors of one number each: what is deleted and not what it means is measured; the size on disk is real.
_FILL = """
    INSERT INTO memory.memory_entries (id, client_id, content, embedding, embedding_model, source_type, ttl_days,
                                       content_hash, created_at)
    SELECT gen_random_uuid(), 1 + n %% 100, 'I bought the old bicycle number ' || n || ' near the river ' || n %% 977,
           vectors.one, 'bench', 'conversation', 90, 'x', now() - interval '90 days' + n * interval '90 days' / %s
           - %s * interval '1 day'
    FROM generate_series(%s::bigint, %s::bigint) n,
         (SELECT ('[' || string_agg(random()::text, ',') || ']')::public.vector(1536) AS one
          FROM generate_series(1, 1536)) vectors
"""


async def run(rows: int) -> None:
    """The whole benchmark."""
    with running_cluster(max_wal_size="4GB", synchronous_commit="off") as cluster:
        cluster.create_database("m")
        with psycopg.connect(cluster.dsn("m"), autocommit=True) as connection:
            connection.execute("SET memory.scope = 'system'")
            connection.execute(
                "INSERT INTO memory.client_profiles (id, user_id) SELECT n, 'u' || n FROM generate_series(1, 100) n"
            )
            begun = time.perf_counter()
            for start in range(0, rows, 10_000):
                last = min(rows, start + 10_000) - 1
                connection.execute(_FILL, [rows, 1, start, last])
            connection.execute("TRUNCATE memory.vector_outbox")
            connection.execute("ANALYZE")
            print(
                f"filled {rows} rows in {time.perf_counter() - begun:.0f} s; load average {os.getloadavg()[0]:.1f}"
            )
            settings = Settings(
                postgres_port=cluster.port,
                postgres_database="m",
                qdrant_url="",
                embedding_base_url="http://127.0.0.1",
                embedding_model="none",
            )
            service = build(settings)
            print("| night | removed | complete | s |\n|---|---|---|---|")
            for name, days in (("normal", 0), ("backlog of ten", 10)):
                if days:
                    connection.execute(
                        "UPDATE memory.memory_entries SET created_at = created_at - interval '10 days'"
                        " WHERE created_at < now() - interval '79 days'"
                    )
                    connection.execute("TRUNCATE memory.vector_outbox")
                answer = await service.cleaner.clean(False, None)
                seconds = answer.execution_time_ms / 1000
                print(f"| {name} | {answer.removed['memory_entries']} | {answer.complete} | {seconds:.1f} |")
            await service.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    asyncio.run(run(parser.parse_args().rows))


if __name__ == "__main__":
    main()
