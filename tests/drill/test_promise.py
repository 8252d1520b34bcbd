"""The promise, as a story on one droplet: bare, converged, unchanged, damaged, repaired."""

import json
import os
import re

import pytest

from drill import machine
from settings import secrets
from tests.drill.deploying import deploy, dry_run

NAME = "promise"

#: Operations that find nothing to do on a bare machine.
LOOKING = {"Preflight | The machine can be deployed to", "Tunnel | Stopped", "Tunnel | No token"}


@pytest.fixture(scope="module")
def bare():
    """A droplet that nothing was deployed to yet, with no secrets on the laptop."""
    machine.remove(NAME)
    secrets.store_path(NAME).unlink(missing_ok=True)
    yield machine.ensure(NAME)
    if os.environ.get("DROPLET_NAME") != NAME:  # else the tests that look at a live droplet go on with it
        machine.remove(NAME)


@pytest.fixture(scope="module")
def looked_at(bare):
    """What a dry run of the bare droplet says."""
    return dry_run(NAME)


@pytest.fixture(scope="module")
def converged(bare, looked_at):
    """The droplet after one run, and what the run said."""
    outcome = deploy(NAME)
    assert outcome.code == 0, outcome.printed[-4000:]
    return bare, outcome


def test_01_a_dry_run_of_a_bare_machine_lists_everything_and_exits_0(looked_at, bare):
    assert looked_at.code == 0, looked_at.printed[-4000:]
    report = json.loads(looked_at.printed[looked_at.printed.index("{") : looked_at.printed.rindex("}") + 1])
    unlisted = {op["name"] for op in report["plan"] if not op["hosts_with_change"]}
    assert unlisted == LOOKING
    assert looked_at.operations > 40


def test_02_a_dry_run_changes_nothing_there_and_nothing_here(looked_at, bare):
    found = bare.run("ls -d /etc/memory-droplet /var/lib/memory-droplet /usr/bin/docker 2>/dev/null")
    assert (found.returncode, found.stdout) == (2, "")
    assert not secrets.store_path(NAME).exists()


def test_03_one_run_converges_and_does_what_the_dry_run_listed(converged, looked_at):
    _, outcome = converged
    assert outcome.failed_hosts == []
    assert set(outcome.changes) == set(looked_at.changes)


def test_04_a_second_dry_run_lists_nothing(converged):
    outcome = dry_run(NAME)
    assert (outcome.code, outcome.changes) == (0, [])


def test_05_a_second_run_changes_nothing(converged):
    outcome = deploy(NAME)
    assert (outcome.code, outcome.changes) == (0, [])
    print(f"no-op run: {outcome.seconds:.1f} s, {outcome.operations} operations")


DAMAGE = {
    "a configuration file was edited": (
        "echo '# by hand' >> /etc/memory-droplet/postgres/postgresql.conf",
        ["Postgres | Configuration", "Postgres | Running"],
    ),
    "a unit was stopped": ("systemctl stop droplet-ingress", ["Ingress | Running", "Ingress | Ready"]),
    "a unit was disabled": ("systemctl disable -q droplet-qdrant", ["Qdrant | Running"]),
    "a role was given more than it should have": (
        "docker exec postgres psql -qU postgres -c 'alter role n8n superuser'",
        ["Postgres | Role n8n"],
    ),
    "a role's password was changed": (
        "docker exec postgres psql -qU postgres -c \"alter role memory password 'other'\"",
        ["Postgres | Role memory"],
    ),
    "a payload index was deleted": (
        "curl -sf -X DELETE -H @/etc/memory-droplet/secrets/qdrant/api_key_header "
        "'http://127.0.0.1:6333/collections/memory_vectors/index/source_type?wait=true'",
        ["Qdrant | Collection memory_vectors and its payload indexes"],
    ),
    "a secret file was made readable": (
        "chmod 644 /etc/memory-droplet/secrets/qdrant/api_key_header",
        ["Qdrant | Header for the deploy"],
    ),
    "a unit file was edited": (
        "sed -i 's/--memory [0-9]*m/--memory 64m/' /etc/systemd/system/droplet-ingress.service",
        ["Ingress | Unit", "Ingress | Running"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_06_damage_is_shown_as_exactly_that_and_repaired(converged, damage):
    droplet, _ = converged
    command, expected = DAMAGE[damage]
    done = droplet.run(command)
    assert done.returncode == 0, done.stderr
    shown = dry_run(NAME)
    assert (shown.code, shown.changes) == (0, expected)
    repaired = deploy(NAME)
    assert repaired.code == 0, repaired.printed[-3000:]
    assert set(repaired.changes) <= set(expected)
    assert dry_run(NAME).changes == []


def test_07_a_collection_with_other_vectors_is_refused_and_left_alone(converged):
    droplet, _ = converged
    header = "-H @/etc/memory-droplet/secrets/qdrant/api_key_header -H 'Content-Type: application/json'"
    url = "http://127.0.0.1:6333/collections/memory_vectors"
    # The memory service makes a collection that is gone within seconds, and would be first.
    wrong = (
        "systemctl stop memory-service.socket memory-service.service"
        f" && curl -sf -X DELETE {header} {url}"
        f' && curl -sf -X PUT {header} -d \'{{"vectors":{{"size":8,"distance":"Dot"}}}}\' {url}'
    )
    done = droplet.run(wrong)
    assert done.returncode == 0, done.stderr
    outcome = deploy(NAME, "--data", "only=qdrant")
    assert outcome.code != 0
    assert "vectors of size 8, but 1536 is declared; nothing was changed" in re.sub(
        r"\s+", " ", outcome.printed
    )
    assert '"size":8' in droplet.run(f"curl -sf {header} {url}").stdout.replace(" ", "")
    droplet.run(f"curl -sf -X DELETE {header} {url}")
    assert deploy(NAME).code == 0


def test_08_an_edited_old_migration_is_refused_before_anything_is_changed(converged):
    droplet, _ = converged
    droplet.run(
        "docker exec postgres psql -qU postgres -d n8ndb -c "
        "\"update memory.schema_migrations set checksum = repeat('0', 64) where number = 1\""
    )
    shown = dry_run(NAME)
    assert shown.code != 0
    assert "0001" in shown.printed
    droplet.run(
        "docker exec postgres psql -qU postgres -d n8ndb -c "
        f"\"update memory.schema_migrations set checksum = '{_checksum_of_first()}' where number = 1\""
    )
    assert dry_run(NAME).changes == []


def _checksum_of_first():
    from operations.migration_plan import ordered_migrations
    from tasks.postgres import MIGRATIONS

    files = sorted(MIGRATIONS.glob("[0-9]*.sql"))
    return ordered_migrations((file.name, file.read_text()) for file in files)[0].checksum


def test_09_a_power_cut_comes_back_by_itself(converged):
    droplet, _ = converged
    droplet.pull_plug()
    machine.ensure(NAME)
    waited = droplet.run(
        "for i in $(seq 240); do docker exec postgres pg_isready -q "
        "&& curl -sfo /dev/null http://127.0.0.1:6333/readyz "
        "&& curl -sfo /dev/null http://127.0.0.1:8765/readyz "
        "&& curl -sfo /dev/null http://127.0.0.1:8082/healthz "
        "&& curl -sfo /dev/null http://127.0.0.1:5678/healthz/readiness "
        "&& curl -sfo /dev/null http://127.0.0.1:8080/ready && exit 0; sleep 1; done; exit 1"
    )
    assert waited.returncode == 0
    assert dry_run(NAME).changes == []


def test_10_no_secret_is_printed_by_any_verbosity(converged):
    printed = (
        deploy(NAME, "-vvv", "--diff").printed + dry_run(NAME, "-vvv", "--diff", "--data", "plan=1").printed
    )
    assert len(printed) > 10_000
    leaked = [
        name
        for name, forms in secrets.revealed(NAME).items()
        if any(f in printed for f in forms if len(f) > 11)
    ]
    assert leaked == []
