"""Services of systemd."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Final

from pyinfra.api.command import PyinfraCommand, QuoteString, StringCommand
from pyinfra.api.operation import OperationMeta, operation
from pyinfra.context import host

from operations.announcing import announce_diff, will_change
from operations.facts import Service
from operations.host_paths import checked_path
from operations.service_plan import plan_service, read_paths, stamp_path
from operations.shell import script

# $1 unit, $2 restart or reload, $3 seconds to wait. Active in three looks in a row, because a process
# that dies on its configuration is "active" for a moment.
_APPLY: Final = r"""
# apply to a unit and wait until it is steadily active (unit, verb, seconds)
u=$1 verb=$2 limit=$3
fail() { echo "$1; its last lines:" >&2; journalctl -u "$u" -n 20 --no-pager -o cat >&2; exit 1; }
attempts() { systemctl show -P NRestarts -- "$u" 2>/dev/null; }
systemctl "$verb" -- "$u" || fail "systemctl $verb $u failed"
# A unit that runs `docker run` is active while Docker still makes the container.
container=${u#droplet-} container=${container%.service}
running() {
  [ "$(systemctl is-active -- "$u")" = active ] || return 1
  case "$(systemctl show -P ExecStart -- "$u")" in
    *"/docker run "*) [ "$(docker inspect -f '{{.State.Running}}' "$container" 2>/dev/null)" = true ];;
  esac
}
steady=0 n=0 before=$(attempts)
while [ "$n" -lt "$limit" ]; do
  now=$(attempts)
  ! systemctl is-failed --quiet -- "$u" || break
  if running && [ "$now" = "$before" ]; then steady=$((steady+1)); else steady=0; fi
  [ "$steady" -lt 3 ] || exit 0
  before=$now n=$((n+1)); sleep 1
done
fail "$u is $(systemctl is-active -- "$u"), but did not stay up, $n s after systemctl $verb"
"""

# $1 path, $2 digest. The directory is made here because this is the only writer.
_STAMP: Final = r"""
# note what the unit runs with (stamp, digest)
set -eu
(umask 022; mkdir -p -- "$(dirname -- "$1")")
t=$(mktemp -- "$1.XXXXXXXX"); trap 'rm -f -- "$t"' EXIT
printf '%s\n' "$2" > "$t"; chmod 0644 "$t"; mv -fT -- "$t" "$1"
"""

_CHECK: Final = r"""
# check the configuration (unit, command)
if o=$(sh -c "$2" 2>&1); then exit 0; fi
printf '%s\n' "$o" >&2
echo "$1 was left as it is, because its new configuration does not pass: $2" >&2
exit 1
"""


@operation()
def service(
    unit: str,
    reads: Sequence[str] = (),
    triggers: Sequence[OperationMeta] = (),
    check: str | None = None,
    running: bool = True,
    enabled: bool = True,
    reload: bool = False,
    wait_s: int = 30,
) -> Generator[PyinfraCommand, None, None]:
    """Keep a unit running with what lies on the host, restarting it when and only when that changed.

    What the unit was started with is a digest over ``reads`` (files and directories on the host), its
    unit file and drop-ins, and its image record, kept in ``/var/lib/memory-droplet/applied/<unit>`` and
    written last. A run that dies between an upload and the restart leaves the stamp behind, so the next
    run restarts. ``triggers`` are results of operations of the same task: a dry run cannot see files
    that are not there yet, so their change is this one's change.

    ``check`` is a shell command that must succeed before the unit is touched (``nginx -t``). With
    ``reload`` an active unit is reloaded, not restarted. The unit must be active in three looks one
    second apart within ``wait_s`` seconds; otherwise the operation fails with the unit's last lines.
    ``running=False`` stops it, ``enabled=False`` keeps it from starting at boot.

    **Example:**

    .. code:: python

        from operations import service

        service(
            name="Run n8n with its present configuration",
            unit="droplet-n8n.service",
            reads=["/etc/memory-droplet/n8n/hooks.js", "/etc/memory-droplet/secrets/n8n"],
            triggers=[n8n_unit, n8n_files],
        )
    """
    paths = [checked_path(path) for path in read_paths(unit, reads)]
    found = host.get_fact(Service, unit=unit, stamp=stamp_path(unit), reads=paths)
    steps = plan_service(found, running, enabled, reload, triggered=running and will_change(triggers))
    if not steps:
        host.noop(f"{unit} runs with what is on the host" if running else f"{unit} is stopped")
        return
    announce_diff(f"{unit}: {', '.join(step for step in steps if step != 'check')}", [])
    for step in steps:
        match step:
            case "check":
                if check:
                    yield script(_CHECK, unit, check)
            case "daemon-reload":
                yield StringCommand("systemctl daemon-reload")
            case "restart" | "reload":
                yield script(_APPLY, unit, step, str(wait_s))
            case "stop" | "enable" | "disable":
                yield StringCommand("systemctl", step, "--quiet", "--", QuoteString(unit))
            case "stamp":
                # The digest of before the restart: a file that changed meanwhile is applied next time.
                yield script(_STAMP, stamp_path(unit), found.inputs)
