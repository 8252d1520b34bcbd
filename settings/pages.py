"""Where a person finds the pages of a droplet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from settings import names

#: Site under the domain -> what it is, and its port on the droplet's loopback address.
SITES: Mapping[str, tuple[str, int]] = {
    "openweb": ("Open WebUI", names.OPEN_WEBUI_PORT),
    "n8n": ("n8n", names.N8N_PORT),
}


def pages(data: Any, ssh: str) -> list[str]:
    """One line per page: its address, or the tunnel that leads to it when nothing is public.

    ``data`` is the host's data (``ingress``, ``domain``), ``ssh`` the command that logs in.
    """
    if data.ingress == "none":
        return [
            f"{title}: {ssh} -N -L {port}:127.0.0.1:{port}, then http://127.0.0.1:{port}"
            for title, port in SITES.values()
        ]
    return [f"{title}: https://{site}.{data.domain}" for site, (title, _) in SITES.items()]
