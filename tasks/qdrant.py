"""Qdrant: the disposable vector index over Postgres."""

import json
from pathlib import Path

from pyinfra import host
from pyinfra.api import deploy

from operations import ContainerUnit, bundle, container, http_ready, secret_file, service
from operations.qdrant import qdrant_collection
from settings import names
from settings.images import image_ref, image_uid
from settings.render import render
from settings.secrets import Secret, host_secrets

COMPONENT = "qdrant"
URL = f"http://127.0.0.1:{names.QDRANT_PORT}"


#: The collection and its payload indexes, which the memory service makes anew when it finds them gone. Every query
#: filters by client: no global graph (m=0), a sub-graph for each client, and no other field takes part in it.
DECLARED = Path(__file__).parent.parent / "files" / "memory_service" / "memory_service" / "collection.json"


@deploy("Qdrant")
def qdrant() -> None:
    """Install, configure, start and provision Qdrant."""
    secrets = host_secrets(host.name)
    uid = str(image_uid(COMPONENT))
    header_file = names.secret_path(COMPONENT, "api_key_header")
    configuration_file = names.secret_path(COMPONENT, "production.yaml")
    declared = json.loads(DECLARED.read_text())

    folders = bundle(
        name="Folders",
        directories=[
            (names.secret_dir(COMPONENT), "root", "root", "0700"),
            (names.data_path(COMPONENT), uid, uid, "0700"),
        ],
    )
    configuration = secret_file(
        name="Configuration with its keys",
        dest=configuration_file,
        content=Secret(
            "qdrant configuration",
            render(
                "qdrant/production.yaml.j2",
                api_key=secrets["qdrant_api_key"].reveal(),
                read_only_api_key=secrets["qdrant_read_only_api_key"].reveal(),
            ),
        ),
        user=uid,
        group=uid,
        mode="0400",
    )
    secret_file(
        name="Header for the deploy",
        dest=header_file,
        content=Secret("qdrant header", f"api-key: {secrets['qdrant_api_key'].reveal()}\n"),
        user="root",
        group="root",
        mode="0400",
    )

    unit = container(
        name="Unit",
        unit=ContainerUnit(
            name=COMPONENT,
            image=image_ref(COMPONENT, host.data),
            description="Qdrant",
            memory_mb=host.data.qdrant_memory_mb,
            user=f"{uid}:{uid}",
            publish=(f"127.0.0.1:{names.QDRANT_PORT}:6333",),
            volumes=(
                f"{names.data_path(COMPONENT)}:/qdrant/storage",
                f"{configuration_file}:/qdrant/config/production.yaml:ro",
            ),
            environment={"RUN_MODE": "production"},
            tmpfs=("/tmp",),
            health_cmd=(
                "bash -c 'exec 3<>/dev/tcp/127.0.0.1/6333; "
                'printf "GET /readyz HTTP/1.0\\r\\n\\r\\n" >&3; grep -q "200 OK" <&3\''
            ),
        ),
    )
    service(
        name="Running",
        unit=names.unit(COMPONENT),
        reads=[configuration_file],
        triggers=[folders, configuration, unit],
    )
    http_ready(name="Ready", url=f"{URL}/readyz")
    qdrant_collection(
        name=f"Collection {names.QDRANT_COLLECTION} and its payload indexes",
        url=URL,
        collection=names.QDRANT_COLLECTION,
        declared={
            **declared["collection"],
            "shard_number": host.data.qdrant_shard_number,
            "replication_factor": host.data.qdrant_replication_factor,
        },
        indexes=declared["payload_indexes"],
        header_file=header_file,
    )
