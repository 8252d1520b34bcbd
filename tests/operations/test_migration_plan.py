"""Which migrations are applied, and which sets are refused."""

import pytest

from operations.migration_plan import (
    Applied,
    MigrationError,
    ordered_migrations,
    parse_applied,
    pending_migrations,
    transaction,
)

FILES = [("0002_b.sql", "SELECT 2;\n"), ("0001_a.sql", "SELECT 1;\n"), ("0003_c.sql", "SELECT 3;\n")]


def applied(migrations, *numbers):
    return [Applied(m.number, m.name, m.checksum) for m in migrations if m.number in numbers]


def test_migrations_are_ordered_by_number():
    assert [m.name for m in ordered_migrations(FILES)] == ["0001_a.sql", "0002_b.sql", "0003_c.sql"]


def test_what_is_recorded_is_not_applied_again():
    migrations = ordered_migrations(FILES)
    assert [m.number for m in pending_migrations(migrations, applied(migrations, 1, 2))] == [3]


def test_the_checksum_does_not_depend_on_how_the_checkout_ends_lines():
    (unix,) = ordered_migrations([("0001_a.sql", "a\nb\n")])
    (windows,) = ordered_migrations([("0001_a.sql", "a\r\nb\r\n")])
    assert unix.checksum == windows.checksum


BAD_FILES = {
    "a gap": ([("0001_a.sql", ""), ("0003_c.sql", "")], "migration 0002 is missing before 0003_c.sql"),
    "no first": ([("0002_a.sql", "")], "migration 0001 is missing"),
    "one number twice": (
        [("0001_a.sql", ""), ("0001_b.sql", "")],
        "migrations 0001_a.sql and 0001_b.sql have one number",
    ),
    "a strange name": ([("1_a.sql", "")], "must be named like"),
    "its own transaction": ([("0001_a.sql", "SELECT 1;\n  COMMIT;\n")], "holds 'COMMIT;'"),
    "begin": ([("0001_a.sql", "begin transaction;")], "holds 'begin transaction;'"),
    "a psql command": ([("0001_a.sql", "\\i other.sql\n")], "begins with a backslash"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused_with_one_sentence(case):
    files, sentence = BAD_FILES[case]
    with pytest.raises(MigrationError, match=sentence) as caught:
        ordered_migrations(files)
    assert "\n" not in str(caught.value)


def test_the_begin_of_a_function_body_is_no_transaction():
    ordered_migrations([("0001_a.sql", "CREATE FUNCTION f() ... AS $$\nBEGIN\n  x := 1;\nEND\n$$;")])


def test_an_edited_old_migration_is_refused():
    migrations = ordered_migrations(FILES)
    rows = [*applied(migrations, 1), Applied(2, "0002_b.sql", "0" * 64)]
    with pytest.raises(MigrationError, match=r"0002_b.sql was edited after it was applied .* put the change"):
        pending_migrations(migrations, rows)


def test_a_database_that_is_ahead_is_refused():
    migrations = ordered_migrations(FILES)
    with pytest.raises(MigrationError, match=r"the database has migration 0004_d.sql"):
        pending_migrations(migrations, [*applied(migrations, 1, 2, 3), Applied(4, "0004_d.sql", "x")])


def test_a_record_with_a_hole_is_refused():
    migrations = ordered_migrations(FILES)
    with pytest.raises(MigrationError, match="no migration 0002 but later ones"):
        pending_migrations(migrations, applied(migrations, 1, 3))


def test_the_record_is_in_the_transaction_and_lines_keep_their_numbers():
    migration = ordered_migrations(FILES)[0]
    text = transaction(migration, "memory", "o'wner")
    first = text.splitlines()[0]
    assert first.startswith('BEGIN; SET LOCAL client_min_messages = warning; SET LOCAL ROLE "o\'wner"; ')
    assert 'SET LOCAL search_path = "memory", public; ' in first
    assert f"(1, '0001_a.sql', '{migration.checksum}'); SELECT 1;" in first
    assert text.endswith("\n;\nCOMMIT;\n")


ANSWERS = {
    "no server": None,
    "no database": {},
    "no table": [],
    "rows": [{"number": 1, "name": "0001_a.sql", "checksum": "x"}],
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_record_is_read(answer):
    assert parse_applied(ANSWERS[answer]) == ([Applied(1, "0001_a.sql", "x")] if answer == "rows" else [])
