"""Bound the number of connections, and close connections without a request.

By default, uvicorn waits forever for the head of a request and accepts connections until the process runs out of file
descriptors. A few hundred stalled clients would lock out everybody else.
"""

import asyncio
from collections import Counter

from h11 import LocalProtocolError
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

MAX_CONNECTIONS = 128
"""Largest number of open connections."""

AT_ONCE = 32
"""Connections accepted before the first of them is checked. Two or three times as many may be open beyond the limit,
and some systems allow a process only 256 files."""


def bounded(seconds: float, most: int = MAX_CONNECTIONS) -> type[H11Protocol]:
    """uvicorn's HTTP protocol with a time limit for requests and a limit on connections.

    Args:
        seconds: time within which the complete head of a request must arrive.
        most: largest number of open connections. One more closes the connection that has been idle longest or, if none
            is idle, one that is still sending its request.
    """

    class Bounded(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.idle_since = self.loop.time()
            self.address = str((transport.get_extra_info("peername") or ("",))[0])
            self.last_seen: RequestResponseCycle | None = None
            self.next_look = self.loop.call_later(seconds, self.look)
            there = [one for one in self.connections if isinstance(one, Bounded) and not one.transport.is_closing()]
            if len(there) > most:
                others = [one for one in there if one is not self]
                idle = [one for one in others if one.is_idle()]
                sending = [one for one in others if one.cycle is not None and one.cycle.more_body]
                number = Counter(one.address for one in sending)
                # The longest idle one; else the oldest upload of the client with the most uploads; else this one.
                first = min(idle, key=lambda one: one.idle_since, default=None) or min(
                    sending, key=lambda one: (-number[one.address], one.idle_since), default=self
                )
                first.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            self.next_look.cancel()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            """Close a connection that sent invalid HTTP. A response in progress is dropped."""
            cycle = self.cycle
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
            try:
                super().send_400_response(msg)
            except LocalProtocolError:  # a response has started, or answers HEAD, which has no body
                self.transport.abort()

        def _should_upgrade(self) -> bool:
            return False  # only HTTP is supported

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
