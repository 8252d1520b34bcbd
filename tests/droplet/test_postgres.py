"""Postgres on a live droplet, seen from outside the deploy code."""

import json
import uuid

import pytest

SQL = "docker exec -i postgres psql -XAtq -v ON_ERROR_STOP=1 -U postgres -d {database}"


def sql(host, statement, database="n8ndb"):
    """Run a statement as the superuser over the container's socket; rows as text lines."""
    done = host.run(f"{SQL.format(database=database)} <<'EOS'\n{statement}\nEOS")
    assert done.rc == 0, done.stderr
    return done.stdout.strip().splitlines()


def sql_as(host, role, statement, database="n8ndb"):
    """Run a statement as a role with its own password over TCP; the whole result."""
    return host.run(
        "docker exec -i postgres sh -c '"
        f"read -r PGPASSWORD; export PGPASSWORD; psql -XAtq -v ON_ERROR_STOP=1 -h 127.0.0.1 -U {role} -d {database}"
        f"' <<EOS\n$(cat /etc/memory-droplet/secrets/postgres/{role}_password)\n{statement}\nEOS"
    )


def test_the_unit_is_active_and_enabled(host):
    unit = host.service("droplet-postgres")
    assert unit.is_running
    assert unit.is_enabled


def test_it_runs_as_its_own_user_and_not_as_root(host):
    owner = host.check_output("docker exec postgres id -u")
    assert owner == "999"


def test_the_memory_limit_is_in_force(host):
    declared = int(host.check_output("docker inspect -f '{{.HostConfig.Memory}}' postgres"))
    in_force = host.check_output(
        "docker exec postgres sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null"
        " || cat /sys/fs/cgroup/memory.max'"
    )
    assert 0 < declared <= 512 * 1024 * 1024
    assert int(in_force) == declared


def test_pgvector_has_none_of_the_known_index_bugs_or_the_image_says_which(host):
    version = tuple(
        int(part)
        for part in sql(host, "select extversion from pg_extension where extname='vector'")[0].split(".")
    )
    assert version >= (0, 8, 4), f"pgvector {version} has the known HNSW bugs of versions before 0.8.4"


def test_the_five_tables_of_the_memory_are_there_and_belong_to_memory(host):
    rows = sql(host, "select tablename||':'||tableowner from pg_tables where schemaname='memory'")
    expected = {"client_profiles", "memory_entries", "memory_facts", "working_state", "episodes"}
    assert {f"{table}:memory" for table in expected} <= set(rows)


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        (
            "client_profiles",
            {"user_id", "full_name", "email", "tags", "metadata", "created_at", "updated_at"},
        ),
        (
            "memory_entries",
            {
                "client_id",
                "content",
                "embedding",
                "source_type",
                "metadata",
                "ttl_days",
                "expires_at",
                "created_at",
            },
        ),
        (
            "memory_facts",
            {"client_id", "fact_key", "fact_value", "confidence", "source_episode_id", "updated_at"},
        ),
        ("working_state", {"client_id", "session_id", "state_key", "state_value", "expires_at"}),
        (
            "episodes",
            {
                "client_id",
                "conversation_hash",
                "summary",
                "embedding",
                "rating",
                "tags",
                "message_count",
                "duration_seconds",
            },
        ),
    ],
)
def test_each_table_has_the_columns_of_the_contract(host, table, columns):
    rows = sql(
        host,
        f"select column_name from information_schema.columns where table_schema='memory' and table_name='{table}'",
    )
    assert columns <= set(rows)


def test_vectors_have_1536_dimensions_and_times_have_a_zone(host):
    types = dict(
        row.split("|")
        for row in sql(
            host,
            "select c.relname||'.'||a.attname, format_type(a.atttypid, a.atttypmod) from pg_attribute a "
            "join pg_class c on c.oid=a.attrelid join pg_namespace n on n.oid=c.relnamespace "
            "where n.nspname='memory' and a.attnum>0 and c.relkind='r' and not a.attisdropped",
        )
    )
    assert types["memory_entries.embedding"] == "vector(1536)"
    assert types["episodes.embedding"] == "vector(1536)"
    assert types["memory_facts.confidence"] == "numeric(3,2)"
    assert types["memory_entries.expires_at"] == "timestamp with time zone"
    assert "timestamp without time zone" not in types.values()


def test_a_role_logs_in_with_its_password_and_not_with_another(host):
    assert sql_as(host, "memory", "select current_user;").stdout.strip() == "memory"
    wrong = host.run(
        "docker exec -e PGPASSWORD=wrong postgres psql -XAtq -h 127.0.0.1 -U memory -d n8ndb -c 'select 1'"
    )
    assert wrong.rc != 0
    assert "password authentication failed" in wrong.stderr


def test_role_memory_stores_a_vector_and_finds_it_by_meaning(host):
    marker = f"droplet-test-{uuid.uuid4()}"
    vector = json.dumps([1.0] + [0.0] * 1535)
    done = sql_as(
        host,
        "memory",
        f"""begin;
        set local memory.user_id = '{marker}';
        insert into memory.client_profiles(user_id, full_name) values ('{marker}', 'Droplet Test') returning id \\gset
        select set_config('memory.client_id', :'id', true);
        insert into memory.memory_entries(id, client_id, content, content_hash, embedding, embedding_model, source_type)
            values (gen_random_uuid(), :id, '{marker}', 'x', '{vector}', 'test', 'test');
        select content from memory.memory_entries order by embedding <=> '{vector}' limit 1;
        rollback;""",
    )
    assert done.rc == 0, done.stderr
    assert marker in done.stdout


def test_role_n8n_cannot_read_the_memory(host):
    done = sql_as(host, "n8n", "select count(*) from memory.memory_facts;")
    assert done.rc != 0
    assert "permission denied" in done.stderr


def test_no_role_but_the_superuser_is_a_superuser(host):
    assert sql(host, "select rolname from pg_roles where rolsuper") == ["postgres"]


def test_a_role_cannot_reach_the_database_of_another(host):
    for role, database in [("openwebui", "n8ndb"), ("memory", "openwebui"), ("n8n", "openwebui")]:
        assert sql_as(host, role, "select 1;", database).rc != 0, (role, database)


def test_every_migration_is_recorded_with_its_checksum(host):
    rows = sql(host, "select count(*), count(checksum) from memory.schema_migrations")
    count, with_checksum = rows[0].split("|")
    assert int(count) >= 1
    assert count == with_checksum
