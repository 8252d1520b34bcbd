"""Containers as systemd units."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import PyinfraCommand, StringCommand
from pyinfra.api.operation import operation
from pyinfra.context import host

from operations.announcing import announce_diff
from operations.container_unit import ContainerUnit
from operations.differences import text_diff
from operations.facts import Container
from operations.file_states import attribute_differences
from operations.file_writing import set_attributes, write_file
from operations.images_on_host import record_path, settle_image


@operation()
def container(unit: ContainerUnit) -> Generator[PyinfraCommand, None, None]:
    """Have a container's image and its systemd unit on the host; ``service`` starts it.

    The unit file is the specification: whatever differs in it, an image, a limit, a mount, is shown by
    ``--diff`` and makes ``service`` restart exactly this unit.

    **Example:**

    .. code:: python

        from operations import ContainerUnit, container, service

        unit = container(
            name="Run Caddy in a container",
            unit=ContainerUnit(
                name="ingress", image=image_ref("ingress", host.data), description="Caddy, the HTTP router",
                memory_mb=64, publish=("0.0.0.0:443:443",), cap_add=("NET_BIND_SERVICE",),
                volumes=("/etc/memory-droplet/ingress/Caddyfile:/etc/caddy/Caddyfile:ro",),
            ),
        )
        service(
            name="Start Caddy", unit="droplet-ingress.service",
            reads=["/etc/memory-droplet/ingress/Caddyfile"], triggers=[unit],
        )
    """
    found = host.get_fact(
        Container, unit_path=unit.unit_path, reference=unit.image, record=record_path(unit.name)
    )
    text = unit.render(found.systemd)
    changes = (
        attribute_differences(found.unit_file, "root", "root", "0644") if found.unit_text is not None else []
    )
    if found.unit_text == text and not changes and found.image.settled(unit.image):
        host.noop(f"{unit.unit} and its image are as they should be")
        return
    if not found.image.settled(unit.image):
        announce_diff(found.image.difference(unit.image), [])
    if found.unit_text != text or changes:
        announce_diff(
            f"write {unit.unit_path}", [*changes, *text_diff(found.unit_text or "", text, unit.unit)]
        )
    yield from settle_image(unit.image, unit.name, found.image)
    if found.unit_text != text:
        yield write_file(unit.unit_path, text.encode(), "root", "root", "0644")
        yield StringCommand("systemctl daemon-reload")
    elif changes:
        yield set_attributes(unit.unit_path, "root", "root", "0644")
