"""Objects that a script on the host compares and repairs."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import PurePosixPath
from typing import Final

from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import OperationMeta, operation
from pyinfra.context import host, state

from operations.announcing import announce, will_change
from operations.facts import Reconcile
from operations.host_paths import checked_path
from operations.shell import script as shell_script
from settings import names

_APPLY: Final = r"""
# reconcile (script, note)
if [ ! -f "$1" ]; then
  echo "the reconcile script $1 is not on the host; upload it before this operation" >&2; exit 1
fi
timeout 900 python3 "$1" apply || exit
[ -f "$2" ] || { (umask 022; mkdir -p -- "$(dirname -- "$2")"; : > "$2"); }
"""


@operation()
def reconcile(script: str, triggers: Sequence[OperationMeta] = ()) -> Generator[PyinfraCommand, None, None]:
    """Let a script on the host bring the objects of a service to what was declared for it.

    ``python3 SCRIPT plan`` prints ``{"reachable": bool, "differences": ["sentence", ...]}`` and changes
    nothing; ``python3 SCRIPT apply`` repairs exactly those, prints each, and fails with one sentence.
    The differences are printed by a dry run; while the service is stopped, a dry run after the first
    successful ``apply`` lists nothing, because the stopped unit is what there is to show. ``triggers`` are the operations that upload what the
    script compares with: a dry run predicts from them, a run decides from the fresh plan.

    **Example:**

    .. code:: python

        from operations import reconcile

        reconcile(
            name="Import the workflows of n8n",
            script="/usr/local/lib/memory-droplet/n8n.py", triggers=[workflow_files],
        )
    """
    marker = f"{names.APPLIED_DIR}/reconciled-{PurePosixPath(script).name}"
    plan = host.get_fact(Reconcile, path=checked_path(script), marker=marker)
    expected = not state.is_executing and will_change(triggers)
    if plan.reachable and not plan.differences and not expected:
        host.noop(f"{script} finds nothing to change")
        return
    if plan.before and not plan.reachable and not expected and not state.is_executing:
        host.noop(f"{script} cannot compare while its service is stopped; that is shown by its unit")
        return
    if plan.differences:
        announce(f"{script} will repair:", plan.differences)
    elif not plan.reachable:
        announce(f"{script} cannot compare yet: {plan.error or 'it or its service is not there'}")
    yield shell_script(_APPLY, script, marker)
