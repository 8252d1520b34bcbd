"""When a unit is restarted."""

import pytest

from operations.service_plan import ServiceState, parse_service, plan_service, read_paths

GOOD = ServiceState(active="active", unit_file="enabled", inputs="x", stamp="x")


def state(**changes):
    return ServiceState(**{**GOOD.__dict__, **changes})


START = ["check", "daemon-reload", "restart"]
CASES = {
    "as it should be": (GOOD, {}, []),
    "a bare machine": (ServiceState(), {}, [*START, "enable", "stamp"]),
    "something it reads changed": (state(inputs="y"), {}, [*START, "stamp"]),
    "never applied": (state(stamp=""), {}, [*START, "stamp"]),
    "another operation changes it": (GOOD, {"triggered": True}, [*START, "stamp"]),
    "stopped": (state(active="inactive"), {}, START),
    "failed": (state(active="failed"), {}, START),
    "between two attempts": (state(active="activating"), {}, START),
    "reload": (state(inputs="y"), {"reload": True}, ["check", "daemon-reload", "reload", "stamp"]),
    "reload of a stopped unit": (state(active="inactive"), {"reload": True}, START),
    "disabled": (state(unit_file="disabled"), {}, ["enable"]),
    "static units cannot be enabled": (state(unit_file="static"), {}, []),
    "systemd has not read the unit file": (state(needs_daemon_reload=True), {}, ["daemon-reload"]),
    "not to start at boot": (GOOD, {"enabled": False}, ["disable"]),
    "to be stopped": (GOOD, {"running": False, "enabled": False}, ["stop", "disable"]),
    "stopped already": (
        state(active="inactive", unit_file="disabled"),
        {"running": False, "enabled": False},
        [],
    ),
    "absent and not wanted": (ServiceState(), {"running": False, "enabled": False}, []),
}


@pytest.mark.parametrize("case", CASES)
def test_the_steps_follow_from_what_is_there(case):
    found, changes, steps = CASES[case]
    wanted = {"running": True, "enabled": True, "reload": False, "triggered": False} | changes
    assert plan_service(found, **wanted) == steps


def test_a_restart_depends_on_the_unit_its_drop_ins_and_the_image_in_use():
    assert read_paths("droplet-n8n.service", ["/etc/x"]) == [
        "/etc/x",
        "/etc/systemd/system/droplet-n8n.service",
        "/etc/systemd/system/droplet-n8n.service.d",
        "/var/lib/memory-droplet/images/n8n",
    ]
    assert read_paths("ssh.service", [])[-1] == "/etc/systemd/system/ssh.service.d"


def test_the_output_of_the_probe_is_read():
    lines = ["ActiveState=active", "UnitFileState=enabled", "NeedDaemonReload=yes", "Stamp=a", "Inputs=b"]
    assert parse_service(lines) == ServiceState("active", "enabled", True, "b", "a")
