"""A stream's client: its connection, and the only place that writes to it.

Knows chunked coding and what asyncio says of the connection; what is written, and when, the stream decides.
The transport reports as soon as anything waits in it: that is when pings stop and the client's write
deadline runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from sse_keepalive_proxy.http.chunked import LAST_CHUNK, chunk, size_line
from sse_keepalive_proxy.net.tcp import reset, taken, watch

__all__ = ["Downstream", "DownstreamCallbacks", "TakeOver"]

_HIGH_WATER = 1
"""Bytes that may wait before the transport reports it. By 0, asyncio's TLS reports when nothing waits."""

TakeOver = Callable[[asyncio.Protocol], asyncio.Transport]
"""Gives the client's transport to a protocol; raises ConnectionError when the client has gone."""


class DownstreamCallbacks(Protocol):
    """The stream, which hears what its client does."""

    def client_blocked(self) -> None:
        """Bytes wait for the client."""

    def client_unblocked(self) -> None:
        """Everything that waited has left."""

    def client_left(self) -> None:
        """It has closed its side: write no more (behaviour.md#no-stream-outlives-its-client)."""

    def client_lost(self, exc: Exception | None) -> None:
        """The connection is gone; the last call there is."""


class Downstream:
    """One client, as long as it is connected.

    `take_over` gives its transport (ConnectionError when it has gone already); `chunked` is whether the
    body needs chunked coding; it may let `write_timeout` seconds pass without taking a byte.
    """

    __slots__ = ("_callbacks", "_chunked", "_held", "_transport", "_written")

    def __init__(
        self, callbacks: DownstreamCallbacks, take_over: TakeOver, *, chunked: bool, write_timeout: float
    ) -> None:
        self._callbacks, self._chunked = callbacks, chunked
        self._held = b""
        self._written = 0
        self._transport = take_over(cast(asyncio.Protocol, self))
        try:
            self._transport.set_write_buffer_limits(high=_HIGH_WATER)
            watch(self._transport, write_timeout)
        except BaseException:  # it is nobody else's any more
            self._transport.abort()
            raise

    @property
    def waiting(self) -> int:
        """Bytes that wait here for the client to take them."""
        return self._transport.get_write_buffer_size()

    @property
    def taken(self) -> int:
        """How many bytes the client has taken in all, as far as the kernel tells."""
        return taken(self._transport, self._written)

    def write(self, body: bytes) -> None:
        """Some bytes of the body, never none."""
        self._send(size_line(len(body)) + body + b"\r\n" if self._chunked else body)

    def write_head(self, head: bytes, body: bytes) -> None:
        """The response head, and the first bytes of the body, if any. They leave in one piece with what is
        written next, or with `flush`.
        """
        self._held = head + chunk(body) if body and self._chunked else head + body

    def flush(self) -> None:
        """Nothing is written next."""
        if self._held:
            self._send(b"")

    def end(self, *, whole: bool) -> None:
        """End the response behind what waits. Not `whole`: it must not look like a complete body."""
        if self._transport.is_closing():  # closed twice, asyncio's TLS knows nothing of itself any more
            return
        if self._chunked and whole:
            self._send(LAST_CHUNK)
        self.flush()
        self._transport.close()

    def _send(self, data: bytes) -> None:
        if self._held:
            data = self._held + data
            self._held = b""
        self._written += len(data)
        self._transport.write(data)

    def reset(self) -> None:
        """End the connection with RST, whatever waits."""
        reset(self._transport)

    def abort(self) -> None:
        """Drop the connection, whatever waits."""
        self._transport.abort()

    # asyncio's protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of a transport that is taken over it was said to another."""

    def data_received(self, data: bytes) -> None:
        """What a client sends behind its request is no part of a stream."""

    def eof_received(self) -> None:
        """A half-close counts as leaving; the transport closes by itself."""
        self._callbacks.client_left()

    def pause_writing(self) -> None:
        self._callbacks.client_blocked()

    def resume_writing(self) -> None:
        self._callbacks.client_unblocked()

    def connection_lost(self, exc: Exception | None) -> None:
        self._callbacks.client_lost(exc)
