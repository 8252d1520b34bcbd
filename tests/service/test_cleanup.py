"""The nightly cleanup over a real PostgreSQL: what goes, what stays, and that it can be ended at any time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import conninfo

from memory_service import system_rows
from memory_service.database import Database
from tests.service.calls import ask, write
from tests.service.conftest import Start
from tests.service.stack import ADMIN_TOKEN

pytestmark = pytest.mark.real

OLD_EPISODES = """
    INSERT INTO memory.episodes (client_id, conversation_hash, summary, created_at)
    SELECT 7, lpad(n::text, 64, '0'), 'a year ago', now() - interval '400 days' FROM generate_series(1, {0}) n
"""


def as_system(database: str) -> psycopg.Connection:
    connection = psycopg.connect(database, autocommit=True)
    connection.execute("SET memory.scope = 'system'")
    connection.execute(
        "INSERT INTO memory.client_profiles (id, user_id) VALUES (7, 'u7') ON CONFLICT DO NOTHING"
    )
    return connection


def left(connection: psycopg.Connection, table: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM memory.{table}".encode()).fetchone()
    assert row is not None
    return int(row[0])


def clean(client: httpx.Client, **body: object) -> dict[str, Any]:
    response = client.post("/v1/cleanup", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_a_turn_and_its_chat_go_with_their_messages(start: Start, database: str, user: str) -> None:
    with start().client() as client, as_system(database) as connection:
        write(client, user, "My sailing boat leaks", chat_id="old", message_id="1")
        write(client, user, "My sailing boat is mended", chat_id="new", message_id="2")
        write(client, user, "My sailing boat is kept", chat_id="kept", message_id="3")
        for table in ("memory_entries", "episodes", "conversations"):
            chats = "SELECT id FROM memory.episodes WHERE session_id <> 'new'"
            column = {"memory_entries": "episode_id", "episodes": "id"}.get(table)
            where = f"WHERE {column} IN ({chats})" if column else ""
            connection.execute(
                f"UPDATE memory.{table} SET created_at = now() - interval '400 days' {where}".encode()
            )
        connection.execute(
            "UPDATE memory.memory_entries SET ttl_days = NULL WHERE content = 'My sailing boat is kept'"
        )
        expected = {"memory_entries": 3, "working_state": 0, "jobs": 0, "episodes": 1, "conversations": 1}
        shown = clean(client, dry_run=True)["removed"]
        assert shown == expected
        assert clean(client)["removed"] == shown
        assert set(clean(client)["removed"].values()) == {0}
        summaries = {
            episode["summary"] for episode in ask(client, user, "my sailing boat")["recent_episodes"]
        }
        assert summaries == {"My sailing boat is mended", "My sailing boat is kept"}
        assert left(connection, "conversations") == 2
        write(client, user, "My sailing boat leaks", chat_id="old", message_id="4")
        found = ask(client, user, "Which sailing boat leaks?")["similar_chunks"]
        assert "My sailing boat leaks" in [chunk["content"] for chunk in found]


def test_what_was_forgotten_or_has_expired_is_not_stored_again_with_its_conversation(
    start: Start, database: str, user: str
) -> None:
    service = start()
    said = [{"role": "user", "content": f"My boat number {number} leaks"} for number in range(4)]
    turns = [message for one in said for message in (one, {"role": "assistant", "content": "Noted."})]

    def send(client: httpx.Client, count: int) -> int:
        body = {
            "client_id": user,
            "chat_id": "c",
            "conversation": turns[: 2 * count - 1],
            "response": "Noted.",
        }
        response = client.post("/v1/writeback", json=body)
        assert response.status_code == 200, response.text
        return int(response.json()["episode_id"])

    with service.client() as client, service.client(ADMIN_TOKEN) as admin, as_system(database) as connection:
        expired, forgotten = send(client, 1), send(client, 2)
        connection.execute(
            "UPDATE memory.memory_entries SET created_at = now() - interval '400 days' WHERE episode_id = %s",
            [expired],
        )
        assert admin.delete(f"/v1/clients/{user}/episodes/{forgotten}").status_code == 204
        assert clean(client)["removed"]["memory_entries"] == 2
        send(client, 3)
        send(client, 4)
        rows = connection.execute(
            "SELECT content FROM memory.memory_entries WHERE role = 'user' ORDER BY slot"
        )
        assert [row[0] for row in rows] == [one["content"] for one in said[2:]]


def test_an_empty_chat_goes_when_it_is_old(start: Start, database: str, user: str) -> None:
    service = start()
    with service.client() as client, service.client(ADMIN_TOKEN) as admin, as_system(database) as connection:
        episode = write(client, user, "My sailing boat leaks", chat_id="c")["episode_id"]
        connection.execute("UPDATE memory.conversations SET created_at = now() - interval '400 days'")
        assert clean(client, dry_run=True)["removed"]["conversations"] == 0
        assert clean(client)["removed"]["conversations"] == 0
        assert admin.delete(f"/v1/clients/{user}/episodes/{episode}").status_code == 204
        connection.execute("UPDATE memory.conversations SET created_at = now()")
        assert clean(client)["removed"]["conversations"] == 0
        connection.execute("UPDATE memory.conversations SET created_at = now() - interval '400 days'")
        assert clean(client)["removed"]["conversations"] == 1
        assert left(connection, "conversations") == left(connection, "chat_messages") == 0


def test_what_the_budget_does_not_allow_is_left_for_the_next_run(start: Start, database: str) -> None:
    with start().client() as client, as_system(database) as connection:
        connection.execute(OLD_EPISODES.format(4500).encode())
        first = clean(client, budget_seconds=0.000001)
        assert first["complete"] is False and first["removed"]["episodes"] == 0
        assert left(connection, "episodes") == 4500
        second = clean(client)
        assert second["complete"] is True and second["removed"]["episodes"] == 4500
        assert left(connection, "episodes") == 0


def test_without_a_time_to_live_no_episode_grows_old(database: str) -> None:
    async def remove(ttl_days: int | None) -> tuple[int, int]:
        pool = Database(conninfo.conninfo_to_dict(database), size=1, wait_s=1.0)
        now = datetime.now(UTC)
        counted = await pool.run(
            lambda opened: system_rows.count_expired(opened, "episodes", now, ttl_days), system=True
        )
        removed = await pool.run(
            lambda opened: system_rows.remove_batch(opened, "episodes", now, 2, ttl_days), system=True
        )
        await pool.close()
        return counted, removed

    with as_system(database) as connection:
        connection.execute(OLD_EPISODES.format(3).encode())
        assert asyncio.run(remove(None)) == (0, 0)
        assert asyncio.run(remove(365)) == (3, 2)
        assert asyncio.run(remove(365)) == (1, 1)


def test_a_chat_that_is_being_written_to_is_left_alone(start: Start, database: str) -> None:
    with start().client() as client, as_system(database) as connection:
        connection.execute(
            "INSERT INTO memory.conversations (client_id, chat_id, created_at)"
            " VALUES (7, 'c', '2020-01-01Z'), (7, 'd', '2020-01-01Z')"
        )
        with psycopg.connect(database) as writer:
            writer.execute("SET LOCAL memory.scope = 'system'")
            writer.execute("UPDATE memory.conversations SET next_position = 1 WHERE chat_id = 'c'")
            assert clean(client)["removed"]["conversations"] == 1
        assert left(connection, "conversations") == 1
        assert clean(client)["removed"]["conversations"] == 1
