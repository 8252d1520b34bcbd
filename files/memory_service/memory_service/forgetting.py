"""Export of a client, and forgetting one: completely, in both stores, with counts."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from memory_service import system_rows
from memory_service.database import Connection, Database
from memory_service.errors import UpstreamError
from memory_service.qdrant import Qdrant
from memory_service.repository import ClientRows, ProfileRow, find_client
from memory_service.schemas import ForgetResponse

log = logging.getLogger(__name__)


def user_hash(user_id: str) -> bytes:
    """What is kept of a user id after its owner was forgotten."""
    return hashlib.sha256(b"memory-service forgotten " + user_id.encode()).digest()


class Forgetter:
    """Removes clients."""

    def __init__(self, database: Database, qdrant: Qdrant | None, forgotten: Callable[[int], None]) -> None:
        """:param forgotten: told the number of a client that is gone, for what is known of it in memory"""
        self._database = database
        self._qdrant = qdrant
        self._forgotten = forgotten

    async def forget(self, client: int | str, dry_run: bool) -> ForgetResponse:
        """Deletes every row of a client, then every point. Raises NotFound, StoreUnavailable.

        Postgres first, in one transaction: from then on nothing of the client can be shown, because every
        hit of the index is looked up there. Points that Qdrant does not confirm now are in the outbox.
        """

        async def rows_of(connection: Connection) -> tuple[ProfileRow, dict[str, int]]:
            profile = await find_client(connection, client, create=False)
            rows = ClientRows(connection, profile.id)
            counts = await rows.counts()
            if not dry_run:
                await rows.delete_profile()
                await system_rows.record_forgotten(connection, user_hash(profile.user_id), counts)
            return profile, {**counts, "client_profiles": 1}

        profile, counts = await self._database.run(rows_of, system=True, timeout_s=60.0, wait_s=2.0)
        if dry_run:
            points, pending = await self._counted(profile.id), False
        else:
            self._forgotten(profile.id)
            points, pending = await self._removed(profile.id)
        return ForgetResponse(
            client_id=profile.id, dry_run=dry_run, postgres=counts, qdrant=points, qdrant_pending=pending
        )

    async def _counted(self, client_id: int) -> int | None:
        """How many points Qdrant has of a client; None when it does not say."""
        if self._qdrant is None:
            return 0
        try:
            return await self._qdrant.count(client_id)
        except UpstreamError:
            return None

    async def _removed(self, client_id: int) -> tuple[int | None, bool]:
        """How many points Qdrant removed, and whether some wait. Raises nothing: PostgreSQL has committed.

        The lock may be held by a delivery that waits for a Qdrant that hangs.
        """
        try:
            return await self._points(client_id)
        except Exception as error:
            log.warning("the points of client %d are left to the outbox: %s", client_id, type(error).__name__)
            return None, True

    async def _points(self, client_id: int) -> tuple[int | None, bool]:
        qdrant = self._qdrant
        if qdrant is None:
            return 0, False

        async def work(connection: Connection) -> tuple[int | None, bool]:
            # While this is held no delivery is under way that read the rows before they were deleted.
            await system_rows.lock(connection, system_rows.OUTBOX_LOCK)
            try:
                before = await qdrant.count(client_id)
                await qdrant.delete_client(client_id)
                after = await qdrant.count(client_id)
            except UpstreamError:
                return None, await system_rows.waiting_for(connection, client_id) > 0
            if after == 0:
                await system_rows.delete_outbox_of(connection, client_id)
            return before - after, after > 0

        return await self._database.run(work, system=True, timeout_s=60.0, wait_s=2.0)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be exported")


async def export(database: Database, client: int | str) -> AsyncIterator[bytes]:
    """A client's rows as NDJSON, one `{"table": ..., "row": {...}}` per line, the profile first.

    Lines are read in pages of 500 and handed on, so that the largest client fits into little memory. Raises
    NotFound before the first line.
    """

    async def find(connection: Connection) -> ProfileRow:
        return await find_client(connection, client, create=False)

    profile = await database.run(find, wait_s=2.0)
    async with database.transaction(client_id=profile.id, timeout_s=300.0) as connection:
        async for table, row in ClientRows(connection, profile.id).export():
            yield (
                json.dumps({"table": table, "row": row}, ensure_ascii=False, default=_plain).encode() + b"\n"
            )
