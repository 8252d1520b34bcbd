"""The plan for a Qdrant collection, as pure data."""

import pytest

from operations.qdrant_plan import WrongVectors, plan

DECLARED = {
    "vectors": {"size": 4, "distance": "Cosine"},
    "hnsw_config": {"m": 0, "payload_m": 16},
    "optimizers_config": {"indexing_threshold": 10000},
}
INDEXES = {
    "client_id": {"type": "integer", "lookup": True, "range": False},
    "source_type": {"type": "keyword"},
}


def live(**changes):
    found = {
        "config": {
            "params": {"vectors": {"size": 4, "distance": "Cosine"}, "shard_number": 1},
            "hnsw_config": {"m": 0, "payload_m": 16, "ef_construct": 100},
            "optimizer_config": {"indexing_threshold": 10000, "deleted_threshold": 0.2},
        },
        "payload_schema": {
            "client_id": {
                "data_type": "integer",
                "params": {"type": "integer", "lookup": True, "range": False},
                "points": 3,
            },
            "source_type": {"data_type": "keyword", "points": 3},
        },
    }
    found.update(changes)
    return found


def sentences(found):
    return [request.sentence for request in plan("c", DECLARED, INDEXES, found)]


def test_an_absent_collection_is_created_with_all_its_indexes():
    assert sentences(None) == [
        "create collection c",
        "create payload index client_id",
        "create payload index source_type",
    ]


def test_a_collection_as_declared_needs_nothing():
    assert sentences(live()) == []


def test_a_deleted_index_is_the_only_thing_planned():
    found = live()
    del found["payload_schema"]["client_id"]
    assert sentences(found) == ["create payload index client_id"]


def test_an_index_with_other_parameters_is_rebuilt():
    found = live()
    found["payload_schema"]["client_id"]["params"]["range"] = True
    assert sentences(found) == ["rebuild payload index client_id, which has other parameters"]


def test_a_tuned_value_is_put_back_by_a_patch():
    found = live()
    found["config"]["hnsw_config"]["m"] = 16
    (request,) = plan("c", DECLARED, INDEXES, found)
    assert (request.method, request.path) == ("PATCH", "/collections/c")
    assert request.body == {"hnsw_config": {"m": 0, "payload_m": 16}}


@pytest.mark.parametrize(("key", "value"), [("size", 8), ("distance", "Dot")])
def test_other_vectors_are_refused_and_nothing_is_planned(key, value):
    found = live()
    found["config"]["params"]["vectors"][key] = value
    with pytest.raises(WrongVectors, match=f"{key} {value}.*nothing was changed"):
        plan("c", DECLARED, INDEXES, found)
