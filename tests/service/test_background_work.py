"""The work behind the requests: what one turn, text or server that fails must not do to everything else."""

from __future__ import annotations

import contextlib
from pathlib import Path

import httpx
import psycopg
import pytest

from memory_service import cli, system_rows
from tests.service.calls import ask, write
from tests.service.conftest import Start
from tests.service.stack import ADMIN_TOKEN, QDRANT_KEY, QdrantProcess, until
from tests.service.test_failures import count, fault, healed

pytestmark = pytest.mark.real

VECTORS = "SELECT count(*) FROM memory.memory_entries WHERE embedding IS NOT NULL"
OTHER_MODEL = f"{VECTORS} AND embedding_model <> 'double-embedding-2'"


def say(provider: str, summary: str, evidence: str) -> None:
    """Lets the model say this, whatever it is asked; texts are as JSON has them between quotation marks."""
    fact = f'"key": "dog_name", "value": "Biscuit", "confidence": 0.9, "evidence": "{evidence}"'
    fault(
        provider,
        target="chat",
        mode="say",
        text=f'{{"facts": [{{{fact}}}], "summary": "{summary}", "tags": ["{summary}"], "state": {{"a": "{summary}"}}}}',
    )


def test_half_a_character_from_a_model_is_left_out(
    start: Start, provider: str, user: str, database: str
) -> None:
    service = start()
    say(provider, "A dog \\ud83d\\u0000", "My dog is called\\u0000 Biscuit\\ud83d")
    with service.client() as client:
        assert write(client, user, "My dog is called Biscuit", session_id="s")["facts_upserted"] == 1
        assert ask(client, user, "dog")["recent_episodes"][0]["summary"] == "A dog"
    assert count(database, "SELECT count(*) FROM memory.jobs WHERE status = 'done'") == 1


def test_jobs_that_always_fail_leave_the_workers_to_the_others(
    start: Start, user: str, database: str, provider: str
) -> None:
    service = start()
    with service.client() as client, psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "ALTER TABLE memory.memory_facts ADD CONSTRAINT bug CHECK (fact_value <> 'Biscuit')"
        )
        for number in range(10):
            written = write(client, f"{user}-{number}", "My dog is called Biscuit")
            assert written["queued"] is True
        fault(provider, target="chat", mode="status", status=503, times=1)
        assert write(client, user, "My dog is called Rex")["queued"] is True
        until(lambda: ask(client, user, "dog?")["facts"] != [], "the healthy job was done", 30)
        running = "SELECT count(*) FROM memory.jobs WHERE status = 'running' AND leased_until < now()"
        until(lambda: count(database, running) == 0, "no job is left running", 10)
        assert "Biscuit" not in service.log.read_text()
        connection.execute("ALTER TABLE memory.memory_facts DROP CONSTRAINT bug")
        facts = "SELECT count(*) FROM memory.memory_facts"
        until(lambda: count(database, facts) == 11, "the failed jobs were done after all", 90)


def test_refused_turns_wait_and_an_operator_can_revive_what_was_given_up(
    start: Start, provider: str, user: str, database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    service = start()
    fault(provider, target="chat", mode="status", status=404)
    with service.client() as client, psycopg.connect(database, autocommit=True) as connection:
        written = write(client, user, "My dog is called Biscuit")
        number = written["job_id"]
        until(lambda: client.get(f"/v1/jobs/{number}").json()["last_error"], "the refusal is recorded")
        later = "SELECT extract(epoch FROM run_at - now())::int FROM memory.jobs"
        assert client.get(f"/v1/jobs/{number}").json()["status"] == "queued" and count(database, later) > 200
        connection.execute("SET memory.scope = 'system'")
        connection.execute("UPDATE memory.jobs SET status = 'dead', payload = '{\"refused\": 864, \"x\": 1}'")
        healed(provider)
        monkeypatch.setenv("MEMORY_ADMIN_TOKEN_FILE", str(tmp_path / "credentials" / "admin_token"))
        assert client.post("/v1/jobs/retry").status_code == 403
        assert cli.main(["--url", service.url, "jobs", "retry"]) == 0
        until(lambda: ask(client, user, "dog?")["facts"] != [], "the fact is there", 30)
        row = connection.execute("SELECT status, payload FROM memory.jobs").fetchone()
        assert row == ("done", {"x": 1})


def test_a_text_too_long_for_the_model_holds_up_no_other_nor_a_change_of_the_model(
    start: Start, provider: str, user: str, database: str
) -> None:
    service = start(embedding_base_url=provider, embedding_model="double-embedding")
    fault(provider, target="embeddings", mode="limit", characters=400)
    with service.client() as client:
        write(client, user, "My garden needs water. " * 60, message_id="1")
        write(client, user, "My favourite color is teal", message_id="2")
        until(lambda: count(database, VECTORS) == 4, "all messages have vectors, one of its beginning", 60)
    fault(provider, target="embeddings", mode="limit", characters=40)
    service.stop()
    service.environment["MEMORY_EMBEDDING_MODEL"] = "double-embedding-2"
    service.start()
    # What the new model takes in no form has no vector, and is found by its words.
    until(lambda: count(database, OTHER_MODEL) == 0, "no vector of the old model is left", 60)
    with service.client() as client:
        assert ask(client, user, "teal color")["similar_chunks"][0]["content"] == "My favourite color is teal"
    assert count(database, VECTORS) == 3


def test_a_forget_that_cannot_have_qdrant_now_says_so_and_is_completed_later(
    start: Start, qdrant: QdrantProcess, user: str, database: str
) -> None:
    service = start()
    with service.client() as client, service.client(ADMIN_TOKEN) as admin:
        write(client, user, "My dog is called Biscuit")
        until(lambda: qdrant.count() == 2, "two points in Qdrant")
        with psycopg.connect(database) as delivery:  # one that waits for a Qdrant that hangs
            delivery.execute("SELECT pg_advisory_xact_lock(%s)", [system_rows.OUTBOX_LOCK])
            shown = admin.post(f"/v1/clients/{user}/forget", json={"confirm": user, "dry_run": True}).json()
            assert shown["qdrant"] == 2 and shown["postgres"]["memory_entries"] == 2
            response = admin.post(f"/v1/clients/{user}/forget", json={"confirm": user})
            assert response.status_code == 200, response.text
            gone = response.json()
            assert gone["qdrant"] is None and gone["qdrant_pending"] is True
            assert gone["postgres"]["memory_entries"] == 2 and qdrant.count() == 2
        until(lambda: qdrant.count() == 0, "the points are gone", 60)


def test_a_collection_that_a_killed_reindex_left_is_dropped(
    start: Start, qdrant: QdrantProcess, user: str
) -> None:
    service = start()
    key = {"api-key": QDRANT_KEY}
    left = f"{qdrant.url}/collections/memory_vectors_1700000000"
    with service.client() as client:
        write(client, user, "My dog is called Biscuit")
        until(lambda: qdrant.count() == 2, "two points in Qdrant")
        service.stop()
        shape = {"vectors": {"size": 4, "distance": "Cosine"}}
        httpx.put(left, json=shape, headers=key).raise_for_status()
        service.start()
        until(lambda: not _exists(left, key), "the collection is gone", 60)
        assert qdrant.count() == 2


def _exists(collection: str, key: dict[str, str]) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return bool(httpx.get(f"{collection}/exists", headers=key).json()["result"]["exists"])
    return True
