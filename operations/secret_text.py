"""What the operations need of a secret: nothing but a way to read it on purpose."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class SecretText(Protocol):
    """A text that shows itself only when asked (``settings.secrets.Secret`` is one)."""

    def reveal(self) -> str:
        """The secret itself."""
        ...


def revealed(value: SecretText | str) -> str:
    """The text of a secret or of a plain string."""
    return value if isinstance(value, str) else value.reveal()


class HiddenLines(list[str]):
    """Lines for a command's standard input that no log can show.

    pyinfra prints the keyword arguments of facts at ``-v``, ``_stdin`` included
    (``pyinfra/api/facts.py`` 3.10, "Loaded fact"), so what goes there must not show itself.
    """

    def __repr__(self) -> str:
        return "<hidden>"

    __str__ = __repr__
