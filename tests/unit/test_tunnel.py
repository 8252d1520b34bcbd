"""Routes and DNS of a Cloudflare tunnel, against a double of the API that keeps what it is told."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import pytest

from drill import tunnel

ACCOUNT, ZONE, TUNNEL = "a" * 32, "b" * 32, "c" * 36
WANTED = tunnel.Declared(ACCOUNT, ZONE, TUNNEL, ("n8n.example.com", "openweb.example.com"))
ROUTES = f"/accounts/{ACCOUNT}/cfd_tunnel/{TUNNEL}/configurations"


class CloudflareDouble(BaseHTTPRequestHandler):
    """A double of the calls that the tunnel step makes; state lies on the server object."""

    def answer(self, result, status=200, message=None):
        body = {
            "success": message is None,
            "result": result,
            "errors": [{"message": message}] if message else [],
        }
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def handle_call(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        url = urlparse(self.path)
        if self.headers["Authorization"] != "Bearer right":
            return self.answer(None, 403, "Authentication error")
        if self.command != "GET":
            self.server.writes.append((self.command, url.path))
        if url.path == ROUTES:
            if self.command == "PUT":
                self.server.routes = body
            return self.answer(self.server.routes)
        records = self.server.records
        if self.command == "GET":
            name = parse_qs(url.query)["name"][0]
            return self.answer([r for r in records.values() if r["name"] == name])
        key = url.path.rsplit("/", 1)[1] if self.command == "PUT" else f"id{len(records)}"
        records[key] = {**body, "id": key}
        return self.answer(records[key])

    do_GET = do_PUT = do_POST = handle_call

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    double = ThreadingHTTPServer(("127.0.0.1", 0), CloudflareDouble)
    double.routes, double.records, double.writes = {"config": None}, {}, []
    threading.Thread(target=double.serve_forever, daemon=True).start()
    yield double
    double.shutdown()
    double.server_close()


@pytest.fixture
def cloudflare(server):
    return tunnel.Cloudflare("right", f"http://127.0.0.1:{server.server_port}")


def test_an_empty_tunnel_gets_routes_and_records_and_then_nothing_more(cloudflare, server):
    changes = tunnel.plan(WANTED, cloudflare)
    assert [change.method for change in changes] == ["PUT", "POST", "POST"]
    tunnel.apply(changes, cloudflare)
    assert server.routes["config"]["ingress"][-1] == {"service": "http_status:404"}
    assert {record["content"] for record in server.records.values()} == {f"{TUNNEL}.cfargotunnel.com"}
    server.writes.clear()
    assert tunnel.plan(WANTED, cloudflare) == []
    assert server.writes == []


def test_a_route_changed_in_the_dashboard_is_said_and_put_back(cloudflare, server):
    tunnel.apply(tunnel.plan(WANTED, cloudflare), cloudflare)
    server.routes["config"]["ingress"][0]["service"] = "http://elsewhere"
    (change,) = tunnel.plan(WANTED, cloudflare)
    assert change.sentence == f"tunnel routes: n8n.example.com goes to http://elsewhere, not {tunnel.ORIGIN}"
    tunnel.apply([change], cloudflare)
    assert tunnel.plan(WANTED, cloudflare) == []


def test_routes_of_other_names_are_kept(cloudflare, server):
    other = {"hostname": "blog.example.com", "service": "http://blog"}
    server.routes = {
        "config": {"ingress": [other, {"service": "http_status:404"}], "warp-routing": {"enabled": True}}
    }
    tunnel.apply(tunnel.plan(WANTED, cloudflare), cloudflare)
    assert other in server.routes["config"]["ingress"]
    assert server.routes["config"]["warp-routing"] == {"enabled": True}
    assert tunnel.plan(WANTED, cloudflare) == []


def test_what_cloudflare_adds_to_a_route_is_no_difference_and_what_a_person_adds_is(cloudflare, server):
    tunnel.apply(tunnel.plan(WANTED, cloudflare), cloudflare)
    for number, rule in enumerate(server.routes["config"]["ingress"]):
        rule.update(id=str(number), originRequest={})
    assert tunnel.plan(WANTED, cloudflare) == []
    server.routes["config"]["ingress"][0]["originRequest"] = {"httpHostHeader": "elsewhere"}
    (change,) = tunnel.plan(WANTED, cloudflare)
    assert change.sentence == "tunnel routes: a path, an option, the order or the catch-all differs"
    tunnel.apply([change], cloudflare)
    assert tunnel.plan(WANTED, cloudflare) == []


def test_a_record_that_is_not_ours_is_never_overwritten(cloudflare, server):
    server.records["x"] = {"id": "x", "type": "A", "name": "n8n.example.com", "content": "192.0.2.1"}
    with pytest.raises(
        tunnel.TunnelError, match=r"n8n\.example\.com has records of its own \(A 192\.0\.2\.1\)"
    ):
        tunnel.plan(WANTED, cloudflare)
    assert server.writes == []


def test_a_wrong_token_is_one_sentence(server):
    wrong = tunnel.Cloudflare("wrong", f"http://127.0.0.1:{server.server_port}")
    with pytest.raises(tunnel.TunnelError, match=r"Authentication error.*cloudflare_api_token"):
        tunnel.plan(WANTED, wrong)


def test_an_api_out_of_reach_is_one_sentence():
    with pytest.raises(tunnel.TunnelError, match="did not answer"):
        tunnel.plan(WANTED, tunnel.Cloudflare("right", "http://127.0.0.1:9"))


def test_another_ingress_mode_is_refused():
    with pytest.raises(tunnel.TunnelError, match="'ingress' is 'none'"):
        tunnel.declared({"ingress": "none"})
