"""Before anything is touched: can this machine be deployed to?"""

from pyinfra import host
from pyinfra.api import deploy

from operations.preflight import machine_fit
from settings import names


@deploy("Preflight")
def preflight() -> None:
    """Refuse a machine of another system, with a full disk, or with one of our ports taken."""
    ports = {
        names.POSTGRES_PORT: "postgres",
        names.QDRANT_PORT: "qdrant",
        names.N8N_PORT: "n8n",
        names.OPEN_WEBUI_PORT: "open-webui",
        names.MEMORY_SERVICE_PORT: "memory-service",
        names.INGRESS_LOOPBACK_PORT: "ingress",
    }
    if host.data.ingress == "caddy":
        ports |= {80: "ingress", 443: "ingress"}
    if host.data.ingress == "cloudflare":
        ports |= {names.TUNNEL_METRICS_PORT: "tunnel"}
    machine_fit(name="The machine can be deployed to", ports=ports, least_free_mb=1500)
