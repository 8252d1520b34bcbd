"""Container images."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import operation
from pyinfra.context import host

from operations.announcing import announce_diff
from operations.facts import Image
from operations.images_on_host import record_path, settle_image


@operation()
def image(reference: str, label: str) -> Generator[PyinfraCommand, None, None]:
    """Have an image in the host's Docker, and a record of what it is.

    A reference with a digest is pulled by digest. A tag is pulled once; what was got (image id and
    digests) is written to ``/var/lib/memory-droplet/images/<label>``, and an image that is no longer
    that one is pulled again.

    **Example:**

    .. code:: python

        from operations import image
        from settings.images import image_ref

        image(name="Have the image of n8n", reference=image_ref("n8n", host.data), label="n8n")
    """
    found = host.get_fact(Image, reference=reference, record=record_path(label))
    if found.settled(reference):
        host.noop(f"image {reference} is there")
        return
    announce_diff(found.difference(reference), [])
    yield from settle_image(reference, label, found)
