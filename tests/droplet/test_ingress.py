"""The ingress on a live droplet, called from the laptop as a browser would."""

import socket
import ssl
import subprocess

import pytest


@pytest.fixture
def browse(droplet, root_certificate):
    """A call from the laptop to a site of the droplet over TLS: status, headers and body."""

    domain = droplet.settings["domain"]

    def call(site, path="/", *arguments):
        done = subprocess.run(
            [
                "curl",
                "-sS",
                "-i",
                "--max-time",
                "60",
                "--noproxy",
                "*",
                "--cacert",
                str(root_certificate),
                "--resolve",
                f"{site}.{domain}:443:{droplet.address}",
                *arguments,
                f"https://{site}.{domain}{path}",
            ],
            capture_output=True,
            text=True,
            timeout=90,
            check=True,
        )
        head, _, body = done.stdout.replace("\r\n", "\n").partition("\n\n")
        return int(head.split()[1]), head.lower(), body

    return call


def test_the_unit_is_active_and_enabled(host):
    unit = host.service("droplet-ingress")
    assert unit.is_running
    assert unit.is_enabled


def test_tls_is_served_with_a_certificate_of_the_droplets_own_authority(droplet, root_certificate):
    context = ssl.create_default_context(cafile=str(root_certificate))
    with (
        socket.create_connection((droplet.address, 443), 60) as plain,
        context.wrap_socket(plain, server_hostname=f"n8n.{droplet.settings['domain']}") as secured,
    ):
        assert secured.version() in ("TLSv1.2", "TLSv1.3")


def test_plain_http_is_sent_to_https(droplet):
    if droplet.settings["ingress"] != "caddy":
        pytest.skip("nothing but SSH is public")
    site = f"n8n.{droplet.settings['domain']}"
    done = subprocess.run(
        [
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{redirect_url}",
            "--noproxy",
            "*",
            "--resolve",
            f"{site}:80:{droplet.address}",
            f"http://{site}/x",
        ],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    assert done.stdout == f"308 https://{site}/x"


@pytest.mark.parametrize("path", ["/metrics", "/api/v1/workflows", "/webhook-test/memory/assemble"])
def test_what_nobody_outside_needs_is_not_there(browse, path):
    assert browse("n8n", path)[0] == 404


def test_a_provider_cannot_be_reached_past_the_memory_filter(browse):
    assert browse("openweb", "/openai/chat/completions", "--http1.1", "-X", "POST", "-d", "{}")[0] == 404


def test_an_unknown_site_is_not_served(droplet, root_certificate):
    domain = droplet.settings["domain"]
    done = subprocess.run(
        [
            "curl",
            "-s",
            "--noproxy",
            "*",
            "--cacert",
            str(root_certificate),
            "--max-time",
            "10",
            "--resolve",
            f"other.{domain}:443:{droplet.address}",
            f"https://other.{domain}/",
        ],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode != 0


def test_its_log_holds_no_header_and_no_query(host, browse):
    browse("n8n", "/x?token=canary-in-query", "-H", "X-Webhook-Token: canary-in-header")
    log = host.check_output("docker logs ingress 2>&1 | tail -n 200")
    assert "/x" in log
    assert "canary-in" not in log
