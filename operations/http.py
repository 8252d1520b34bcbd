"""Services that are provisioned over HTTP, from the host itself."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Final, Literal

from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import operation
from pyinfra.context import host, state

from operations.announcing import announce_diff
from operations.differences import Json, render_changes, subset_changes
from operations.facts import HttpObject, HttpReady
from operations.http_probe import http_request, ready_marker, ready_probe
from operations.shell import refusal, script

_WAIT: Final = r"""
attempts=$4 delay=$5 marker=$6 waited=$7 hint=$8 unit=$9 n=0
while ! ready "$1" "$2" "$3"; do
  n=$((n+1))
  if [ "$n" -ge "$attempts" ]; then
    code=$(curl --silent --max-time 5 --output /dev/null --write-out '%{http_code}' -- "$1" 2>/dev/null)
    echo "$1 is not ready after $waited attempts $delay s apart:" \
      "expected status $2, got ${code:-none (no curl)}; $hint" >&2
    if [ -n "$unit" ]; then
      # A process that is started again and again has the start of the next try in its last lines.
      said=$(journalctl -u "$unit" -n 300 --no-pager -o cat)
      errors=$(printf '%s\n' "$said" | grep -i 'err' | tail -n 6)
      if [ -n "$errors" ]; then kind=errors; else kind=lines errors=$(printf '%s\n' "$said" | tail -n 6); fi
      printf 'The last %s of %s:\n%s\n' "$kind" "$unit" "$errors" >&2
    fi
    exit 1
  fi
  sleep "$delay"
done
[ -f "$marker" ] || { (umask 022; mkdir -p -- "$(dirname -- "$marker")"; printf '%s\n' "$1" > "$marker"); }
"""


@operation()
def http_ready(
    url: str,
    attempts: int = 60,
    delay_s: float = 1,
    expect_status: int = 200,
    expect_json_key: str | None = None,
    hint: str = "see its service's log",
    unit: str = "",
) -> Generator[PyinfraCommand, None, None]:
    """Wait until a URL answers on the host, and note that it has.

    Gives up after ``attempts`` looks ``delay_s`` seconds apart. ``expect_json_key`` must be in the body.
    ``hint`` ends the message of a failure: what to look at or to change. With ``unit`` it is followed by
    the last errors in this unit's journal, or by its last lines when none of them speaks of an error.
    The first time is a change, noted in ``/var/lib/memory-droplet/applied``; from then on a dry run
    lists the wait only while the URL does not answer, and waiting for a restart is no change.

    **Example:**

    .. code:: python

        from operations import http_ready

        http_ready(name="Wait for Qdrant", url="http://127.0.0.1:6333/readyz", attempts=60)
    """
    marker = ready_marker(url)
    known = host.get_fact(
        HttpReady,
        url=url,
        status=expect_status,
        json_key=expect_json_key,
        marker=marker,
        # Once it was ready, waiting for a restart is no change, so the fact waits and nothing is yielded.
        # A dry run looks twice: one that is only slow just now is not down.
        attempts=attempts if state.is_executing else 2,
        delay_s=delay_s,
    )
    if known.ready and known.before:
        host.noop(f"{url} is ready")
        return
    yield script(
        ready_probe() + _WAIT,
        url,
        str(expect_status),
        expect_json_key or "",
        # The fact has waited already: one look more, for the message.
        "1" if known.before and state.is_executing else str(attempts),
        f"{delay_s:g}",
        marker,
        str(attempts),
        hint,
        unit,
    )


@operation()
def http_object(
    url: str,
    desired: Mapping[str, Json],
    header_file: str | None = None,
    method: Literal["PUT", "POST", "PATCH"] = "PUT",
    redact: Sequence[str] = (),
) -> Generator[PyinfraCommand, None, None]:
    """Keep an object of an HTTP API as declared: read it, and write only on a difference.

    Only the fields of ``desired`` are compared. ``header_file`` is a file on the host with header lines
    such as ``api-key: ...``, so that no token is in a process list. Fields named in ``redact`` are not
    shown by ``--diff``. Fields that the API never returns cannot be compared: leave them out.

    **Example:**

    .. code:: python

        from operations import http_object

        http_object(
            name="Keep the setting of the demo service",
            url="http://127.0.0.1:8765/v1/settings/demo",
            desired={"quota": 5}, header_file="/etc/memory-droplet/secrets/memory-service/ADMIN_HEADER",
        )
    """
    answer = host.get_fact(HttpObject, url=url, header_file=header_file)
    if state.is_executing and answer.status == 0:
        yield refusal(f"{url} does not answer on the host; wait for its service with http_ready first")
        return
    if state.is_executing and answer.status not in (200, 404):
        yield refusal(
            f"GET {url} was answered with status {answer.status}, expected 200 or 404; "
            f"check the credentials in {header_file or 'a header_file (none is set)'}"
        )
        return
    body = answer.body if answer.status == 200 else None
    changes = subset_changes(body, dict(desired))
    if not changes:
        host.noop(f"{url} is as declared")
        return
    announce_diff(f"{'update' if answer.status == 200 else 'create'} {url}", render_changes(changes, redact))
    yield http_request(method, url, header_file, tolerate=False, body=dict(desired))
