"""Quoting for systemd unit files: what is written is exactly what the process gets.

systemd.syntax(7) and systemd.service(5): a word may be wrapped in double quotes with C escapes;
``%`` starts a specifier everywhere, ``$`` starts a variable in ``Exec*=`` lines, and both are
written literally by doubling them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./$-]+")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def quote_word(text: str) -> str:
    """One argument of an ``ExecStart=`` line.

    >>> quote_word("100% of $HOME")
    '"100%% of $$HOME"'
    """
    if "\0" in text:
        raise ValueError("an argument of a systemd unit cannot hold a NUL byte; remove it from the value")
    doubled = text.replace("%", "%%").replace("$", "$$")
    if _PLAIN.fullmatch(doubled):
        return doubled
    escaped = "".join(
        _ESCAPES.get(char) or (f"\\x{ord(char):02x}" if ord(char) < 0x20 else char) for char in doubled
    )
    return f'"{escaped}"'


def quote_command(words: Iterable[str]) -> str:
    """A whole ``ExecStart=`` command: an option and its value a line, continued with backslashes."""
    lines: list[str] = []
    before = ""
    for word in words:
        if before.startswith("--") and not word.startswith("-"):
            lines[-1] += f" {quote_word(word)}"
            before = ""
        else:
            lines.append(quote_word(word))
            before = word
    return " \\\n  ".join(lines)


def quote_setting(text: str) -> str:
    """The value of a plain setting such as ``Description=``: one line, specifiers doubled."""
    if re.search(r"[\0\n\r]", text) or text.endswith("\\"):
        raise ValueError(f"a systemd setting must be one line without a trailing backslash, got {text!r}")
    return text.replace("%", "%%")
