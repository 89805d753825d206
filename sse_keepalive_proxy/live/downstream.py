"""The connection of a stream's client. No other module writes to it.

This module does chunked coding and handles the callbacks of asyncio. The stream decides what is written and
when. The transport reports when any byte waits in it: then pings stop and the client's write timeout runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from sse_keepalive_proxy.http.chunked import LAST_CHUNK, chunk, size_line
from sse_keepalive_proxy.net.tcp import reset, taken, untaken, watch

__all__ = ["Downstream", "DownstreamCallbacks", "TakeOver"]

_HIGH_WATER = 1
"""Bytes that may wait before the transport reports it. With 0, asyncio's TLS reports when no bytes wait."""

_LOOK = 0.05
"""Seconds between two checks whether a client has taken its last bytes."""

CallLater = Callable[[float, Callable[[], None]], object]

TakeOver = Callable[[asyncio.Protocol], asyncio.Transport]
"""Gives the client's transport to a protocol. Raises ConnectionError if the client has left."""


class DownstreamCallbacks(Protocol):
    """Events of the client, handled by the stream."""

    def client_blocked(self) -> None:
        """Handle that bytes wait for the client."""

    def client_unblocked(self) -> None:
        """Handle that no bytes wait any more."""

    def client_left(self) -> None:
        """Handle that the client has closed its side. Stop writing
        (behaviour.md#no-stream-outlives-its-client).
        """

    def client_lost(self, exc: Exception | None) -> None:
        """Handle that the connection is closed. This is the last call."""


class Downstream:
    """One connected client.

    `take_over` returns its transport, or raises ConnectionError if the client has left. `chunked`: whether
    the body needs chunked coding. A client that takes no byte for `write_timeout` seconds is disconnected.
    """

    __slots__ = ("_callbacks", "_chunked", "_held", "_is_checked", "_transport", "_write_timeout", "_written")

    def __init__(
        self, callbacks: DownstreamCallbacks, take_over: TakeOver, *, chunked: bool, write_timeout: float
    ) -> None:
        self._callbacks, self._chunked, self._write_timeout = callbacks, chunked, write_timeout
        self._held = b""
        self._is_checked = False
        self._written = 0
        self._transport = take_over(cast(asyncio.Protocol, self))
        try:
            self._transport.set_write_buffer_limits(high=_HIGH_WATER)
            watch(self._transport, write_timeout)
        except BaseException:  # this object owns the transport
            self._transport.abort()
            raise

    @property
    def waiting(self) -> int:
        """The number of bytes that wait in the transport."""
        return self._transport.get_write_buffer_size()

    @property
    def taken(self) -> int:
        """The number of bytes that the client has taken, as far as the kernel reports it."""
        return taken(self._transport, self._written)

    def check(self) -> int:
        """Return `taken` while bytes wait for the client. From now on these checks find a client that takes
        nothing, and the kernel does not, until `trust_kernel`: it would also end a client that always takes a
        little (facts.md#slow-clients).
        """
        if not self._is_checked:
            self._is_checked = True
            watch(self._transport, 0.0)
        return self.taken

    def trust_kernel(self) -> None:
        """Let the kernel find a client that takes nothing, unless bytes still wait there. To be called when
        none wait in the transport.
        """
        if self._is_checked and not untaken(self._transport):
            self._is_checked = False
            watch(self._transport, self._write_timeout)

    def write(self, body: bytes) -> None:
        """Write bytes of the body, at least one."""
        self._send(size_line(len(body)) + body + b"\r\n" if self._chunked else body)

    def write_shared(self, body: bytes, framed: bytes) -> None:
        """Write bytes that several clients get. `framed`: `body` with chunked coding."""
        self._send(framed if self._chunked else body)

    def write_head(self, head: bytes, body: bytes) -> None:
        """Keep the response head and the first bytes of the body, if any. They are written together with the
        next bytes, or by `flush`.
        """
        self._held = head + chunk(body) if body and self._chunked else head + body

    def flush(self) -> None:
        """Write the kept head now."""
        if self._held:
            self._send(b"")

    def end(self) -> None:
        """Complete the response after the waiting bytes."""
        if self._transport.is_closing():  # asyncio's TLS transport must not be closed twice
            return
        if self._chunked:
            self._send(LAST_CHUNK)
        self.flush()
        self._transport.close()

    def cut(self, call_later: CallLater) -> None:
        """End the response after the waiting bytes, so that it does not look complete: without its last chunk
        or, if it has no chunked coding, with a reset. `call_later` is that of the loop.
        """
        if self._transport.is_closing():
            return
        self.flush()
        if self._chunked:
            self._transport.close()
        else:
            self._reset_when_taken(call_later, -1)

    def _reset_when_taken(self, call_later: CallLater, before: int) -> None:
        """Reset when the client has taken everything: a reset destroys bytes on their way. `write_timeout`
        limits the wait. A TLS transport does not count all of its waiting bytes, so nothing may have moved
        since the check before, when the client had taken `before` bytes.
        """
        if self._transport.is_closing():
            return
        now = self.taken
        if untaken(self._transport) or now != before:
            call_later(_LOOK, lambda: self._reset_when_taken(call_later, now))
        else:
            reset(self._transport)

    def _send(self, data: bytes) -> None:
        if self._held:
            data = self._held + data
            self._held = b""
        self._written += len(data)
        self._transport.write(data)

    def reset(self) -> None:
        """Close the connection with RST. Waiting bytes are lost."""
        reset(self._transport)

    def abort(self) -> None:
        """Close the connection now. Waiting bytes are lost, and the response does not look complete."""
        self._transport.abort() if self._chunked else reset(self._transport)

    # asyncio's protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Do nothing. The protocol before this one got this call."""

    def data_received(self, data: bytes) -> None:
        """Ignore bytes that a client sends after its request."""

    def eof_received(self) -> None:
        """Treat a half-close as leaving. The transport closes by itself."""
        self._callbacks.client_left()

    def pause_writing(self) -> None:
        self._callbacks.client_blocked()

    def resume_writing(self) -> None:
        self._callbacks.client_unblocked()

    def connection_lost(self, exc: Exception | None) -> None:
        self._callbacks.client_lost(exc)
