"""The end of the HTTP server, without a reset for callers that it has already accepted."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

# How long accepted connections may take to make a request that is perhaps on its way: local callers need a few
# milliseconds, and the callers in the queue of the next process wait for it.
LAST_REQUESTS_S = 0.5
_STEP_S = 0.01


class DrainingServer(uvicorn.Server):
    """Takes no new connection at its end, but still answers what comes on those that it has.

    uvicorn closes every connection without a request under way. The kernel answers a request that arrives on
    one, or lies unread in it, with a reset: the caller of a connection accepted a moment before, or of one kept
    alive, is turned away although it came in time. Answers say `Connection: close` meanwhile, so that callers
    make their next connection to the next process.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by `serve` once the process was told to end."""
        for server in self.servers:
            server.close()
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        for connection in self.server_state.connections:
            if isinstance(connection, H11Protocol) and connection.cycle is not None:
                connection.cycle.default_headers = self.server_state.default_headers
        loop = asyncio.get_running_loop()
        until = loop.time() + LAST_REQUESTS_S
        # At least one step: the loop may have accepted a connection that is in no list yet.
        await asyncio.sleep(_STEP_S)
        while self.server_state.connections and loop.time() < until:
            await asyncio.sleep(_STEP_S)
        await super().shutdown(sockets)
