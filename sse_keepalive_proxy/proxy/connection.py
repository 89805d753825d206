"""A client's connection, as aiohttp's server serves it, and how it is taken over from aiohttp.

The only module that knows aiohttp's insides; aiohttp is pinned to the minor versions it was tested
with. aiohttp accepts and parses. What it lacks is added here:

- a limit and a deadline for the whole request head, not for a line (FACTS 6),
- a limit for connections, so that running out of descriptors cannot make accept spin,
- a limit for what a chunked body holds besides data, and an end to the wait for one that is broken,
- errors that are one line of text and repeat nothing of the request,
- `hand_over`: another protocol gets the transport and aiohttp's objects are let go, so that an idle
  stream does not keep the 20 KiB that a request costs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import StreamReader

from sse_keepalive_proxy.errors import BodyInvalid
from sse_keepalive_proxy.proxy.client_socket import has_left, peer_address, watch

__all__ = ["Connection", "ConnectionLimits", "Frontend", "Written", "plain_error"]

_KEEPALIVE_TIMEOUT = 3630.0
"""Seconds an idle connection is kept: longer than cloudflared's 90 and the CDN's 900 (FACTS 2)."""

_SEND_TIMEOUT = 60.0
"""Seconds a client may take nothing of an answer, as nginx's `send_timeout`; a stream has its own."""

_LOOK_AT_PEER = 1.0
"""Seconds between two looks whether a client is still there, while nothing is read from it."""

_MOST_CODING = 16
"""Bytes of chunked coding for each byte of data, beside a head's worth: endless chunk extensions and
trailers are an attack."""

_LINGERING = 2.0
"""Seconds a refused request's body is still read, so that the answer is not lost to a reset."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of every connection. Sizes are bytes, times seconds. `refused` is told status, reason and peer
    of what is refused here, before there is a request that could be routed.
    """

    max_head: int
    head_timeout: float
    has_room: Callable[[], bool]
    refused: Callable[[int, str, str], None]


class Written(web.StreamResponse):
    """Tells aiohttp that the response has been written, or will be by somebody else."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write nothing: the head has left."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Write nothing: the end has left."""


def plain_error(
    status: int, text: str, *, fields: Sequence[tuple[bytes, bytes]] = (), keep_alive: bool = False
) -> bytes:
    """A whole error response: one line of text, or no body without one. `fields` are further fields."""
    body = text.encode() + b"\n" if text else b""
    described = (b"Content-Type: text/plain; charset=utf-8", b"Content-Length: %d" % len(body))
    head = [
        b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode()),
        *(described if text else ()),
        b"Cache-Control: no-store",
        *(b"%b: %b" % field for field in fields),
        b"Connection: keep-alive" if keep_alive else b"Connection: close",
    ]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


class Connection(web.RequestHandler):
    """One client's connection until it is closed or handed over."""

    __slots__ = ("_body", "_body_size", "_closing", "_head_size", "_head_timer", "_limits", "_peer_timer")

    def __init__(self, frontend: Frontend, limits: ConnectionLimits, **settings: Any) -> None:
        super().__init__(frontend, **settings)
        self._limits = limits
        self._head_size = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._peer_timer: asyncio.TimerHandle | None = None
        self._closing = False  # once the current answer has been given
        self._body: StreamReader | None = None
        self._body_size = 0  # of the newest request's body, its coding included, at most one head more

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        watch(transport, _SEND_TIMEOUT)
        if not self._limits.has_room():
            self._refuse(503, "this proxy has no room for another connection (limits.max_connections)")
            return
        self._await_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._head_came()
        if self._peer_timer is not None:
            self._peer_timer.cancel()
        super().connection_lost(exc)

    def close(self) -> None:
        """Take no further request. An idle connection closes now, any other behind its answer: aiohttp's own
        leaves an idle one open, deaf, and throws away what is still to come of a busy one's body.
        """
        waiter = self._waiter
        if not self._request_count or (waiter is not None and not waiter.done()):
            super().close()
            self.force_close()
        self._closing = True

    def pause_reading(self) -> None:
        """A body waits to be taken."""
        super().pause_reading()
        self._watch_peer()

    def _pause_reading_for_buffer(self) -> None:
        """Requests wait to be answered."""
        super()._pause_reading_for_buffer()
        self._watch_peer()

    def _watch_peer(self) -> None:
        """A client that leaves while nothing is read from it must be noticed all the same (law 8)."""
        if self._peer_timer is None:
            self._peer_timer = self._loop.call_later(_LOOK_AT_PEER, self._look_at_peer)

    def _look_at_peer(self) -> None:
        self._peer_timer = None
        transport = self.transport
        if transport is None or transport.is_closing() or transport.is_reading():
            return
        if has_left(transport):
            transport.abort()
        else:
            self._watch_peer()

    def data_received(self, data: bytes) -> None:
        if self._upgraded:  # aiohttp keeps it, one read of it at most, until the upgrade is answered
            super().data_received(data)
            return
        body = self._body
        if body is not None and not body.is_eof():
            self._body_size += len(data)
        else:
            body = None
            if data:  # aiohttp says nothing to have its parser go on: no head begins with that
                self._head_size += len(data)
                self._await_head()
        parsed = self._request_count
        super().data_received(data)
        if self._request_count > parsed:
            if body is not None and not body.is_eof():  # what came is the parser's complaint, not a request
                body.set_exception(BodyInvalid("the request's body is not valid"))
            self._head_came()
            self._body = body = self._messages[-1][1] if self._messages else None
            self._body_size = len(data) if self._request_count == parsed + 1 else 0
        elif body is None and self._head_size > self._limits.max_head:
            self._refuse(431, f"the request head is larger than {self._limits.max_head} bytes")
        if body is not None and not body.is_eof():
            self._bound_coding(body)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """What came behind an upgrade that was refused is parsed in here: its body is the newest now."""
        if self._closing:
            super().close()
        parsed = self._request_count
        finished = await super().finish_response(request, resp, start_time)
        if self._request_count > parsed and self._messages:
            self._body, self._body_size = self._messages[-1][1], 0
        return finished

    def _bound_coding(self, body: StreamReader) -> None:
        if self._body_size > self._limits.max_head + _MOST_CODING * body.total_bytes:
            body.set_exception(BodyInvalid("the request's body has more chunked coding than data"))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 (aiohttp's signature)
    ) -> web.StreamResponse:
        """Answer what the parser refused. Nothing of the request is repeated: it may hold credentials."""
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun; it can only be cut")
        if isinstance(exc, LineTooLong):
            status, text = 431, f"the request head is larger than {self._limits.max_head} bytes"
        elif status == 400:
            text = "this is not a valid HTTP/1.1 request"
        else:
            text = "the proxy failed; its log says why"
        self._limits.refused(status, text, peer_address(self.transport))
        if self.transport is not None:
            self.transport.write(plain_error(status, text))
        return Written(keep_alive=False)

    def hand_over(self, protocol: asyncio.BaseProtocol) -> tuple[asyncio.Transport, bytes]:
        """Give the transport to `protocol` and let aiohttp's objects go; the handler then returns
        `Written`. Also returns the bytes that came behind an upgrade request.

        Raises ConnectionError when the client has gone.
        """
        transport, tail = self.transport, self._message_tail
        if transport is None or transport.is_closing():
            raise ConnectionError("the client has gone")
        self._head_came()
        self.keep_alive(False)
        if self._manager is not None:
            self._manager.connection_lost(self)
        self.transport = None
        transport.set_protocol(protocol)
        if not transport.is_reading():
            transport.resume_reading()
        return transport, tail

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self._loop.call_later(self._limits.head_timeout, self._head_late)

    def _head_came(self) -> None:
        self._head_size = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        self._head_timer = None
        if self._current_request is not None:  # a pipelined head waits for this answer first
            self._await_head()
        elif self._head_size:
            self._refuse(408, f"the request head took longer than {self._limits.head_timeout:g} s")
        else:
            self.force_close()

    def _refuse(self, status: int, text: str) -> None:
        """Answer without a request, unless the answer to another one is on its way, and close."""
        if self.transport is not None and self._current_request is None:
            self._limits.refused(status, text, peer_address(self.transport))
            self.transport.write(plain_error(status, text))
        self.force_close()


class Frontend(web.Server):
    """Makes a `Connection` for every client and gives each request to `handler`."""

    def __init__(
        self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], limits: ConnectionLimits
    ) -> None:
        super().__init__(handler, handler_cancellation=True)
        self._limits = limits
        silent = logging.getLogger("sse_keepalive_proxy.aiohttp")
        silent.addHandler(logging.NullHandler())
        silent.propagate = False  # its tracebacks quote requests
        self._settings: dict[str, Any] = {
            "loop": asyncio.get_running_loop(),
            "access_log": None,
            "logger": silent,
            "auto_decompress": False,
            "keepalive_timeout": _KEEPALIVE_TIMEOUT,
            "lingering_time": _LINGERING,
            "max_line_size": limits.max_head,
            "max_field_size": limits.max_head,
            "max_headers": 1 << 30,  # they are bounded by the size of the whole head
        }

    @property
    def open_connections(self) -> int:
        """Connections that aiohttp serves; those handed over are not among them."""
        return len(self._connections)

    def __call__(self) -> Connection:
        return Connection(self, self._limits, **self._settings)
