"""SQL as text: quoting, and the statements a difference leads to."""

import pytest

from operations.sql_text import (
    database_changes,
    identifier,
    literal,
    role_changes,
    setting_value,
)

ROLE = {
    "SUPERUSER": False,
    "CREATEDB": False,
    "CREATEROLE": False,
    "INHERIT": True,
    "LOGIN": True,
    "REPLICATION": False,
    "BYPASSRLS": False,
    "limit": -1,
    "settings": {},
}


def test_names_and_texts_are_quoted():
    assert identifier('a"b') == '"a""b"'
    assert literal("it's") == "'it''s'"
    assert literal("a\\b'c") == "E'a\\\\b''c'"
    assert setting_value("memory, public") == "'memory', 'public'"
    assert setting_value("10s") == "'10s'"


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 64])
def test_what_cannot_be_a_name_is_refused(name):
    with pytest.raises(ValueError, match="no name for a Postgres object"):
        identifier(name)


def role(found, attributes=("LOGIN", "INHERIT"), limit=-1, settings=None):
    return role_changes(found, "memory", attributes, limit, settings or {})


def test_an_absent_role_is_created_with_everything_said():
    assert role(None) == [
        'CREATE ROLE "memory" WITH NOSUPERUSER NOCREATEDB NOCREATEROLE INHERIT LOGIN NOREPLICATION '
        "NOBYPASSRLS CONNECTION LIMIT -1;"
    ]


def test_a_role_as_declared_needs_nothing():
    assert role(ROLE) == []


def test_what_a_role_was_given_is_taken_away():
    assert role({**ROLE, "SUPERUSER": True, "limit": 3}) == [
        'ALTER ROLE "memory" WITH NOSUPERUSER CONNECTION LIMIT -1;'
    ]


def test_a_setting_of_a_role_is_put_back():
    assert role({**ROLE, "settings": {"statement_timeout": "5s"}}, settings={"statement_timeout": "10s"}) == [
        "ALTER ROLE \"memory\" SET statement_timeout = '10s';"
    ]


def test_an_unknown_attribute_is_refused():
    with pytest.raises(ValueError, match="unknown role attributes ROOT; known are SUPERUSER"):
        role(ROLE, attributes=("root",))


DATABASE = {
    "owner": "n8n",
    "extensions": ["plpgsql", "vector"],
    "schemas": {"public": "postgres", "memory": "memory"},
    "settings": {"TimeZone": "UTC"},
    "public": False,
    "connect": ["n8n", "memory"],
    "create": ["n8n"],
}


def database(found, **changes):
    wanted = {
        "owner": "n8n",
        "extensions": ["vector"],
        "settings": {"timezone": "UTC"},
        "schemas": {"memory": "memory"},
        "connect": ["memory"],
    } | changes
    return database_changes(found, "db", **wanted)


def test_a_database_as_declared_needs_nothing():
    assert database(DATABASE) == []


DRIFT = {
    "owner, who takes grants along": (
        {"owner": "memory", "connect": ["memory"]},
        [
            'ALTER DATABASE "db" OWNER TO "n8n";',
            'GRANT CONNECT, TEMPORARY ON DATABASE "db" TO "memory";',
            'GRANT CONNECT, TEMPORARY ON DATABASE "db" TO "n8n";',
        ],
    ),
    "extension": ({"extensions": []}, ['CREATE EXTENSION IF NOT EXISTS "vector";']),
    "setting": ({"settings": {"TimeZone": "CET"}}, ["ALTER DATABASE \"db\" SET timezone = 'UTC';"]),
    "schema": ({"schemas": {}}, ['CREATE SCHEMA "memory" AUTHORIZATION "memory";']),
    "schema owner": ({"schemas": {"memory": "x"}}, ['ALTER SCHEMA "memory" OWNER TO "memory";']),
    "everybody may connect": ({"public": True}, ['REVOKE ALL ON DATABASE "db" FROM PUBLIC;']),
    "a grant is missing": (
        {"connect": ["n8n"]},
        ['GRANT CONNECT, TEMPORARY ON DATABASE "db" TO "memory";'],
    ),
    "a grant too many": (
        {"connect": ["n8n", "memory", "x"]},
        ['REVOKE ALL ON DATABASE "db" FROM "x";'],
    ),
}


@pytest.mark.parametrize("case", DRIFT)
def test_drift_of_a_database_leads_to_exactly_its_repair(case):
    changes, statements = DRIFT[case]
    assert database({**DATABASE, **changes}) == statements


def test_grants_are_left_alone_when_nothing_is_said_of_them():
    assert database({**DATABASE, "public": True, "connect": ["x"]}, connect=None) == []


def test_a_role_may_be_let_create_schemas():
    assert database(DATABASE, create=["memory"]) == ['GRANT CREATE ON DATABASE "db" TO "memory";']


@pytest.mark.parametrize("name", ["a b", "x;y", "Timezone"])
def test_a_setting_that_cannot_be_one_is_refused(name):
    with pytest.raises(ValueError, match="no name of a Postgres setting"):
        database(DATABASE, settings={name: "1"})
