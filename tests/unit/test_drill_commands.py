"""What the command line makes of what was typed."""

import os
import platform

import pytest

from drill import cli, cycle, laptop, records
from drill.access import render_ssh_config
from drill.records import Record


@pytest.fixture(autouse=True)
def _nothing_set(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("DROPLET_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MEMORY_DROPLET_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("MEMORY_DROPLET_CONFIG", str(tmp_path / "config"))


@pytest.mark.parametrize(
    ("typed", "own", "passed_on"),
    [
        ("up one", "up one", ""),
        ("deploy", "deploy", ""),
        ("deploy one", "deploy one", ""),
        ("deploy --dry --diff", "deploy", "--dry --diff"),
        ("deploy one --data only=n8n -v", "deploy one", "--data only=n8n -v"),
        ("deploy --data only=n8n", "deploy", "--data only=n8n"),
        ("deploy --help", "deploy --help", ""),
        ("verify one -k qdrant", "verify one", "-k qdrant"),
        ("ssh", "ssh", ""),
        ("ssh one", "ssh one", ""),
        ("ssh -- uptime -p", "ssh", "uptime -p"),
        ("ssh one -- ls --all", "ssh one", "ls --all"),
        ("status", "status", ""),
    ],
)
def test_own_arguments_end_where_those_of_the_other_program_begin(typed, own, passed_on):
    assert cli.split(typed.split()) == (own.split(), passed_on.split())


def test_a_run_needs_no_confirmation_and_a_dry_run_keeps_its_plan():
    assert cycle.pyinfra_arguments([]) == ["inventory.py", "deploy.py", "-y"]
    assert cycle.pyinfra_arguments(["--dry", "--diff"]) == ["inventory.py", "deploy.py", "--dry", "--diff"]
    assert cycle.pyinfra_arguments(["-y"]) == ["inventory.py", "deploy.py", "-y"]


def test_a_droplet_that_was_never_made_is_one_sentence(capsys):
    assert cli.main(["ssh", "nobody"]) == 1
    assert capsys.readouterr().err == (
        "drill: There is no droplet named nobody (there are: none); make it with `drill up nobody`.\n"
    )


def test_without_droplets_status_says_how_to_make_one(capsys):
    assert cli.main(["status"]) == 0
    assert capsys.readouterr().out == "There are no droplets; `drill up` makes one.\n"


def test_a_wrong_name_is_one_sentence(capsys):
    assert cli.main(["up", "My Droplet"]) == 1
    assert "cannot be a droplet's name" in capsys.readouterr().err


def test_a_local_name_is_refused_while_a_real_host_is_set(capsys, monkeypatch):
    monkeypatch.setenv("DROPLET_HOST", "host.example")
    assert cli.main(["down", "mine"]) == 1
    assert "this acts on host.example and not on mine" in capsys.readouterr().err


def test_a_real_host_is_not_made(capsys, monkeypatch):
    monkeypatch.setenv("DROPLET_HOST", "host.example")
    assert cli.main(["up"]) == 1
    assert "host.example is there already" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["down", "rebuild"])
def test_a_real_host_is_not_switched_off_unless_its_name_is_typed(capsys, monkeypatch, command):
    monkeypatch.setenv("DROPLET_HOST", "host.example")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _asked: "yes")
    assert cli.main([command]) == 1
    assert "Nothing was done: what was typed is not host.example." in capsys.readouterr().err


def test_a_real_host_is_not_switched_off_by_a_script(capsys, monkeypatch):
    monkeypatch.setenv("DROPLET_HOST", "host.example")
    assert cli.main(["down"]) == 1
    assert "needs its name typed at a terminal" in capsys.readouterr().err


def test_recreating_a_real_host_is_its_providers_job(capsys, monkeypatch):
    monkeypatch.setenv("DROPLET_HOST", "host.example")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _asked: "host.example")
    assert cli.main(["rebuild"]) == 1
    assert "recreating it is its provider's job" in capsys.readouterr().err


def test_a_mistake_in_the_environment_is_one_sentence(capsys, monkeypatch):
    monkeypatch.setenv("DROPLET_HOST", "host.example")
    monkeypatch.setenv("DROPLET_PORT", "ssh")
    assert cli.main(["status"]) == 1
    assert "DROPLET_PORT must be a port" in capsys.readouterr().err


def test_secrets_are_made_once_and_then_found_complete(capsys):
    assert cli.main(["secrets", "check", "one"]) == 1
    assert "missing" in capsys.readouterr().out
    assert cli.main(["secrets", "init", "one"]) == 0
    assert "one: made postgres_superuser_password" in capsys.readouterr().out
    assert cli.main(["secrets", "init", "one"]) == 0
    assert capsys.readouterr().out == "one: nothing was missing\n"
    assert cli.main(["secrets", "check", "one"]) == 0
    assert capsys.readouterr().out == "one: all secrets are there and strong\n"


def test_phases_stop_at_the_first_that_fails_and_show_their_times(capsys):
    ran = []

    def phase(name, code):
        return name, lambda: ran.append(name) or code

    assert cycle.run_phases("one", [phase("down", 0), phase("up", 3), phase("deploy", 0)]) == 3
    assert ran == ["down", "up"]
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()] == ["down", "up", "total"]
    assert "the rebuild of one failed at up (exit 3)" in printed.err


def test_other_systems_are_told_what_to_do_instead(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    with pytest.raises(laptop.CannotRunHere, match=r"needs Linux; .* runs Darwin\. Set DROPLET_HOST"):
        laptop.prepare()


def test_a_user_without_root_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(laptop.CannotRunHere, match=r"needs root.*sudo.*Set DROPLET_HOST"):
        laptop.prepare()


def test_removing_what_does_not_exist_needs_no_root(capsys, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli.main(["down", "nobody"]) == 0
    assert "there is no droplet named nobody" in capsys.readouterr().err


def test_removing_a_droplet_without_root_is_one_sentence(capsys, monkeypatch):
    records.save(Record("one", "10.90.0.2", "10.90.0.1", "drill0"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli.main(["down", "one"]) == 1
    assert "as root: run `sudo -E uv run drill ...`" in capsys.readouterr().err


def test_a_system_without_the_programs_or_apt_is_told_the_packages(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(laptop.CannotRunHere, match=r"mmdebstrap.*systemd-container.*no apt-get"):
        laptop.prepare()


def test_the_keys_of_debians_archive_are_installed_where_the_system_lacks_them(monkeypatch, tmp_path):
    keys = tmp_path / "keys.gpg"
    monkeypatch.setattr(laptop, "FILES", {str(keys): "debian-archive-keyring"})
    assert laptop.missing_packages({}) == ["debian-archive-keyring"]
    keys.touch()
    assert laptop.missing_packages({}) == []


def test_the_ssh_config_pins_the_host_key_and_survives_spaces(monkeypatch, tmp_path):
    monkeypatch.setenv("MEMORY_DROPLET_STATE", str(tmp_path / "my state"))
    text = render_ssh_config(Record("one", "10.90.0.2", "10.90.0.1", "drill0"))
    directory = tmp_path / "my state" / "droplets" / "one"
    assert "StrictHostKeyChecking yes" in text
    assert f'UserKnownHostsFile "{directory}/known_hosts"' in text
    assert f'IdentityFile "{directory}/id_ed25519"' in text
