"""A client's connection: requests off it, one after the other, and answers on it, until it is handed over.

`request` reads a request; what to answer, `Frontend`'s handler decides. Here are the bounds of a connection:
its deadlines, how many there are, how long a refused request's body is still read. `hand_over` gives the
transport to another protocol, and nothing of this stays with it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sse_keepalive_proxy.errors import BodyInvalid, RequestInvalid
from sse_keepalive_proxy.http.request_reader import Request, RequestReader
from sse_keepalive_proxy.http.responses import plain_error, retry_after
from sse_keepalive_proxy.net.interfaces import Protocol, Transport
from sse_keepalive_proxy.net.listener import Listener
from sse_keepalive_proxy.net.poller import Poller
from sse_keepalive_proxy.net.tasks import spawn
from sse_keepalive_proxy.net.tcp import has_left, peer_address, prepare
from sse_keepalive_proxy.net.timers import TimerWheel

__all__ = ["Connection", "ConnectionLimits", "Frontend", "Handler"]

logger = logging.getLogger("sse_keepalive_proxy.http")

_KEEPALIVE_TIMEOUT = 3630.0
"""Seconds an idle connection is kept: longer than cloudflared's 90 and the CDN's 900 (FACTS 2)."""

_SEND_TIMEOUT = 60.0
"""Seconds a client may take nothing of an answer, as nginx's `send_timeout`; a stream has its own."""

_LOOK_AT_PEER = 1.0
"""Seconds between two looks whether a client is still there, while nothing is read from it."""

_LINGERING = 2.0
"""Seconds a refused request's body is still read, so that the answer is not lost to a reset."""

_MOST_LINGERING = 50
"""Connections without room that are read on all the same. More at once may lose their answer to a reset."""

_FAILED = "the proxy failed; its log says why"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of every connection. Sizes are bytes, times seconds.

    `room` tells how many more there may be, less than none when there are too many. `refused` is told status,
    reason and peer of what is refused here, before there is a request that could be routed.
    """

    max_head: int
    head_timeout: float
    room: Callable[[], int]
    refused: Callable[[int, str, str], None]


class Connection:
    """One client's connection until it is closed or handed over. `transport` is None from then on."""

    __slots__ = (
        "_closing", "_drained", "_frontend", "_held", "_lingers", "_reader", "_task", "_wakes_at",
        "transport",
    )  # fmt: skip

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self.transport: Transport | None = None
        self._reader: RequestReader | None = self._next_reader()  # None: the request is whole
        self._task: asyncio.Task[None] | None = None  # the answer to it
        self._held = b""  # what came behind it
        self._closing = self._lingers = False
        self._drained: asyncio.Future[None] | None = None
        self._wakes_at: float | None = None

    # What the handler asks for.

    def write(self, data: bytes) -> None:
        """Send a part of an answer. Raises ConnectionError when the client has gone."""
        if self.transport is None or self.transport.is_closing():
            raise ConnectionError("the client has gone")
        self.transport.write(data)

    async def drained(self) -> None:
        """Wait until the client has taken enough for more to be written. Raises ConnectionError when it never
        will.
        """
        if self._drained is not None:
            await self._drained
        if self.transport is None:
            raise ConnectionError("the client has gone")

    def hand_over(self, protocol: Protocol) -> tuple[Transport, bytes]:
        """Give the transport to `protocol`. Also returns the bytes that came behind the request.

        Raises ConnectionError when the client has gone.
        """
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ConnectionError("the client has gone")
        self._leave()
        transport.set_protocol(protocol)
        transport.resume_reading()
        return transport, self._held

    # What the frontend asks for.

    @property
    def answering(self) -> bool:
        """Whether a request is being answered."""
        return self._task is not None

    def close(self) -> None:
        """Take no further request: close now, or behind the answer that is under way."""
        self._closing = True
        if self._task is None and not self._lingers:
            self._end()

    def cut(self) -> asyncio.Task[None] | None:
        """Close now, whatever is under way; returns what will be over soon."""
        if self.transport is not None:
            self.transport.abort()
        if self._task is not None:
            self._task.cancel()
        return self._task

    # asyncio's protocol.

    def connection_made(self, transport: Transport) -> None:
        self.transport = transport
        self._frontend.connections.add(self)
        room = self._frontend.limits.room()
        if room >= 0:
            self._wake_in(self._frontend.limits.head_timeout)
            return
        self._refuse(503, "this proxy has no room for another connection (limits.max_connections)")
        if room < -_MOST_LINGERING:
            self._end()

    def connection_lost(self, exc: BaseException | None) -> None:  # noqa: ARG002 (asyncio's signature)
        self._leave()
        self._read_no_more()
        if self._task is not None:
            self._task.cancel()
        self.resume_writing()

    def eof_received(self) -> None:
        """A client that sends no more is gone: the transport closes by itself."""

    def pause_writing(self) -> None:
        self._drained = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if reader is None:
            if not self._lingers:
                self._held += data
                self.pause()
            return
        begins = not reader.head_size
        try:
            self._held = reader.feed(data)
        except RequestInvalid:
            self._refuse(400, "this is not a valid HTTP/1.1 request")
            return
        except BodyInvalid as error:
            if reader.request is not None and reader.request.body is not None:
                reader.request.body.failed(error)
            self._read_no_more()
        if reader.request is None:
            if reader.head_size > self._frontend.limits.max_head:
                text = f"the request head is larger than {self._frontend.limits.max_head} bytes"
                self._refuse(431, text)
            elif begins and not self._lingers:
                self._wake_in(self._frontend.limits.head_timeout)
            return
        if reader.whole:
            self._read_no_more()
        if self._task is None and not self._lingers:
            self._wake_in(None)
            self._task = spawn(self._answer(reader.request))
        elif self._lingers and self._reader is None:
            self._end()
        if self._held:
            self.pause()

    # A body's source.

    def pause(self) -> None:
        """Read nothing. A client that leaves meanwhile must be noticed all the same (law 8)."""
        if self.transport is not None and self.transport.is_reading():
            self.transport.pause_reading()
            self._wake_in(_LOOK_AT_PEER)

    def resume(self) -> None:
        """Read on."""
        if self.transport is not None and not self.transport.is_reading():
            self.transport.resume_reading()

    # Inside.

    def _next_reader(self) -> RequestReader:
        return RequestReader(self, self._frontend.limits.max_head)

    def _read_no_more(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.drop()

    async def _answer(self, request: Request) -> None:
        keep_alive = False
        try:
            keep_alive = await self._frontend.handler(self, request)
        except ConnectionError:
            pass  # the client has gone, or its answer can only be cut
        except Exception:
            logger.exception("a request failed inside the proxy; please report this")
            self._tell(500, _FAILED)
        self._task = None
        if self.transport is None:
            return
        if request.whole and keep_alive and not self._closing:
            self._go_on()
        elif request.whole and not self._held:
            self._end()
        else:
            self._linger(request)

    def _go_on(self) -> None:
        """The next request."""
        self._reader = self._next_reader()
        self._wake_in(_KEEPALIVE_TIMEOUT)
        held, self._held = self._held, b""
        self.resume()
        if held:
            self.data_received(held)

    def _refuse(self, status: int, text: str) -> None:
        """Answer what is no request, and close once it was read or has had its time."""
        self._tell(status, text)
        self._read_no_more()
        self._linger(None)

    def _tell(self, status: int, text: str) -> None:
        self._frontend.limits.refused(status, text, peer_address(self.transport))
        if self.transport is not None:
            fields = [retry_after()] if status == 503 else []
            self.transport.write(plain_error(status, text, fields=fields))

    def _linger(self, request: Request | None) -> None:
        """Close for the client now, and read on for a while, as nginx does: a socket that is closed with
        bytes unread resets its connection, and with it the answer.
        """
        if self.transport is None or not self.transport.can_write_eof():
            self._end()
            return
        self._lingers = True
        if request is not None and request.body is not None:
            request.body.drop()
        self.transport.write_eof()
        self.resume()
        self._wake_in(_LINGERING)

    def _end(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def _leave(self) -> None:
        self._wake_in(None)
        self.transport = None
        self._frontend.connections.discard(self)

    # Time: one deadline at a time, of what is waited for.

    def _wake_in(self, seconds: float | None) -> None:
        timers = self._frontend.timers
        if self._wakes_at is not None:
            timers.cancel(self, self._wakes_at)
        self._wakes_at = None if seconds is None else timers.now() + seconds
        if self._wakes_at is not None:
            timers.schedule(self, self._wakes_at)

    def wake(self) -> None:
        """The deadline has come."""
        self._wakes_at, transport = None, self.transport
        if transport is None:
            return
        if self._lingers:
            transport.abort()
        elif self._task is not None:
            self._look_at_peer(transport)
        elif self._reader is not None and self._reader.head_size:
            self._refuse(408, f"the request head took longer than {self._frontend.limits.head_timeout:g} s")
        else:
            transport.close()

    def _look_at_peer(self, transport: Transport) -> None:
        if transport.is_reading():
            return
        if has_left(transport):
            transport.abort()
        else:
            self._wake_in(_LOOK_AT_PEER)


Handler = Callable[[Connection, Request], Awaitable[bool]]
"""Answers a request. Returns whether its connection may carry another one; raises ConnectionError when the
client has gone, or its answer has begun and cannot be whole.
"""


class Frontend:
    """Makes a `Connection` for every client, and has `handler` answer every request."""

    def __init__(self, handler: Handler, limits: ConnectionLimits) -> None:
        self.handler, self.limits = handler, limits
        self.timers = TimerWheel()
        self.connections: set[Connection] = set()  # those handed over are not among them

    def __call__(self) -> Connection:
        return Connection(self)

    def listen(self, poller: Poller, sock: socket.socket) -> Listener:
        """Serve whoever connects to `sock`, whose options its connections inherit."""
        prepare(sock, _SEND_TIMEOUT)
        return Listener(poller, sock, self)

    def close(self) -> None:
        """Close every connection that waits for a request, and any other behind its answer."""
        for connection in list(self.connections):
            connection.close()

    async def cut(self) -> None:
        """Close every connection now; what was being answered is over then."""
        under_way = [task for connection in list(self.connections) if (task := connection.cut()) is not None]
        if under_way:
            await asyncio.wait(under_way, timeout=0.1)
