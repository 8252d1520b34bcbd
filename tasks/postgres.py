"""Postgres with pgvector: the truth. Its roles, databases and the schema of the memory."""

from pathlib import Path

from pyinfra import host
from pyinfra.api import deploy

from operations import (
    BundleFile,
    ContainerUnit,
    bundle,
    container,
    secret_file,
    service,
    sql_database,
    sql_migrations,
    sql_role,
)
from settings import names
from settings.images import image_ref, image_uid
from settings.render import render
from settings.secrets import host_secrets

COMPONENT = "postgres"
MIGRATIONS = Path(__file__).parent.parent / "files" / COMPONENT / "migrations"

#: Who may log in where: role -> database.
LOGINS = {
    "memory": names.MEMORY_DATABASE,
    "n8n": names.MEMORY_DATABASE,
    "openwebui": names.OPEN_WEBUI_DATABASE,
}


@deploy("Postgres")
def postgres() -> None:
    """Install, configure, start and provision Postgres."""
    secrets = host_secrets(host.name)
    uid = str(image_uid(COMPONENT))

    configuration = bundle(
        name="Configuration",
        directories=[
            (names.secret_dir(COMPONENT), "root", "root", "0700"),
            (names.config_dir(COMPONENT), "root", "root", "0755"),
            (names.data_path(COMPONENT), uid, uid, "0700"),
        ],
        files=[
            BundleFile(
                names.config_path(COMPONENT, "postgresql.conf"),
                render("postgres/postgresql.conf.j2", max_connections=host.data.postgres_max_connections),
                "root",
                "root",
                "0644",
            ),
            BundleFile(
                names.config_path(COMPONENT, "pg_hba.conf"),
                render("postgres/pg_hba.conf.j2", logins=LOGINS.items(), subnet=names.NETWORK_SUBNET),
                "root",
                "root",
                "0644",
            ),
        ],
    )
    secret_file(
        name="Password of the superuser",
        dest=names.secret_path(COMPONENT, "superuser_password"),
        content=secrets["postgres_superuser_password"],
        user=uid,
        group=uid,
        mode="0400",
    )
    for role in LOGINS:
        secret_file(
            name=f"Password of role {role}",
            dest=names.secret_path(COMPONENT, f"{role}_password"),
            content=secrets[f"postgres_{role}_password"],
            user="root",
            group="root",
            mode="0400",
        )

    unit = container(
        name="Unit",
        unit=ContainerUnit(
            name=COMPONENT,
            image=image_ref(COMPONENT, host.data),
            description="Postgres with pgvector",
            memory_mb=host.data.postgres_memory_mb,
            user=f"{uid}:{uid}",
            publish=(f"127.0.0.1:{names.POSTGRES_PORT}:5432",),
            volumes=(
                f"{names.data_path(COMPONENT)}:/var/lib/postgresql",
                f"{names.config_dir(COMPONENT)}:/etc/postgresql:ro",
                f"{names.secret_path(COMPONENT, 'superuser_password')}:/run/secrets/superuser_password:ro",
            ),
            environment={"POSTGRES_PASSWORD_FILE": "/run/secrets/superuser_password"},
            tmpfs=("/tmp", "/var/run/postgresql"),
            shm_mb=128,
            command=("postgres", "-c", "config_file=/etc/postgresql/postgresql.conf"),
            health_cmd="pg_isready -q -U postgres -h 127.0.0.1",
            stop_timeout_s=60,
        ),
    )
    service(
        name="Running",
        unit=names.unit(COMPONENT),
        reads=[
            names.config_path(COMPONENT, "postgresql.conf"),
            names.config_path(COMPONENT, "pg_hba.conf"),
        ],
        triggers=[configuration, unit],
    )

    for role, database in LOGINS.items():
        sql_role(
            name=f"Role {role}",
            role=role,
            password_file=names.secret_path(COMPONENT, f"{role}_password"),
            password=secrets[f"postgres_{role}_password"],
            login_database=database,
        )
    sql_database(
        name=f"Database {names.MEMORY_DATABASE}",
        database=names.MEMORY_DATABASE,
        owner="postgres",
        extensions=["vector"],
        schemas={names.MEMORY_SCHEMA: "memory", names.N8N_SCHEMA: "n8n", names.ALERTS_SCHEMA: "n8n"},
        connect=["memory", "n8n"],
        # n8n runs CREATE SCHEMA IF NOT EXISTS at every start, which Postgres refuses without this right even
        # where the schema exists; n8n then waits forever without a word.
        create=["n8n"],
    )
    sql_database(
        name=f"Database {names.OPEN_WEBUI_DATABASE}",
        database=names.OPEN_WEBUI_DATABASE,
        owner="openwebui",
        connect=[],
    )
    sql_migrations(
        name="Schema of the memory",
        database=names.MEMORY_DATABASE,
        role="memory",
        schema=names.MEMORY_SCHEMA,
        files=sorted(MIGRATIONS.glob("[0-9]*.sql")),
    )
