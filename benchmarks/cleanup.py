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

# What is deleted and not what it means is measured: all vectors are the same one. Only the entries that are
# going to be removed have one, so that a million rows do not need 7 GB of disk.
_ENTRIES = """
    INSERT INTO memory.memory_entries (id, client_id, content, embedding, embedding_model, source_type, ttl_days,
                                       content_hash, created_at)
    SELECT gen_random_uuid(), 1 + n %% 100, 'I bought the old bicycle number ' || n || ' near the river ' || n %% 977,
           CASE WHEN n < %(embedded)s THEN one END, 'bench', 'conversation', 90, 'x',
           now() - interval '91 days' + n * interval '90 days' / %(rows)s
    FROM generate_series(0, %(rows)s::bigint - 1) n,
         (SELECT ('[' || string_agg(random()::text, ',') || ']')::public.vector(1536) AS one
          FROM generate_series(1, 1536)) vectors
"""
# What the triggers would have written row by row, in the order of the index.
_TERMS = """
    INSERT INTO memory.memory_terms (client_id, term, slot, tf, len)
    SELECT m.client_id, l.term, m.slot, l.tf, l.len
    FROM memory.memory_entries m, memory.entry_lexemes(m.content, m.occurred_at) l ORDER BY 1, 2, 3
"""


async def run(rows: int) -> None:
    """The whole benchmark."""
    with running_cluster(max_wal_size="4GB", synchronous_commit="off") as cluster:
        cluster.create_database("m")
        with psycopg.connect(cluster.dsn("m", "postgres"), autocommit=True) as connection:
            # Filled without triggers and checks of foreign keys, as a superuser may.
            connection.execute("SET session_replication_role = replica")
            connection.execute("SET maintenance_work_mem = '256MB'")
            connection.execute("SET work_mem = '256MB'")
            begun = time.perf_counter()
            connection.execute(
                "INSERT INTO memory.client_profiles (id, user_id) SELECT n, 'u' || n FROM generate_series(1, 100) n"
            )
            connection.execute(_ENTRIES, {"rows": rows, "embedded": rows * 12 // 90})
            connection.execute(_TERMS)
            connection.execute("VACUUM ANALYZE")
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
