"""The Cloudflare tunnel, which ends at the ingress so that its policy holds."""

from pyinfra import host
from pyinfra.api import deploy

from operations import ContainerUnit, bundle, container, secret_file, service
from settings import names
from settings.images import image_ref, image_uid
from settings.secrets import host_secrets

COMPONENT = "tunnel"
TOKEN = names.secret_path(COMPONENT, "token")


@deploy("Tunnel")
def tunnel() -> None:
    """Run the tunnel with ``ingress: cloudflare``; in every other mode it does not run."""
    if host.data.ingress != "cloudflare":
        service(name="Stopped", unit=names.unit(COMPONENT), running=False, enabled=False)
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
            volumes=(f"{TOKEN}:/run/secrets/token:ro",),
            command=("tunnel", "--no-autoupdate", "run", "--token-file", "/run/secrets/token"),
            after=(names.unit("ingress"),),
        ),
    )
    service(name="Running", unit=names.unit(COMPONENT), reads=[TOKEN], triggers=[token, unit])
