"""Qdrant: the disposable vector index over Postgres."""

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


def collection_body(shard_number: int, replication_factor: int) -> dict[str, object]:
    """The declared collection. Every query filters by client, hence no global graph (m=0)."""
    return {
        "vectors": {"size": names.VECTOR_SIZE, "distance": "Cosine", "memory": "cold"},
        "hnsw_config": {
            "m": 0,
            "payload_m": 16,
            "ef_construct": 100,
            "full_scan_threshold": 10000,
            "max_indexing_threads": 2,
            "memory": "cached",
        },
        "quantization_config": {"scalar": {"type": "int8", "quantile": 0.99, "memory": "pinned"}},
        "payload": {"memory": "cold"},
        "optimizers_config": {
            "default_segment_number": 2,
            "max_optimization_threads": 1,
            "indexing_threshold": 10000,
        },
        "wal_config": {"wal_capacity_mb": 32, "wal_segments_ahead": 0},
        "shard_number": shard_number,
        "replication_factor": replication_factor,
        "write_consistency_factor": 1,
        "strict_mode_config": {
            "enabled": True,
            "unindexed_filtering_retrieve": False,
            "unindexed_filtering_update": False,
            "max_query_limit": 1000,
            "max_timeout": 30,
            "upsert_max_batchsize": 1000,
            "search_max_hnsw_ef": 512,
            "search_max_oversampling": 4.0,
            "filter_max_conditions": 32,
            "condition_max_size": 1024,
            "max_payload_index_count": 16,
        },
    }


#: Payload field -> index. Only client_id takes part in the graph: a sub-graph per client.
INDEXES: dict[str, dict[str, object]] = {
    "client_id": {
        "type": "integer",
        "lookup": True,
        "range": False,
        "is_principal": True,
        "memory": "pinned",
    },
    "source_type": {"type": "keyword", "enable_hnsw": False, "memory": "cold"},
    "content": {
        "type": "text",
        "tokenizer": "multilingual",
        "lowercase": True,
        "min_token_len": 2,
        "max_token_len": 30,
        "enable_hnsw": False,
        "memory": "cold",
    },
    "created_at": {"type": "integer", "lookup": False, "range": True, "enable_hnsw": False, "memory": "cold"},
    "ttl_days": {"type": "integer", "lookup": True, "range": True, "enable_hnsw": False, "memory": "cold"},
    "expires_at": {"type": "integer", "lookup": False, "range": True, "enable_hnsw": False, "memory": "cold"},
}


@deploy("Qdrant")
def qdrant() -> None:
    """Install, configure, start and provision Qdrant."""
    secrets = host_secrets(host.name)
    uid = str(image_uid(COMPONENT))
    header_file = names.secret_path(COMPONENT, "api_key_header")
    configuration_file = names.secret_path(COMPONENT, "production.yaml")

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
        declared=collection_body(host.data.qdrant_shard_number, host.data.qdrant_replication_factor),
        indexes=INDEXES,
        header_file=header_file,
    )
