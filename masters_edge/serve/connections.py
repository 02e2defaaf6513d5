"""How long a server waits for whoever is connected, and how many connections one client may hold.

uvicorn bounds neither the time of a request's headers nor a client's share of the connections. Limits are those of a
class; `serve` and the server of a measured page each have their own.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 43\r\n\r\ntoo many connections; try again in a moment"
)


class Patience(H11Protocol):
    """Not too much of it. Where there are too many connections, those that ask nothing give way to a new one, whoever
    has said nothing for longest first; where all of them ask, the new one is told to come back."""

    MOST, OF_ONE_CLIENT = 256, 128
    HEADERS_S = 10.0  # for a request's headers to come in
    WRITE_S = 30.0  # for a client to take what it was sent

    heard_at = 0.0  # seconds of the loop's clock
    _refused = False
    _reading: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether it asks nothing at the moment."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        self.heard_at = self.loop.time()
        if not self._makes_room((transport.get_extra_info("peername") or [None])[0]):
            self._refused = True
            transport.write(_BUSY)
            transport.close()
            return
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._reading = _stopped(self._reading)
        self._writing = _stopped(self._writing)
        if not self._refused:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self.heard_at = self.loop.time()
        super().data_received(data)
        if self.idle:
            self._await_headers()
        else:
            self._reading = _stopped(self._reading)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writing = self.loop.call_later(self.WRITE_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._writing = _stopped(self._writing)
        super().resume_writing()

    def _makes_room(self, client: Any) -> bool:
        """Whether there is room for one more connection of that client, an idle one hung up on where need be."""
        open_ones = [one for one in self.connections if isinstance(one, Patience) and not one.transport.is_closing()]
        own = [one for one in open_ones if (getattr(one, "client", None) or [None])[0] == client]
        crowd = own if len(own) >= self.OF_ONE_CLIENT else open_ones if len(open_ones) >= self.MOST else None
        if crowd is None:
            return True
        oldest = min((one for one in crowd if one.idle), key=lambda one: one.heard_at, default=None)
        if oldest is not None:
            oldest.transport.abort()
        return oldest is not None

    def _await_headers(self) -> None:
        if self._reading is None and not self.transport.is_closing():
            self._reading = self.loop.call_later(self.HEADERS_S, self.transport.abort)


def _stopped(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """None, in place of the timer."""
    if timer is not None:
        timer.cancel()
    return None
