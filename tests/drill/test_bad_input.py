"""Bad input gets one clear sentence and a non-zero exit, and nothing is changed or lost."""

import os
import subprocess
import sys

import pytest

from drill import machine
from settings import secrets
from tests.drill.deploying import PROJECT, command, deploy, dry_run

NAME = "badinput"


@pytest.fixture(scope="module")
def droplet():
    machine.remove(NAME)
    secrets.store_path(NAME).unlink(missing_ok=True)
    yield machine.ensure(NAME)
    machine.remove(NAME)


@pytest.fixture(scope="module")
def laptop(tmp_path_factory):
    """The state of a laptop that has met no host yet."""
    return tmp_path_factory.mktemp("laptop")


def remote(droplet, laptop, *arguments, how="--dry", **variables):
    """A run against a host named by the environment, as a user with a real droplet makes it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DROPLET_", "PYINFRA_"))}
    given = {
        "DROPLET_HOST": droplet.address,
        "DROPLET_PORT": str(droplet.port),
        "DROPLET_USER": droplet.user,
        "DROPLET_KEY": str(droplet.key_file),
        "PYINFRA_PROGRESS": "off",
        "MEMORY_DROPLET_STATE": str(laptop),
        **variables,
    }
    done = subprocess.run(
        command(how, *arguments),
        cwd=PROJECT,
        env={**kept, **given},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def new_key(path):
    """A key of nobody's, made at a path; its public half is beside it."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def unchanged(droplet):
    found = droplet.run("ls -d /etc/memory-droplet /usr/bin/docker 2>/dev/null")
    return (found.returncode, found.stdout) == (2, "")  # that of ls, which finds nothing; ssh's own is 255


def test_an_unknown_host_is_named(droplet, laptop):
    code, printed = remote(droplet, laptop, DROPLET_HOST="no-such-host.invalid")
    assert code != 0
    assert "no-such-host.invalid" in printed
    assert "Traceback" not in printed


def test_a_wrong_key_is_refused_before_anything(droplet, laptop, tmp_path):
    key = new_key(tmp_path / "wrong")
    code, printed = remote(droplet, laptop, DROPLET_KEY=str(key))
    assert code != 0
    assert "uthentication" in printed
    assert "Traceback" not in printed
    assert unchanged(droplet)


def test_a_key_file_that_is_not_there_is_named(droplet, laptop):
    code, printed = remote(droplet, laptop, DROPLET_KEY="/nonexistent/key")
    assert code != 0
    assert "DROPLET_KEY names /nonexistent/key, which is not a file." in printed


def test_a_host_that_shows_another_key_than_before_is_refused_until_what_was_known_is_removed(
    droplet, laptop, tmp_path
):
    known = laptop / "hosts" / droplet.address / "known_hosts"
    code, printed = remote(droplet, laptop)
    assert code == 0, printed
    other = new_key(tmp_path / "other")
    strange = f"{droplet.address} {other.with_suffix('.pub').read_text()}"
    known.write_text(strange)
    code, printed = remote(droplet, laptop)
    assert code != 0
    assert f"Host key for {droplet.address} does not match" in printed
    assert "Traceback" not in printed
    assert known.read_text() == strange
    known.unlink()
    assert remote(droplet, laptop)[0] == 0


def test_a_host_without_secrets_beside_hosts_with_them_is_asked_about(droplet, laptop, tmp_path):
    (tmp_path / "192.0.2.1.secrets.age").touch()
    code, printed = remote(droplet, laptop, how="-y", MEMORY_DROPLET_CONFIG=str(tmp_path))
    assert code != 0
    assert f"holds no secrets for {droplet.address}, but for 192.0.2.1." in printed
    assert "set DROPLET_NAME to that name; if it is a new one, run: drill secrets init" in printed
    assert "Traceback" not in printed
    assert unchanged(droplet)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "timezon=UTC"], "'timezon' is not a setting. Did you mean 'timezone'?"),
        (["--data", "swap_mb=many"], "'swap_mb' must be a whole number, but is 'many'."),
        (["--data", "only=postgre"], "'only' names postgre, but the components are"),
        (["--data", "ingress=caddy", "--data", "domain="], "which needs 'domain' to be set"),
        (
            ["--data", "embedding_base_url=https://api.example.com/v1"],
            "which needs a key; run: drill secrets set embedding_api_key",
        ),
        (["--data", "image_lock=/nonexistent"], "'image_lock' names /nonexistent, which does not exist"),
    ],
)
def test_a_wrong_setting_is_one_sentence_and_nothing_is_changed(droplet, arguments, sentence):
    outcome = dry_run(NAME, *arguments)
    assert outcome.code != 0
    assert sentence in outcome.printed
    assert "Traceback" not in outcome.printed
    assert unchanged(droplet)


def test_a_settings_file_with_a_mistake_is_named(droplet, tmp_path):
    path = tmp_path / "settings.yml"
    path.write_text("ingress: nginx\n")
    outcome = dry_run(NAME, DROPLET_SETTINGS=str(path))
    assert outcome.code != 0
    assert f"{path}: 'ingress' must be 'none', 'caddy' or 'cloudflare', but is 'nginx'." in outcome.printed


def test_a_port_already_taken_is_named_with_its_holder(droplet):
    droplet.run("systemd-run --unit=squatter python3 -m http.server --bind 127.0.0.1 5432")
    listening = "for i in $(seq 600); do ss -Hltn sport = :5432 | grep -q . && exit; sleep 0.1; done; exit 1"
    assert droplet.run(listening).returncode == 0
    try:
        outcome = deploy(NAME)
        assert outcome.code != 0
        assert "TCP port 5432 (postgres) is already taken by python3; stop it first" in outcome.printed
        assert unchanged(droplet)
    finally:
        droplet.run("systemctl stop squatter")


def test_a_full_disk_is_told_before_anything_is_changed(droplet):
    assert droplet.run("mount -t tmpfs -o size=64m tmpfs /var").returncode == 0
    try:
        outcome = deploy(NAME)
        assert outcome.code != 0
        assert "MiB are free on /var, but 1500 MiB are needed; make room first" in outcome.printed
        assert unchanged(droplet)
    finally:
        assert droplet.run("umount -l /var").returncode == 0


def test_a_registry_that_is_down_is_named_and_the_next_run_goes_on(droplet):
    outcome = deploy(
        NAME, "--data", "image_registry=127.0.0.9:5000", "--data", "only=preflight,base,docker,postgres"
    )
    assert outcome.code != 0
    assert "127.0.0.9:5000" in outcome.printed
    assert deploy(NAME, "--data", "only=preflight,base,docker,postgres").code == 0


def test_a_migration_that_fails_half_way_leaves_nothing_behind(droplet, tmp_path):
    assert deploy(NAME, "--data", "only=preflight,base,docker,postgres").code == 0
    checkout = tmp_path / "checkout"
    subprocess.run(["git", "clone", "-q", str(PROJECT), str(checkout)], check=True)
    migrations = checkout / "files" / "postgres" / "migrations"
    number = len(list(migrations.glob("[0-9]*.sql"))) + 1
    broken = migrations / f"{number:04d}_broken.sql"
    broken.write_text("create table memory.half(id int);\nselect 1/0;\n")
    done = subprocess.run(
        [sys.executable, "-m", "pyinfra", "inventory.py", "deploy.py", "-y", "--data", "only=postgres"],
        cwd=checkout,
        env={**os.environ, "DROPLET_NAME": NAME, "PYINFRA_PROGRESS": "off", "PYTHONPATH": str(checkout)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode != 0
    assert "division by zero" in done.stdout + done.stderr
    left = droplet.run(
        "docker exec postgres psql -XAtqU postgres -d n8ndb -c "
        f"\"select to_regclass('memory.half') is null, not exists(select from memory.schema_migrations where number = {number})\""
    )
    assert left.stdout.strip() == "t|t"
    assert dry_run(NAME, "--data", "only=postgres").changes == []
