"""Ids of Cloudflare, and what the token of a tunnel says of itself."""

from __future__ import annotations

import base64
import json
import re
from typing import Final

#: setting -> what it looks like, in a pattern and in words
IDS: Final = {
    "cloudflare_account_id": (r"[0-9a-f]{32}", "32 hex digits"),
    "cloudflare_zone_id": (r"[0-9a-f]{32}", "32 hex digits"),
    "cloudflare_tunnel_id": (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "a UUID with its dashes"),
}

NO_TOKEN: Final = (
    "The secret cloudflare_tunnel_token is not a tunnel's token: of the command that the Cloudflare dashboard shows, "
    "it is the long word that begins with eyJ; run: drill secrets set cloudflare_tunnel_token"
)


def token_ids(token: str) -> tuple[str, str] | None:
    """The ids of the account and of the tunnel that a tunnel's token is for; None when it is no such token.

    It is base64 of JSON: ``a`` is the account, ``t`` the tunnel, ``s`` the secret.
    """
    try:
        content = json.loads(base64.b64decode(token, validate=True))
        account, tunnel, secret = content["a"], content["t"], content["s"]
    except (ValueError, KeyError, TypeError):
        return None
    if not (isinstance(account, str) and isinstance(tunnel, str) and isinstance(secret, str)):
        return None
    shaped = re.fullmatch(IDS["cloudflare_account_id"][0], account)
    return (account, tunnel) if shaped and re.fullmatch(IDS["cloudflare_tunnel_id"][0], tunnel) else None


def token_problem(token: str, account_id: str, tunnel_id: str) -> str | None:
    """Why a token does not run the declared tunnel, in one sentence that does not hold it, or None."""
    if not token:
        return (
            "'ingress' is 'cloudflare', which needs the tunnel's token; "
            "run: drill secrets set cloudflare_tunnel_token"
        )
    found = token_ids(token)
    if found is None:
        return NO_TOKEN
    for setting, wanted, given in (
        ("cloudflare_tunnel_id", tunnel_id, found[1]),
        ("cloudflare_account_id", account_id, found[0]),
    ):
        if wanted != given:
            return (
                f"The secret cloudflare_tunnel_token is for {given}, but '{setting}' is {wanted}; correct the "
                "setting, or run: drill secrets set cloudflare_tunnel_token"
            )
    return None
