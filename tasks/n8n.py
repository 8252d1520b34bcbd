"""n8n: the control plane. Its container, and the workflows and credentials it must have."""

import json
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
    sql_migrations,
)
from settings import n8n as desired
from settings import names
from settings.errors import one_sentence
from settings.images import image_ref, image_uid
from settings.secrets import host_secrets

COMPONENT = "n8n"
FILES = Path(__file__).parent.parent / "files" / COMPONENT
URL = f"http://127.0.0.1:{names.N8N_PORT}"
CONFIG = names.config_dir(COMPONENT)
SECRETS = names.secret_dir(COMPONENT)
PROVISIONER = f"{names.SCRIPTS_DIR}/n8n.py"
PROVISIONER_STATE = names.data_path("n8n-provisioner")
CACHE = names.data_path("n8n-cache")

#: file -> secret, for those that n8n's process reads itself through a ``*_FILE`` variable
PROCESS_SECRETS = {
    "encryption_key": "n8n_encryption_key",
    "postgres_password": "postgres_n8n_password",
    "owner_password_hash": "n8n_owner_password_hash",
}
#: file -> secret, for those that only the provisioner reads, as root
PROVISIONER_SECRETS = {
    "owner_password": "n8n_owner_password",
    "webhook_token": "webhook_token",
    "memory_service_token": "memory_service_token",
    "llm_api_key": "llm_api_key",
}

# Readiness, from inside: the image brings no other client than Node's own. Until it is ready, n8n answers any other
# path with a text and status 200.
HEALTH = (
    f"node -e \"fetch('http://127.0.0.1:{names.N8N_PORT}/healthz/readiness')"
    '.then(r=>process.exit(r.ok?0:1),()=>process.exit(1))"'
)


def public_url(ingress: str, domain: str) -> str:
    """Where a browser reaches the editor; without an ingress that is an ``ssh -L`` tunnel to loopback."""
    return URL if ingress == "none" else f"https://n8n.{domain}"


@deploy("n8n")
def n8n() -> None:
    """Install, configure, start and provision n8n. A workflow file that is unfit is refused before any of it."""
    secrets = host_secrets(host.name)
    uid = str(image_uid(COMPONENT))
    credentials = desired.credentials(
        SECRETS, llm_base_url=host.data.llm_base_url if secrets["llm_api_key"] else ""
    )
    with one_sentence():
        workflows = desired.load_workflows(
            desired.workflow_values(
                timezone=host.data.timezone,
                cleanup_hour=host.data.cleanup_hour,
                alert_forward_url=host.data.get("alert_forward_url", ""),
            ),
            credentials,
        )
        environment = desired.environment(
            memory_mb=host.data.n8n_memory_mb,
            timezone=host.data.timezone,
            owner_email=host.data.n8n_owner_email,
            public_url=public_url(host.data.ingress, host.data.domain),
        )
    declaration = desired.provisioner_document(
        url=URL,
        owner_email=host.data.n8n_owner_email,
        owner_password_file=f"{SECRETS}/owner_password",
        workflows=[f"{CONFIG}/workflows/{file}" for file in workflows],
        state=PROVISIONER_STATE,
        credentials=credentials,
    )

    configuration = bundle(
        name="Workflows, declaration and provisioner",
        directories=[
            (SECRETS, "root", "root", "0700"),
            (CONFIG, "root", "root", "0755"),
            (f"{CONFIG}/workflows", "root", "root", "0755"),
            (names.data_path(COMPONENT), uid, uid, "0700"),
            (CACHE, uid, uid, "0700"),
            (PROVISIONER_STATE, "root", "root", "0700"),
        ],
        files=[
            BundleFile(PROVISIONER, (FILES / "provision.py").read_text(), "root", "root", "0755"),
            BundleFile(
                f"{CONFIG}/provision.json", json.dumps(declaration, indent=2) + "\n", "root", "root", "0644"
            ),
            *(
                BundleFile(f"{CONFIG}/workflows/{file}", desired.file_text(workflow), "root", "root", "0644")
                for file, workflow in workflows.items()
            ),
        ],
    )
    kept = [
        secret_file(
            name=f"Secret {file}",
            dest=f"{SECRETS}/{file}",
            content=secrets[secret],
            user=owner,
            group=owner,
            mode="0400",
        )
        for owner, files in ((uid, PROCESS_SECRETS), ("root", PROVISIONER_SECRETS))
        for file, secret in files.items()
    ]

    unit = container(
        name="Unit",
        unit=ContainerUnit(
            name=COMPONENT,
            image=image_ref(COMPONENT, host.data),
            description="n8n, the control plane: webhooks, schedule and alerts",
            memory_mb=host.data.n8n_memory_mb,
            user=f"{uid}:{uid}",
            publish=(f"127.0.0.1:{names.N8N_PORT}:{names.N8N_PORT}",),
            volumes=(
                f"{names.data_path(COMPONENT)}:/home/node/.n8n",
                # The editor's files, 47 MB, unpacked at start: in a tmpfs they would count as memory.
                f"{CACHE}:/home/node/.cache",
                *(f"{SECRETS}/{file}:{desired.SECRETS_IN_CONTAINER}/{file}:ro" for file in PROCESS_SECRETS),
            ),
            environment=environment,
            tmpfs=("/tmp",),
            health_cmd=HEALTH,
            health_start_period_s=120,
            after=(names.unit("postgres"),),
            # n8n finishes what it is running within 30 s of SIGTERM, and goes on answering meanwhile.
            stop_timeout_s=40,
        ),
    )
    service(
        name="Running",
        unit=names.unit(COMPONENT),
        reads=[f"{SECRETS}/{file}" for file in PROCESS_SECRETS],
        triggers=[unit, *kept[: len(PROCESS_SECRETS)]],
    )
    http_ready(name="Ready", url=f"{URL}/healthz/readiness", attempts=300)

    sql_migrations(
        name="Table of the alerts",
        database=names.MEMORY_DATABASE,
        role="n8n",
        schema=names.ALERTS_SCHEMA,
        files=sorted((FILES / "migrations").glob("[0-9]*.sql")),
    )
    reconcile(
        name="Credentials and workflows as declared",
        script=PROVISIONER,
        triggers=[configuration, *kept],
    )
