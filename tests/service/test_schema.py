"""The schema holds what it promises, seen by SQL as role `memory`."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest

from tests.service.cluster import MIGRATIONS, running_cluster

pytestmark = pytest.mark.real


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database, autocommit=True) as opened:
        opened.execute("SET memory.scope = 'system'")
        for client in (7, 8):
            opened.execute(
                "INSERT INTO memory.client_profiles (id, user_id) VALUES (%s, %s)", [client, f"u{client}"]
            )
        yield opened


def add(connection: psycopg.Connection, client: int, content: str, **columns: object) -> uuid.UUID:
    values = {
        "id": uuid.uuid4(),
        "client_id": client,
        "content": content,
        "source_type": "conversation",
        "content_hash": b"x",
        **columns,
    }
    names = ", ".join(values)
    marks = ", ".join(["%s"] * len(values))
    statement = f"INSERT INTO memory.memory_entries ({names}) VALUES ({marks})"
    connection.execute(statement.encode(), list(values.values()))
    return values["id"]  # type: ignore[return-value]


def one(connection: psycopg.Connection, statement: str, *values: object) -> object:
    row = connection.execute(statement.encode(), list(values)).fetchone()
    assert row is not None
    return row[0]


def test_the_migrations_apply_on_an_older_major_version_too() -> None:
    with running_cluster(16) as older, psycopg.connect(older.create_database("m")) as connection:
        tables = one(connection, "SELECT count(*) FROM pg_tables WHERE schemaname = 'memory'")
    assert isinstance(tables, int) and tables >= 14


def test_expiry_follows_the_days_to_live_and_none_never_expires(connection: psycopg.Connection) -> None:
    add(connection, 7, "short", ttl_days=3)
    add(connection, 7, "kept", ttl_days=None)
    rows = connection.execute(
        "SELECT content, extract(epoch FROM expires_at - created_at) FROM memory.memory_entries ORDER BY 1"
    ).fetchall()
    assert rows == [("kept", None), ("short", 3 * 86400)]


@pytest.mark.parametrize(
    ("table", "columns", "values"),
    [
        ("memory_facts", "fact_key, fact_value, confidence", "'k', 'v', 1.01"),
        ("memory_facts", "fact_key, fact_value, confidence", "'Bad Key', 'v', 0.5"),
        ("episodes", "conversation_hash, rating", "repeat('a', 64), 6"),
        ("working_state", "session_id, state_key, state_value", "'', 'k', '1'"),
    ],
)
def test_values_out_of_range_are_refused(
    connection: psycopg.Connection, table: str, columns: str, values: str
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        insert = f"INSERT INTO memory.{table} (client_id, {columns}) VALUES (7, {values})"
        connection.execute(insert.encode())


def test_moments_that_no_client_can_read_are_lifted(connection: psycopg.Connection, database: str) -> None:
    early = "0001-01-01T00:00:00+01:00"
    add(connection, 7, "said in year 1", occurred_at=early)
    connection.execute("INSERT INTO memory.conversations (client_id, chat_id) VALUES (7, 'c')")
    slot = one(connection, "SELECT (id << 20) + 5 FROM memory.conversations")
    add(connection, 7, "said today", slot=slot)
    for statement in (
        "INSERT INTO memory.episodes (client_id, conversation_hash, occurred_at) VALUES (7, repeat('a', 64), %s)",
        "INSERT INTO memory.memory_facts (client_id, fact_key, fact_value, confidence, valid_from)"
        " VALUES (7, 'k', 'v', 0.5, %s)",
        "INSERT INTO memory.fact_history (client_id, fact_key, fact_value, confidence, status, source, valid_from)"
        " VALUES (7, 'k', 'v', 0.5, 'active', 'user', %s)",
        "INSERT INTO memory.fact_history (client_id, fact_key, fact_value, confidence, status, source, valid_from,"
        " valid_to) VALUES (7, 'k', 'w', 0.5, 'superseded', 'user', '0001-01-01T00:00:00+02:00', %s)",
    ):
        connection.execute(statement.encode(), [early])
    with pytest.raises(psycopg.DataError):
        connection.execute("SELECT occurred_at FROM memory.memory_entries").fetchall()
    (migration,) = MIGRATIONS.glob("0007_*.sql")
    with psycopg.connect(database) as deploy:
        deploy.execute(migration.read_text().encode())
    moments = "SELECT count(*) FILTER (WHERE {0} = '1970-01-01Z'), count({0}) FROM memory.{1}"
    for column, table, lifted, there in (
        ("occurred_at", "memory_entries", 1, 2),
        ("occurred_at", "episodes", 1, 1),
        ("valid_from", "memory_facts", 1, 1),
        ("valid_from", "fact_history", 2, 2),
        ("valid_to", "fact_history", 1, 1),
    ):
        found = connection.execute(moments.format(column, table).encode()).fetchone()
        assert found == (lifted, there), (table, column)
    # What is there already counts as told to its chat.
    assert one(connection, "SELECT count(*) FROM memory.chat_messages WHERE position = 5") == 1
    # The words of its date follow, so that the entry is found by the new one.
    assert one(connection, "SELECT count(*) FROM memory.memory_terms WHERE term = '1970'") == 1


def test_a_conversation_hash_is_unique_within_a_client_only(connection: psycopg.Connection) -> None:
    statement = b"INSERT INTO memory.episodes (client_id, conversation_hash) VALUES (%s, repeat('a', 64))"
    connection.execute(statement, [7])
    connection.execute(statement, [8])
    with pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute(statement, [7])


def test_without_a_client_in_the_transaction_nothing_is_seen_or_written(
    connection: psycopg.Connection, database: str
) -> None:
    add(connection, 7, "private to seven")
    add(connection, 8, "private to eight")
    connection.execute("INSERT INTO memory.conversations (client_id, chat_id) VALUES (7, 'c')")
    connection.execute(
        "INSERT INTO memory.chat_messages (client_id, conversation_id, position, role, content_hash)"
        " SELECT client_id, id, 0, 'user', 'x' FROM memory.conversations"
    )
    with psycopg.connect(database, autocommit=True) as other:
        for table in ("memory_entries", "memory_terms", "chat_messages", "client_profiles"):
            assert one(other, f"SELECT count(*) FROM memory.{table}") == 0
        other.execute("SET memory.client_id = '7'")
        assert one(other, "SELECT string_agg(content, '|') FROM memory.memory_entries") == "private to seven"
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            add(other, 8, "written into another's memory")


def test_words_and_date_follow_their_entry_through_update_and_delete(connection: psycopg.Connection) -> None:
    entry = add(connection, 7, "The dogs were barking at dogs", occurred_at="2023-05-04T12:00:00Z")
    terms = connection.execute("SELECT term, tf, len FROM memory.memory_terms ORDER BY term").fetchall()
    assert terms == [("2023", 1, 6), ("4", 1, 6), ("bark", 1, 6), ("dog", 2, 6), ("may", 1, 6)]
    connection.execute("UPDATE memory.memory_entries SET content = 'a cat' WHERE id = %s", [entry])
    assert (
        one(connection, "SELECT string_agg(term, ',' ORDER BY term) FROM memory.memory_terms")
        == "2023,4,cat,may"
    )
    connection.execute("DELETE FROM memory.memory_entries WHERE id = %s", [entry])
    assert one(connection, "SELECT count(*) FROM memory.memory_terms") == 0


def test_the_outbox_hears_of_vectors_only(connection: psycopg.Connection) -> None:
    vector = "[" + ",".join(["0.5"] * 1536) + "]"
    add(connection, 7, "no vector yet")
    assert one(connection, "SELECT count(*) FROM memory.vector_outbox") == 0
    entry = add(connection, 7, "with a vector", embedding=vector, embedding_model="m")
    connection.execute("UPDATE memory.memory_entries SET metadata = '{\"a\": 1}' WHERE id = %s", [entry])
    assert one(connection, "SELECT count(*) FROM memory.vector_outbox") == 1
    connection.execute("DELETE FROM memory.memory_entries WHERE id = %s", [entry])
    assert one(connection, "SELECT count(*) FROM memory.vector_outbox WHERE memory_id = %s", entry) == 2


def test_forgetting_a_profile_takes_everything_of_it_along(connection: psycopg.Connection) -> None:
    add(connection, 7, "a sentence to forget")
    add(connection, 8, "a sentence to keep")
    connection.execute("DELETE FROM memory.client_profiles WHERE id = 7")
    assert one(connection, "SELECT count(*) FROM memory.memory_terms WHERE client_id = 7") == 0
    assert one(connection, "SELECT count(*) FROM memory.memory_entries") == 1


def test_no_deletion_reads_a_whole_table_for_its_foreign_keys(connection: psycopg.Connection) -> None:
    """Every reference has an index of its own that begins with it; a partial one is of no use to the check."""
    without = connection.execute(
        """
        SELECT c.conrelid::regclass::text, a.attname FROM pg_constraint c
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
        WHERE c.contype = 'f' AND c.connamespace = 'memory'::regnamespace
          AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.conrelid AND i.indkey[0] = c.conkey[1]
                          AND i.indpred IS NULL)
        """
    ).fetchall()
    assert without == []
