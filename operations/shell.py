"""Commands for the host, assembled in one place so that every value is quoted."""

from __future__ import annotations

import shlex
from typing import Final

from pyinfra.api.command import QuoteString, StringCommand

# Put in front of a script whose output is read: messages are matched, so they must be English.
NEVER_FAIL: Final = "LC_ALL=C; export LC_ALL\n"


class HostScript(StringCommand):
    """A POSIX shell script and its arguments ``$1``, ``$2``, ...

    A first line that is a comment says what it does; ``summary`` is that with the arguments.
    """

    def __init__(self, text: str, *arguments: str, stdin: str | None = None) -> None:
        first, _, _ = text.strip().partition("\n")
        title = first.removeprefix("# ") if first.startswith("# ") else f"sh: {first} ..."
        words = ("sh", "-c", QuoteString(text.strip()), "sh", *(QuoteString(word) for word in arguments))
        if stdin is None:
            super().__init__(*words)
        else:
            super().__init__(*words, _stdin=stdin)
        self.summary = f"{title}: {shlex.join(arguments)}"


def script(text: str, *arguments: str, stdin: str | None = None) -> HostScript:
    """A command that runs a script.

    ``stdin`` is never shown by pyinfra, at no verbosity, and is not in the process list.
    """
    return HostScript(text, *arguments, stdin=stdin)


def refusal(sentence: str) -> StringCommand:
    """A command that does nothing but fail with that sentence.

    An exception raised while pyinfra executes ends the run for every host with a traceback; a failing
    command fails this host, with its message, and exit status 1.
    """
    return script('# refuse\nprintf "%s\\n" "$1" >&2; exit 1', sentence)
