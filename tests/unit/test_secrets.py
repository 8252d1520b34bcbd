"""The laptop-side store of secrets: encrypted, private, add-only, never shown."""

import multiprocessing
import stat

import bcrypt
import pytest

from settings import secrets


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMORY_DROPLET_CONFIG", str(tmp_path / "config"))
    secrets.host_secrets.cache_clear()
    yield tmp_path / "config"
    secrets.host_secrets.cache_clear()


def test_the_generator_adds_what_is_missing_and_changes_nothing():
    added = secrets.init("host")
    before = secrets.read("host")
    assert set(added) == {name for name, d in secrets.DECLARED.items() if d.make}
    assert secrets.init("host") == []
    assert secrets.read("host") == before
    assert secrets.check("host") == []


def test_a_new_secret_is_added_beside_the_stored_ones():
    secrets.init("host")
    values = secrets.read("host")
    del values["webhook_token"]
    secrets._write("host", values)
    assert secrets.init("host") == ["webhook_token"]
    assert {k: v for k, v in secrets.read("host").items() if k != "webhook_token"} == values


def test_files_are_private_and_hold_no_plain_text(store):
    secrets.init("host")
    assert stat.S_IMODE(store.stat().st_mode) == 0o700
    for path in [store / "identity.txt", store / "host.secrets.age"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = (store / "host.secrets.age").read_bytes()
    for value in secrets.read("host").values():
        assert value.encode() not in content


def test_two_hosts_never_share_a_secret():
    secrets.init("one")
    secrets.init("two")
    assert not set(secrets.read("one").values()) & set(secrets.read("two").values())


def test_two_generators_at_once_agree():
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(secrets.init, ["host"] * 4)
    assert secrets.check("host") == []


def test_without_a_store_a_dry_run_gets_secrets_and_writes_nothing(store):
    assert secrets.host_secrets("host")["webhook_token"].reveal()
    assert not store.exists()


def test_the_first_secrets_of_a_host_beside_those_of_others_are_asked_about():
    assert secrets.no_store_yet("203.0.113.7") is None, "the first droplet ever"
    secrets.init("203.0.113.7")
    assert secrets.no_store_yet("203.0.113.7") is None
    question = secrets.no_store_yet("203.0.113.8")
    assert question is not None and "but for 203.0.113.7." in question
    assert "DROPLET_NAME" in question and "drill secrets init" in question


def test_a_secret_never_becomes_text():
    secrets.init("host")
    secret = secrets.host_secrets("host")["webhook_token"]
    with pytest.raises(TypeError, match="webhook_token"):
        str(secret)
    with pytest.raises(TypeError, match="webhook_token"):
        f"{secret}"
    assert secret.reveal() not in repr(secret) + repr(secrets.host_secrets("host"))


def test_the_hash_for_n8n_belongs_to_its_password_even_after_a_change():
    secrets.init("host")
    secrets.put("host", "n8n_owner_password", "Correct-horse-7-battery")
    values = secrets.read("host")
    assert bcrypt.checkpw(b"Correct-horse-7-battery", values["n8n_owner_password_hash"].encode())


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("short", "too short"),
        ("changeme-changeme-change", "common word"),
        ("a" * 40, "repeats"),
        ("x" * 9, "short"),
    ],
)
def test_a_weak_secret_is_refused_in_one_sentence(value, why):
    secrets.init("host")
    before = secrets.read("host")
    with pytest.raises(secrets.SecretsError, match=f"webhook_token.*{why}"):
        secrets.put("host", "webhook_token", value)
    assert secrets.read("host") == before


def test_a_lost_identity_is_said_and_nothing_is_overwritten(store):
    secrets.init("host")
    before = (store / "host.secrets.age").read_bytes()
    (store / "identity.txt").unlink()
    with pytest.raises(secrets.SecretsError, match=r"identity\.txt is missing"):
        secrets.init("host")
    with pytest.raises(secrets.SecretsError, match=r"cannot be opened without it|is missing"):
        secrets.init("other")
    assert (store / "host.secrets.age").read_bytes() == before


def test_another_identity_does_not_open_the_store(store):
    secrets.init("host")
    (store / "host.secrets.age").rename(store.parent / "kept")
    (store / "identity.txt").unlink()
    secrets.init("other")
    (store.parent / "kept").rename(store / "host.secrets.age")
    with pytest.raises(secrets.SecretsError, match="cannot be opened with"):
        secrets.read("host")


def test_an_identity_that_others_can_read_is_refused(store):
    secrets.init("host")
    (store / "identity.txt").chmod(0o644)
    with pytest.raises(secrets.SecretsError, match="chmod 600"):
        secrets.read("host")


def test_an_unknown_name_is_refused():
    with pytest.raises(secrets.SecretsError, match="'nope' is not a secret"):
        secrets.put("host", "nope", "x" * 40)
