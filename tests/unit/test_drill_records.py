"""What is written down about droplets."""

import pytest

from drill import packages_kept, paths, records
from drill.errors import DrillError, UsageMistake
from drill.records import Record


@pytest.fixture(autouse=True)
def _own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMORY_DROPLET_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("MEMORY_DROPLET_CACHE", str(tmp_path / "cache"))


def record(name: str) -> Record:
    return Record(name, "10.90.0.2", "10.90.0.1", "drill0")


@pytest.mark.parametrize(
    "name", ["a", "Droplet", "-x", "x-", "a_b", "a/../b", "a b", "1st", "x" * 41, "", "registry", "work-disk"]
)
def test_a_name_that_is_no_host_name_is_refused(name):
    with pytest.raises(UsageMistake, match="cannot be a droplet's name"):
        records.checked_name(name)


def test_a_droplet_is_read_back_as_it_was_written():
    records.save(record("one"))
    assert records.load("one") == record("one")
    assert [each.name for each in records.load_all()] == ["one"]
    assert (paths.droplet_dir("one") / "droplet.json").stat().st_mode & 0o077 == 0


def test_a_droplet_that_was_never_made_is_none():
    assert records.load("never") is None
    assert records.load_all() == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "one"}'])
def test_a_damaged_record_says_which_file_and_what_to_do(text):
    records.save(record("one"))
    (paths.droplet_dir("one") / "droplet.json").write_text(text)
    with pytest.raises(DrillError, match=r"droplet\.json .*drill down"):
        records.load("one")


def test_names_on_the_laptop_fit_and_differ_between_state_directories(monkeypatch, tmp_path):
    first = record("x" * 40)
    seen = (first.veth, first.machine)
    assert len(first.veth) <= 15
    assert len(first.machine) <= 64
    monkeypatch.setenv("MEMORY_DROPLET_STATE", str(tmp_path / "other"))
    assert seen != (first.veth, first.machine)


def test_downloaded_packages_are_kept_and_laid_out_again(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for root in (first, second):
        (root / packages_kept.ARCHIVES).mkdir(parents=True)
    (first / packages_kept.ARCHIVES / "a_1_amd64.deb").write_text("package")
    (first / packages_kept.ARCHIVES / "partial").mkdir()
    packages_kept.collect(first)
    packages_kept.lay_out(second)
    assert [path.name for path in (second / packages_kept.ARCHIVES).iterdir()] == ["a_1_amd64.deb"]


def test_the_oldest_packages_go_when_there_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(packages_kept, "LIMIT_BYTES", 10)
    archives = tmp_path / packages_kept.ARCHIVES
    archives.mkdir(parents=True)
    for name in ("old.deb", "new.deb"):
        (archives / name).write_text("12345678")
        packages_kept.collect(tmp_path)
    assert [path.name for path in packages_kept.directory().glob("*.deb")] == ["new.deb"]
