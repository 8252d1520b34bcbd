"""Ids of Cloudflare and the token of a tunnel: a mistake is one sentence that does not hold the token."""

import base64
import json

import pytest

from settings.cloudflare import token_ids, token_problem
from settings.schema import check
from settings.secrets import weakness

ACCOUNT, OTHER_ACCOUNT = "0123456789abcdef" * 2, "f" * 32
TUNNEL, OTHER_TUNNEL = "7a048b0c-0bbe-4263-a458-dbf29675b525", "00000000-0bbe-4263-a458-dbf29675b525"
SECRET = base64.b64encode(b"thirty-two bytes that are secret").decode()
SETTINGS = {
    "ingress": "cloudflare",
    "domain": "example.com",
    "cloudflare_account_id": ACCOUNT,
    "cloudflare_zone_id": "e" * 32,
    "cloudflare_tunnel_id": TUNNEL,
}


def made(**content):
    return base64.b64encode(json.dumps(content).encode()).decode()


TOKEN = made(a=ACCOUNT, t=TUNNEL, s=SECRET)


def test_a_token_says_whose_it_is():
    assert token_ids(TOKEN) == (ACCOUNT, TUNNEL)
    assert token_problem(TOKEN, ACCOUNT, TUNNEL) is None
    assert weakness("cloudflare_tunnel_token", TOKEN) is None


NOT_TOKENS = {
    "the whole command": f"cloudflared service install {TOKEN}",
    "cut short": TOKEN[:-7],
    "not JSON": base64.b64encode(b"some forty characters that are no token").decode(),
    "a list": base64.b64encode(json.dumps([ACCOUNT, TUNNEL, SECRET]).encode()).decode(),
    "no secret": made(a=ACCOUNT, t=TUNNEL),
    "an API token": "v1.0-Zk9vQmFyQmF6UXV4Rm9vQmFyQmF6UXV4",
    "ids of another kind": made(a="me", t="mine", s=SECRET),
}


@pytest.mark.parametrize("kind", NOT_TOKENS)
def test_what_is_no_token_is_refused_when_it_is_given_and_when_it_is_used(kind):
    value = NOT_TOKENS[kind]
    for sentence in (
        weakness("cloudflare_tunnel_token", value),
        token_problem(value, ACCOUNT, TUNNEL),
    ):
        assert "The secret cloudflare_tunnel_token is not a tunnel's token" in sentence
        assert value not in sentence


def test_a_missing_token_says_how_to_store_it():
    assert token_problem("", ACCOUNT, TUNNEL).endswith("run: drill secrets set cloudflare_tunnel_token")


@pytest.mark.parametrize(
    ("account", "tunnel", "setting"),
    [
        (ACCOUNT, OTHER_TUNNEL, "cloudflare_tunnel_id"),
        (OTHER_ACCOUNT, TUNNEL, "cloudflare_account_id"),
    ],
)
def test_a_token_of_another_tunnel_names_the_setting(account, tunnel, setting):
    sentence = token_problem(TOKEN, account, tunnel)
    assert f"but '{setting}' is {tunnel if 'tunnel' in setting else account}" in sentence
    assert TOKEN not in sentence
    assert SECRET not in sentence


def test_right_ids_are_accepted():
    assert check(SETTINGS) == []


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("cloudflare_account_id", ""),
        ("cloudflare_account_id", TUNNEL),
        ("cloudflare_zone_id", "example.com"),
        ("cloudflare_tunnel_id", TUNNEL.replace("-", "")),  # the DNS target needs the dashes
        ("cloudflare_tunnel_id", "-" * 36),
    ],
)
def test_a_wrong_id_is_one_sentence(setting, value):
    (problem,) = check({**SETTINGS, setting: value})
    assert problem.startswith(f"'ingress' is 'cloudflare', which needs '{setting}': ")
