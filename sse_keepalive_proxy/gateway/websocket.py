"""Splice two connections after a 101: copy bytes in both directions.

This module does not interpret frames, close codes or extensions. When one side closes, so does the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sse_keepalive_proxy.http.exchange import Exchange
from sse_keepalive_proxy.net.tcp import has_left, untaken

__all__ = ["splice"]

_HIGH_WATER = 256 * 1024

_LOOK = 1.0
"""Seconds between two checks of a side for which bytes wait."""

_SEND_TIMEOUT = 60.0
"""Seconds without progress after the other side has left, like nginx's `send_timeout`."""


class _End(asyncio.Protocol):
    """One side of a splice. It writes received bytes to the other side's transport.

    While many bytes wait for this side, the other side is not read, so reading cannot detect that its peer
    has left: a timer checks this. The bytes that it had sent are kept as long as this side takes some of
    them.
    """

    def __init__(self, over: Callable[[], None], closed: Callable[[], None] | None = None) -> None:
        """`closed` is called when this side is closed, `over` when both are."""
        self._over, self._closed = over, closed
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._untaken = 0
        self._stuck_since = 0.0

    def join(self, transport: asyncio.Transport, other: _End) -> None:
        """Begin. `transport` is the transport of this side."""
        self.transport, self.other = transport, other
        transport.set_write_buffer_limits(high=_HIGH_WATER)

    @property
    def open_transport(self) -> asyncio.Transport | None:
        """The transport of this side, or None if it is closing."""
        return None if self.transport is None or self.transport.is_closing() else self.transport

    def data_received(self, data: bytes) -> None:
        if self.other is not None and (transport := self.other.open_transport) is not None:
            transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and (transport := self.other.open_transport) is not None:
            transport.pause_reading()
        self._look_later()

    def resume_writing(self) -> None:
        if self.other is not None and (transport := self.other.open_transport) is not None:
            transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        self.transport, other = None, self.other
        if self._next_look is not None:
            self._next_look.cancel()
        if other is not None:
            other.finish()
            if other.transport is None:
                self._over()
                self.other = other.other = None
        if self._closed is not None:
            self._closed()

    def finish(self) -> None:
        """Close after the waiting bytes: they may contain a close frame, even before a reset."""
        if (transport := self.open_transport) is not None:  # asyncio's TLS transport must not be closed twice
            transport.close()
            self._look_later()

    # Time.

    def _look_later(self) -> None:
        if self._next_look is None and self.transport is not None:
            self._untaken, self._stuck_since = untaken(self.transport), self._loop.time()
            self._next_look = self._loop.call_later(_LOOK, self._look)

    def _look(self) -> None:
        """Close both sides if this one takes nothing and the other one has left."""
        self._next_look = None
        transport, other = self.transport, self.other
        if transport is None or other is None or not transport.get_write_buffer_size():
            return
        left, now = untaken(transport), self._loop.time()
        if left != self._untaken or not other.peer_left:
            self._untaken, self._stuck_since = left, now
        elif now - self._stuck_since >= _SEND_TIMEOUT:
            transport.abort()
            if other.transport is not None:
                other.transport.abort()
            return
        self._next_look = self._loop.call_later(_LOOK, self._look)

    @property
    def peer_left(self) -> bool:
        """Whether this side's peer has closed or broken its connection."""
        return self.transport is None or has_left(self.transport)


def splice(
    take_over: Callable[[asyncio.Protocol], tuple[asyncio.Transport, bytes]],
    exchange: Exchange,
    head: bytes,
    done: Callable[[], None],
) -> Callable[[], None]:
    """Answer the client with `head` (a whole 101) and join it with upstream's connection.

    `done` is called when both sides are over. Returns a function that cuts both.
    Raises ConnectionError if the client has left, and `UpstreamError` if upstream has.
    """
    client_end, upstream_end = _End(done), _End(done, exchange.closed)
    upstream = exchange.splice(upstream_end)
    try:
        client, early = take_over(client_end)
    except ConnectionError:
        upstream.abort()
        raise
    client_end.join(client, upstream_end)
    upstream_end.join(upstream, client_end)
    client.write(head + exchange.surplus)
    if early:
        upstream.write(early)
    upstream.resume_reading()

    def cut() -> None:
        for transport in (client, upstream):
            transport.abort()

    return cut
