"""Put the hardened SSH configuration in force without ever closing the door on the one who deploys.

The wanted text lies in ``/etc/memory-droplet/ssh/sshd.conf``. Before it replaces the drop-in that sshd
reads, a second sshd is started on a loopback port with the complete candidate configuration, and somebody
really logs in to it as root with a key, offering only the algorithms of the client that deploys. If any of
that fails, nothing is installed, the old configuration stays in force, and the next run says so again.
"""

from __future__ import annotations

import hashlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plan_apply import STATE_DIR, Difference, Refused, run, serve, succeeds, text_of, write_atomically

WANTED = Path("/etc/memory-droplet/ssh/sshd.conf")
MAIN = Path("/etc/ssh/sshd_config")
DROP_INS = Path("/etc/ssh/sshd_config.d")
# The first value sshd reads wins, and files are read in the order of their names.
INSTALLED = DROP_INS / "00-memory-droplet.conf"
HOST_KEY = Path("/etc/ssh/ssh_host_ed25519_key")
APPLIED = STATE_DIR / "applied" / "ssh"
SSHD = "/usr/sbin/sshd"
# sshd does not even check its configuration without it, and a socket-activated one makes it only when called.
RUN = Path("/run/sshd")

# What paramiko 4.0, the transport of pyinfra, offers and sshd may still be asked for
# (paramiko.transport.Transport._preferred_kex, _preferred_ciphers, _preferred_macs, _preferred_keys).
CLIENT = {
    "KexAlgorithms": "curve25519-sha256@libssh.org",
    "Ciphers": "aes128-gcm@openssh.com,aes256-gcm@openssh.com",
    "MACs": "hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com",
    "HostKeyAlgorithms": "ssh-ed25519",
}
# Lists from which an older server drops what it does not know, and the name `ssh -Q` has for each.
QUERIES = {
    "kexalgorithms": "kex",
    "ciphers": "cipher",
    "macs": "mac",
    "hostkeyalgorithms": "key",
}


def fit_to_server(text: str) -> str:
    """The wanted configuration without algorithms this OpenSSH does not have (mlkem came with 9.9)."""
    lines: list[str] = []
    for line in text.splitlines():
        keyword, _, value = line.partition(" ")
        query = QUERIES.get(keyword.lower())
        if query:
            known = set(run(["ssh", "-Q", query]).split())
            names = [name for name in value.strip().split(",") if name in known]
            if not names:
                raise Refused(f"this OpenSSH knows none of the {keyword} in {WANTED}: {value.strip()}")
            line = f"{keyword} {','.join(names)}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def directives(text: str) -> dict[str, str]:
    """The settings of a configuration without Match blocks, keywords in lower case."""
    pairs = (line.split(None, 1) for line in text.splitlines() if line.strip() and line.strip()[0] != "#")
    return {pair[0].lower(): pair[1].strip() if len(pair) > 1 else "" for pair in pairs}


def effective(config: Path = MAIN) -> dict[str, str]:
    """What sshd makes of a configuration for root logging in from this machine."""
    RUN.mkdir(mode=0o755, exist_ok=True)
    context = "user=root,host=localhost,addr=127.0.0.1,laddr=127.0.0.1"
    text = run([SSHD, "-T", "-f", str(config), "-C", context])
    values: dict[str, str] = {}
    for line in text.splitlines():
        keyword, _, value = line.partition(" ")
        values[keyword] = f"{values[keyword]} {value}" if keyword in values else value
    return values


# sshd -T prints some values in an older spelling than the one it reads.
SYNONYMS = {"prohibit-password": "without-password"}


def setter_of(keyword: str, files: list[Path]) -> str:
    """The first file that sets a keyword, in the order in which sshd reads them."""
    for path in files:
        if keyword in directives(text_of(path) or ""):
            return str(path)
    return str(MAIN)


def overridden(wanted: dict[str, str], config: Path = MAIN) -> list[str]:
    """Settings that are not in effect although they are configured, each as a sentence."""
    present = effective(config)
    files = [*sorted(DROP_INS.glob("*.conf")), MAIN]
    sentences: list[str] = []
    for keyword, value in wanted.items():
        now = present.get(keyword, "")
        expected = SYNONYMS.get(value, value)
        if keyword in present and now.lower() != expected.lower():
            setter = setter_of(keyword, files)
            sentences.append(f"{keyword} is {now} in effect, expected {expected}: {setter} sets it first")
    return sentences


def accepted_keys(values: dict[str, str]) -> int:
    """How many public keys open root's account under these settings."""
    count = 0
    for pattern in values.get("authorizedkeysfile", ".ssh/authorized_keys").split():
        path = Path("/root") / pattern.replace("%h", "/root").replace("%u", "root").replace("%%", "%")
        text = text_of(path) or ""
        count += sum(1 for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    return count


@contextmanager
def candidate_tree(drop_in: str) -> Iterator[Path]:
    """A copy of sshd's configuration with our drop-in replaced; yields the copy of sshd_config."""
    with tempfile.TemporaryDirectory(prefix="sshd-candidate-", dir="/run") as name:
        root = Path(name)
        copies = root / DROP_INS.name
        copies.mkdir()
        for source in sorted(DROP_INS.glob("*.conf")):
            shutil.copy(source, copies / source.name)
        (copies / INSTALLED.name).write_text(drop_in)
        main = root / MAIN.name
        main.write_text(with_include(MAIN.read_text()).replace(f"{DROP_INS}/", f"{copies}/"))
        yield main


def with_include(text: str) -> str:
    """sshd_config that reads the drop-ins before anything else."""
    include = f"Include {DROP_INS}/*.conf"
    first = next((line.strip() for line in text.splitlines() if line.strip() and line.strip()[0] != "#"), "")
    return text if first == include else f"{include}\n{text}"


def free_port() -> int:
    """A loopback port nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for_banner(port: int, daemon: subprocess.Popen[str] | None, address: str = "127.0.0.1") -> None:
    """Until an SSH server greets on this port, for at most ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((address, port), timeout=2) as connection:
                if connection.recv(4) == b"SSH-":
                    return
        except OSError:
            time.sleep(0.05)
        if daemon is not None and daemon.poll() is not None:
            complaint = (daemon.stderr.read() if daemon.stderr else "").strip().splitlines()
            raise Refused(f"sshd does not start with it: {complaint[-1] if complaint else 'no reason given'}")
    raise Refused(f"no SSH server greets on {address}:{port} within 10 s")


def log_in(port: int, key: Path, known_hosts: Path) -> None:
    """One real login as root with the algorithms of the client that deploys."""
    options = [f"{name}={value}" for name, value in CLIENT.items()]
    options += [
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "StrictHostKeyChecking=accept-new",
        "ConnectTimeout=10",
    ]
    options += [f"UserKnownHostsFile={known_hosts}", "GlobalKnownHostsFile=/dev/null"]
    argv = ["ssh", "-F", "/dev/null", "-i", str(key), "-p", str(port)]
    for option in options:
        argv += ["-o", option]
    done = subprocess.run(
        [*argv, "root@127.0.0.1", "true"], capture_output=True, text=True, timeout=30, check=False
    )
    if done.returncode != 0:
        complaint = done.stderr.strip().splitlines()
        raise Refused(f"a login with it fails: {complaint[-1] if complaint else f'exit {done.returncode}'}")


def rehearse(drop_in: str) -> None:
    """Refuse a configuration that does not parse, is not in effect, or does not let root in by key."""
    RUN.mkdir(mode=0o755, exist_ok=True)
    with candidate_tree(drop_in) as main:
        tested = subprocess.run([SSHD, "-t", "-f", str(main)], capture_output=True, text=True, check=False)
        if tested.returncode != 0:
            complaint = tested.stderr.strip().splitlines()[0].replace(str(main.parent), str(MAIN.parent))
            raise Refused(f"sshd -t refuses it: {complaint}")
        lost = overridden(directives(drop_in), main)
        if lost:
            raise Refused(f"{lost[0]}; remove that line")
        values = effective(main)
        if values.get("allowtcpforwarding") not in ("yes", "local"):
            raise Refused("AllowTcpForwarding must stay yes: `ssh -L` is how private pages are reached")
        if accepted_keys(values) == 0:
            raise Refused("no public key of root would be accepted; add one to /root/.ssh/authorized_keys")
        key, keys = main.parent / "key", main.parent / "keys"
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)])
        write_atomically(keys, (main.parent / "key.pub").read_text(), 0o600)
        port = free_port()
        argv = [SSHD, "-D", "-e", "-f", str(main), "-p", str(port), "-o", f"ListenAddress=127.0.0.1:{port}"]
        daemon = subprocess.Popen(
            [*argv, "-o", "PidFile=none", "-o", f"AuthorizedKeysFile={keys}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait_for_banner(port, daemon)
            log_in(port, key, main.parent / "known_hosts")
        finally:
            daemon.terminate()
            daemon.wait(timeout=10)


def reload_daemon() -> None:
    """Make the running sshd read its files; open connections go on."""
    if succeeds(["systemctl", "is-active", "--quiet", "ssh.service"]):
        run(["systemctl", "reload", "ssh.service"])
    elif not succeeds(["systemctl", "is-active", "--quiet", "ssh.socket"]):
        run(["systemctl", "start", "ssh.service"])
    values = effective()
    address = next(
        (
            listen.rsplit(":", 1)[0]
            for listen in values.get("listenaddress", "").split()
            if listen[0] != "[" and not listen.startswith("0.0.0.0:")
        ),
        "127.0.0.1",
    )
    wait_for_banner(int(values["port"].split()[0]), None, address)


def fingerprint() -> str:
    """A hash of what sshd would do if it were started now."""
    return hashlib.sha256(repr(sorted(effective().items())).encode()).hexdigest()


def install(drop_in: str) -> None:
    """Rehearse, replace, reload; the old files come back if sshd does not answer afterwards."""
    if not HOST_KEY.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(HOST_KEY)])
    try:
        rehearse(drop_in)
    except Refused as refusal:
        raise Refused(f"SSH configuration refused, the old one stays in force: {refusal}") from refusal
    old_main, old_drop_in = MAIN.read_text(), text_of(INSTALLED)
    APPLIED.unlink(missing_ok=True)
    write_atomically(INSTALLED, drop_in, 0o600)
    if with_include(old_main) != old_main:
        write_atomically(MAIN, with_include(old_main), 0o644)
    try:
        reload_daemon()
    except Refused as refusal:
        write_atomically(MAIN, old_main, 0o644)
        if old_drop_in is None:
            INSTALLED.unlink()
        else:
            write_atomically(INSTALLED, old_drop_in, 0o600)
        reload_daemon()
        raise Refused(f"SSH configuration taken back, sshd did not come up with it: {refusal}") from refusal
    write_atomically(APPLIED, f"{fingerprint()}\n")


def load() -> None:
    """Let the running sshd take over what its files say already."""
    reload_daemon()
    write_atomically(APPLIED, f"{fingerprint()}\n")


def enable() -> None:
    """Start sshd at boot."""
    run(["systemctl", "enable", "ssh.service"])


def file_difference(drop_in: str) -> str:
    """What is wrong with the installed drop-in, or ""."""
    stored = text_of(INSTALLED)
    if stored is None:
        return f"{INSTALLED} is missing"
    if stored != drop_in:
        have, want = directives(stored), directives(drop_in)
        changed = [
            f"{keyword} {have.get(keyword, 'missing')}, expected {want.get(keyword, 'none')}"
            for keyword in sorted(have.keys() | want.keys())
            if have.get(keyword) != want.get(keyword)
        ]
        return f"{INSTALLED} differs: {'; '.join(changed) or 'only in comments'}"
    if INSTALLED.stat().st_mode & 0o777 != 0o600 or INSTALLED.stat().st_uid != 0:
        return f"{INSTALLED} is not 0600 and owned by root"
    return ""


def find() -> list[Difference]:
    """All differences between the wanted configuration, its file, its effect and the running daemon."""
    text = text_of(WANTED)
    if text is None:
        raise Refused(f"{WANTED} is missing; deploy the component ssh")
    drop_in = fit_to_server(text)
    found: list[Difference] = []
    problem = file_difference(drop_in)
    if not problem and with_include(MAIN.read_text()) != MAIN.read_text():
        problem = f"{MAIN} does not read {DROP_INS} first"
    if not problem and not HOST_KEY.exists():
        problem = f"{HOST_KEY} is missing"
    if not problem:
        problem = next(iter(overridden(directives(drop_in))), "")
    if problem:
        found.append(Difference(problem, lambda: install(drop_in)))
    elif text_of(APPLIED) != f"{fingerprint()}\n":
        found.append(Difference("the running sshd has not read its present configuration", load))
    if not any(
        succeeds(["systemctl", "is-enabled", "--quiet", f"ssh.{kind}"]) for kind in ("service", "socket")
    ):
        found.append(Difference("sshd is not started at boot", enable))
    return found


if __name__ == "__main__":
    serve(find)
