"""The status table."""

from drill.cgroup import Memory
from drill.inspection import Contents, Row, components_text, memory_text, parse, table

ANSWER = """\
droplet-n8n.service loaded active running Automation
droplet-qdrant.service loaded failed failed Vectors
droplet-old.service not-found inactive dead droplet-old.service
memory-service.service loaded active running Memory service
---
qdrant
open-webui
"""


def test_units_become_components_and_labelled_containers_doubles():
    found = parse(ANSWER)
    assert found.components == {"n8n": "active", "qdrant": "failed", "memory-service": "active"}
    assert found.doubles == ("open-webui", "qdrant")


def test_a_bare_machine_has_neither():
    assert parse("---\n") == Contents({}, ())


def test_only_what_is_wrong_is_told_in_detail():
    assert components_text({"n8n": "active", "qdrant": "failed"}) == "1 of 2 active, qdrant failed"
    assert components_text({}) == "-"


def test_memory_is_used_of_limit_and_names_kills():
    assert memory_text(Memory(300 * 2**20, 0, 2 * 2**30, 0, 0)) == "300 / 2048 MiB"
    assert memory_text(Memory(300 * 2**20, 0, 2 * 2**30, 9, 2)) == "300 / 2048 MiB, 2 OOM kills"
    assert memory_text(None) == "-"


def test_the_table_is_aligned():
    rows = [
        Row("one", "running", "10.90.0.2", Memory(2**20, 0, 2 * 2**30, 0, 0), parse(ANSWER)),
        Row("second", "stopped", "10.90.0.3", None, Contents({}, ())),
    ]
    header, one, second = table(rows).splitlines()
    for line, address in ((one, "10.90.0.2"), (second, "10.90.0.3")):
        assert line.index(address) == header.index("ADDRESS")
    assert one.index("2 of 3 active, qdrant failed") == header.index("COMPONENTS")
    assert one.endswith("open-webui, qdrant")
    assert second.split() == ["second", "stopped", "10.90.0.3", "-", "-", "-"]
