"""Close a connection after its last answer while the client may still be sending (lingering close)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sse_keepalive_proxy.net.tcp import drop, untaken

if TYPE_CHECKING:
    from sse_keepalive_proxy.http.frontend import Frontend

__all__ = ["MOST_LINGERING", "SEND_TIMEOUT", "Lingering"]

SEND_TIMEOUT: Final = 60.0
"""Seconds without a byte of an answer being taken, like nginx's `send_timeout`. Streams have their own."""

_LINGERING = 2.0
"""Seconds for which the rest of a refused request is read, so that a reset does not destroy the answer."""

MOST_LINGERING: Final = 50
"""The most connections above `max_connections` that linger. Others may lose their answer to a reset."""


class Lingering(asyncio.Protocol):
    """Read and drop what a client sends after its answer, as nginx does. Closing a socket with unread bytes
    resets the connection, and the client may lose the answer. It closes after `_LINGERING`, or after
    `SEND_TIMEOUT` at most if the client is still taking its answer.
    """

    answering = False

    def __init__(self, frontend: Frontend, transport: asyncio.Transport, left: int | None) -> None:
        """`left` is the number of bytes that the client will still send, or None if it is not known."""
        self._frontend, self._left = frontend, left
        self.transport = transport
        now = frontend.timers.now()
        self._closes_at, self._gives_up_at = now + _LINGERING, now + SEND_TIMEOUT
        frontend.connections[self] = None
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
        self._frontend.connections.pop(self, None)

    def drain(self) -> None:
        """Do nothing: it closes by itself."""

    def cut(self) -> None:
        """Close now."""
        drop(self.transport, whole=True)

    def wake(self) -> None:
        """Close, unless the client is still taking its answer."""
        timers = self._frontend.timers
        now = timers.now()
        if now < self._gives_up_at and untaken(self.transport):
            self._closes_at = now + _LINGERING
            timers.schedule(self, self._closes_at)
        else:
            drop(self.transport, whole=True)
