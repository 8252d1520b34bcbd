"""Roles, databases and migrations of the Postgres in a container."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

from pyinfra.api.command import PyinfraCommand, StringCommand
from pyinfra.api.exceptions import OperationError
from pyinfra.api.operation import operation
from pyinfra.context import host, state

from operations.announcing import announce_diff
from operations.differences import Json
from operations.facts import SqlAnswer
from operations.host_paths import checked_path
from operations.migration_plan import (
    MigrationError,
    applied_query,
    ordered_migrations,
    parse_applied,
    pending_migrations,
    preparation,
    transaction,
)
from operations.scram import scram_verifier
from operations.secret_text import SecretText, revealed
from operations.shell import refusal, script
from operations.sql_scripts import CONFIRM_LOGIN, QUERY_DATABASE, QUERY_ROLE, RUN, STOPPED
from operations.sql_text import (
    database_changes,
    database_query,
    identifier,
    password_statement,
    role_changes,
    role_query,
)


def _wait_s() -> int:
    """Seconds to wait for the server: it may have been started a moment ago by this very run."""
    return 60 if state.is_executing else 1


def _unreachable(container: str) -> StringCommand:
    return refusal(
        f"Postgres in the container {container} did not answer for {_wait_s()} s; "
        f"see `journalctl -u droplet-{container}` and `docker logs {container}` on the host"
    )


@operation()
def sql_role(
    role: str,
    password_file: str,
    password: SecretText | str,
    attributes: Sequence[str] = ("LOGIN", "INHERIT"),
    connection_limit: int = -1,
    settings: Mapping[str, str] | None = None,
    login_database: str = "postgres",
    container: str = "postgres",
) -> Generator[PyinfraCommand, None, None]:
    """Keep a role with exactly these attributes, and with the password that lies on the host.

    ``attributes`` is the whole list: what is not in it is taken away. Whether the password is right is
    found out by logging in to ``login_database`` with ``password_file``, so a password rotated on the host, in file
    and server, stays. Otherwise the server gets the SCRAM-SHA-256 verifier of ``password``, never the
    password, and the file must then log in. ``settings`` are the role's own (``ALTER ROLE ... SET``);
    undeclared ones are left alone.

    **Example:**

    .. code:: python

        from operations import sql_role

        sql_role(
            name="Keep the role of the memory service", role="memory",
            password_file=names.secret_path("postgres", "MEMORY_PASSWORD"),
            password=host_secrets(host.name)["postgres_memory_password"],
            settings={"statement_timeout": "10s"},
        )
    """
    checked_path(password_file)
    declared = dict(settings or {})
    found = host.get_fact(
        SqlAnswer,
        probe=QUERY_ROLE,
        arguments=[container, str(_wait_s()), role_query(role), role, password_file, login_database],
    )
    if not isinstance(found, dict | list) and state.is_executing:
        yield _unreachable(container)
        return
    if found == STOPPED:
        host.noop(f"{container} is stopped; what is in it can be compared when it runs")
        return
    answer: dict[str, Json] = found if isinstance(found, dict) else {}
    statements = role_changes(answer.get("role"), role, attributes, connection_limit, declared)
    can_log_in = "LOGIN" in [attribute.upper() for attribute in attributes]
    wrong_password = can_log_in and answer.get("login") != "ok"
    if not statements and not wrong_password:
        host.noop(f"role {role} is as declared")
        return
    announce_diff(
        f"role {role} in {container}",
        [*statements, *(["set its password"] if wrong_password else [])],
    )
    sql = list(statements)
    if wrong_password:
        sql.append(password_statement(role, scram_verifier(revealed(password))))
    yield script(
        RUN, container, "postgres", f"role {role}", stdin="BEGIN;\n" + "\n".join(sql) + "\nCOMMIT;\n"
    )
    if wrong_password:
        yield script(CONFIRM_LOGIN, container, role, password_file, login_database)


@operation()
def sql_database(
    database: str,
    owner: str,
    extensions: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
    schemas: Mapping[str, str] | None = None,
    connect: Sequence[str] | None = None,
    create: Sequence[str] = (),
    container: str = "postgres",
) -> Generator[PyinfraCommand, None, None]:
    """Keep a database with its owner, extensions, settings and schemas.

    ``schemas`` maps a schema to the role that owns it. With ``connect`` only the owner and these roles
    may connect; without it the database's grants are left alone. ``create`` names roles that may make
    schemas in it, without owning it. Nothing is ever dropped.

    **Example:**

    .. code:: python

        from operations import sql_database

        sql_database(
            name="Keep the database of memory and n8n", database="n8ndb", owner="n8n",
            extensions=["vector", "pg_trgm"], settings={"timezone": "UTC"},
            schemas={"memory": "memory"}, connect=["memory"],
        )
    """
    declared = dict(settings or {})
    owners = dict(schemas or {})
    found = host.get_fact(
        SqlAnswer,
        probe=QUERY_DATABASE,
        arguments=[container, str(_wait_s()), database, database_query(database)],
    )
    if not isinstance(found, dict | list) and state.is_executing:
        yield _unreachable(container)
        return
    if found == STOPPED:
        host.noop(f"{container} is stopped; what is in it can be compared when it runs")
        return
    known: dict[str, Json] = found if isinstance(found, dict) else {}
    absent = not known
    if absent:
        known = {"owner": owner}
    statements = database_changes(known, database, owner, extensions, declared, owners, connect, create)
    if not absent and not statements:
        host.noop(f"database {database} is as declared")
        return
    creation = f"CREATE DATABASE {identifier(database)} OWNER {identifier(owner)};"
    announce_diff(f"database {database} in {container}", [*([creation] if absent else []), *statements])
    if absent:
        # CREATE DATABASE cannot be in a transaction.
        yield script(RUN, container, "postgres", creation, stdin=creation + "\n")
    if statements:
        yield script(
            RUN,
            container,
            database,
            "its declaration",
            stdin="BEGIN;\n" + "\n".join(statements) + "\nCOMMIT;\n",
        )


@operation()
def sql_migrations(
    database: str,
    role: str,
    schema: str,
    files: Sequence[str | Path],
    container: str = "postgres",
) -> Generator[PyinfraCommand, None, None]:
    """Apply the SQL files ``NNNN_name.sql`` that the database does not have yet, in order.

    Each file runs as ``role`` with ``search_path`` at ``schema``, in one transaction with its row in
    ``<schema>.schema_migrations (number, name, checksum, applied_at)``. An edited old file, a gap or a
    database that is ahead of the files is refused before anything is changed.

    **Example:**

    .. code:: python

        from operations import sql_migrations

        sql_migrations(
            name="Bring the memory schema up to date", database="n8ndb", role="memory", schema="memory",
            files=sorted(Path("files/postgres/migrations").glob("*.sql")),
        )
    """
    try:
        migrations = ordered_migrations((Path(file).name, Path(file).read_text("utf-8")) for file in files)
        found = host.get_fact(
            SqlAnswer,
            probe=QUERY_DATABASE,
            arguments=[container, str(_wait_s()), database, applied_query(schema)],
        )
        if not isinstance(found, dict | list) and state.is_executing:
            yield _unreachable(container)
            return
        if found == STOPPED:
            host.noop(f"{container} is stopped; what is in it can be compared when it runs")
            return
        applied = parse_applied(found)
        pending = pending_migrations(migrations, applied)
    except MigrationError as error:
        sentence = f"migrations of {database}.{schema} on {host.name}: {error}"
        if state.is_executing:
            yield refusal(sentence)
            return
        raise OperationError(sentence) from None
    if not pending:
        host.noop(f"{database}.{schema} has all {len(migrations)} migrations")
        return
    announce_diff(f"migrate {database}.{schema}", [migration.name for migration in pending])
    if not applied:
        yield script(RUN, container, database, f"schema {schema}", stdin=preparation(schema, role))
    for migration in pending:
        yield script(
            RUN,
            container,
            database,
            f"migration {migration.name}",
            stdin=transaction(migration, schema, role),
        )
