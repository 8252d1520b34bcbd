"""The machine before anything runs on it: its name, clock, administrator, upgrades, logs and swap."""

import json
from ipaddress import ip_address
from pathlib import Path

from pyinfra import host
from pyinfra.api import deploy

from operations import BundleFile, bundle, reconcile, service
from operations.packages import packages
from settings import names
from settings.render import render

COMPONENT = "base"
JOURNAL = "/etc/systemd/journald.conf.d/60-memory-droplet.conf"
FILES = Path(__file__).parent.parent / "files" / COMPONENT

PACKAGES = [
    "ca-certificates",
    "curl",
    "iproute2",
    "kmod",
    "locales",
    "procps",
    "python3",
    "sudo",
    "systemd-zram-generator",
    "tzdata",
    "unattended-upgrades",
]

#: What the kernel is told; a container's kernel is somebody else's, so there only net.* is set.
SYSCTL = {
    "fs.protected_fifos": "2",
    "fs.protected_hardlinks": "1",
    "fs.protected_regular": "2",
    "fs.protected_symlinks": "1",
    "fs.suid_dumpable": "0",
    "kernel.dmesg_restrict": "1",
    "kernel.kptr_restrict": "2",
    "kernel.panic": "10",
    # QUIC wants larger socket buffers than the default; only the ceiling is raised, memory is not taken.
    "net.core.rmem_max": "7500000",
    "net.core.wmem_max": "7500000",
    "net.ipv4.conf.all.accept_redirects": "0",
    "net.ipv4.conf.all.accept_source_route": "0",
    "net.ipv4.conf.all.rp_filter": "1",
    "net.ipv4.conf.all.secure_redirects": "0",
    "net.ipv4.conf.all.send_redirects": "0",
    "net.ipv4.conf.default.accept_redirects": "0",
    "net.ipv4.conf.default.send_redirects": "0",
    "net.ipv4.icmp_echo_ignore_broadcasts": "1",
    "net.ipv4.tcp_syncookies": "1",
    "net.ipv6.conf.all.accept_redirects": "0",
    "net.ipv6.conf.default.accept_redirects": "0",
}

#: Swapping to compressed memory costs microseconds: prefer it to dropping page cache, page by page.
SYSCTL_WITH_ZRAM = {
    "vm.page-cluster": "0",
    "vm.swappiness": "180",
    "vm.watermark_boost_factor": "0",
    "vm.watermark_scale_factor": "125",
}


def host_name() -> str:
    """The setting, or else the name in the inventory unless that is an address."""
    if host.data.hostname:
        return str(host.data.hostname)
    try:
        ip_address(host.name)
    except ValueError:
        return str(host.name)
    return ""


def on_host(name: str, source: Path) -> BundleFile:
    """A script or module of ours that runs on the host."""
    return BundleFile(f"{names.SCRIPTS_DIR}/{name}", source.read_text(), "root", "root", "0644")


def plain(dest: str, template: str, mode: str = "0644", **values: object) -> BundleFile:
    """A root-owned file from a template of this component."""
    return BundleFile(dest, render(f"{COMPONENT}/{template}", **values), "root", "root", mode)


@deploy("Base")
def base() -> None:
    """Install, configure and start what every component stands on."""
    packages(name="Packages", packages=PACKAGES)

    machine = {
        "hostname": host_name(),
        "timezone": host.data.timezone,
        "locale": host.data.locale,
        "admin_user": host.data.admin_user,
        "admin_ssh_keys": list(host.data.admin_ssh_keys),
        "timers": ["apt-daily.timer", "apt-daily-upgrade.timer"],
    }
    kernel = {
        "zram": host.data.zram,
        "swap_mb": host.data.swap_mb,
        "sysctl": SYSCTL,
        "sysctl_with_zram": SYSCTL_WITH_ZRAM,
    }
    files = bundle(
        name="Configuration",
        directories=[
            (names.CONFIG_DIR, "root", "root", "0755"),
            (names.config_dir(COMPONENT), "root", "root", "0755"),
            (names.SECRETS_DIR, "root", "root", "0700"),
            (names.DATA_DIR, "root", "root", "0755"),
            (names.APPLIED_DIR, "root", "root", "0755"),
            (names.SCRIPTS_DIR, "root", "root", "0755"),
        ],
        files=[
            on_host("plan_apply.py", FILES / "plan_apply.py"),
            on_host("machine.py", FILES / "machine.py"),
            on_host("kernel.py", FILES / "kernel.py"),
            BundleFile(
                names.config_path(COMPONENT, "machine.json"),
                json.dumps(machine, indent=2) + "\n",
                "root",
                "root",
                "0644",
            ),
            BundleFile(
                names.config_path(COMPONENT, "kernel.json"),
                json.dumps(kernel, indent=2) + "\n",
                "root",
                "root",
                "0644",
            ),
            plain("/etc/default/locale", "locale.j2", locale=host.data.locale),
            plain("/etc/sudoers.d/60-memory-droplet", "sudoers.j2", "0440", user=host.data.admin_user),
            plain("/etc/apt/apt.conf.d/20auto-upgrades", "auto-upgrades.j2"),
            plain(
                "/etc/apt/apt.conf.d/52-memory-droplet",
                "unattended-upgrades.j2",
                reboot=host.data.unattended_reboot,
            ),
            plain("/etc/needrestart/conf.d/memory-droplet.conf", "needrestart.conf.j2"),
            plain("/etc/cloud/cloud.cfg.d/99-memory-droplet.cfg", "cloud.cfg.j2"),
        ],
    )
    journal = bundle(
        name="Limits of the journal",
        directories=[("/etc/systemd/journald.conf.d", "root", "root", "0755")],
        files=[plain(JOURNAL, "journald.conf.j2", max_mb=host.data.journald_max_mb)],
    )
    service(
        name="Journal within its limits",
        unit="systemd-journald.service",
        reads=[JOURNAL],
        triggers=[journal],
    )
    reconcile(
        name="Name, clock, administrator and upgrades",
        script=f"{names.SCRIPTS_DIR}/machine.py",
        triggers=[files],
    )
    reconcile(
        name="Kernel settings and swap",
        script=f"{names.SCRIPTS_DIR}/kernel.py",
        triggers=[files],
    )
