"""One request to upstream, and its response pushed into a sink.

httptools (llhttp) parses the response. The bytes of the body go to the sink in the same turn of the loop in
which they were read, one call per read, without a task, a queue or a timer. `http.dialer` opens the
connections.

A connection carries one request. This costs one connect per plain request. In return no request is sent on a
connection that upstream has just closed, and no request gets the answer to another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, cast

import httptools

from sse_keepalive_proxy.errors import ProxyError, UpstreamInvalid, UpstreamReset, UpstreamTimeout
from sse_keepalive_proxy.http.failures import in_words
from sse_keepalive_proxy.http.response import SWITCHING_PROTOCOLS, Header, ResponseHead, fault
from sse_keepalive_proxy.net.tcp import keep_alive

__all__ = ["Exchange", "Sink"]

_READ_SIZE = 64 * 1024
_MAX_HEAD: Final = 256 * 1024
_MAX_EARLY = 64 * 1024
_NO_HEADERS: list[Header] = []


class Sink(Protocol):
    """The receiver of a response body. The last call is one call of `end` or `failed`."""

    def data(self, data: bytes) -> None:
        """Receive bytes of the body, at least one."""

    def end(self) -> None:
        """Receive the end: the body is complete."""

    def failed(self, error: ProxyError) -> None:
        """Receive the error: the body is incomplete, or the exchange was given up."""


class Exchange:
    """One request and its response on a connection of its own.

    Made by `dialer.Dialer`. `interim` is called with every 1xx head except 101.
    """

    __slots__ = (
        "_bodyless_method",
        "_complete",
        "_drained",
        "_early",
        "_framed",
        "_has_head",
        "_head",
        "_head_size",
        "_headers",
        "_interim",
        "_lost",
        "_message_end",
        "_on_close",
        "_parser",
        "_pieces",
        "_reason",
        "_sink",
        "_switched",
        "_transport",
        "on_body",
        "surplus",
    )

    def __init__(self, *, head_only: bool, interim: Callable[[ResponseHead], None] | None = None) -> None:
        self._bodyless_method = head_only
        self._interim = interim
        self._transport: asyncio.Transport | None = None
        self._on_close: Callable[[], None] | None = None
        self._headers: list[Header] = []
        self._reason = b""
        self._head_size = 0
        self._head: asyncio.Future[ResponseHead] | None = asyncio.get_running_loop().create_future()
        self._has_head = self._switched = self._framed = self._complete = False
        self._message_end = 0
        self._lost: ProxyError | None = None
        self._sink: Sink | None = None
        self._early: bytearray | None = None
        self._pieces: list[bytes] = []
        self._drained: asyncio.Future[None] | None = None
        self.surplus = b""
        # httptools looks up its callbacks once. A list's `append` needs no Python frame.
        self.on_body = self._pieces.append
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

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
            late = asyncio.get_running_loop().call_later(within, self._late, within)
        try:
            return await self._head
        finally:
            if late is not None:
                late.cancel()
            self._head = self._interim = None  # a stream lives long: release what it no longer needs

    def _late(self, within: float) -> None:
        self.fail(UpstreamTimeout(f"upstream sent no response head within {within:g} s"))

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
        self._parser = None
        if self._transport is not None:
            self._transport.abort()

    def splice(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Give the connection to `protocol` after a 101. Return its transport. `surplus` holds the bytes
        after the head. The protocol must call `closed` when the connection is closed. Raises `UpstreamError`.
        """
        transport = self._transport
        if transport is None:
            raise self._lost or UpstreamReset("upstream closed the connection after its 101")
        transport.set_protocol(protocol)
        self._transport = self._parser = None
        return transport

    # asyncio's protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if hasattr(transport, "max_size"):  # asyncio's own loop (facts.md#large-reads)
            transport.max_size = _READ_SIZE
        keep_alive(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:
            return
        if not self._has_head:
            self._head_size += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._switched:
                self.surplus = data[upgrade.args[0] :]
                self.pause()  # until `splice`
                return
        except httptools.HttpParserError as error:
            if not self._complete:  # bytes after a complete message are ignored
                self._pass_on()
                self.fail(UpstreamInvalid(f"upstream does not speak HTTP/1.1: {error}"))
                return
        pieces, sink = self._pieces, self._sink
        if len(pieces) == 1 and sink is not None and not self._complete:  # one chunk per read: the hot path
            self._head_size = 0
            sink.data(pieces.pop())
            return
        if self._complete:
            del pieces[self._message_end :]  # ignore a second message
        if pieces:
            self._head_size = 0
            self._pass_on()
        elif self._has_head:
            self._head_size += len(data)  # trailers, or the size line of a chunk
        if self._complete:
            self._parser = None
            self._finish()
        elif self._head_size > _MAX_HEAD:
            what = "chunked coding" if self._has_head else "response head"
            self.fail(UpstreamInvalid(f"upstream's {what} is larger than {_MAX_HEAD} bytes"))

    def eof_received(self) -> None:
        if self._has_head and not self._framed:
            self._complete = True
            self._finish()
        else:
            self.fail(UpstreamReset("upstream closed the connection before its answer was whole"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self._complete:
            detail = f": {in_words(exc)}" if isinstance(exc, OSError) else ""
            self.fail(UpstreamReset(f"upstream's connection broke{detail}"))
        self.resume_writing()
        self._parser = None
        self.closed()

    def pause_writing(self) -> None:
        self._drained = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # httptools' callbacks.

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:
            self._headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        parser = self._parser
        assert parser is not None  # noqa: S101 (the parser calls this)
        if self._has_head or self._lost is not None:
            return  # ignore a second message
        status = parser.get_status_code()
        head = ResponseHead(status, self._reason, self._headers)
        self._headers, self._reason = [], b""
        if wrong := fault(head, parser):
            self.fail(UpstreamInvalid(f"upstream does not speak HTTP/1.1: {wrong}"))
            return
        if status < 200 and status != SWITCHING_PROTOCOLS:
            if self._interim is not None:
                self._interim(head)
            return
        if self._head is not None:
            self._has_head = True
            self._headers = _NO_HEADERS  # a stream lives long: release the list
            self._switched = status == SWITCHING_PROTOCOLS
            self._framed = bool(head.get(b"content-length") or head.get(b"transfer-encoding"))
            self._complete = self._bodyless_method  # the parser knows 204 and 304
            if not self._head.done():
                self._head.set_result(head)

    def on_message_complete(self) -> None:
        if self._has_head and not self._complete:
            self._complete = True
            self._message_end = len(self._pieces)

    # Inside.

    def _pass_on(self) -> None:
        """Pass all bytes of one read to the sink in one call."""
        pieces = self._pieces
        if not pieces:
            return
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
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
