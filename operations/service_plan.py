"""When a unit has to be restarted, reloaded, started or stopped: decided from what is on the host."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from operations.images_on_host import record_path
from settings import names

Step = Literal["check", "daemon-reload", "restart", "reload", "stop", "enable", "disable", "stamp"]

# Unit file states in which systemd starts the unit by itself or cannot be told to.
_ENABLED = {"enabled", "enabled-runtime", "static", "alias", "indirect", "generated", "transient"}


@dataclass(frozen=True)
class ServiceState:
    """A unit as systemd sees it, the digest of all it reads, and the digest applied last."""

    active: str = ""
    unit_file: str = ""
    needs_daemon_reload: bool = False
    inputs: str = ""
    stamp: str = ""

    @property
    def stale(self) -> bool:
        """Whether the process does not run with what lies on the host."""
        return not self.inputs or self.stamp != self.inputs


def stamp_path(unit: str) -> str:
    """Where the digest of what a unit was last started with is kept."""
    return f"{names.APPLIED_DIR}/{unit}"


def read_paths(unit: str, reads: Iterable[str]) -> list[str]:
    """Everything a restart depends on: what the unit reads, its unit file, its image record."""
    paths = [*reads, f"/etc/systemd/system/{unit}", f"/etc/systemd/system/{unit}.d"]
    if unit.startswith("droplet-") and unit.endswith(".service"):
        paths.append(record_path(unit.removeprefix("droplet-").removesuffix(".service")))
    return paths


def service_probe() -> str:
    """Shell: ``$1`` unit, ``$2`` stamp, then the paths it reads (directories with all they hold).

    The digest is over contents and times of writing: a file that was changed, used by a restart by
    hand, and put back has its old content, and still is not what the process runs with.
    """
    return r"""
# state of a unit and of all it reads
LC_ALL=C; export LC_ALL
u=$1 s=$2; shift 2
if command -v systemctl >/dev/null 2>&1; then
  systemctl show --no-pager -p ActiveState -p UnitFileState -p NeedDaemonReload -- "$u" 2>/dev/null || true
fi
printf 'Stamp=%s\n' "$(sed -n 1p "$s" 2>/dev/null)"
printf 'Inputs=%s\n' "$({
  for p in "$@"; do [ -e "$p" ] || printf 'absent %s\n' "$p"; done
  find -H "$@" -type f -printf '%T@ %p\n' | sort
  find -H "$@" -type f -print0 | sort -z | xargs -0 -r sha256sum --
} 2>/dev/null | sha256sum | cut -d ' ' -f 1)"
exit 0
"""


def parse_service(lines: Iterable[str]) -> ServiceState:
    """The state from the ``Key=value`` lines of the probe."""
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    return ServiceState(
        active=values.get("ActiveState", ""),
        unit_file=values.get("UnitFileState", ""),
        needs_daemon_reload=values.get("NeedDaemonReload") == "yes",
        inputs=values.get("Inputs", ""),
        stamp=values.get("Stamp", ""),
    )


def plan_service(
    found: ServiceState, running: bool, enabled: bool, reload: bool, triggered: bool
) -> list[Step]:
    """The steps, in order, that bring a unit from ``found`` to what is wanted; empty if it is there."""
    steps: list[Step] = []
    is_enabled = found.unit_file in _ENABLED
    active = found.active in ("active", "reloading")
    if not running:
        if active or found.active in ("activating", "failed"):
            steps.append("stop")
        if is_enabled and not enabled and found.unit_file.startswith("enabled"):
            steps.append("disable")
        elif enabled and not is_enabled:
            steps.append("enable")
        return steps
    stale = found.stale or triggered
    if stale or not active:
        steps += ["check", "daemon-reload"]
        # A unit that is not active is started with everything that is there now, so it is a restart in
        # the cases where systemd is between two attempts.
        steps.append("reload" if reload and active else "restart")
    elif found.needs_daemon_reload:
        steps.append("daemon-reload")
    if enabled and not is_enabled:
        steps.append("enable")
    elif not enabled and found.unit_file.startswith("enabled"):
        steps.append("disable")
    if stale:
        steps.append("stamp")
    return steps
