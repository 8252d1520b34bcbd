"""The Cloudflare tunnel on a live droplet, and what the ingress makes of requests that come through it."""

import json

import pytest

READY = "http://127.0.0.1:20241"
VISITOR = "198.51.100.7"


@pytest.fixture(autouse=True)
def tunnelled(droplet):
    if droplet.settings["ingress"] != "cloudflare":
        pytest.skip(f"'ingress' is '{droplet.settings['ingress']}': there is no tunnel")


@pytest.fixture
def through_the_tunnel(host, droplet):
    """A request as the tunnel's container hands it to the ingress: status, headers, body."""
    address = host.check_output(
        "docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' ingress"
    )

    def call(site, path="/", scheme="https", *headers):
        given = {"Cf-Connecting-Ip": VISITOR, "X-Forwarded-For": VISITOR, "X-Forwarded-Proto": scheme}
        words = " ".join(f"-H '{line}'" for line in (*(f"{k}: {v}" for k, v in given.items()), *headers))
        name = f"{site}.{droplet.settings['domain']}"
        answer = host.check_output(
            f"curl -sS -i --max-time 20 -H 'Host: {name}' {words} 'http://{address}{path}'"
        )
        head, _, body = answer.replace("\r\n", "\n").partition("\n\n")
        return int(head.split()[1]), head.lower(), body

    return call


def test_the_unit_is_active_and_enabled(host):
    unit = host.service("droplet-tunnel")
    assert unit.is_running
    assert unit.is_enabled


def test_it_is_connected_and_says_so_on_loopback_only(host):
    assert json.loads(host.check_output(f"curl -sS {READY}/ready"))["readyConnections"] >= 1
    assert host.check_output("docker port tunnel") == "20241/tcp -> 127.0.0.1:20241"


def test_the_routes_that_cloudflare_gave_it_end_at_the_ingress(host, droplet):
    """The declared ones: `drill tunnel apply` writes them."""
    routes = json.loads(host.check_output(f"curl -sS {READY}/config"))["config"]["ingress"]
    ends = {route.get("hostname"): route["service"] for route in routes}
    for site in ("n8n", "openweb"):
        assert ends[f"{site}.{droplet.settings['domain']}"] == "http://ingress:80"
    assert routes[-1]["service"] == "http_status:404"


def test_it_stays_inside_its_memory_limit(host):
    limit = int(host.check_output("docker inspect -f '{{.HostConfig.Memory}}' tunnel"))
    assert 0 < limit <= 256 * 2**20
    assert host.check_output("docker inspect -f '{{.State.OOMKilled}}' tunnel") == "false"


@pytest.mark.parametrize("path", ["/metrics", "/api/v1/workflows", "/webhook-test/memory/assemble"])
def test_what_nobody_outside_needs_is_not_there(through_the_tunnel, path):
    assert through_the_tunnel("n8n", path)[0] == 404


def test_a_provider_cannot_be_reached_past_the_memory_filter(through_the_tunnel):
    assert through_the_tunnel("openweb", "/openai/models")[0] == 404


def test_both_sites_are_served(through_the_tunnel):
    assert "<title>n8n" in through_the_tunnel("n8n")[2]
    assert through_the_tunnel("openweb", "/health")[0] == 200


def test_a_visitor_who_came_over_plain_http_is_sent_to_https(through_the_tunnel, droplet):
    status, head, _ = through_the_tunnel("openweb", "/auth?x=y", "http")
    assert status == 308
    assert f"location: https://openweb.{droplet.settings['domain']}/auth?x=y" in head


def test_the_log_names_the_visitor_and_neither_header_nor_query(host, through_the_tunnel):
    through_the_tunnel("n8n", "/x?token=canary-in-query", "https", "X-Webhook-Token: canary-in-header")
    log = host.check_output("docker logs ingress 2>&1 | tail -n 50")
    assert f'"client_ip":"{VISITOR}"' in log
    assert "canary-in" not in log
