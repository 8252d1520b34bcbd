"""What another machine gets of the droplet, and what containers get of it."""

import json
import socket

import pytest

from drill.scan import scan

WANTED = "/etc/memory-droplet/firewall/wanted.nft"
SCRIPT = "python3 /usr/local/lib/memory-droplet/firewall.py"
NETWORK = "n8n_syncbricks"
GATEWAY = "172.30.0.1"
#: Ports that components listen on somewhere; a real host on the internet is not scanned for more.
INTERESTING = (22, 53, 80, 443, 2375, 3000, 5000, 5432, 5678, 6333, 6334, 6379, 8080, 8081, 8082, 8765, 9999)


def answers(address, port, wait_s=2.0):
    """Whether a TCP connection from here is accepted."""
    try:
        with socket.create_connection((address, port), wait_s):
            return True
    except OSError:
        return False


def meant_to_be_open(settings):
    """What the settings say the world may reach."""
    return {settings["sshd_port"]} | ({80, 443} if settings["ingress"] == "caddy" else set())


def test_the_rules_are_loaded_now_and_at_boot(host):
    assert host.check_output("systemctl is-active droplet-firewall") == "active"
    assert host.check_output("systemctl is-enabled droplet-firewall") == "enabled"
    assert host.run("nft list table inet memory_droplet").rc == 0
    order = host.check_output("systemctl show --property=Before droplet-firewall")
    assert "network-pre.target" in order


def test_from_outside_only_ssh_and_the_ingress_answer(host, droplet):
    allowed = meant_to_be_open(droplet.settings)
    if not droplet.local:
        assert {port for port in INTERESTING if answers(droplet.address, port)} <= allowed
        return
    found = scan(droplet.name)
    assert set(found.open) <= allowed
    assert set(found.open_ipv6) <= allowed
    assert {int(place.rpartition(":")[2]) for place in found.routed} <= allowed
    assert found.loopback == ()
    assert droplet.settings["sshd_port"] in found.open


def test_no_process_listens_for_the_world_but_ssh_and_the_ingress(host, droplet):
    listening = host.check_output("ss -Hltn | awk '{print $4}'").splitlines()
    public = {
        int(place.rpartition(":")[2])
        for place in listening
        if place.rpartition(":")[0] in ("0.0.0.0", "*", "[::]", droplet.address)
    }
    assert public <= meant_to_be_open(droplet.settings)


def test_a_port_published_for_everybody_by_hand_is_not_reached_from_outside(host, droplet, probe):
    probe("-p 0.0.0.0:9999:80", "-m", "http.server", "80")
    here = host.run(
        "curl -s -o /dev/null --retry 10 --retry-connrefused --max-time 20 http://127.0.0.1:9999/"
    )
    assert here.rc == 0
    assert not answers(droplet.address, 9999)
    if droplet.local:
        found = scan(droplet.name, [22, 9999])
        assert set(found.open) == {22}


def test_a_container_on_the_shared_network_is_not_reached_from_outside_either(host, droplet, probe):
    probe(f"--network {NETWORK} -p 0.0.0.0:9998:80", "-m", "http.server", "80")
    here = host.run(
        "curl -s -o /dev/null --retry 10 --retry-connrefused --max-time 20 http://127.0.0.1:9998/"
    )
    assert here.rc == 0
    assert not answers(droplet.address, 9998)


def from_container(host, probe, address, port):
    """How a connection out of a container of the shared network ends: "open", "refused" or "silence"."""
    program = (
        "import socket,sys\n"
        "s = socket.socket(); s.settimeout(10)\n"
        'try: s.connect((sys.argv[1], int(sys.argv[2]))); print("open")\n'
        'except ConnectionRefusedError: print("refused")\n'
        'except OSError: print("silence")\n'
    )
    name = probe(f"--network {NETWORK}", "-c", f"'{program}'", address, str(port))
    host.check_output(f"docker wait {name}")
    return host.check_output(f"docker logs {name}")


def test_a_container_gets_only_the_memory_service_of_the_machine(host, droplet, probe):
    assert from_container(host, probe, GATEWAY, droplet.settings["sshd_port"]) == "silence"
    assert from_container(host, probe, droplet.address, droplet.settings["sshd_port"]) == "silence"
    assert from_container(host, probe, GATEWAY, 8765) in ("open", "refused")


def test_other_peoples_tables_are_left_alone(host):
    assert "DOCKER" in host.check_output("iptables -t nat -S")


@pytest.mark.disruptive
def test_a_caller_that_opens_too_many_connections_is_slowed_down(host):
    rules = json.loads(host.check_output("nft --json list table inet memory_droplet"))["nftables"]
    sets = {one["set"]["name"] for one in rules if "set" in one}
    assert sets == {"ssh_callers4", "ssh_callers6"}
    text = host.check_output("nft --stateless list chain inet memory_droplet ssh")
    assert text.count("limit rate over ") == 2


@pytest.fixture
def wanted(host):
    """The wanted rules, put back however the test ends."""
    text = host.file(WANTED).content_string
    yield text
    host.check_output("printf %%s %s > %s", text, WANTED)
    again = host.run(f"{SCRIPT} apply")
    assert again.rc == 0, again.stderr


@pytest.mark.disruptive
@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("jump ssh", "drop", "they keep SSH out"),
        ("counter drop", "counter dorp", "syntax error"),
        ("policy accept;", "policy accept; accept;", "which nobody opened"),
        ("priority -150", "priority -300", "they keep SSH out"),
    ],
)
def test_rules_that_lock_out_or_let_in_are_refused_and_the_old_ones_stay(
    host, droplet, wanted, before, after, complaint
):
    assert before in wanted
    listing = "nft --stateless --terse list table inet memory_droplet"
    live = host.check_output(listing)
    boot = host.file("/etc/memory-droplet/firewall/rules.nft").content_string
    host.check_output("printf %%s %s > %s", wanted.replace(before, after), WANTED)
    for _ in range(2):
        refused = host.run(f"{SCRIPT} apply")
        assert refused.rc == 1
        assert "the old ones stay in force" in refused.stderr
        assert complaint in refused.stderr
    assert host.check_output(listing) == live
    assert host.file("/etc/memory-droplet/firewall/rules.nft").content_string == boot
    assert droplet.run("echo in").stdout.strip() == "in"


@pytest.mark.disruptive
def test_a_changed_live_rule_is_named_and_repaired(host):
    host.check_output("nft insert rule inet memory_droplet outside_in tcp dport 8080 accept")
    assert "the live rules have too much: tcp dport 8080 accept" in host.check_output(f"{SCRIPT} plan")
    assert host.run(f"{SCRIPT} apply").rc == 0
    assert json.loads(host.check_output(f"{SCRIPT} plan"))["differences"] == []
    assert "8080" not in host.check_output("nft list table inet memory_droplet")
