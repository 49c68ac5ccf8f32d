"""Bound the number of connections, and close connections without a request.

By itself, uvicorn waits for the head of a request forever and accepts connections until the process runs out of file
descriptors. A few hundred stalled clients would lock out everybody else.
"""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

MOST_CONNECTIONS = 128
"""Largest number of open connections."""

AT_ONCE = 32
"""Connections accepted before the first of them is checked. Two or three times as many may be open beyond the limit,
and some systems allow a process only 256 files."""


def bounded(seconds: float, most: int = MOST_CONNECTIONS) -> type[H11Protocol]:
    """uvicorn's HTTP protocol with a time limit for requests and a limit on connections.

    Args:
        seconds: time within which the complete head of a request has to arrive.
        most: number of open connections; one more closes the connection that has been idle the longest.
    """

    class Bounded(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.idle_since = self.loop.time()
            self.last_seen: RequestResponseCycle | None = None
            self.next_look = self.loop.call_later(seconds, self.look)
            there = [one for one in self.connections if isinstance(one, Bounded) and not one.transport.is_closing()]
            if len(there) > most:
                idle = [one for one in there if one.is_idle()]
                min(idle, key=lambda one: one.idle_since).transport.abort()  # includes the new one

        def connection_lost(self, exc: Exception | None) -> None:
            self.next_look.cancel()
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            self.idle_since = self.loop.time()
            super().on_response_complete()

        def is_idle(self) -> bool:
            """Whether no request is being answered."""
            return self.cycle is None or self.cycle.response_complete

        def look(self) -> None:
            """Close the connection if no request has arrived since the last check."""
            if self.is_idle() and self.cycle is self.last_seen:
                self.transport.abort()
            else:
                self.last_seen = self.cycle
                self.next_look = self.loop.call_later(seconds, self.look)

    return Bounded
