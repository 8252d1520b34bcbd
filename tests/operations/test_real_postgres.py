"""Roles, databases and migrations against a real PostgreSQL.

``docker exec`` is a script that runs its command here; the server trusts the socket, as the image does,
and asks everybody else but its superuser for a password.
"""

import stat

import psycopg
import pytest

from operations import sql_database, sql_migrations, sql_role
from operations.scram import scram_verifier
from tests.service.cluster import Cluster

pytestmark = pytest.mark.real

OWN_ADDRESS = "127.0.0.1"
HBA = """
local all all trust
host all postgres 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
"""
PASSWORD = "pa$$ 'w\"ord\\ ü"
DOCKER = """#!/bin/sh
shift
while :; do
  case "$1" in
    -i) shift;;
    -u) shift 2;;
    -e) export "$2"; shift 2;;
    *) break;;
  esac
done
[ "$1" = postgres ] || {{ echo "no such container $1" >&2; exit 1; }}
shift
export PGHOST={directory} PGPORT={port} PATH={tools}:{binaries}:$PATH
exec "$@"
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(settings={"log_statement": "all", "log_min_messages": "info"})
    try:
        cluster.initialise()
        (cluster.data / "pg_hba.conf").write_text(HBA)
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
def machine(this_machine, cluster, tmp_path, monkeypatch):
    """This machine, with a ``docker`` in front of the cluster."""
    tools = tmp_path / "tools"
    tools.mkdir()
    values = {"directory": cluster.directory, "port": cluster.port, "binaries": cluster.binaries}
    for name, text in {
        "docker": DOCKER.format(tools=tools, **values),
        "hostname": f"#!/bin/sh\necho {OWN_ADDRESS}\n",
    }.items():
        (tools / name).write_text(text)
        (tools / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tools}:/usr/local/bin:/usr/bin:/bin")
    yield this_machine
    with psycopg.connect(cluster.dsn("postgres", "postgres"), autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS demo WITH (FORCE)")
        admin.execute("DROP ROLE IF EXISTS memory")


@pytest.fixture
def role(tmp_path):
    """The arguments of a role whose password lies in a file."""
    (tmp_path / "password").write_text(PASSWORD)
    return {"role": "memory", "password_file": str(tmp_path / "password"), "password": PASSWORD}


def query(cluster, sql, database="postgres"):
    with psycopg.connect(cluster.dsn(database, "postgres"), autocommit=True) as connection:
        cursor = connection.execute(sql)
        return cursor.fetchall() if cursor.description else None


def apply(machine, op, **arguments):
    """Run, and prove that a second run and a dry run have nothing to do."""
    done = machine.run(op, executing=True, **arguments)
    assert done.failed == ""
    assert machine.run(op, executing=True, **arguments).run == []
    assert machine.run(op, **arguments).run == []
    return done


def test_a_role_logs_in_with_its_password_and_the_server_never_sees_it(machine, cluster, role):
    done = apply(machine, sql_role, **role)
    assert len(done.run) == 2
    with psycopg.connect(
        host=OWN_ADDRESS, port=cluster.port, user="memory", dbname="postgres", password=PASSWORD
    ) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("memory",)
    log = (cluster.directory / "log").read_text()
    assert "ALTER ROLE" in log
    assert PASSWORD not in log


DRIFT = {
    "password": "ALTER ROLE memory PASSWORD 'other'",
    "no password": "ALTER ROLE memory PASSWORD NULL",
    "superuser": "ALTER ROLE memory SUPERUSER",
    "may not log in": "ALTER ROLE memory NOLOGIN",
    "connection limit": "ALTER ROLE memory CONNECTION LIMIT 1",
    "setting": "ALTER ROLE memory SET search_path = other",
}


@pytest.mark.parametrize("drift", DRIFT)
def test_drift_of_a_role_is_seen_and_repaired(machine, cluster, role, drift):
    settings = {"search_path": "memory, public", "statement_timeout": "10s"}
    apply(machine, sql_role, settings=settings, **role)
    query(cluster, DRIFT[drift])
    assert machine.run(sql_role, settings=settings, **role).run != []
    apply(machine, sql_role, settings=settings, **role)


def test_a_password_rotated_in_file_and_server_stays(machine, cluster, role, tmp_path):
    apply(machine, sql_role, **role)
    (tmp_path / "password").write_text("rotated")
    query(cluster, f"ALTER ROLE memory PASSWORD '{scram_verifier('rotated')}'")
    assert machine.run(sql_role, **role).run == []


def test_a_password_file_that_does_not_fit_is_said(machine, role, tmp_path):
    (tmp_path / "password").write_text("something else")
    assert "the login of role memory could not be confirmed: the password in" in (
        machine.run(sql_role, executing=True, **role).failed
    )
    (tmp_path / "password").unlink()
    assert "write it with secret_file first" in machine.run(sql_role, executing=True, **role).failed


def test_a_server_that_asks_for_no_password_is_not_taken_for_a_right_one(machine, cluster, role):
    apply(machine, sql_role, **role)
    hba = cluster.data / "pg_hba.conf"
    hba.write_text(HBA.replace("scram-sha-256", "trust"))
    try:
        query(cluster, "SELECT pg_reload_conf()")
        for _ in range(100):
            done = machine.run(sql_role, executing=True, **role)
            if done.run:
                break
        assert "Postgres asked for no password; pg_hba.conf must demand scram-sha-256" in done.failed
    finally:
        hba.write_text(HBA)
        query(cluster, "SELECT pg_reload_conf()")


@pytest.fixture
def database(machine, role):
    """The arguments of a database whose owner exists."""
    apply(machine, sql_role, **role)
    return {
        "database": "demo",
        "owner": "postgres",
        "extensions": ["vector"],
        "settings": {"timezone": "UTC", "search_path": "memory, public", "work_mem": "8MB"},
        "schemas": {"memory": "memory"},
        "connect": ["memory"],
    }


def test_a_database_is_made_as_declared(machine, cluster, database):
    apply(machine, sql_database, **database)
    assert query(cluster, "SELECT '[1,2,3]'::vector::text", "demo") == [("[1,2,3]",)]
    with psycopg.connect(cluster.dsn("demo"), password=PASSWORD) as connection:
        assert connection.execute("SHOW timezone").fetchone() == ("UTC",)
        connection.execute("CREATE TABLE t ()")
        assert connection.execute("SELECT 't'::regclass::text").fetchone() == ("t",)


DATABASE_DRIFT = {
    "extension": "DROP EXTENSION vector",
    "setting": "ALTER DATABASE demo SET work_mem = '64MB'",
    "a setting that is gone": "ALTER DATABASE demo RESET search_path",
    "owner": "ALTER DATABASE demo OWNER TO memory",
    "schema": "DROP SCHEMA memory",
    "schema owner": "ALTER SCHEMA memory OWNER TO postgres",
    "everybody may connect": "GRANT CONNECT ON DATABASE demo TO PUBLIC",
    "a grant that is gone": "REVOKE CONNECT ON DATABASE demo FROM memory",
}


@pytest.mark.parametrize("drift", DATABASE_DRIFT)
def test_drift_of_a_database_is_seen_and_repaired(machine, cluster, database, drift):
    apply(machine, sql_database, **database)
    query(cluster, DATABASE_DRIFT[drift], "demo")
    assert machine.run(sql_database, **database).run != []
    apply(machine, sql_database, **database)


@pytest.fixture
def migrations(machine, database, tmp_path):
    """The arguments of two migrations, in a database that exists."""
    apply(machine, sql_database, **database)
    (tmp_path / "0001_a.sql").write_text("CREATE TABLE a (v vector(3)); -- it's 100% :fine\n")
    (tmp_path / "0002_b.sql").write_text("DO $$ BEGIN PERFORM 1; END $$;\nCREATE TABLE b () -- no end")

    def arguments():
        files = sorted(tmp_path.glob("0*.sql"))
        return {"database": "demo", "role": "memory", "schema": "memory", "files": files}

    return arguments


def test_migrations_are_applied_as_the_role_and_recorded(machine, cluster, migrations):
    apply(machine, sql_migrations, **migrations())
    owners = query(cluster, "SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'memory'", "demo")
    assert sorted(owners) == [("a", "memory"), ("b", "memory"), ("schema_migrations", "memory")]
    recorded = query(cluster, "SELECT number, name, length(checksum) FROM memory.schema_migrations", "demo")
    assert recorded == [(1, "0001_a.sql", 64), (2, "0002_b.sql", 64)]


def test_a_failing_migration_leaves_nothing_and_names_its_line(machine, cluster, migrations, tmp_path):
    (tmp_path / "0003_c.sql").write_text("CREATE TABLE c ();\n\nSELECT nonsense;\n")
    failed = machine.run(sql_migrations, executing=True, **migrations()).failed
    assert 'psql:<stdin>:3: ERROR:  column "nonsense" does not exist' in failed
    assert "migration 0003_c.sql failed on database demo; nothing of it was kept" in failed
    assert query(
        cluster, "SELECT to_regclass('memory.c'), count(*) FROM memory.schema_migrations", "demo"
    ) == [(None, 2)]
    (tmp_path / "0003_c.sql").write_text("CREATE TABLE c ();\n")
    assert len(apply(machine, sql_migrations, **migrations()).run) == 1


def test_an_edited_migration_is_refused_and_changes_nothing(machine, cluster, migrations, tmp_path):
    apply(machine, sql_migrations, **migrations())
    (tmp_path / "0001_a.sql").write_text("CREATE TABLE other ();\n")
    (tmp_path / "0003_c.sql").write_text("CREATE TABLE c ();\n")
    assert "0001_a.sql was edited after it was applied" in (
        machine.run(sql_migrations, executing=True, **migrations()).failed
    )
    assert query(cluster, "SELECT to_regclass('memory.c')", "demo") == [(None,)]


def test_two_deploys_at_once_apply_a_migration_once(machine, cluster, migrations):
    from operations.migration_plan import ordered_migrations, preparation, transaction

    (first, _) = ordered_migrations((f.name, f.read_text()) for f in migrations()["files"])
    query(cluster, preparation("memory", "memory"), "demo")
    query(cluster, transaction(first, "memory", "memory"), "demo")
    with pytest.raises(psycopg.errors.UniqueViolation):
        query(cluster, transaction(first, "memory", "memory"), "demo")
    apply(machine, sql_migrations, **migrations())
