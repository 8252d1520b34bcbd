"""Moments that callers name, as PostgreSQL can store them and Python can read them again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

# No chat is older. The first hours of year 1 in a zone east of Greenwich, which .NET sends for "no time", are in
# the year before, which PostgreSQL stores and Python cannot read.
EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)


def moment(value: datetime) -> datetime:
    """The moment with its zone (UTC when it has none), and 1970 at the earliest."""
    aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    return max(aware, EARLIEST)
