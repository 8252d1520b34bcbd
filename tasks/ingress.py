"""Caddy: the only HTTP router, and the place of HTTP policy."""

from pyinfra import host
from pyinfra.api import deploy

from operations import BundleFile, ContainerUnit, bundle, container, http_ready, service
from settings import names
from settings.images import image_ref, image_uid
from settings.render import render

COMPONENT = "ingress"
CADDYFILE = names.config_path(COMPONENT, "Caddyfile")


@deploy("Ingress")
def ingress() -> None:
    """Install, configure and start the ingress in the mode that the settings choose."""
    uid = str(image_uid(COMPONENT))
    public = host.data.ingress == "caddy"
    configuration = bundle(
        name="Configuration",
        directories=[
            (names.config_dir(COMPONENT), "root", "root", "0755"),
            (names.data_path(COMPONENT), uid, uid, "0700"),
        ],
        files=[
            BundleFile(
                CADDYFILE,
                render(
                    "ingress/Caddyfile.j2",
                    mode=host.data.ingress,
                    tls=host.data.ingress_tls,
                    domain=host.data.domain,
                    acme_email=host.data.acme_email,
                    internal_port=names.INGRESS_INTERNAL_PORT,
                    network=names.NETWORK_SUBNET,
                ),
                "root",
                "root",
                "0644",
            )
        ],
    )
    unit = container(
        name="Unit",
        unit=ContainerUnit(
            name=COMPONENT,
            image=image_ref(COMPONENT, host.data),
            description="Caddy, the ingress",
            memory_mb=host.data.ingress_memory_mb,
            publish=(f"127.0.0.1:{names.INGRESS_LOOPBACK_PORT}:8082",)
            + (("0.0.0.0:80:80", "0.0.0.0:443:443", "0.0.0.0:443:443/udp") if public else ()),
            volumes=(
                f"{names.config_dir(COMPONENT)}:/etc/caddy:ro",
                f"{names.data_path(COMPONENT)}:/data",
            ),
            environment={"XDG_DATA_HOME": "/data", "XDG_CONFIG_HOME": "/config", "GOMEMLIMIT": "64MiB"},
            tmpfs=("/config", "/tmp"),
            cap_add=("NET_BIND_SERVICE",),
            command=("caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"),
        ),
    )
    service(
        name="Running",
        unit=names.unit(COMPONENT),
        reads=[CADDYFILE],
        triggers=[configuration, unit],
    )
    http_ready(name="Ready", url=f"http://127.0.0.1:{names.INGRESS_LOOPBACK_PORT}/healthz")
