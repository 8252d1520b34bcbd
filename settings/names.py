"""Names, paths and ports that more than one component has to agree on."""

from __future__ import annotations

from typing import Final

CONFIG_DIR: Final = "/etc/memory-droplet"
SECRETS_DIR: Final = f"{CONFIG_DIR}/secrets"
DATA_DIR: Final = "/var/lib/memory-droplet"
APPLIED_DIR: Final = f"{DATA_DIR}/applied"
SCRIPTS_DIR: Final = "/usr/local/lib/memory-droplet"
RELEASE_FILE: Final = "/etc/memory-droplet-release"

NETWORK: Final = "n8n_syncbricks"
NETWORK_SUBNET: Final = "172.30.0.0/24"
NETWORK_GATEWAY: Final = "172.30.0.1"
#: Docker would name it after a random id; the firewall has to know it.
NETWORK_BRIDGE: Final = "br-memory"

POSTGRES_PORT: Final = 5432
QDRANT_PORT: Final = 6333
N8N_PORT: Final = 5678
OPEN_WEBUI_PORT: Final = 8080
MEMORY_SERVICE_PORT: Final = 8765
INGRESS_INTERNAL_PORT: Final = 8081
INGRESS_LOOPBACK_PORT: Final = 8082
TUNNEL_METRICS_PORT: Final = 20241

MEMORY_DATABASE: Final = "n8ndb"
MEMORY_SCHEMA: Final = "memory"
N8N_SCHEMA: Final = "n8n"
ALERTS_SCHEMA: Final = "alerts"
OPEN_WEBUI_DATABASE: Final = "openwebui"
QDRANT_COLLECTION: Final = "memory_vectors"


def unit(container: str) -> str:
    """The systemd unit that runs a container, e.g. ``droplet-postgres.service``."""
    return f"droplet-{container}.service"


def secret_dir(component: str) -> str:
    """The folder of a component's secrets on the host."""
    return f"{SECRETS_DIR}/{component}"


def secret_path(component: str, name: str) -> str:
    """Where a component's secret lies on the host."""
    return f"{secret_dir(component)}/{name}"


def config_dir(component: str) -> str:
    """The folder of a component's configuration on the host."""
    return f"{CONFIG_DIR}/{component}"


def config_path(component: str, name: str) -> str:
    """Where a component's configuration file lies on the host."""
    return f"{config_dir(component)}/{name}"


def data_path(component: str) -> str:
    """Where a component keeps its data on the host."""
    return f"{DATA_DIR}/{component}"
