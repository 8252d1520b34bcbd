"""Turn a user's mistake into one sentence and a non-zero exit instead of a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyinfra.api.exceptions import PyinfraError

from settings.images import PinsError
from settings.schema import SettingsError
from settings.secrets import SecretsError


@contextmanager
def one_sentence() -> Iterator[None]:
    """Report the mistakes a user can make as pyinfra reports its own: one line, exit 1."""
    from drill.errors import DrillError

    try:
        yield
    except (SettingsError, SecretsError, PinsError, DrillError) as error:
        raise PyinfraError(str(error)) from None
