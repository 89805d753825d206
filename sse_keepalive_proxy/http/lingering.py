"""A client whose answer was its last, and who may still be sending: read until it has taken its answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sse_keepalive_proxy.net.tcp import untaken

if TYPE_CHECKING:
    from sse_keepalive_proxy.http.frontend import Frontend

__all__ = ["MOST_LINGERING", "SEND_TIMEOUT", "Lingering"]

SEND_TIMEOUT: Final = 60.0
"""Seconds a client may take nothing of an answer, as nginx's `send_timeout`. A stream has its own."""

_LINGERING = 2.0
"""Seconds for which a refused request is still read, so that its answer is not lost to a reset."""

MOST_LINGERING: Final = 50
"""Connections without room that are still read. More at a time may lose their answer to a reset."""


class Lingering(asyncio.Protocol):
    """Reads and drops what a client still sends after its answer, as nginx does: a socket that is closed with
    bytes unread resets its connection, and with it the answer. It ends after `_LINGERING`, or once the client
    has taken its answer, which may last as long as `SEND_TIMEOUT`.
    """

    answering = False

    def __init__(self, frontend: Frontend, transport: asyncio.Transport, left: int | None) -> None:
        """`left` is how many bytes are still to come; None when that is not known."""
        self._frontend, self._left = frontend, left
        self.transport = transport
        now = frontend.timers.now()
        self._closes_at, self._gives_up_at = now + _LINGERING, now + SEND_TIMEOUT
        frontend.connections.add(self)
        frontend.timers.schedule(self, self._closes_at)
        transport.set_protocol(self)
        if transport.can_write_eof():
            transport.write_eof()
        transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self._left is not None:
            self._left -= len(data)
            if self._left <= 0:
                self.transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:  # noqa: ARG002 (asyncio's signature)
        self._frontend.timers.cancel(self, self._closes_at)
        self._frontend.connections.discard(self)

    def drain(self) -> None:
        """It ends by itself."""

    def cut(self) -> None:
        """Close now."""
        self.transport.abort()

    def wake(self) -> None:
        """Its time is over, unless the client is still taking its answer."""
        timers = self._frontend.timers
        now = timers.now()
        if now < self._gives_up_at and untaken(self.transport):
            self._closes_at = now + _LINGERING
            timers.schedule(self, self._closes_at)
        else:
            self.transport.abort()
