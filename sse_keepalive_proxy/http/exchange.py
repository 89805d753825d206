"""One request to upstream, and its response pushed into a sink.

`http.response_head` reads the head, `http.chunked` decodes the body. The bytes of the body go to the sink in
the same turn of the loop in which they were read, one call per read, without a task, a queue or a timer.
`http.dialer` opens the connections.

A connection carries one request. This costs one connect per plain request. In return no request is sent on a
connection that upstream has just closed, and no request gets the answer to another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, cast

from sse_keepalive_proxy.errors import (
    CodingInvalid,
    ProxyError,
    UpstreamInvalid,
    UpstreamReset,
    UpstreamTimeout,
)
from sse_keepalive_proxy.http.chunked import LENIENT, ChunkedDecoder
from sse_keepalive_proxy.http.failures import in_words
from sse_keepalive_proxy.http.response import SWITCHING_PROTOCOLS, ResponseHead
from sse_keepalive_proxy.http.response_head import CHUNKED, UNTIL_CLOSE, ResponseReader, body_size, invalid
from sse_keepalive_proxy.net.tcp import keep_alive

__all__ = ["Body", "Exchange", "Sink"]

_READ_SIZE = 64 * 1024
_MAX_CODING: Final = 64 * 1024
_MAX_EARLY = 64 * 1024
_LAST_READS = 4
"""The most reads of what a connection has brought when another one takes its place."""

_FIRST = 128


class Sink(Protocol):
    """The receiver of a response body. The last call is one call of `end` or `failed`."""

    def data(self, data: bytes) -> None:
        """Receive bytes of the body, at least one."""

    def end(self) -> None:
        """Receive the end: the body is complete."""

    def failed(self, error: ProxyError) -> None:
        """Receive the error: the body is incomplete, or the exchange was given up."""


class Body(Protocol):
    """A response body, as an `Exchange` has it. `request_sent`: see there."""

    request_sent: bool

    @property
    def early(self) -> bytes:
        """The first bytes of the body, as far as they are known before `attach`."""

    def attach(self, sink: Sink, *, paused: bool = False) -> None:
        """Push the body into `sink`. `paused`: do not read until `resume` is called."""

    def pause(self) -> None:
        """Stop reading."""

    def resume(self) -> None:
        """Read again."""

    def close(self) -> None:
        """Close the connection now. The sink gets no more calls."""

    def part(self, let_go: Callable[[Exchange], None]) -> None:
        """Give the exchange to `let_go`. The sink gets no more calls."""

    def read_out(self) -> tuple[bytes, bool]:
        """Return what upstream has sent and the sink has not got, and whether the body is over. The sink
        does not get that end any more.
        """


class Exchange:
    """One request and its response on a connection of its own.

    Made by `dialer.Dialer`. `interim` is called with every 1xx head except 101. `request_sent`: whether the
    whole request was sent; who sends a body keeps it up to date.
    """

    __slots__ = (
        "_complete",
        "_decoder",
        "_drained",
        "_early",
        "_head",
        "_head_only",
        "_interim",
        "_left",
        "_lost",
        "_on_close",
        "_reader",
        "_sink",
        "_switched",
        "_transport",
        "request_sent",
        "surplus",
    )

    def __init__(self, *, head_only: bool, interim: Callable[[ResponseHead], None] | None = None) -> None:
        self._head_only = head_only
        self._interim = interim
        self._transport: asyncio.Transport | None = None
        self._on_close: Callable[[], None] | None = None
        self._head: asyncio.Future[ResponseHead] | None = asyncio.get_running_loop().create_future()
        self._reader: ResponseReader | None = ResponseReader()  # None: the head is whole
        self._decoder: ChunkedDecoder | None = None  # None: the body is not chunked
        self._left = UNTIL_CLOSE  # remaining bytes of a body with Content-Length
        self._switched = self._complete = False
        self._lost: ProxyError | None = None
        self._sink: Sink | None = None
        self._early: bytearray | None = None
        self._drained: asyncio.Future[None] | None = None
        self.surplus = b""
        self.request_sent = True

    # Called by the proxy.

    def send(self, data: bytes) -> None:
        """Write a part of the request."""
        if self._transport is not None:
            self._transport.write(data)

    async def drained(self) -> bool:
        """Wait until more can be sent. Return False if the connection is closed."""
        if self._drained is not None:
            await self._drained
        return self._transport is not None

    async def response(self, within: float | None) -> ResponseHead:
        """Return the response head. Raises `UpstreamError`, also if no head came in `within` seconds."""
        if self._head is None:
            raise RuntimeError("the response head was already returned")
        late = None
        if within is not None:
            late = self._head.get_loop().call_later(within, self._late, within)
        try:
            return await self._head
        finally:
            if late is not None:
                late.cancel()
            self._head = self._interim = None  # a stream lives long: release what it no longer needs

    def awaited_head(self) -> asyncio.Future[ResponseHead] | None:
        """Return the head if it has not come and `response` no longer waits for it, otherwise None."""
        if self._reader is None or self._lost is not None:
            return None
        if self._head is None:
            self._head = asyncio.get_running_loop().create_future()
        return self._head

    def _late(self, within: float) -> None:
        self.fail(UpstreamTimeout(f"upstream sent no response head within {within:g} s"))

    @property
    def early(self) -> bytes:
        """The first bytes of the body, at most 128, as far as they were received before `attach`."""
        return bytes(self._early[:_FIRST]) if self._early else b""

    def attach(self, sink: Sink, *, paused: bool = False) -> None:
        """Push the body into `sink`, first the bytes that were already received. `paused`: do not read until
        `resume` is called.
        """
        self._sink = sink
        early, self._early = self._early, None
        self.pause() if paused else self.resume()
        if early:
            sink.data(bytes(early))
        if self._sink is not sink:  # the sink has closed this exchange
            return
        if self._complete:
            self._finish()
        elif self._lost is not None:
            self._sink = None
            sink.failed(self._lost)

    def pause(self) -> None:
        """Stop reading. TCP flow control then slows upstream down."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """Close the connection now. The sink gets no more calls."""
        self._sink = None
        if self._transport is not None:
            self._transport.abort()

    def part(self, let_go: Callable[[Exchange], None]) -> None:
        """Give this exchange to `let_go`, for another sink or to be closed. The present one gets no more
        calls.
        """
        self._sink = None
        let_go(self)

    def read_out(self) -> tuple[bytes, bool]:
        """Return the bytes that have come and that the sink has not got, about 256 KiB at most, and whether
        the body is over. The sink does not get that end any more.

        Of an encrypted connection, only what the event loop has read can be returned.
        """
        sink, self._sink = self._sink, None  # so the bytes are kept as those before `attach`
        self._read_now()
        early, self._early = self._early, None
        over = self._complete or self._lost is not None
        if sink is not None and not over:
            self._sink = sink
            if early is not None and len(early) > _MAX_EARLY:
                self.resume()
        return bytes(early or b""), over

    def _read_now(self) -> None:
        read_now = getattr(self._transport, "read_now", None)
        if read_now is not None:
            read_now(_LAST_READS)

    def answered(self) -> ResponseHead | None:
        """Return the response head if it has come and `response` has not returned it yet, otherwise None."""
        if self._sink is None:
            self._read_now()
        head = self._head
        if head is None or not head.done() or head.cancelled() or head.exception() is not None:
            return None
        return head.result()

    def splice(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Give the connection to `protocol` after a 101. Return its transport. `surplus` holds the bytes
        after the head. The protocol must call `closed` when the connection is closed. Raises `UpstreamError`.
        """
        transport = self._transport
        if transport is None:
            raise self._lost or UpstreamReset("upstream closed the connection after its 101")
        transport.set_protocol(protocol)
        self._transport = None
        return transport

    # asyncio's protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if hasattr(transport, "max_size"):  # asyncio's own loop (facts.md#large-reads)
            transport.max_size = _READ_SIZE
        keep_alive(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        decoder = self._decoder
        if decoder is not None:
            sink, found = self._sink, decoder.only_chunk(data)
            if found and sink is not None:  # the hot path
                sink.data(found)
                return
        if self._reader is not None:
            data = self._read_head(self._reader, data)
        if self._switched:
            self.surplus += data
        elif data and not self._complete and self._lost is None:  # bytes after a complete answer are ignored
            self._read_body(data)

    def eof_received(self) -> None:
        if self._reader is None and self._decoder is None and self._left == UNTIL_CLOSE:
            self._complete = True
            self._finish()
        else:
            self.fail(UpstreamReset(f"upstream closed the connection {self._progress}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self._complete:
            detail = f": {in_words(exc)}" if isinstance(exc, OSError) else ""
            self.fail(UpstreamReset(f"upstream's connection broke {self._progress}{detail}"))
        self.resume_writing()
        self.closed()

    def pause_writing(self) -> None:
        self._drained = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # Inside.

    @property
    def _progress(self) -> str:
        """How far the answer has come."""
        if self._reader is None:
            return "before its answer was whole"
        return "before it answered" if self._reader.is_empty else "in the middle of its response head"

    def _read_head(self, reader: ResponseReader, data: bytes) -> bytes:
        """Read heads from `data`. Return the bytes after the final one, or `b""` if it is not whole."""
        try:
            while (head := reader.feed(data)) is not None:
                data = reader.rest
                if head.status >= 200 or head.status == SWITCHING_PROTOCOLS:
                    self._begin(head)
                    return data
                if self._interim is not None:
                    self._interim(head)
        except UpstreamInvalid as error:
            self.fail(error)
        return b""

    def _begin(self, head: ResponseHead) -> None:
        """Note where the body of `head` ends, and return `head` to the caller of `response`. Raises
        `UpstreamInvalid`.
        """
        self._switched = head.status == SWITCHING_PROTOCOLS
        size = 0 if self._head_only and not self._switched else body_size(head)
        self._reader = None
        if self._switched:
            self.pause()  # until `splice`
        elif size == CHUNKED:
            self._decoder = ChunkedDecoder(_MAX_CODING, LENIENT)
        else:
            self._left, self._complete = size, size == 0
        if self._head is not None and not self._head.done():
            self._head.set_result(head)
        if self._complete:
            self._finish()

    def _read_body(self, data: bytes) -> None:
        """Pass on what `data` holds of the body, in one call."""
        decoder = self._decoder
        error: UpstreamInvalid | None = None
        if decoder is not None:
            try:
                data, _ = decoder.feed(data)
                self._complete = decoder.complete
            except CodingInvalid as broken:
                data, error = broken.found, invalid(f"its chunked body {broken}")
        elif self._left >= 0:
            data = data[: self._left]
            self._left -= len(data)
            self._complete = not self._left
        if data:
            self._pass_on(data)
        if error is not None:
            self.fail(error)
        elif self._complete:
            self._finish()

    def _pass_on(self, data: bytes) -> None:
        if self._sink is not None:
            self._sink.data(data)
            return
        if self._early is None:
            self._early = bytearray()
        self._early += data
        if len(self._early) > _MAX_EARLY:
            self.pause()

    def _finish(self) -> None:
        sink, self._sink = self._sink, None
        if sink is None:
            return
        if self._transport is not None:
            self._transport.abort()
        sink.end()

    def fail(self, error: ProxyError) -> None:
        """Close the connection. The waiting `response()` or the sink gets `error`."""
        if self._complete or self._lost is not None:
            return
        self._lost = error
        if self._head is not None and not self._head.done():
            self._head.set_exception(error)
            self._head.exception()  # without this call asyncio reports an exception that was not awaited
        if self._transport is not None:
            self._transport.abort()
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.failed(error)

    def closed(self) -> None:
        """Report that the connection is closed."""
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    def when_closed(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when the connection is closed, or now if it already is."""
        self._on_close = callback
        if self._transport is None:
            self.closed()
