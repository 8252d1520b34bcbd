"""Where a person is sent."""

from types import SimpleNamespace

from settings.pages import pages


def test_without_an_ingress_each_page_is_a_tunnel():
    lines = pages(SimpleNamespace(ingress="none", domain=""), "ssh -F config droplet")
    assert lines == [
        "Open WebUI: ssh -F config droplet -N -L 8080:127.0.0.1:8080, then http://127.0.0.1:8080",
        "n8n: ssh -F config droplet -N -L 5678:127.0.0.1:5678, then http://127.0.0.1:5678",
    ]


def test_with_an_ingress_each_page_is_an_address():
    lines = pages(SimpleNamespace(ingress="caddy", domain="example.com"), "ssh droplet")
    assert lines == ["Open WebUI: https://openweb.example.com", "n8n: https://n8n.example.com"]
