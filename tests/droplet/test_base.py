"""The machine itself: name, clock, administrator, upgrades, logs, kernel settings."""

import json
import re

import pytest


def test_no_unit_has_failed(host):
    assert host.check_output("systemctl list-units --failed --plain --no-legend") == ""


def test_the_machine_knows_its_name_and_resolves_it(host, droplet):
    wanted = droplet.settings["hostname"] or droplet.name
    assert host.check_output("hostname") == wanted
    assert host.file("/etc/hostname").content_string.strip() == wanted
    assert host.run(f"getent hosts {wanted}").rc == 0


def test_the_clock_shows_the_time_zone_of_the_settings(host, droplet):
    shown = host.check_output("date '+%z %Z'")
    assert shown == host.check_output(f"TZ={droplet.settings['timezone']} date '+%z %Z'")
    assert host.file("/etc/localtime").linked_to.endswith(f"/{droplet.settings['timezone']}")


def test_a_login_has_the_locale_of_the_settings(droplet):
    assert droplet.run("echo $LANG").stdout.strip() == droplet.settings["locale"]


def test_the_journal_is_kept_and_limited(host, droplet):
    text = host.check_output("systemd-analyze cat-config systemd/journald.conf")
    assert (
        re.findall(r"^SystemMaxUse=(.*)$", text, re.MULTILINE)[-1]
        == f"{droplet.settings['journald_max_mb']}M"
    )
    assert host.file("/var/log/journal").is_directory
    used = host.check_output("du -sm /var/log/journal").split()[0]
    assert int(used) <= droplet.settings["journald_max_mb"]


def test_only_security_updates_are_installed_by_themselves(host):
    said = host.run("unattended-upgrade --dry-run --debug")
    assert said.rc == 0, said.stderr
    line = next(
        one for one in (said.stdout + said.stderr).splitlines() if one.startswith("Allowed origins are:")
    )
    origins = [one.strip() for one in line.split(":", 1)[1].split(", origin")]
    assert origins
    assert all("security" in origin.lower() for origin in origins), line


def test_upgrades_come_daily_and_never_reboot_unasked(host, droplet):
    text = host.check_output("apt-config dump")
    wanted = "true" if droplet.settings["unattended_reboot"] else "false"
    assert f'Unattended-Upgrade::Automatic-Reboot "{wanted}";' in text
    assert 'APT::Periodic::Unattended-Upgrade "1";' in text
    assert 'APT::Periodic::Update-Package-Lists "1";' in text
    for timer in ("apt-daily.timer", "apt-daily-upgrade.timer"):
        assert host.check_output(f"systemctl is-enabled {timer}") == "enabled"
        assert host.check_output(f"systemctl is-active {timer}") == "active"


def test_the_administrator_is_root_through_sudo_and_has_no_password(host, droplet):
    user = droplet.settings["admin_user"]
    assert host.check_output(f"runuser -u {user} -- sudo -n id -u") == "0"
    assert host.check_output(f"passwd --status {user}").split()[1] == "L"
    assert "docker" not in host.user(user).groups
    keys = host.file(f"{host.user(user).home}/.ssh/authorized_keys")
    assert (keys.user, keys.mode) == (user, 0o600)
    assert host.run("visudo --check").rc == 0


def test_the_administrator_logs_in_with_a_key(droplet):
    if droplet.settings["admin_ssh_keys"]:
        login = droplet.ssh("-o", "PubkeyAuthentication=no", "-o", "BatchMode=yes", droplet.name, "true")
        assert login.returncode != 0
    else:
        # With none in the settings, root's keys are the administrator's.
        login = droplet.ssh("-l", droplet.settings["admin_user"], droplet.name, "sudo -n id -u")
        assert login.stdout.strip() == "0", login.stderr


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("/etc/memory-droplet", 0o755),
        ("/etc/memory-droplet/secrets", 0o700),
        ("/var/lib/memory-droplet", 0o755),
        ("/var/lib/memory-droplet/applied", 0o755),
        ("/usr/local/lib/memory-droplet", 0o755),
    ],
)
def test_our_directories_have_their_modes(host, path, mode):
    directory = host.file(path)
    assert (directory.is_directory, directory.user, directory.mode) == (True, "root", mode)


def test_kernel_settings_that_can_be_had_are_in_force(host):
    lines = host.file("/etc/sysctl.d/zz-memory-droplet.conf").content_string.splitlines()
    wanted = dict(line.split(" = ") for line in lines if not line.startswith("#"))
    assert wanted["net.ipv4.conf.all.accept_redirects"] == "0"
    for name, value in wanted.items():
        assert host.check_output(f"sysctl -n {name}") == value, name


def test_swap_is_in_use_or_the_machine_says_why_not(host, droplet):
    used = host.check_output("cat /proc/swaps")
    skipped = json.loads(host.file("/var/lib/memory-droplet/kernel.json").content_string)["skipped"]
    assert ("/dev/zram0" in used) != ("zram" in skipped)
    assert ("/swapfile" in used) != ("swap file" in skipped)
    if host.check_output("systemd-detect-virt --container || true") == "none":
        assert ("zram" in skipped) <= (not droplet.settings["zram"] or "kernel" in skipped["zram"])
    else:
        assert "container" in skipped["zram"]
