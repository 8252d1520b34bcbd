"""Commands for the host, assembled in one place so that every value is quoted."""

from __future__ import annotations

from typing import Final

from pyinfra.api.command import QuoteString, StringCommand

# Put in front of a script whose standard output is data and whose failure must be data too.
NEVER_FAIL: Final = "LC_ALL=C; export LC_ALL; "


def script(text: str, *arguments: str, stdin: str | None = None) -> StringCommand:
    """A POSIX shell script that gets ``arguments`` as ``$1``, ``$2``, ...

    ``stdin`` is never shown by pyinfra, at no verbosity, and is not in the process list.
    """
    words = ["sh", "-c", QuoteString(text.strip()), "sh", *(QuoteString(word) for word in arguments)]
    if stdin is None:
        return StringCommand(*words)
    return StringCommand(*words, _stdin=stdin)


def refusal(sentence: str) -> StringCommand:
    """A command that does nothing but fail with that sentence.

    An exception raised while pyinfra executes ends the run for every host with a traceback; a failing
    command fails this host, with its message, and exit status 1.
    """
    return script('printf "%s\\n" "$1" >&2; exit 1', sentence)
