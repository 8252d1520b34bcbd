"""What the ingress is told in each mode; that Caddy does it is seen on a droplet."""

import pytest

from settings.render import render

NETWORK = "172.30.0.0/24"


def caddyfile(mode, tls="internal"):
    return render(
        "ingress/Caddyfile.j2",
        mode=mode,
        tls=tls,
        domain="example.com",
        acme_email="me@example.com",
        internal_port=8081,
        network=NETWORK,
    )


def test_only_what_comes_through_a_tunnel_is_believed_where_its_visitor_is():
    text = caddyfile("cloudflare")
    assert f"trusted_proxies static {NETWORK}" in text
    assert "client_ip_headers Cf-Connecting-Ip" in text
    # Each of the three ways to a service: webhooks, n8n, Open WebUI.
    assert text.count("reverse_proxy ") == text.count("import visitor") == 3
    for mode in ("none", "caddy"):
        assert "trusted_proxies" not in caddyfile(mode)
        assert "visitor" not in caddyfile(mode)


def test_a_site_behind_a_tunnel_is_for_https_only():
    text = caddyfile("cloudflare")
    assert "http://n8n.example.com {" in text
    assert text.count("import only_https") == 2
    assert "only_https" not in caddyfile("caddy")


@pytest.mark.parametrize(
    ("mode", "tls", "said"),
    [
        ("none", "acme", "auto_https off"),
        ("cloudflare", "acme", "auto_https off"),
        ("caddy", "internal", "local_certs"),
        ("caddy", "acme", "email me@example.com"),
    ],
)
def test_certificates_are_made_where_the_mode_needs_them(mode, tls, said):
    assert said in caddyfile(mode, tls)


def test_without_an_ingress_no_site_is_public():
    assert "example.com {" not in caddyfile("none")
