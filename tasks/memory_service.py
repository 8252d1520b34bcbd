"""The memory service: a sandboxed process on the host, installed from a wheel with locked dependencies."""

from pathlib import Path

from pyinfra import host
from pyinfra.api import deploy

from operations import BundleFile, bundle, http_ready, reconcile, secret_file, service
from operations.packages import packages
from operations.wheels import wheel
from settings import names
from settings.render import render
from settings.secrets import host_secrets

COMPONENT = "memory-service"
PROJECT = Path(__file__).parent.parent / "files" / "memory_service"
SOURCES = names.config_path(COMPONENT, "install")
INSTALLER = f"{names.SCRIPTS_DIR}/memory_service.py"
UNIT = "/etc/systemd/system/memory-service.service"
SOCKET = "/etc/systemd/system/memory-service.socket"

#: Name of the credential in the unit -> name of the secret.
CREDENTIALS = {
    "service_token": "memory_service_token",
    "admin_token": "memory_service_admin_token",
    "postgres_password": "postgres_memory_password",
    "qdrant_api_key": "qdrant_api_key",
    "llm_api_key": "llm_api_key",
    "embedding_api_key": "embedding_api_key",
}


def asked(base_url: str, key_given: bool) -> str:
    """The provider to ask: a public one without a key would only ever refuse, so it is not asked."""
    return base_url if key_given or not base_url.startswith("https://") else ""


@deploy("Memory service")
def memory_service() -> None:
    """Install, configure and start the memory service."""
    secrets = host_secrets(host.name)
    config_dir = names.config_dir(COMPONENT)
    secrets_dir = names.secret_dir(COMPONENT)
    llm_base_url = asked(host.data.llm_base_url, bool(secrets["llm_api_key"]))
    embedding_base_url = host.data.embedding_base_url  # never without its key, see settings.run
    wheel_name, wheel_bytes = wheel(PROJECT, "memory_service")

    packages(name="Packages", packages=["ca-certificates", "python3", "python3-venv"])
    sources = bundle(
        name="Wheel and locked requirements",
        directories=[(config_dir, "root", "root", "0755"), (SOURCES, "root", "root", "0755")],
        files=[
            BundleFile(INSTALLER, (PROJECT / "install.py").read_text(), "root", "root", "0755"),
            BundleFile(
                f"{SOURCES}/requirements.txt",
                (PROJECT / "requirements.txt").read_text(),
                "root",
                "root",
                "0644",
            ),
            BundleFile(f"{SOURCES}/{wheel_name}", wheel_bytes, "root", "root", "0644"),
        ],
    )
    installed = reconcile(name="Installed", script=INSTALLER, triggers=[sources])

    settings = bundle(
        name="Settings and units",
        directories=[(secrets_dir, "root", "root", "0700")],
        files=[
            BundleFile(
                f"{config_dir}/environment",
                render(
                    "memory_service/environment.j2",
                    postgres_port=names.POSTGRES_PORT,
                    postgres_database=names.MEMORY_DATABASE,
                    qdrant_port=names.QDRANT_PORT,
                    qdrant_collection=names.QDRANT_COLLECTION,
                    qdrant_shard_number=host.data.qdrant_shard_number,
                    qdrant_replication_factor=host.data.qdrant_replication_factor,
                    llm_base_url=llm_base_url,
                    llm_model=host.data.llm_model if llm_base_url else "",
                    llm_daily_tokens=host.data.llm_daily_token_budget,
                    embedding_base_url=embedding_base_url,
                    embedding_model=(host.data.embedding_model or "text-embedding-3-small")
                    if embedding_base_url
                    else "",
                    ttl_days=host.data.memory_ttl_days,
                    context_tokens=host.data.context_token_budget,
                ),
                "root",
                "root",
                "0644",
            ),
            BundleFile(
                UNIT,
                render(
                    "memory_service/memory-service.service.j2",
                    config_dir=config_dir,
                    secrets_dir=secrets_dir,
                    secret_names=sorted(CREDENTIALS),
                    memory_mb=host.data.memory_service_memory_mb,
                ),
                "root",
                "root",
                "0644",
            ),
            BundleFile(
                SOCKET,
                render(
                    "memory_service/memory-service.socket.j2",
                    port=names.MEMORY_SERVICE_PORT,
                    gateway=names.NETWORK_GATEWAY,
                ),
                "root",
                "root",
                "0644",
            ),
        ],
    )
    credentials = [
        secret_file(
            name=f"Secret {name}",
            dest=names.secret_path(COMPONENT, name),
            content=secrets[secret],
            user="root",
            group="root",
            mode="0400",
        )
        for name, secret in CREDENTIALS.items()
    ]

    socket = service(name="Socket", unit="memory-service.socket", triggers=[settings])
    service(
        name="Running",
        unit="memory-service.service",
        reads=["/opt/memory-service/installed", f"{config_dir}/environment", secrets_dir],
        triggers=[installed, settings, socket, *credentials],
        check="CREDENTIALS_DIRECTORY="
        + secrets_dir
        + " sh -c 'set -a; . "
        + config_dir
        + "/environment; exec /opt/memory-service/current/bin/memory-service check'",
    )
    http_ready(
        name="Ready",
        url=f"http://127.0.0.1:{names.MEMORY_SERVICE_PORT}/readyz",
    )
