"""Roles, databases and migrations: what is asked, planned and sent."""

import json

import pytest
from pyinfra.api.exceptions import OperationError

from operations import sql_database, sql_migrations, sql_role
from operations.facts import SqlAnswer
from operations.migration_plan import applied_query, ordered_migrations
from operations.sql_scripts import QUERY_DATABASE, QUERY_ROLE

ASK = "# ask Postgres"
PASSWORD = "correct-horse-battery"
FILE = "/etc/memory-droplet/secrets/postgres/memory_password"
ROLE = {
    "role": {
        "SUPERUSER": False,
        "CREATEDB": False,
        "CREATEROLE": False,
        "INHERIT": True,
        "LOGIN": True,
        "REPLICATION": False,
        "BYPASSRLS": False,
        "limit": -1,
        "settings": {},
    },
    "login": "ok",
}
DATABASE = {
    "owner": "n8n",
    "extensions": ["vector"],
    "schemas": {"memory": "memory"},
    "settings": {},
    "public": False,
    "connect": ["n8n"],
    "create": [],
}
RUN = "run SQL (container, database, what): postgres"
CONFIRM = "confirm a login (container, role, password file, database): postgres memory"


class Hidden:
    def reveal(self):
        return PASSWORD


def role(host, answer, **changes):
    arguments = {"role": "memory", "password_file": FILE, "password": Hidden()} | changes
    executing = arguments.pop("executing", False)
    return host.run(sql_role, {ASK: json.dumps(answer)}, executing=executing, **arguments)


def test_a_role_as_declared_needs_nothing(fake_host):
    outcome = role(fake_host, ROLE)
    assert (outcome.run, len(outcome.facts)) == ([], 1)


def test_a_wrong_password_is_set_by_its_verifier_and_then_tried(fake_host):
    outcome = role(fake_host, {**ROLE, "login": "denied"})
    assert [line.rsplit(" ", 2)[0] for line in outcome.summaries] == [
        f"{RUN} postgres",
        CONFIRM,
    ]
    assert outcome.stdin[0].startswith('BEGIN;\nALTER ROLE "memory" WITH PASSWORD \'SCRAM-SHA-256$4096:')
    assert PASSWORD not in outcome.everything + "".join(outcome.stdin)


def test_an_absent_role_is_created_with_its_password(fake_host):
    sql = role(fake_host, {"role": None, "login": "denied"}).stdin[0]
    assert sql.index("CREATE ROLE") < sql.index("WITH PASSWORD")


def test_a_role_that_may_not_log_in_needs_no_password(fake_host):
    answer = {"role": {**ROLE["role"], "LOGIN": False}, "login": "no-login"}
    assert role(fake_host, answer, attributes=["INHERIT"]).run == []


def test_a_verifier_never_shows_in_a_command_or_diff(fake_host):
    assert "SCRAM-SHA-256$" not in role(fake_host, {"role": None, "login": "denied"}).everything


def database(host, answer, **changes):
    arguments = {"database": "n8ndb", "owner": "n8n", "extensions": ["vector"]} | changes
    return host.run(sql_database, {ASK: json.dumps(answer)}, **arguments)


def test_a_database_as_declared_needs_nothing(fake_host):
    outcome = database(fake_host, DATABASE)
    assert (outcome.run, len(outcome.facts)) == ([], 1)


def test_an_absent_database_is_created_first_and_then_filled(fake_host):
    outcome = database(fake_host, {}, schemas={"memory": "memory"})
    assert outcome.stdin == [
        'CREATE DATABASE "n8ndb" OWNER "n8n";\n',
        'BEGIN;\nCREATE EXTENSION IF NOT EXISTS "vector";\n'
        'CREATE SCHEMA "memory" AUTHORIZATION "memory";\nCOMMIT;\n',
    ]


def test_drift_of_a_database_is_shown_and_repaired(fake_host):
    outcome = database(fake_host, {**DATABASE, "owner": "x"})
    assert outcome.stdin == ['BEGIN;\nALTER DATABASE "n8ndb" OWNER TO "n8n";\nCOMMIT;\n']
    assert 'ALTER DATABASE "n8ndb" OWNER TO "n8n";' in outcome.said


@pytest.fixture
def files(tmp_path):
    (tmp_path / "0001_a.sql").write_text("CREATE TABLE a ();\n")
    (tmp_path / "0002_b.sql").write_text("CREATE TABLE b ();\n")
    return sorted(tmp_path.glob("*.sql"))


def rows(files, *numbers):
    migrations = ordered_migrations((file.name, file.read_text()) for file in files)
    return [
        {"number": m.number, "name": m.name, "checksum": m.checksum}
        for m in migrations
        if m.number in numbers
    ]


def migrate(host, answer, files, **changes):
    arguments = {"database": "n8ndb", "role": "memory", "schema": "memory", "files": files} | changes
    return host.run(sql_migrations, {ASK: json.dumps(answer)}, **arguments)


def test_a_migrated_database_needs_nothing(fake_host, files):
    outcome = migrate(fake_host, rows(files, 1, 2), files)
    assert (outcome.run, len(outcome.facts)) == ([], 1)


def test_only_what_is_new_is_applied(fake_host, files):
    outcome = migrate(fake_host, rows(files, 1), files)
    assert outcome.summaries == [f"{RUN} n8ndb 'migration 0002_b.sql'"]
    assert "CREATE TABLE b ()" in outcome.stdin[0]


def test_the_first_time_the_record_is_made_by_the_role(fake_host, files):
    outcome = migrate(fake_host, [], files)
    assert outcome.summaries[0] == f"{RUN} n8ndb 'schema memory'"
    assert outcome.stdin[0].startswith(
        'CREATE SCHEMA IF NOT EXISTS "memory" AUTHORIZATION "memory";\nSET ROLE "memory";\nCREATE TABLE'
    )
    assert len(outcome.run) == 3


def test_an_edited_migration_ends_a_dry_run_with_a_sentence(fake_host, files):
    recorded = rows(files, 1, 2)
    files[0].write_text("CREATE TABLE other ();\n")
    with pytest.raises(
        OperationError, match=r"migrations of n8ndb.memory on @fake/droplet: migration 0001_a"
    ):
        migrate(fake_host, recorded, files)


def test_an_edited_migration_is_refused_by_a_run_before_anything_is_sent(fake_host, files):
    recorded = rows(files, 1)
    files[0].write_text("CREATE TABLE other ();\n")
    outcome = migrate(fake_host, recorded, files, executing=True)
    assert outcome.stdin == [""]
    assert "refuse: 'migrations of n8ndb.memory" in outcome.summaries[0]


def test_a_gap_in_the_files_is_refused_without_asking_the_host(fake_host, files):
    with pytest.raises(OperationError, match="migration 0001 is missing"):
        migrate(fake_host, [], files[1:])
    refused = migrate(fake_host, [], files[1:], executing=True)
    assert (len(refused.run), refused.stdin) == (1, [""])
    assert "migration 0001 is missing" in refused.summaries[0]


OPERATIONS = {
    "role": (sql_role, {"role": "memory", "password_file": FILE, "password": Hidden()}),
    "database": (sql_database, {"database": "n8ndb", "owner": "n8n"}),
    "migrations": (sql_migrations, {"database": "n8ndb", "role": "m", "schema": "m"}),
}


@pytest.mark.parametrize("case", OPERATIONS)
def test_a_bare_host_plans_a_stopped_server_does_not_and_a_run_refuses(fake_host, files, case):
    op, arguments = OPERATIONS[case]
    if case == "migrations":
        arguments = {**arguments, "files": files}
    assert fake_host.run(op, **arguments).run != []
    assert fake_host.run(op, {ASK: "null"}, **arguments).run != []
    assert fake_host.run(op, {ASK: '"stopped"'}, **arguments).run == []
    for answer in ("null", '"stopped"'):
        refused = fake_host.run(op, {ASK: answer}, executing=True, **arguments)
        assert "Postgres in the container postgres did not answer for 60 s" in refused.summaries[0]
        assert len(refused.run) == 1


@pytest.mark.parametrize("probe", [QUERY_DATABASE, QUERY_ROLE])
def test_a_shell_without_docker_is_no_failure(bare_shell, probe):
    asked = bare_shell(
        SqlAnswer().command(probe, ["postgres", "1", "a", applied_query("x"), "/nowhere", "d"])
    )
    assert (asked.returncode, asked.stdout) == (0, "null\n")
