"""Accept clients: aiohttp's `web.Server`, its options, and the set of all connections."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from sse_keepalive_proxy.http.connection import ClientConnection
from sse_keepalive_proxy.http.head import MOST_FIELDS
from sse_keepalive_proxy.http.lingering import MOST_LINGERING, SEND_TIMEOUT, Lingering
from sse_keepalive_proxy.http.responses import error_response, retry_after
from sse_keepalive_proxy.net.listener import Listener
from sse_keepalive_proxy.net.poller import Poller
from sse_keepalive_proxy.net.tcp import peer_address, prepare
from sse_keepalive_proxy.net.timers import TimerWheel
from sse_keepalive_proxy.net.tls import Handshakes
from sse_keepalive_proxy.net.transport import SocketTransport

__all__ = ["ConnectionLimits", "Frontend", "Handler", "WrittenResponse"]

logger = logging.getLogger("sse_keepalive_proxy.http")

_IDLE_TIMEOUT = 3630.0
"""Seconds until an idle connection is closed: later than fronts do (facts.md#idle-connections-of-fronts)."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of every connection. Sizes are bytes, times seconds.

    `room()` returns how many more connections are allowed. It is negative if there are too many.
    `refused(status, reason, peer)` is called for each refusal before a request can be routed. An idle
    connection is closed after `idle_timeout`, and with `displaces` also to make room for a new one.
    """

    max_head: int
    head_timeout: float
    room: Callable[[], int]
    refused: Callable[[int, str, str], None]
    idle_timeout: float = _IDLE_TIMEOUT
    displaces: bool = False


class WrittenResponse(web.StreamResponse):
    """The response that a handler returns to aiohttp. All of it was already written."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._stays = keep_alive

    @property
    def keep_alive(self) -> bool | None:
        return self._stays

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:  # noqa: ARG002
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Write nothing."""


class _PlainOnTls(asyncio.Protocol):
    """A client that speaks plain HTTP on a TLS port. It gets one answer, with nginx's text."""

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connected = cast(asyncio.Transport, transport)
        text = "the plain HTTP request was sent to HTTPS port: use https://"
        self._frontend.limits.refused(400, text, peer_address(connected))
        connected.write(error_response(400, text))
        Lingering(self._frontend, connected, None)


Handler = Callable[[ClientConnection, web.BaseRequest], Awaitable[bool]]
"""Answers a request. Returns whether the connection may carry another request. Raises ConnectionError if the
client has left, or if the answer has begun and was cut.
"""


class Frontend:
    """Make a `ClientConnection` for every client, and let `handler` answer every request."""

    def __init__(self, handler: Handler, limits: ConnectionLimits) -> None:
        self.handler, self.limits = handler, limits
        self.loop = asyncio.get_running_loop()
        self.timers = TimerWheel()
        # The oldest comes first. Connections that were handed over are not in it.
        self.connections: dict[ClientConnection | Lingering, None] = {}
        self.idle_grace: float | None = None  # seconds; None: not draining
        self.handshakes: Handshakes | None = None  # None: no listener has TLS
        self.server = web.Server(self._answer)
        self.kept, self.last = WrittenResponse(keep_alive=True), WrittenResponse(keep_alive=False)
        self.options: dict[str, Any] = {
            "access_log": None,
            "auto_decompress": False,
            "keepalive_timeout": limits.idle_timeout,
            "lingering_time": 0,  # `Lingering` does this
            "logger": logger,
            "max_field_size": limits.max_head,
            "max_headers": MOST_FIELDS,
            "max_line_size": limits.max_head,
            "tcp_keepalive": False,  # inherited, see `net.tcp.prepare`
        }

    def __call__(self) -> ClientConnection:
        return ClientConnection(self)

    @property
    def open_connections(self) -> int:
        """The number of connections, with those in a TLS handshake, without those handed over."""
        return len(self.connections) + (len(self.handshakes.under_way) if self.handshakes else 0)

    def admits(self, newcomer: ClientConnection, transport: asyncio.Transport) -> bool:
        """Add `newcomer`, if there is room for another connection or room can be made. Otherwise answer it
        with a 503. Return whether it was added.
        """
        self.connections[newcomer] = None
        room = self.limits.room()
        if room >= 0 or self.make_room(newcomer):
            return True
        self.connections.pop(newcomer, None)
        text = "this proxy has no room for another connection (limits.max_connections)"
        self.limits.refused(503, text, peer_address(transport))
        transport.write(error_response(503, text, [retry_after()]))
        if room < -MOST_LINGERING:
            transport.close()
        else:
            Lingering(self, transport, None)
        return False

    def make_room(self, newcomer: ClientConnection) -> bool:
        """Close the oldest connection on which nothing is being answered, except `newcomer`, if the limits
        say so. Return whether there was one.
        """
        if self.limits.displaces:
            for each in self.connections:
                if each is not newcomer and not each.answering:
                    del self.connections[each]  # the transport reports its end later
                    each.cut()
                    return True
        return False

    def use_tls(self, poller: Poller, context: ssl.SSLContext) -> None:
        """Use TLS with `context` on every TCP socket given to `listen` from now on. If TLS is already in use,
        later handshakes use `context`.
        """
        if self.handshakes is not None:
            self.handshakes.context = context
            return
        self.handshakes = Handshakes(
            poller,
            context,
            self.limits.head_timeout,
            full=lambda: self.limits.room() < -MOST_LINGERING,
            plain=lambda: _PlainOnTls(self),
        )

    def listen(self, poller: Poller, sock: socket.socket) -> Listener:
        """Serve the clients that connect to `sock`, and set its options. A Unix socket is served without
        TLS.
        """
        prepare(sock, SEND_TIMEOUT)
        handshakes = None if sock.family == socket.AF_UNIX else self.handshakes

        def accepted(client: socket.socket) -> None:
            if handshakes is None:
                SocketTransport(poller, client, self())
            else:
                handshakes.accept(client, self)

        return Listener(poller, sock, accepted)

    def drain(self, idle_grace: float) -> None:
        """Close every connection after its next answer, or when it is idle for `idle_grace` seconds."""
        self.idle_grace = idle_grace
        for connection in list(self.connections):
            connection.drain()

    async def cut(self) -> None:
        """Close every connection now, and wait until the handlers have ended."""
        if self.handshakes is not None:
            self.handshakes.close()
        for connection in list(self.connections):
            connection.cut()
        await self.server.shutdown(0.1)

    def _answer(self, request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
        return cast(ClientConnection, request.protocol).answer(request)
