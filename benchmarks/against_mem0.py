"""Adding and searching, against mem0 (PyPI `mem0ai`) with the same vector engine and the same embeddings.

    uv run --with mem0ai python -m benchmarks.against_mem0 --memories 200

Both write to the Qdrant double and take their vectors from the double of the OpenAI API. mem0 stores with
`infer=False`, so that no model is asked on either side. What differs in kind: our add is an HTTP call that
returns when PostgreSQL has committed; mem0's is a function call that returns when Qdrant has the vector.
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
from tests.service.cluster import running_cluster
from tests.service.stack import QDRANT_KEY, QdrantProcess, ServiceProcess, settings_for


def timed(calls: int, call: Callable[[int], object]) -> list[float]:
    """Seconds of each of so many calls."""
    seconds = []
    for number in range(calls):
        begun = time.perf_counter()
        call(number)
        seconds.append(time.perf_counter() - begun)
    return seconds


def mem0_times(
    provider: str, qdrant: QdrantProcess, texts: list[str], questions: list[str]
) -> dict[str, list[float]]:
    """mem0's add and search."""
    os.environ["MEM0_TELEMETRY"] = "False"
    os.environ["OPENAI_API_KEY"] = "unused-by-the-double"
    try:
        from mem0 import Memory  # type: ignore[import-not-found]
    except ImportError:
        sys.exit("mem0 is not installed: run with `uv run --with mem0ai python -m benchmarks.against_mem0`")
    memory = Memory.from_config(
        {
            "vector_store": {
                "provider": "qdrant",
                "config": {
                    "collection_name": "mem0",
                    "url": qdrant.url,
                    "api_key": QDRANT_KEY,
                    "embedding_model_dims": 1536,
                },
            },
            "embedder": {
                "provider": "openai",
                "config": {"model": EMBEDDING_MODEL, "openai_base_url": provider, "embedding_dims": 1536},
            },
            "llm": {"provider": "openai", "config": {"model": "double-chat", "openai_base_url": provider}},
            "history_db_path": str(qdrant.directory / "history.db"),
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
        service = ServiceProcess(settings_for(cluster, "m", qdrant.url, "", directory, **more), directory)
        service.start()
        ours = our_times(service, texts, questions)
        theirs = mem0_times(provider, qdrant, texts, questions)
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
