"""The SQL of roles and databases: what is asked, and the statements a difference leads to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from operations.differences import Json

_SETTING = re.compile(r"[a-z_][a-z0-9_.]*")
_EXTENSION = re.compile(r"[a-z_][a-z0-9_-]*")


def identifier(name: str) -> str:
    """A quoted identifier."""
    if not name or "\0" in name or len(name.encode()) > 63:
        raise ValueError(f"{name!r} is no name for a Postgres object: it must have 1 to 63 bytes")
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A quoted literal, right whatever ``standard_conforming_strings`` says."""
    if "\0" in text:
        raise ValueError("a Postgres text cannot hold a NUL byte")
    quoted = "'" + text.replace("'", "''") + "'"
    return "E" + quoted.replace("\\", "\\\\") if "\\" in quoted else quoted


def setting_value(value: str) -> str:
    """The right side of ``SET name = ...``: lists such as a search path keep their commas."""
    if re.fullmatch(r"[^'\",]*(, *[^'\",]+)+", value):
        return ", ".join(literal(part.strip()) for part in value.split(","))
    return literal(value)


def checked_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """The settings themselves; a name that cannot be one is a ``ValueError``."""
    for name in settings:
        if not _SETTING.fullmatch(name):
            raise ValueError(
                f"{name!r} is no name of a Postgres setting; use lower-case letters, '_' and '.'"
            )
    return dict(settings)


def differing_settings(found: Json, wanted: Mapping[str, str]) -> dict[str, str]:
    """The wanted settings that are not in effect; Postgres keeps ``timezone`` as ``TimeZone``."""
    known = {name.lower(): value for name, value in found.items()} if isinstance(found, dict) else {}
    return {name: value for name, value in checked_settings(wanted).items() if known.get(name) != value}


def checked_extensions(extensions: Iterable[str]) -> list[str]:
    """The extension names; anything that cannot be one is a ``ValueError``."""
    found = list(extensions)
    for name in found:
        if not _EXTENSION.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a Postgres extension")
    return found


ROLE_ATTRIBUTES: Final = {
    "SUPERUSER": "rolsuper",
    "CREATEDB": "rolcreatedb",
    "CREATEROLE": "rolcreaterole",
    "INHERIT": "rolinherit",
    "LOGIN": "rolcanlogin",
    "REPLICATION": "rolreplication",
    "BYPASSRLS": "rolbypassrls",
}


def checked_attributes(attributes: Iterable[str]) -> list[str]:
    """Upper-case role attributes; an unknown one is a ``ValueError``."""
    found = [attribute.upper() for attribute in attributes]
    unknown = [attribute for attribute in found if attribute not in ROLE_ATTRIBUTES]
    if unknown:
        raise ValueError(
            f"unknown role attributes {', '.join(unknown)}; known are {', '.join(ROLE_ATTRIBUTES)}"
        )
    return found


def role_query(role: str) -> str:
    """A query for one role: a JSON object, or no row."""
    columns = ", ".join(f"'{name}', {column}" for name, column in ROLE_ATTRIBUTES.items())
    return (
        f"select json_build_object({columns}, 'limit', rolconnlimit, "
        "'settings', coalesce((select json_object_agg(split_part(s, '=', 1), substr(s, strpos(s, '=') + 1)) "
        "from unnest((select setconfig from pg_db_role_setting where setrole = r.oid and setdatabase = 0)) s)"
        f", '{{}}')) from pg_roles r where rolname = {literal(role)};"
    )


def role_changes(
    found: Json, role: str, attributes: Iterable[str], connection_limit: int, settings: Mapping[str, str]
) -> list[str]:
    """Statements that give a role its attributes, without its password. ``found`` None means absent."""
    wanted = checked_attributes(attributes)
    row = found if isinstance(found, dict) else {}
    words = [
        name if name in wanted else f"NO{name}"
        for name in ROLE_ATTRIBUTES
        if not row or row.get(name) is not (name in wanted)
    ]
    if not row or row.get("limit") != connection_limit:
        words.append(f"CONNECTION LIMIT {connection_limit}")
    statements = []
    if words:
        statements.append(f"{'ALTER' if row else 'CREATE'} ROLE {identifier(role)} WITH {' '.join(words)};")
    for name, value in differing_settings(row.get("settings"), settings).items():
        statements.append(f"ALTER ROLE {identifier(role)} SET {name} = {setting_value(value)};")
    return statements


def password_statement(role: str, verifier: str) -> str:
    """Set a password by its verifier; what the server may log is no password."""
    return f"ALTER ROLE {identifier(role)} WITH PASSWORD {literal(verifier)};"


def database_query(database: str) -> str:
    """A query, run inside the database, for everything ``sql_database`` keeps."""
    return (
        "select json_build_object('owner', pg_get_userbyid(d.datdba), "
        "'extensions', coalesce((select json_agg(extname) from pg_extension), '[]'), "
        "'schemas', (select json_object_agg(nspname, pg_get_userbyid(nspowner)) from pg_namespace), "
        "'settings', coalesce((select json_object_agg(split_part(s, '=', 1), substr(s, strpos(s, '=') + 1)) "
        "from unnest((select setconfig from pg_db_role_setting "
        "where setdatabase = d.oid and setrole = 0)) s), '{}'), "
        "'public', exists(select from aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a "
        "where a.grantee = 0), "
        "'connect', coalesce((select json_agg(pg_get_userbyid(a.grantee)) "
        "from aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a "
        "where a.grantee <> 0 and a.privilege_type = 'CONNECT'), '[]'), "
        "'create', coalesce((select json_agg(pg_get_userbyid(a.grantee)) "
        "from aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a "
        "where a.grantee <> 0 and a.privilege_type = 'CREATE'), '[]')) "
        f"from pg_database d where datname = {literal(database)};"
    )


def database_changes(
    found: dict[str, Json],
    database: str,
    owner: str,
    extensions: Iterable[str],
    settings: Mapping[str, str],
    schemas: Mapping[str, str],
    connect: Iterable[str] | None,
    create: Iterable[str] = (),
) -> list[str]:
    """Statements, to be run inside an existing database, that make it as declared."""
    name = identifier(database)
    statements = []
    # A new owner takes over what the old one was granted, so grants are made again.
    moved = found.get("owner") != owner
    if moved:
        statements.append(f"ALTER DATABASE {name} OWNER TO {identifier(owner)};")
    present = found.get("extensions")
    for extension in checked_extensions(extensions):
        if not isinstance(present, list) or extension not in present:
            statements.append(f"CREATE EXTENSION IF NOT EXISTS {identifier(extension)};")
    owners = found.get("schemas")
    for schema, schema_owner in schemas.items():
        if not isinstance(owners, dict) or schema not in owners:
            statements.append(f"CREATE SCHEMA {identifier(schema)} AUTHORIZATION {identifier(schema_owner)};")
        elif owners[schema] != schema_owner:
            statements.append(f"ALTER SCHEMA {identifier(schema)} OWNER TO {identifier(schema_owner)};")
    for setting, value in differing_settings(found.get("settings"), settings).items():
        statements.append(f"ALTER DATABASE {name} SET {setting} = {setting_value(value)};")
    if connect is not None:
        if found.get("public") is not False:
            statements.append(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC;")
        granted = found.get("connect")
        wanted = {owner, *connect}
        has = {str(role) for role in granted} if isinstance(granted, list) else set()
        for role in sorted(wanted if moved else wanted - has):
            statements.append(f"GRANT CONNECT, TEMPORARY ON DATABASE {name} TO {identifier(role)};")
        for role in sorted(has - wanted):
            statements.append(f"REVOKE ALL ON DATABASE {name} FROM {identifier(role)};")
    creating = found.get("create")
    may_create = {str(role) for role in creating} if isinstance(creating, list) and not moved else set()
    for role in sorted(set(create) - may_create):
        statements.append(f"GRANT CREATE ON DATABASE {name} TO {identifier(role)};")
    return statements
