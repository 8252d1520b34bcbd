"""Adding and searching, against mem0 (PyPI `mem0ai`) with the same PostgreSQL and the same embeddings.

    uv run --with mem0ai --with psycopg-pool python -m benchmarks.against_mem0 --memories 200

Both use one PostgreSQL server and take their vectors from the double of the OpenAI API. mem0 keeps its vectors
in pgvector, because its Qdrant store asks for sparse vectors, which the double of Qdrant does not serve. It
stores with `infer=False`, so that no model is asked on either side. What differs in kind: ours are HTTP calls to
another process and search words and vectors; mem0's are function calls.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from benchmarks.filling import percentiles, question, sentence
from tests.doubles.openai_double import EMBEDDING_MODEL, serving
from tests.service.cluster import Cluster, running_cluster
from tests.service.stack import IN_A_HURRY, QdrantProcess, ServiceProcess, settings_for


def timed(calls: int, call: Callable[[int], object]) -> list[float]:
    """Seconds of each of so many calls."""
    seconds = []
    for number in range(calls):
        begun = time.perf_counter()
        call(number)
        seconds.append(time.perf_counter() - begun)
    return seconds


def mem0_times(
    provider: str, cluster: Cluster, directory: Path, texts: list[str], questions: list[str]
) -> dict[str, list[float]]:
    """mem0's add and search."""
    os.environ["MEM0_TELEMETRY"] = "False"
    os.environ["OPENAI_API_KEY"] = "unused-by-the-double"
    try:
        from mem0 import Memory  # type: ignore[import-not-found]
    except ImportError:
        sys.exit(
            "mem0 is not installed: run with `uv run --with mem0ai --with psycopg-pool python -m benchmarks.against_mem0`"
        )
    memory = Memory.from_config(
        {
            "vector_store": {
                "provider": "pgvector",
                "config": {
                    "dbname": "mem0",
                    "user": "postgres",
                    "password": "unused",
                    "host": "127.0.0.1",
                    "port": cluster.port,
                    "embedding_model_dims": 1536,
                },
            },
            "embedder": {
                "provider": "openai",
                "config": {"model": EMBEDDING_MODEL, "openai_base_url": provider, "embedding_dims": 1536},
            },
            "llm": {"provider": "openai", "config": {"model": "double-chat", "openai_base_url": provider}},
            "history_db_path": str(directory / "history.db"),
        }
    )
    turns = [
        [{"role": "user", "content": text}, {"role": "assistant", "content": "Noted."}] for text in texts
    ]
    added = timed(len(texts), lambda number: memory.add(turns[number], user_id="bench", infer=False))
    search = timed(
        len(questions), lambda number: memory.search(questions[number], filters={"user_id": "bench"})
    )
    return {"add": added, "search": search}


def our_times(service: ServiceProcess, texts: list[str], questions: list[str]) -> dict[str, list[float]]:
    """The service's writeback and assemble, over HTTP."""
    user = str(uuid.uuid4())
    with service.client() as client:

        def add(number: int) -> None:
            body = {
                "client_id": user,
                "conversation": [{"role": "user", "content": texts[number]}],
                "response": "Noted.",
                "message_id": str(number),
                "chat_id": "bench",
            }
            client.post("/v1/writeback", json=body).raise_for_status()

        def search(number: int) -> None:
            body = {"client_id": user, "query": questions[number]}
            client.post("/v1/assemble", json=body).raise_for_status()

        return {"add": timed(len(texts), add), "search": timed(len(questions), search)}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--memories", type=int, default=200)
    count = parser.parse_args().memories
    source = random.Random(11)
    texts = [sentence(source) for _ in range(count)]
    questions = [question(source) for _ in range(count)]
    with running_cluster() as cluster, tempfile.TemporaryDirectory() as name, serving() as (provider, _):
        directory = Path(name)
        cluster.create_database("m")
        storage = directory / "qdrant"
        storage.mkdir()
        qdrant = QdrantProcess(storage)
        qdrant.start()
        more = {"embedding_base_url": provider, "embedding_model": EMBEDDING_MODEL, "log_level": "WARNING"}
        service = ServiceProcess(
            settings_for(cluster, "m", qdrant.url, "", directory, **IN_A_HURRY, **more), directory
        )
        service.start()
        ours = our_times(service, texts, questions)
        cluster.create_database("mem0")
        theirs = mem0_times(provider, cluster, directory, texts, questions)
        service.stop()
        qdrant.stop()
    print(f"{count} turns, {count} questions; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    print(
        "| call | ours p50 | p95 | p99 ms | mem0 p50 | p95 | p99 ms | mem0 / ours, p50 |\n|---|---|---|---|---|---|---|---|"
    )
    for call in ("add", "search"):
        median = sorted(theirs[call])[count // 2] / sorted(ours[call])[count // 2]
        print(f"| {call} | {percentiles(ours[call])} | {percentiles(theirs[call])} | {median:.1f} |")


if __name__ == "__main__":
    main()
