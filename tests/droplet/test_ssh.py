"""SSH from the laptop, and what the host does with a configuration that would lock everybody out."""

import pytest

WANTED = "/etc/memory-droplet/ssh/sshd.conf"
SCRIPT = "python3 /usr/local/lib/memory-droplet/ssh_daemon.py"


def test_sshd_runs_and_starts_at_boot(host):
    units = ("ssh.service", "ssh.socket")
    assert any(host.run(f"systemctl is-active {unit}").stdout.strip() == "active" for unit in units)
    assert any(host.run(f"systemctl is-enabled {unit}").stdout.strip() == "enabled" for unit in units)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("passwordauthentication", "no"),
        ("kbdinteractiveauthentication", "no"),
        ("permitrootlogin", "without-password"),
        ("permitemptypasswords", "no"),
        ("authenticationmethods", "publickey"),
        ("maxauthtries", "3"),
        ("logingracetime", "30"),
        ("x11forwarding", "no"),
        ("allowagentforwarding", "no"),
        ("allowtcpforwarding", "yes"),
        ("hostkeyalgorithms", "ssh-ed25519"),
    ],
)
def test_the_effective_configuration(host, keyword, value):
    effective = dict(line.split(" ", 1) for line in host.check_output("sshd -T").splitlines() if " " in line)
    assert effective[keyword] == value


def test_a_password_is_not_even_asked_for(droplet):
    login = droplet.ssh(
        *("-o", "PubkeyAuthentication=no"),
        *("-o", "PreferredAuthentications=password,keyboard-interactive"),
        *("-o", "NumberOfPasswordPrompts=0"),
        droplet.name,
        "true",
    )
    assert login.returncode == 255
    assert "Permission denied (publickey)" in login.stderr


@pytest.mark.parametrize(
    "weak",
    [
        "KexAlgorithms=diffie-hellman-group14-sha256",
        "Ciphers=aes128-ctr",
        "HostKeyAlgorithms=rsa-sha2-512",
    ],
)
def test_a_weak_algorithm_finds_no_match(droplet, weak):
    login = droplet.ssh("-o", weak, "-o", "LogLevel=INFO", droplet.name, "true")
    assert login.returncode == 255
    assert "no matching" in login.stderr


def test_a_post_quantum_key_exchange_works(droplet):
    login = droplet.ssh(
        "-v", "-o", "KexAlgorithms=sntrup761x25519-sha512@openssh.com", droplet.name, "echo in"
    )
    assert login.stdout.strip() == "in"


def test_a_port_of_the_loopback_is_reached_through_ssh(droplet):
    greeting = droplet.ssh("-W", f"127.0.0.1:{droplet.settings['sshd_port']}", droplet.name)
    assert greeting.stdout.startswith("SSH-2.0-")


@pytest.fixture
def wanted(host):
    """The wanted configuration, put back however the test ends."""
    text = host.file(WANTED).content_string
    yield text
    host.check_output("printf %%s %s > %s", text, WANTED)
    again = host.run(f"{SCRIPT} apply")
    assert again.rc == 0, again.stderr


@pytest.mark.disruptive
@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("UseDNS no", "UseDSN no", "Bad configuration option: UseDSN"),
        ("PermitRootLogin prohibit-password", "PermitRootLogin no", "Permission denied"),
        ("UseDNS no", "AllowUsers nobody", "Permission denied"),
        (",curve25519-sha256,curve25519-sha256@libssh.org", "", "no matching key exchange"),
        ("UseDNS no", "AuthorizedKeysFile /etc/none", "no public key of root would be accepted"),
        ("AllowTcpForwarding yes", "AllowTcpForwarding no", "AllowTcpForwarding must stay yes"),
    ],
)
def test_a_configuration_that_locks_out_is_refused_and_the_old_one_stays(
    host, droplet, wanted, before, after, complaint
):
    assert before in wanted
    effective = host.check_output("sshd -T")
    host.check_output("printf %%s %s > %s", wanted.replace(before, after), WANTED)
    for _ in range(2):
        refused = host.run(f"{SCRIPT} apply")
        assert refused.rc == 1
        assert "the old one stays in force" in refused.stderr
        assert complaint in refused.stderr
    assert host.check_output("sshd -T") == effective
    assert droplet.run("echo in").stdout.strip() == "in"
