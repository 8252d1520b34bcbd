"""Which migrations are to be applied, and why a set of them is refused."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from operations.differences import Json
from operations.sql_text import identifier, literal

_NAME: Final = re.compile(r"(\d{4})_[a-z0-9][a-z0-9_]*\.sql")
# They would end the transaction that also holds the record of the migration.
_TRANSACTION: Final = re.compile(
    r"^\s*(BEGIN|COMMIT|ROLLBACK|START\s+TRANSACTION|ABORT)(\s+(WORK|TRANSACTION))?\s*;", re.I | re.M
)
_META: Final = re.compile(r"^\\", re.M)


class MigrationError(ValueError):
    """A set of migrations that must not be applied; the message is one sentence."""


@dataclass(frozen=True)
class Migration:
    """One numbered SQL file. The checksum ignores how the checkout ends its lines."""

    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """The hex SHA-256 of the text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True)
class Applied:
    """One row of ``schema_migrations``."""

    number: int
    name: str
    checksum: str


def ordered_migrations(files: Iterable[tuple[str, str]]) -> list[Migration]:
    """Migrations from ``(file name, text)`` pairs: numbered 0001, 0002, ... without a gap."""
    migrations = []
    for name, text in files:
        match = _NAME.fullmatch(name)
        if match is None:
            raise MigrationError(f"migration {name} must be named like 0001_create_tables.sql; rename it")
        sql = text.replace("\r\n", "\n")
        if found := _TRANSACTION.search(sql):
            raise MigrationError(
                f"migration {name} holds {found.group().strip()!r}, but each migration runs in one "
                "transaction with its record; remove the statement"
            )
        if _META.search(sql):
            raise MigrationError(
                f"migration {name} holds a psql command (a line begins with a backslash); write plain SQL"
            )
        migrations.append(Migration(int(match.group(1)), name, sql))
    migrations.sort(key=lambda migration: (migration.number, migration.name))
    for expected, migration in enumerate(migrations, start=1):
        if migration.number < expected:
            twin = migrations[expected - 2].name
            raise MigrationError(
                f"migrations {twin} and {migration.name} have one number; renumber the newer"
            )
        if migration.number > expected:
            raise MigrationError(
                f"migration {expected:04d} is missing before {migration.name}; numbers must have no gap"
            )
    return migrations


def pending_migrations(migrations: Sequence[Migration], applied: Iterable[Applied]) -> list[Migration]:
    """What is still to be applied; a history that does not match the files is a ``MigrationError``."""
    known = {row.number: row for row in applied}
    for number in sorted(known):
        row = known[number]
        if number > len(migrations):
            raise MigrationError(
                f"the database has migration {row.name}, which these files do not have; "
                "deploy the release that applied it or a newer one"
            )
        migration = migrations[number - 1]
        if migration.checksum != row.checksum:
            raise MigrationError(
                f"migration {migration.name} was edited after it was applied "
                f"(sha256 {row.checksum[:12]} recorded, {migration.checksum[:12]} found); "
                "restore it and put the change in a new file"
            )
    missing = [number for number in range(1, max(known, default=0) + 1) if number not in known]
    if missing:
        raise MigrationError(
            f"the database's record has no migration {missing[0]:04d} but later ones; "
            "restore schema_migrations before deploying"
        )
    return [migration for migration in migrations if migration.number not in known]


def applied_query(schema: str) -> str:
    """A psql script for the record: a JSON list, empty when there is no table yet."""
    table = f"{identifier(schema)}.schema_migrations"
    rows = f"select number, name, checksum from {table} order by number"
    return (
        f"select to_regclass({literal(table)}) is not null as there \\gset\n"
        "\\if :there\n"
        f"select coalesce(json_agg(r), '[]') from ({rows}) r;\n"
        "\\else\n"
        "select '[]';\n"
        "\\endif\n"
    )


def parse_applied(answer: Json) -> list[Applied]:
    """The record from the answer of ``applied_query``; empty without a database or a server."""
    rows = []
    for row in answer if isinstance(answer, list) else []:
        if isinstance(row, dict):
            rows.append(Applied(int(str(row["number"])), str(row["name"]), str(row["checksum"])))
    return rows


def preparation(schema: str, role: str) -> str:
    """SQL that makes the schema and its record, owned by the role, where they are absent."""
    return (
        f"CREATE SCHEMA IF NOT EXISTS {identifier(schema)} AUTHORIZATION {identifier(role)};\n"
        f"SET ROLE {identifier(role)};\n"
        f"CREATE TABLE IF NOT EXISTS {identifier(schema)}.schema_migrations (\n"
        "  number integer PRIMARY KEY,\n"
        "  name text NOT NULL,\n"
        "  checksum text NOT NULL,\n"
        "  applied_at timestamptz NOT NULL DEFAULT now()\n"
        ");\n"
    )


def transaction(migration: Migration, schema: str, role: str) -> str:
    """One migration and its record in one transaction, as the role, in the schema.

    The record comes first: a second deploy at the same time waits there and then fails on the primary
    key. It shares its line with the file's first, so that psql's line numbers are the file's.
    """
    return (
        f"BEGIN; SET LOCAL client_min_messages = warning; SET LOCAL ROLE {identifier(role)}; "
        f"SET LOCAL search_path = {identifier(schema)}, public; "
        f"INSERT INTO {identifier(schema)}.schema_migrations (number, name, checksum) VALUES "
        f"({migration.number}, {literal(migration.name)}, {literal(migration.checksum)}); "
        f"{migration.sql.rstrip()}\n;\nCOMMIT;\n"
    )
