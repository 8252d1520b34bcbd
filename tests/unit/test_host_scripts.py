"""What the scripts on the host decide, without a host."""

import importlib
import json
import sys
from pathlib import Path

import paramiko
import pytest

from settings.render import render
from tasks.base import SYSCTL, SYSCTL_WITH_ZRAM

FILES = Path(__file__).parent.parent.parent / "files"


@pytest.fixture(scope="module", autouse=True)
def on_the_path():
    """On a host all scripts lie beside plan_apply.py."""
    folders = [str(FILES / name) for name in ("base", "ssh", "firewall", "docker")]
    sys.path[:0] = folders
    yield
    sys.path[:] = [place for place in sys.path if place not in folders]


def module(name):
    return importlib.import_module(name)


class Thing:
    """Something that is wrong a number of times."""

    def __init__(self, wrong):
        self.wrong = wrong
        self.repairs = 0

    def find(self):
        def repair():
            self.wrong -= 1
            self.repairs += 1

        return [module("plan_apply").Difference("it is wrong", repair)] if self.wrong else []


def test_a_plan_lists_and_repairs_nothing(monkeypatch, capsys):
    thing = Thing(1)
    monkeypatch.setattr(sys, "argv", ["script", "plan"])
    module("plan_apply").serve(thing.find)
    assert json.loads(capsys.readouterr().out) == {"reachable": True, "differences": ["it is wrong"]}
    assert thing.repairs == 0


def test_apply_repairs_until_nothing_differs(monkeypatch, capsys):
    thing = Thing(2)
    monkeypatch.setattr(sys, "argv", ["script", "apply"])
    module("plan_apply").serve(thing.find)
    assert (thing.wrong, thing.repairs) == (0, 2)
    assert capsys.readouterr().out == "it is wrong\nit is wrong\n"


def test_a_repair_that_does_not_help_ends_with_one_sentence(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script", "apply"])
    with pytest.raises(SystemExit) as ended:
        module("plan_apply").serve(Thing(99).find)
    assert ended.value.code == "repaired 2 times and still: it is wrong"


def test_a_file_is_replaced_in_one_step_with_its_mode(tmp_path):
    path = tmp_path / "new" / "file"
    module("plan_apply").write_atomically(path, "text\n", 0o600)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("text\n", 0o600)
    assert list(path.parent.iterdir()) == [path]


def test_a_container_gets_no_swap_and_says_whose_it_is():
    kernel = module("kernel")
    assert "systemd-nspawn container" in kernel.against_zram(True, "systemd-nspawn")
    assert "docker container" in kernel.against_swap_file(1024, "docker")
    assert kernel.against_zram(False, "") == "setting zram is off"
    assert kernel.against_swap_file(0, "") == "setting swap_mb is 0"


def test_in_a_container_only_settings_of_its_network_are_touched(tmp_path, monkeypatch):
    kernel = module("kernel")
    monkeypatch.setattr(kernel, "SYSCTL_FILE", tmp_path / "sysctl.conf")
    skips = kernel.Skips()
    found = kernel.sysctl_differences(SYSCTL | SYSCTL_WITH_ZRAM, "systemd-nspawn", skips, {})
    assert {name.split(".")[0].removeprefix("sysctl ") for name in skips.reasons} >= {"vm", "kernel", "fs"}
    assert not any("sysctl vm." in one.sentence or "sysctl kernel." in one.sentence for one in found)
    found[-1].repair()
    lines = (tmp_path / "sysctl.conf").read_text().splitlines()[1:]
    assert lines
    assert all(line.startswith("net.") for line in lines)


def test_a_setting_the_kernel_refused_once_is_not_tried_again(tmp_path, monkeypatch):
    kernel = module("kernel")
    monkeypatch.setattr(kernel, "SYSCTL_FILE", tmp_path / "sysctl.conf")
    skips = kernel.Skips()
    refused = {"net.ipv4.tcp_syncookies": "the kernel refused it: Permission denied"}
    found = kernel.sysctl_differences({"net.ipv4.tcp_syncookies": "0"}, "", skips, refused)
    assert skips.reasons == {"sysctl net.ipv4.tcp_syncookies": refused["net.ipv4.tcp_syncookies"]}
    assert [one.sentence for one in found] == [f"{tmp_path}/sysctl.conf is missing"]


def test_the_ssh_configuration_keeps_what_the_deploys_client_offers():
    daemon = module("ssh_daemon")
    wanted = daemon.directives(render("ssh/sshd.conf.j2"))
    offered = {
        "KexAlgorithms": paramiko.Transport._preferred_kex,
        "Ciphers": paramiko.Transport._preferred_ciphers,
        "MACs": paramiko.Transport._preferred_macs,
        "HostKeyAlgorithms": paramiko.Transport._preferred_keys,
    }
    for keyword, names in daemon.CLIENT.items():
        assert set(names.split(",")) <= set(offered[keyword])
        assert set(names.split(",")) & set(wanted[keyword.lower()].split(","))


def test_drop_ins_are_read_before_anything_else():
    daemon = module("ssh_daemon")
    include = "Include /etc/ssh/sshd_config.d/*.conf"
    debian = f"# comment\n\n{include}\nUsePAM yes\n"
    assert daemon.with_include(debian) == debian
    assert daemon.with_include(f"UsePAM yes\n{include}\n").startswith(include)


def test_every_line_of_a_changed_rule_set_is_named():
    firewall = module("firewall")
    expected = "table inet memory_droplet {\n\tchain a {\n\t\tdrop\n\t}\n}\n"
    assert firewall.table_differences(expected, expected) == []
    assert "the firewall is off" in firewall.table_differences(expected, None)[0]
    assert firewall.table_differences(expected, expected.replace("\tdrop", "\taccept")) == [
        "the live rules have too much: accept",
        "the live rules lack: drop",
    ]


WANTED_NETWORK = {
    "name": "net",
    "subnet": "172.30.0.0/24",
    "gateway": "172.30.0.1",
    "bridge": "br-memory",
}


def present_network(**changes):
    options = {
        "com.docker.network.bridge.name": "br-memory",
        "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
    }
    ipam = {"Config": [{"Subnet": "172.30.0.0/24", "Gateway": "172.30.0.1"}]}
    return {"Driver": "bridge", "IPAM": ipam, "Options": options, **changes}


@pytest.mark.parametrize(
    ("changes", "phrases"),
    [
        ({}, []),
        ({"Driver": "macvlan"}, ["has driver macvlan, expected bridge"]),
        (
            {"IPAM": {"Config": [{"Subnet": "10.0.0.0/24"}]}},
            [
                "has subnet 10.0.0.0/24, expected 172.30.0.0/24",
                "has gateway none, expected 172.30.0.1",
            ],
        ),
        (
            {"Options": {}},
            ["has name not set, expected br-memory", "has host_binding_ipv4 not set, expected 127.0.0.1"],
        ),
    ],
)
def test_how_a_network_differs_is_said(changes, phrases):
    assert module("docker_network").problems(present_network(**changes), WANTED_NETWORK) == phrases


def test_a_network_in_use_is_not_taken_away():
    network, refused = module("docker_network"), module("plan_apply").Refused
    with pytest.raises(refused, match="is in use by a, b; stop what runs there"):
        network.replace(WANTED_NETWORK, ["has subnet x"], ["b", "a"])


@pytest.mark.parametrize("web", [True, False])
def test_web_ports_are_open_only_for_a_public_ingress(web):
    rules = render(
        "firewall/wanted.nft.j2",
        sshd_port=22,
        ssh_per_minute=60,
        ssh_burst=120,
        web=web,
        bridge="br-memory",
        gateway="172.30.0.1",
        memory_service_port=8765,
    )
    assert ("443" in rules) == web
    assert not any(line.strip().startswith("flush") for line in rules.splitlines())
