"""One request to upstream, and its response pushed into a sink.

httptools (llhttp) parses what comes back; the body's bytes go to the sink in the same turn of the loop
in which the socket had them, one call per read, without a task, a queue or a timer. Connections are
opened in `upstream.dial`.

A connection carries one request. That costs a connect per plain request, and buys that no request
ever meets a connection that upstream has just closed, and that no answer can be another's.
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
    """Where a response body goes. `end` and `failed` come once, one of them, last."""

    def data(self, data: bytes) -> None:
        """Some bytes of the body, never none."""

    def end(self) -> None:
        """The body is whole."""

    def failed(self, error: ProxyError) -> None:
        """The body broke off, or the exchange was given up."""


class Exchange:
    """One request and its response on a connection of its own.

    Made by `dial.Dialer`. `interim` is called with every 1xx head but 101.
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
        # httptools reads its callbacks from here once; appending needs no frame of ours.
        self.on_body = self._pieces.append
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    # What the proxy asks for.

    def send(self, data: bytes) -> None:
        """Write a part of the request."""
        if self._transport is not None:
            self._transport.write(data)

    async def drained(self) -> bool:
        """Wait until upstream has taken enough for more to be sent; false when it never will."""
        if self._drained is not None:
            await self._drained
        return self._transport is not None

    async def response(self, within: float | None) -> ResponseHead:
        """The response head. Raises `UpstreamError`; gives up after `within` seconds."""
        if self._head is None:
            raise RuntimeError("the response head has been given out already")
        late = None
        if within is not None:
            late = asyncio.get_running_loop().call_later(within, self._late, within)
        try:
            return await self._head
        finally:
            if late is not None:
                late.cancel()
            self._head = self._interim = None  # a stream lives long; what it began with need not

    def _late(self, within: float) -> None:
        self.fail(UpstreamTimeout(f"upstream sent no response head within {within:g} s"))

    def attach(self, sink: Sink, *, paused: bool = False) -> None:
        """Push the body into `sink`, beginning with what has already come. `paused`: read nothing more until
        `resume`.
        """
        self._sink = sink
        early, self._early = self._early, None
        self.pause() if paused else self.resume()
        if early:
            sink.data(bytes(early))
        if self._sink is not sink:  # it has heard enough and closed us
            return
        if self._complete:
            self._finish()
        elif self._lost is not None:
            self._sink = None
            sink.failed(self._lost)

    def pause(self) -> None:
        """Stop reading: upstream feels it through TCP."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """Let upstream go at once. The sink hears nothing more."""
        self._sink = None
        self._parser = None
        if self._transport is not None:
            self._transport.abort()

    def splice(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Give the connection to another protocol, after a 101. Bytes behind the head are `surplus`. The
        protocol calls `closed` when the connection is gone.
        """
        transport = self._transport
        if transport is None:
            raise self._lost or UpstreamReset("upstream closed the connection after its 101")
        transport.set_protocol(protocol)
        self._transport = self._parser = None
        return transport

    # asyncio's side.

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
                self.pause()  # until another protocol takes over
                return
        except httptools.HttpParserError as error:
            if not self._complete:  # bytes behind a whole message are nobody's
                self._pass_on()
                self.fail(UpstreamInvalid(f"upstream does not speak HTTP/1.1: {error}"))
                return
        pieces, sink = self._pieces, self._sink
        if (
            len(pieces) == 1 and sink is not None and not self._complete
        ):  # one chunk a read: the way of a byte
            self._head_size = 0
            sink.data(pieces.pop())
            return
        if self._complete:
            del pieces[self._message_end :]  # nor is a second message, which nobody asked for
        if pieces:
            self._head_size = 0
            self._pass_on()
        elif self._has_head:
            self._head_size += len(data)  # of a trailer, or of a chunk's head
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
        assert parser is not None  # noqa: S101 (it is the parser that calls)
        if self._has_head or self._lost is not None:
            return  # of a second message, which nobody asked for
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
            self._headers = _NO_HEADERS  # a stream lives long: it lets go what it can spare
            self._switched = status == SWITCHING_PROTOCOLS
            self._framed = bool(head.get(b"content-length") or head.get(b"transfer-encoding"))
            self._complete = self._bodyless_method  # 204 and 304 the parser knows
            if not self._head.done():
                self._head.set_result(head)

    def on_message_complete(self) -> None:
        if self._has_head and not self._complete:
            self._complete = True
            self._message_end = len(self._pieces)

    # Inside.

    def _pass_on(self) -> None:
        """One call to the sink for all that one read brought."""
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
        """Give up: whoever waits for the head or the body gets `error`."""
        if self._complete or self._lost is not None:
            return
        self._lost = error
        if self._head is not None and not self._head.done():
            self._head.set_exception(error)
            self._head.exception()  # whoever does not wait for it any more need not
        if self._transport is not None:
            self._transport.abort()
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.failed(error)

    def closed(self) -> None:
        """The connection is gone."""
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    def when_closed(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when the connection is gone: now, if it is already."""
        self._on_close = callback
        if self._transport is None:
            self.closed()
