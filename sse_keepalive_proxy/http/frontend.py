"""What makes a connection of every client: aiohttp's `web.Server`, its options, and all its connections."""

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
from sse_keepalive_proxy.http.responses import error_response
from sse_keepalive_proxy.net.listener import Listener
from sse_keepalive_proxy.net.poller import Poller
from sse_keepalive_proxy.net.tcp import peer_address, prepare
from sse_keepalive_proxy.net.timers import TimerWheel
from sse_keepalive_proxy.net.tls import Handshakes
from sse_keepalive_proxy.net.transport import SocketTransport

__all__ = ["ConnectionLimits", "Frontend", "Handler", "WrittenResponse"]

logger = logging.getLogger("sse_keepalive_proxy.http")

_KEEPALIVE_TIMEOUT = 3630.0
"""Seconds an idle connection is kept: longer than by fronts (facts.md#idle-connections-of-fronts)."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of every connection. Sizes are bytes, times seconds.

    `room()` returns how many more connections there may be; it is negative when there are too many.
    `refused(status, reason, peer)` is called for what is refused before there is a request to be routed.
    """

    max_head: int
    head_timeout: float
    room: Callable[[], int]
    refused: Callable[[int, str, str], None]


class WrittenResponse(web.StreamResponse):
    """The response that a handler returns to aiohttp. Everything of it has been written already."""

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
    """A client that speaks plain HTTP where TLS is spoken. It gets one answer, in nginx's words."""

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connected = cast(asyncio.Transport, transport)
        text = "the plain HTTP request was sent to HTTPS port: use https://"
        self._frontend.limits.refused(400, text, peer_address(connected))
        connected.write(error_response(400, text))
        Lingering(self._frontend, connected, None)


Handler = Callable[[ClientConnection, web.BaseRequest], Awaitable[bool]]
"""Answers a request. Returns whether its connection may carry another one. Raises ConnectionError when the
client has gone, or when its answer has begun and cannot be whole.
"""


class Frontend:
    """Makes a `ClientConnection` for every client, and has `handler` answer every request."""

    def __init__(self, handler: Handler, limits: ConnectionLimits) -> None:
        self.handler, self.limits = handler, limits
        self.loop = asyncio.get_running_loop()
        self.timers = TimerWheel()
        self.connections: set[ClientConnection | Lingering] = set()  # those handed over are not among them
        self.idle_grace: float | None = None  # seconds, from the drain on
        self.handshakes: Handshakes | None = None  # None: no listener has TLS
        self.server = web.Server(self._answer)
        self.kept, self.last = WrittenResponse(keep_alive=True), WrittenResponse(keep_alive=False)
        self.options: dict[str, Any] = {
            "access_log": None,
            "auto_decompress": False,
            "keepalive_timeout": _KEEPALIVE_TIMEOUT,
            "lingering_time": 0,  # `Lingering` does it
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
        """How many there are, with those whose TLS handshake is not over, without those handed over."""
        return len(self.connections) + (len(self.handshakes.under_way) if self.handshakes else 0)

    def use_tls(self, poller: Poller, context: ssl.SSLContext) -> None:
        """Speak TLS by `context` on every TCP socket that is listened on from now on. Where TLS is spoken
        already, the handshakes that begin from now on use it.
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
        """Serve whoever connects to `sock`, whose options its connections inherit. On a Unix socket nobody
        speaks TLS.
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
        """Have every connection end after its next answer, or when it is idle for `idle_grace` seconds."""
        self.idle_grace = idle_grace
        for connection in list(self.connections):
            connection.drain()

    async def cut(self) -> None:
        """Close every connection now. What was being answered is over when this returns."""
        if self.handshakes is not None:
            self.handshakes.close()
        for connection in list(self.connections):
            connection.cut()
        await self.server.shutdown(0.1)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        return await cast(ClientConnection, request.protocol).answer(request)
