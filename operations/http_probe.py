"""HTTP made on the host with curl: requests, and what their answers mean."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pyinfra.api.command import StringCommand

from operations.differences import Json
from operations.shell import script
from settings import names

_MARK: Final = "##HTTP##"

# $1 method, $2 URL, $3 file with header lines or empty, $4 "tolerate" or "insist".
# The header file keeps tokens out of the process list; curl reads it with -H @file.
_REQUEST: Final = r"""
# HTTP request (method, URL, file with headers, whether a failure is data)
m=$1 url=$2 headers=$3 mood=$4
fail() { [ "$mood" = tolerate ] && exit 0; echo "$m $url: $1" >&2; exit 1; }
command -v curl >/dev/null 2>&1 || fail "curl is not installed on the host"
set -- --silent --show-error --max-time 30 --request "$m" --write-out '\n##HTTP##%{http_code}\n'
if [ -n "$headers" ]; then
  [ -r "$headers" ] || fail "the header file $headers is not on the host"
  set -- "$@" --header "@$headers"
fi
if [ "$m" != GET ]; then set -- "$@" --header 'Content-Type: application/json' --data-binary @-; fi
o=$(curl "$@" -- "$url" 2>&1) || fail "no answer: $(printf '%s' "$o" | head -c 300)"
if [ "$mood" = insist ]; then
  case "$o" in *'##HTTP##2'??) exit 0;; esac
  fail "expected a 2xx answer, got ${o##*'##HTTP##'}; see the service's own log"
fi
printf '%s\n' "$o"
"""

# ready URL STATUS KEY: one look; the body must hold "KEY": when KEY is given.
_READY: Final = r"""
# wait for HTTP (URL, status, JSON key, attempts, seconds between, note)
ready() {
  command -v curl >/dev/null 2>&1 || return 1
  b=$(curl --silent --max-time 10 --write-out '\n##HTTP##%{http_code}' -- "$1" 2>/dev/null) || return 1
  case "$b" in *"##HTTP##$2") ;; *) return 1;; esac
  [ -z "$3" ] || printf '%s' "$b" | grep -q "\"$3\"[[:space:]]*:"
}
"""


@dataclass(frozen=True)
class HttpAnswer:
    """``status`` is 0 when nothing answered; ``body`` is None when it is no JSON."""

    status: int = 0
    body: Json = None


@dataclass(frozen=True)
class Readiness:
    """Whether a URL answers as expected, and whether it was noted before that it did."""

    ready: bool = False
    before: bool = False


def ready_marker(url: str) -> str:
    """Where it is noted that a URL was ready."""
    return f"{names.APPLIED_DIR}/ready-{re.sub(r'[^A-Za-z0-9.]+', '-', url).strip('-')}"


def ready_probe() -> str:
    """Shell that defines the function ``ready URL STATUS KEY``."""
    return _READY


def http_request(
    method: str, url: str, header_file: str | None, tolerate: bool, body: Json = None
) -> StringCommand:
    """One request. ``tolerate`` prints the answer and never fails; otherwise it must be 2xx."""
    stdin = None if method == "GET" else json.dumps(body)
    return script(_REQUEST, method, url, header_file or "", "tolerate" if tolerate else "insist", stdin=stdin)


def parse_answer(lines: Sequence[str]) -> HttpAnswer:
    """The answer from what a tolerant request printed."""
    for index in range(len(lines) - 1, -1, -1):
        if lines[index].startswith(_MARK):
            status = lines[index].removeprefix(_MARK)
            text = "\n".join(lines[:index])
            try:
                body: Json = json.loads(text) if text.strip() else None
            except ValueError:
                body = None
            return HttpAnswer(int(status) if status.isdigit() else 0, body)
    return HttpAnswer()
