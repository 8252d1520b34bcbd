"""The double of Qdrant over its real engine, asked the way the deploy and the memory service ask."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from tests.doubles.qdrant_double import Configuration, DoubleServer, start
from tests.doubles.qdrant_double.configuration import load

pytestmark = [
    pytest.mark.real,
    pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection"),
]

KEY = "k" * 32
READER = "r" * 32
WORDS = [
    "Anker",
    "Birke",
    "Distel",
    "Eule",
    "Feder",
    "Gabel",
    "Insel",
    "Hafen",
    "Kessel",
    "Laterne",
    "Mühle",
    "Nebel",
]
COLLECTION: dict[str, Any] = {
    "vectors": {"size": 4, "distance": "Cosine", "memory": "cold"},
    "hnsw_config": {"m": 0, "payload_m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
    "quantization_config": {"scalar": {"type": "int8", "quantile": 0.99, "memory": "pinned"}},
    "payload": {"memory": "cold"},
    "optimizers_config": {"default_segment_number": 2, "indexing_threshold": 10000},
    "strict_mode_config": {
        "enabled": True,
        "unindexed_filtering_retrieve": False,
        "unindexed_filtering_update": False,
        "max_query_limit": 100,
        "max_timeout": 30,
        "upsert_max_batchsize": 50,
        "max_payload_index_count": 4,
    },
    "metadata": {"schema_version": 1},
}
INDEXES: dict[str, dict[str, Any]] = {
    "client_id": {
        "type": "integer",
        "lookup": True,
        "range": False,
        "is_principal": True,
        "memory": "pinned",
    },
    "expires_at": {"type": "integer", "lookup": False, "range": True, "enable_hnsw": False, "memory": "cold"},
    "content": {"type": "text", "tokenizer": "multilingual", "lowercase": True, "enable_hnsw": False},
}


def configuration(root: Path, **more: Any) -> Configuration:
    return Configuration(
        host="127.0.0.1",
        port=0,
        api_key=KEY,
        read_only_api_key=READER,
        storage=root / "storage",
        snapshots=root / "snapshots",
        **more,
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DoubleServer]:
    with start(configuration(tmp_path)) as running:
        yield running


class Api:
    """Plain HTTP with the key, as the deploy talks."""

    def __init__(self, url: str, key: str = KEY) -> None:
        self.url = url
        self.session = requests.Session()
        self.session.trust_env = False
        if key:
            self.session.headers["api-key"] = key

    def __call__(self, method: str, path: str, body: object = None) -> requests.Response:
        return self.session.request(method, f"{self.url}{path}", json=body, timeout=30)


@pytest.fixture
def api(server: DoubleServer) -> Api:
    return Api(server.url)


def declare(api: Api, name: str = "memory") -> None:
    assert api("PUT", f"/collections/{name}", COLLECTION).json()["result"] is True
    for field, schema in INDEXES.items():
        answer = api(
            "PUT", f"/collections/{name}/index?wait=true", {"field_name": field, "field_schema": schema}
        )
        assert answer.json()["result"]["status"] == "completed"


def fill(api: Api, count: int = 12, name: str = "memory") -> list[str]:
    ids = [str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name}-{number}")) for number in range(count)]
    points = [
        {
            "id": one,
            "vector": [1.0, number / 10, 0.0, 0.0],
            "payload": {
                "client_id": number % 3,
                "expires_at": 100 + number,
                "content": f"Grün und {WORDS[number % 9]}",
            },
        }
        for number, one in enumerate(ids)
    ]
    assert api("PUT", f"/collections/{name}/points?wait=true", {"points": points}).status_code == 200
    return ids


def count(api: Api, name: str = "memory") -> int:
    return int(api("POST", f"/collections/{name}/points/count", {"exact": True}).json()["result"]["count"])


def test_a_collection_reports_what_was_declared(api: Api) -> None:
    declare(api)
    info = api("GET", "/collections/memory").json()["result"]
    config = info["config"]
    assert config["params"]["vectors"] == COLLECTION["vectors"]
    assert config["quantization_config"] == COLLECTION["quantization_config"]
    assert config["strict_mode_config"] == COLLECTION["strict_mode_config"]
    assert config["metadata"] == {"schema_version": 1}
    assert config["hnsw_config"].items() >= COLLECTION["hnsw_config"].items()
    assert config["optimizer_config"].items() >= COLLECTION["optimizers_config"].items()
    assert {field: entry["params"] for field, entry in info["payload_schema"].items()} == INDEXES
    assert info["status"] == "green"


def test_creating_twice_conflicts_and_existence_is_told(api: Api) -> None:
    declare(api)
    again = api("PUT", "/collections/memory", COLLECTION)
    assert again.status_code == 409
    assert "already exists" in again.json()["status"]["error"]
    assert api("GET", "/collections/memory/exists").json()["result"] == {"exists": True}
    assert api("GET", "/collections/other/exists").json()["result"] == {"exists": False}
    missing = api("GET", "/collections/other")
    assert missing.status_code == 404
    assert missing.json()["status"]["error"] == "Not found: Collection `other` doesn't exist!"


def test_the_official_client_works_through_it(server: DoubleServer) -> None:
    client = QdrantClient(url=server.url, api_key=KEY, trust_env=False)
    client.create_collection(
        "facts", vectors_config=models.VectorParams(size=4, distance=models.Distance.COSINE)
    )
    client.create_payload_index("facts", "client_id", models.PayloadSchemaType.INTEGER)
    ids = [str(uuid.uuid4()) for _ in range(5)]
    client.upsert(
        "facts",
        [
            models.PointStruct(id=one, vector=[1.0, float(n), 0, 0], payload={"client_id": n % 2, "n": n})
            for n, one in enumerate(ids)
        ],
        wait=True,
    )
    only_even = models.Filter(must=[models.FieldCondition(key="client_id", match=models.MatchValue(value=0))])
    found = client.query_points("facts", query=[1.0, 0, 0, 0], limit=2, query_filter=only_even)
    assert [point.id for point in found.points] == [ids[0], ids[2]]
    assert found.points[0].score == pytest.approx(1.0, abs=1e-5)
    assert found.points[0].payload == {"client_id": 0, "n": 0}
    assert client.count("facts", count_filter=only_even).count == 3
    page, following = client.scroll("facts", limit=3, with_vectors=True)
    assert len(page) == 3 and following is not None
    client.set_payload("facts", {"seen": True}, points=[ids[1]])
    assert (client.retrieve("facts", [ids[1]])[0].payload or {})["seen"] is True
    client.delete("facts", models.FilterSelector(filter=only_even))
    assert client.count("facts").count == 2
    info = client.get_collection("facts")
    assert info.payload_schema["client_id"].data_type == models.PayloadSchemaType.INTEGER
    client.update_collection_aliases(
        [
            models.CreateAliasOperation(
                create_alias=models.CreateAlias(collection_name="facts", alias_name="current")
            )
        ]
    )
    assert client.count("current").count == 2
    with pytest.raises(UnexpectedResponse) as refused:
        client.upsert("facts", [models.PointStruct(id=1, vector=[1.0, 2.0])])
    assert refused.value.status_code == 400
    assert b"expected dim: 4, got 2" in refused.value.content


def test_search_is_scoped_and_forgets_what_expired(api: Api) -> None:
    declare(api)
    ids = fill(api)
    answer = api(
        "POST",
        "/collections/memory/points/query",
        {
            "query": [1.0, 0.0, 0.0, 0.0],
            "limit": 2,
            "with_payload": ["client_id"],
            "filter": {
                "must": [{"key": "client_id", "match": {"value": 1}}],
                "must_not": [{"key": "expires_at", "range": {"lte": 103}}],
            },
            "params": {"quantization": {"rescore": True, "oversampling": 2.0}},
        },
    ).json()["result"]["points"]
    assert [point["id"] for point in answer] == [ids[4], ids[7]]
    assert answer[0]["payload"] == {"client_id": 1}
    deleted = api(
        "POST",
        "/collections/memory/points/delete?wait=true",
        {"filter": {"must": [{"key": "expires_at", "range": {"lte": 105}}]}},
    )
    assert deleted.json()["result"]["status"] == "completed"
    assert count(api) == 6
    api("POST", "/collections/memory/points/delete?wait=true", {"points": ids[6:8]})
    assert count(api) == 4


def test_words_are_found_by_the_text_index(api: Api) -> None:
    declare(api)
    ids = fill(api)
    found = api(
        "POST",
        "/collections/memory/points/scroll",
        {"filter": {"must": [{"key": "content", "match": {"text": "grün HAFEN"}}]}},
    ).json()["result"]
    assert [point["id"] for point in found["points"]] == [ids[7]]
    assert found["next_page_offset"] is None


@pytest.mark.parametrize(
    ("path", "body", "wanted"),
    [
        ("points/count", {"filter": {"must": [{"key": "n", "match": {"value": 1}}]}}, '"n" of one of'),
        ("points/query", {"filter": {"must": [{"key": "client_id", "range": {"lt": 5}}]}}, '"client_id"'),
        (
            "points/delete",
            {"filter": {"must": [{"key": "expires_at", "match": {"value": 5}}]}},
            '"expires_at"',
        ),
        ("points/query", {"query": [1, 0, 0, 0], "limit": 101}, 'Limit exceeded 101 > 100 for "limit"'),
        ("points/query?timeout=31", {"query": [1, 0, 0, 0]}, 'Limit exceeded 31 > 30 for "timeout"'),
        ("points/query", {"query": [1, 0, 0]}, "expected dim: 4, got 3"),
        ("points/query", {"filter": {"must": [{"kez": "x"}]}}, "condition ['kez']"),
    ],
)
def test_what_strict_mode_or_the_engine_refuses_is_a_400(
    api: Api, path: str, body: object, wanted: str
) -> None:
    declare(api)
    answer = api("POST", f"/collections/memory/{path}", body)
    assert answer.status_code == 400
    assert wanted in answer.json()["status"]["error"]


def test_a_batch_that_is_too_large_or_partly_wrong_changes_nothing(api: Api) -> None:
    declare(api)
    good = {"id": 1, "vector": [1, 0, 0, 0]}
    large = api("PUT", "/collections/memory/points?wait=true", {"points": [good] * 51})
    wrong = api(
        "PUT", "/collections/memory/points?wait=true", {"points": [good, {"id": "x", "vector": [1, 0, 0, 0]}]}
    )
    assert (large.status_code, wrong.status_code) == (400, 400)
    assert count(api) == 0


def test_keys_are_checked_as_the_server_does(server: DoubleServer, api: Api) -> None:
    declare(api)
    nobody, stranger, reader = Api(server.url, ""), Api(server.url, "wrong"), Api(server.url, READER)
    assert nobody("GET", "/collections").status_code == 401
    assert stranger("GET", "/collections").status_code == 401
    assert reader("GET", "/collections").status_code == 200
    assert reader("POST", "/collections/memory/points/count", {}).status_code == 200
    assert reader("DELETE", "/collections/memory").status_code == 403
    assert reader("PUT", "/collections/memory/points", {"points": []}).status_code == 403
    bearer = requests.get(f"{server.url}/collections", headers={"Authorization": f"Bearer {KEY}"}, timeout=5)
    assert bearer.status_code == 200
    for path in ("/healthz", "/livez", "/readyz"):
        assert nobody("GET", path).status_code == 200
    assert nobody("GET", "/metrics").status_code == 401
    assert nobody("GET", "/telemetry").status_code == 401
    assert api("GET", "/health").status_code == 404
    assert 'collection_points{id="memory"} 0' in api("GET", "/metrics").text
    assert "double" in api("GET", "/").json()["title"]


def test_an_empty_key_switches_authentication_off(tmp_path: Path) -> None:
    file = tmp_path / "production.yaml"
    file.write_text("service:\n  host: 127.0.0.1\n  http_port: 0\n  api_key: ''\n")
    settings = load(file, {"QDRANT__STORAGE__STORAGE_PATH": str(tmp_path / "s")})
    assert not settings.keys_in_force
    with start(settings) as running:
        assert Api(running.url, "")("GET", "/collections").status_code == 200


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "production.yaml"
    file.write_text("service: {api_key: from-file, http_port: 1}\nstorage: {snapshots_path: /x}\n")
    settings = load(file, {"QDRANT__SERVICE__API_KEY": "from-environment"})
    assert (settings.api_key, settings.port, settings.snapshots) == ("from-environment", 1, Path("/x"))


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "production.yaml"
    file.write_text("- a\n")
    with pytest.raises(ValueError, match="expected sections"):
        load(file, {})


def test_an_alias_is_switched_in_one_step(api: Api) -> None:
    declare(api, "v1")
    declare(api, "v2")
    fill(api, 3, "v1")
    fill(api, 5, "v2")
    create = {"create_alias": {"collection_name": "v1", "alias_name": "memory"}}
    assert api("POST", "/collections/aliases", {"actions": [create]}).json()["result"] is True
    assert count(api) == 3
    switch = [
        {"delete_alias": {"alias_name": "memory"}},
        {"create_alias": {"collection_name": "v2", "alias_name": "memory"}},
    ]
    assert api("POST", "/collections/aliases", {"actions": switch}).status_code == 200
    assert count(api) == 5
    assert api("GET", "/aliases").json()["result"]["aliases"] == [
        {"alias_name": "memory", "collection_name": "v2"}
    ]
    failing = [
        {"delete_alias": {"alias_name": "memory"}},
        {"create_alias": {"collection_name": "v3", "alias_name": "memory"}},
    ]
    assert api("POST", "/collections/aliases", {"actions": failing}).status_code == 404
    assert count(api) == 5
    api("DELETE", "/collections/v2")
    assert api("GET", "/aliases").json()["result"]["aliases"] == []


def test_indexes_are_added_changed_and_dropped(api: Api) -> None:
    declare(api)
    fill(api)

    def schema() -> dict[str, Any]:
        answer: dict[str, Any] = api("GET", "/collections/memory").json()["result"]["payload_schema"]
        return answer

    changed = {**INDEXES["expires_at"], "lookup": True}
    api("PUT", "/collections/memory/index?wait=true", {"field_name": "expires_at", "field_schema": changed})
    assert schema()["expires_at"] == {"data_type": "integer", "params": changed, "points": 12}
    api("DELETE", "/collections/memory/index/expires_at?wait=true")
    assert "expires_at" not in schema()
    for field in ("a", "b"):
        api("PUT", "/collections/memory/index", {"field_name": field, "field_schema": "keyword"})
    assert schema()["a"] == {"data_type": "keyword", "points": 0}
    fifth = api("PUT", "/collections/memory/index", {"field_name": "c", "field_schema": "keyword"})
    assert fifth.status_code == 400
    assert "maximum number of payload indices" in fifth.json()["status"]["error"]


def test_tunables_are_patched_in_place(api: Api) -> None:
    declare(api)
    fill(api)
    change = {"optimizers_config": {"indexing_threshold": 500}, "strict_mode_config": {"max_query_limit": 7}}
    assert api("PATCH", "/collections/memory", change).json()["result"] is True
    config = api("GET", "/collections/memory").json()["result"]["config"]
    assert config["optimizer_config"]["indexing_threshold"] == 500
    assert config["optimizer_config"]["default_segment_number"] == 2
    assert config["strict_mode_config"]["max_query_limit"] == 7
    assert config["strict_mode_config"]["enabled"] is True
    assert count(api) == 12


def test_a_snapshot_brings_everything_back(server: DoubleServer, api: Api, tmp_path: Path) -> None:
    declare(api)
    ids = fill(api)
    made = api("POST", "/collections/memory/snapshots?wait=true").json()["result"]
    assert [one["name"] for one in api("GET", "/collections/memory/snapshots").json()["result"]] == [
        made["name"]
    ]
    download = api("GET", f"/collections/memory/snapshots/{made['name']}")
    assert len(download.content) == made["size"]
    api("POST", "/collections/memory/points/delete?wait=true", {"points": ids})
    api("DELETE", "/collections/memory/index/content?wait=true")
    body = {
        "location": (tmp_path / "snapshots/memory" / made["name"]).as_uri(),
        "priority": "snapshot",
        "checksum": made["checksum"],
    }
    damaged = api("PUT", "/collections/memory/snapshots/recover", {**body, "checksum": "0" * 64})
    assert damaged.status_code == 400
    assert count(api) == 0
    assert api("PUT", "/collections/memory/snapshots/recover?wait=true", body).json()["result"] is True
    assert count(api) == 12
    assert set(api("GET", "/collections/memory").json()["result"]["payload_schema"]) == set(INDEXES)
    assert api("PUT", "/collections/copy/snapshots/recover", body).json()["result"] is True
    assert count(api, "copy") == 12
    outside = api("PUT", "/collections/copy/snapshots/recover", {"location": "file:///etc/passwd"})
    assert outside.status_code == 403
    assert api("DELETE", f"/collections/memory/snapshots/{made['name']}").json()["result"] is True
    assert api("GET", "/collections/memory/snapshots").json()["result"] == []


def test_everything_survives_a_restart(tmp_path: Path) -> None:
    with start(configuration(tmp_path)) as first:
        api = Api(first.url)
        declare(api)
        fill(api)
        create = {"create_alias": {"collection_name": "memory", "alias_name": "current"}}
        api("POST", "/collections/aliases", {"actions": [create]})
    with start(configuration(tmp_path)) as second:
        api = Api(second.url)
        assert count(api, "current") == 12
        assert {
            f: e["params"]
            for f, e in api("GET", "/collections/memory").json()["result"]["payload_schema"].items()
        } == INDEXES


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "tests.doubles.qdrant_double", "--host", "127.0.0.1", "--port", str(port)),
        *("--storage", str(tmp_path / "storage")),
    ]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "QDRANT__SERVICE__API_KEY": KEY}
    api = Api(f"http://127.0.0.1:{port}")

    def serve() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            assert process.poll() is None
            try:
                if api("GET", "/readyz").status_code == 200:
                    return process
            except requests.ConnectionError:
                time.sleep(0.05)
        raise AssertionError("the double did not become ready in 30 s")

    process = serve()
    try:
        declare(api)
        fill(api)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (tmp_path / "storage/collections/half-made/shard").mkdir(parents=True)
    process = serve()
    try:
        assert count(api) == 12
        assert api("GET", "/collections").json()["result"]["collections"] == [{"name": "memory"}]
        schema = api("GET", "/collections/memory").json()["result"]["payload_schema"]
        assert {field: entry["params"] for field, entry in schema.items()} == INDEXES
    finally:
        process.terminate()
        assert process.wait(timeout=20) == 0


def test_many_clients_write_and_read_at_once(server: DoubleServer, api: Api) -> None:
    declare(api)
    failures: list[str] = []

    def work(worker: int) -> None:
        mine = Api(server.url)
        for turn in range(20):
            number = worker * 100 + turn
            point = {"id": number, "vector": [1.0, number, 0, 0], "payload": {"client_id": worker}}
            written = mine("PUT", "/collections/memory/points?wait=true", {"points": [point]})
            query = {"query": [1, number, 0, 0], "limit": 1, "filter": {"must": [{"has_id": [number]}]}}
            read = mine("POST", "/collections/memory/points/query", query)
            if written.status_code != 200 or read.json()["result"]["points"][0]["id"] != number:
                failures.append(f"{worker}/{turn}: {written.text} {read.text}")

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        assert api("POST", "/collections/memory/snapshots").status_code == 200
    for thread in threads:
        thread.join()
    assert failures == []
    assert count(api) == 160


def test_what_was_written_is_flushed_unasked(tmp_path: Path) -> None:
    with start(configuration(tmp_path, flush_every_s=0.05)) as running:
        api = Api(running.url)
        declare(api)
        fill(api)
        collection = running.store.get("memory")
        deadline = time.monotonic() + 10
        while collection.unflushed:
            assert time.monotonic() < deadline, "nothing was flushed within 10 s"
            time.sleep(0.02)
        assert collection.flush() is False


def test_vectors_of_anything_but_finite_numbers_are_refused(api: Api) -> None:
    declare(api)
    for values in (["1", 0, 0, 0], [1, None, 0, 0], [], "abcd"):
        points = [{"id": 1, "vector": values}]
        assert api("PUT", "/collections/memory/points?wait=true", {"points": points}).status_code == 400
    raw = '{"points": [{"id": 1, "vector": [NaN, 0, 0, 0]}]}'
    assert api.session.put(f"{api.url}/collections/memory/points", data=raw, timeout=5).status_code == 400
    assert count(api) == 0


def test_a_connection_is_kept_and_answers_stay_in_step(api: Api) -> None:
    declare(api)
    refused = api("PUT", "/collections/memory/points", {"points": [{"id": 1}]})
    assert refused.status_code == 400
    assert api("POST", "/nowhere", {"a": 1}).status_code == 404
    assert count(api) == 0
    broken = api.session.post(f"{api.url}/collections/memory/points/count", data=b"{", timeout=5)
    assert broken.status_code == 400
    assert count(api) == 0
