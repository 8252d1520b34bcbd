"""Open WebUI: the chat. Its hook into the memory, its model, its users."""

from pathlib import Path

from pyinfra import host
from pyinfra.api import deploy

from operations import (
    BundleFile,
    ContainerUnit,
    bundle,
    container,
    http_ready,
    reconcile,
    secret_file,
    service,
)
from settings import names
from settings import open_webui as declared
from settings.images import image_ref, pins
from settings.secrets import Secret, host_secrets

COMPONENT = "open-webui"
FILES = Path(__file__).parent.parent / "files" / "open_webui"
PROVISIONER = f"{names.SCRIPTS_DIR}/open_webui.py"


def public_url(ingress: str, domain: str) -> str:
    """Where browsers reach the chat; empty when only an SSH tunnel does."""
    return f"https://openweb.{domain}" if ingress != "none" else ""


@deploy("Open WebUI")
def open_webui() -> None:
    """Install, configure, start and provision Open WebUI."""
    secrets = host_secrets(host.name)
    data = f"{names.data_path(COMPONENT)}/data"
    environment_file = names.secret_path(COMPONENT, "open-webui.env")
    version = pins()[COMPONENT].tag.removeprefix("v").removesuffix("-slim")

    files = bundle(
        name="Folders and the declaration of its objects",
        directories=[
            (names.secret_dir(COMPONENT), "root", "root", "0700"),
            (names.config_dir(COMPONENT), "root", "root", "0755"),
            (names.data_path(COMPONENT), "root", "root", "0700"),
            (data, "root", "root", "0700"),
        ],
        files=[
            BundleFile(
                names.config_path(COMPONENT, "CHANGELOG.md"),
                declared.changelog(version),
                "root",
                "root",
                "0644",
            ),
            BundleFile(
                names.config_path(COMPONENT, "memory_filter.py"),
                (FILES / "memory_filter.py").read_bytes(),
                "root",
                "root",
                "0644",
            ),
            BundleFile(
                names.config_path(COMPONENT, "provision.json"),
                declared.declaration(
                    admin_email=host.data.open_webui_admin_email,
                    model=host.data.llm_model,
                    clients=host.data.clients,
                ),
                "root",
                "root",
                "0644",
            ),
            BundleFile(PROVISIONER, (FILES / "provision.py").read_bytes(), "root", "root", "0755"),
        ],
    )
    environment = secret_file(
        name="Secrets of the server",
        dest=environment_file,
        content=Secret(
            "environment of Open WebUI",
            declared.secret_environment(
                {
                    "WEBUI_SECRET_KEY": secrets["openwebui_secret_key"].reveal(),
                    "WEBUI_ADMIN_PASSWORD": secrets["openwebui_admin_password"].reveal(),
                    "OPENAI_API_KEY": secrets["llm_api_key"].reveal() or "none",
                    "DATABASE_URL": declared.database_url(secrets["postgres_openwebui_password"].reveal()),
                }
            ),
        ),
        user="root",
        group="root",
        mode="0400",
    )
    provisioning = [
        secret_file(
            name=purpose,
            dest=names.secret_path(COMPONENT, file),
            content=secrets[secret],
            user="root",
            group="root",
            mode="0400",
        )
        for file, secret, purpose in (
            ("admin_password", "openwebui_admin_password", "Password of the admin"),
            ("client_password", "openwebui_client_password", "Password of the declared clients"),
            ("webhook_token", "webhook_token", "Token of the hook"),
            ("memory_admin_token", "memory_service_admin_token", "Token to declare clients with"),
        )
    ]

    unit = container(
        name="Unit",
        unit=ContainerUnit(
            name=COMPONENT,
            image=image_ref(COMPONENT, host.data),
            description="Open WebUI",
            memory_mb=host.data.open_webui_memory_mb,
            publish=(f"127.0.0.1:{names.OPEN_WEBUI_PORT}:{names.OPEN_WEBUI_PORT}",),
            volumes=(
                f"{data}:{declared.CONTAINER_DATA}",
                f"{environment_file}:{declared.CONTAINER_SECRETS}:ro",
                f"{names.config_path(COMPONENT, 'CHANGELOG.md')}:/app/CHANGELOG.md:ro",
            ),
            environment={
                **declared.plain_environment(
                    model=host.data.llm_model,
                    llm_base_url=host.data.llm_base_url,
                    public_url=public_url(host.data.ingress, host.data.domain),
                    admin_email=host.data.open_webui_admin_email,
                ),
                # The root file system is read-only; what is copied together at start goes to memory.
                "STATIC_DIR": "/tmp/static",
                "HOME": "/tmp",
            },
            tmpfs=("/tmp",),
            command=declared.entry_command(),
            health_cmd=f"curl -fsS -o /dev/null http://127.0.0.1:{names.OPEN_WEBUI_PORT}/ready",
            health_start_period_s=180,
            after=(names.unit("postgres"),),
        ),
    )
    service(
        name="Running",
        unit=names.unit(COMPONENT),
        reads=[environment_file, names.config_path(COMPONENT, "CHANGELOG.md")],
        triggers=[environment, unit],
    )
    http_ready(
        name="Ready",
        url=f"http://127.0.0.1:{names.OPEN_WEBUI_PORT}/ready",
        attempts=240,
    )
    reconcile(
        name="Hook, model, users, groups and clients",
        script=PROVISIONER,
        triggers=[files, *provisioning],
    )
