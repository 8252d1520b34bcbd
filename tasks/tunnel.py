"""The Cloudflare tunnel, which ends at the ingress so that its policy holds."""

from pyinfra import host
from pyinfra.api import deploy

from operations import ContainerUnit, bundle, container, http_ready, secret_file, service
from settings import names
from settings.images import image_ref, image_uid
from settings.secrets import host_secrets

COMPONENT = "tunnel"
TOKEN = names.secret_path(COMPONENT, "token")
PORT = names.TUNNEL_METRICS_PORT
#: Where the network drops UDP, cloudflared was seen to try QUIC for 134 s before it went over to HTTP/2.
CONNECTED_WITHIN_S = 180
HINT = (
    "the tunnel has no connection to Cloudflare: either the secret cloudflare_tunnel_token is not, or no longer, the "
    "token of the tunnel 'cloudflare_tunnel_id' (drill secrets set cloudflare_tunnel_token), or the machine does not "
    "reach *.argotunnel.com on port 7844"
)


@deploy("Tunnel")
def tunnel() -> None:
    """Run the tunnel with ``ingress: cloudflare``; in every other mode it does not run."""
    if host.data.ingress != "cloudflare":
        service(name="Stopped", unit=names.unit(COMPONENT), running=False, enabled=False)
        bundle(name="No token", absent=[names.secret_dir(COMPONENT)])
        return
    uid = str(image_uid(COMPONENT))
    bundle(
        name="Folders",
        files=[],
        directories=[(names.secret_dir(COMPONENT), "root", "root", "0700")],
    )
    token = secret_file(
        name="Token",
        dest=TOKEN,
        content=host_secrets(host.name)["cloudflare_tunnel_token"],
        user=uid,
        group=uid,
        mode="0400",
    )
    unit = container(
        name="Unit",
        unit=ContainerUnit(
            name=COMPONENT,
            image=image_ref(COMPONENT, host.data),
            description="Cloudflare tunnel to the ingress",
            memory_mb=host.data.tunnel_memory_mb,
            user=f"{uid}:{uid}",
            # Readiness and metrics: without the flag the port depends on what was free at the start.
            publish=(f"127.0.0.1:{PORT}:{PORT}",),
            volumes=(f"{TOKEN}:/run/secrets/token:ro",),
            command=(
                *("tunnel", "--no-autoupdate", "--metrics", f"0.0.0.0:{PORT}"),
                *("--protocol", host.data.tunnel_protocol),
                # Over QUIC it sits out the whole of it at every stop, already cut off from Cloudflare (default: 30 s).
                *("--grace-period", "5s"),
                *("run", "--token-file", "/run/secrets/token"),
            ),
            after=(names.unit("ingress"),),
        ),
    )
    service(name="Running", unit=names.unit(COMPONENT), reads=[TOKEN], triggers=[token, unit])
    http_ready(
        name="Connected",
        url=f"http://127.0.0.1:{PORT}/ready",
        attempts=CONNECTED_WITHIN_S,
        hint=HINT,
        unit=names.unit(COMPONENT),
    )
