"""Qdrant on a live droplet, seen from outside the deploy code."""

import json

KEY = "/etc/memory-droplet/secrets/qdrant/production.yaml"
URL = "http://127.0.0.1:6333"


def call(host, path, key="api_key", method="GET", body=None):
    """Status and JSON of a call; ``key`` names a key of the configuration, or is a literal wrong one."""
    header = f"$(awk -F '\"' '$1 ~ / {key}: / {{print $2}}' {KEY})" if key else ""
    flags = f'-H "api-key: {header}"' if key else ""
    data = f"-H 'Content-Type: application/json' -d '{json.dumps(body)}'" if body is not None else ""
    done = host.run(f"curl -s -X {method} {flags} {data} -w '\\n%{{http_code}}' {URL}{path}")
    text, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(text) if text.strip().startswith("{") else text


def test_the_unit_is_active_and_enabled(host):
    unit = host.service("droplet-qdrant")
    assert unit.is_running
    assert unit.is_enabled


def test_it_says_that_it_is_ready_without_a_key(host):
    assert call(host, "/readyz", key=None)[0] == 200


def test_a_missing_and_a_wrong_key_are_refused(host):
    assert call(host, "/collections", key=None)[0] in (401, 403)
    done = host.check_output(
        f"curl -s -o /dev/null -w '%{{http_code}}' -H 'api-key: wrong' {URL}/collections"
    )
    assert done in ("401", "403")


def test_the_read_only_key_reads_and_does_not_write(host):
    assert call(host, "/collections/memory_vectors", key="read_only_api_key")[0] == 200
    status, _ = call(
        host,
        "/collections/memory_vectors/points/delete",
        key="read_only_api_key",
        method="POST",
        body={"points": ["00000000-0000-0000-0000-000000000000"]},
    )
    assert status == 403


def test_the_collection_has_the_declared_vectors_and_every_payload_index(host):
    status, answer = call(host, "/collections/memory_vectors")
    assert status == 200
    found = answer["result"]
    vectors = found["config"]["params"]["vectors"]
    assert (vectors["size"], vectors["distance"]) == (1536, "Cosine")
    types = {field: schema["data_type"] for field, schema in found["payload_schema"].items()}
    assert types == {
        "client_id": "integer",
        "source_type": "keyword",
        "content": "text",
        "created_at": "integer",
        "ttl_days": "integer",
        "expires_at": "integer",
    }


def test_no_secret_is_in_its_environment(host):
    environment = host.check_output("docker inspect -f '{{json .Config.Env}}' qdrant")
    assert "API_KEY" not in environment.upper()
