"""A client on a raw socket: sends given bytes, keeps every byte that comes with the time it came.

async with await RawClient.connect(port=proxy.port) as client:
    client.request("/events", "Accept: text/event-stream")
    await client.wait_for(b":ok")
    assert client.response.status == 200
    await client.wait_for(lambda client: len(client.events) == 3)
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl as ssl_module
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, cast

from tests.support.http1 import Response, ResponseReader, request
from tests.support.looping import Changes
from tests.support.sockets import Ending, reset
from tests.support.sse_reference import Event, Parsed, parse

__all__ = ["LEAVING", "Arrival", "RawClient"]

LEAVING = ("close", "half-close", "reset")
"""The ways in which a client leaves."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Bytes that came in one read, and when (seconds of the loop's clock, `loop.time()`)."""

    at: float
    data: bytes


class RawClient(asyncio.BufferedProtocol):
    """One connection. Make it with `connect`; an async context manager that closes it."""

    def __init__(self, read_size: int, read_pause: float) -> None:
        self._buffer = bytearray(read_size)
        self._read_pause = read_pause
        self._paused = False
        self._resume_timer: asyncio.TimerHandle | None = None
        self._reader = ResponseReader()
        self._changes = Changes()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._lost = asyncio.Event()
        self.received = bytearray()  # every byte, as it came
        self.arrivals: list[Arrival] = []  # the same, read by read
        self.body_arrivals: list[Arrival] = []  # body bytes with the chunked coding taken off
        self.ending: Ending | None = None  # how the server ended it; SELF when this side was first
        self.invalid: ValueError | None = None  # what came is no HTTP response

    @classmethod
    async def connect(
        cls,
        url: str | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        path: str | os.PathLike[str] | None = None,
        ssl: ssl_module.SSLContext | None = None,
        server_hostname: str | None = None,
        receive_buffer: int | None = None,
        read_size: int = 65536,
        read_pause: float = 0.0,
        ahead: bytes = b"",
    ) -> RawClient:
        """Connect to `url` (its host and port), to `host` and `port`, or to the Unix socket `path`.

        `receive_buffer` is the socket's SO_RCVBUF in bytes. A slow client reads at most `read_size`
        bytes at a time and then nothing for `read_pause` seconds. `ahead` is sent while the event loop stands
        still: a server in this loop has it before it accepts the connection.
        """
        if url is not None:
            parts = urllib.parse.urlsplit(url)
            host, port = parts.hostname or host, parts.port or port
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX if path is not None else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if receive_buffer is not None:  # before connecting, for the window to follow it
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            address = os.fspath(path) if path is not None else (host, port)
            if ahead:
                sock.setblocking(True)
                sock.connect(address)
                sock.sendall(ahead)
                sock.setblocking(False)
            else:
                await loop.sock_connect(sock, address)
            hostname = (server_hostname or host) if ssl is not None else None
            _, client = await loop.create_connection(
                lambda: cls(read_size, read_pause), sock=sock, ssl=ssl, server_hostname=hostname
            )
        except BaseException:
            sock.close()
            raise
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # Sending.

    @property
    def transport(self) -> asyncio.Transport:
        """The connection's transport."""
        assert self._transport is not None
        return self._transport

    @property
    def local_address(self) -> tuple[str, int]:
        """This end of the connection."""
        host, port = self.transport.get_extra_info("sockname")[:2]
        return host, port

    def send(self, data: bytes, *, method: str | None = None) -> None:
        """Send bytes as they are. `method` is needed only where raw bytes hold a HEAD request."""
        if method is not None:
            self._reader.methods.append(method)
        self.transport.write(data)

    async def send_split(self, data: bytes, size: int = 1, pause: float = 0.0) -> None:
        """Send `data` in pieces of `size` bytes, each a write of its own, `pause` seconds apart."""
        for start in range(0, len(data), size):
            self.transport.write(data[start : start + size])
            await asyncio.sleep(pause)

    def request(self, target: str, *headers: str, method: str = "GET", body: bytes = b"") -> None:
        """Send a whole request (see `http1.request`)."""
        host, port = "unix", 0
        if isinstance(peer := self.transport.get_extra_info("peername"), tuple):
            host, port = peer[:2]
        self._reader.methods.append(method)
        self.send(request(target, *headers, method=method, host=f"{host}:{port}", body=body))

    def leave(self, how: str) -> None:
        """Leave as one of `LEAVING`, without waiting for anything."""
        {"close": self.transport.close, "half-close": self.half_close, "reset": self.abort}[how]()

    def half_close(self) -> None:
        """Close the writing side; go on reading. Below TLS, without a word of it."""
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            with socket.socket(fileno=os.dup(self.transport.get_extra_info("socket").fileno())) as same:
                same.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """End with RST."""
        self.ending = self.ending or Ending.SELF
        self._stop_timer()
        reset(self.transport)

    async def close(self) -> None:
        """Close (FIN; RST where bytes that came were not read); returns when the socket is closed."""
        self.ending = self.ending or Ending.SELF
        self._stop_timer()
        if not self._lost.is_set():
            if self.transport.get_write_buffer_size():
                self.transport.abort()  # the server does not read: there is no end to wait for
            else:
                self.transport.close()
            await self._lost.wait()

    # Reading.

    def pause(self) -> None:
        """Stop reading: the kernel's buffers fill, then the server's."""
        self._stop_timer()
        self._paused = True
        self.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        self._paused = False
        self.transport.resume_reading()

    @property
    def responses(self) -> list[Response]:
        """The responses so far."""
        return self._reader.responses

    @property
    def informational(self) -> list[Response]:
        """The 1xx answers so far."""
        return self._reader.informational

    @property
    def response(self) -> Response:
        """The newest response; AssertionError when no head has come whole."""
        assert self.responses, f"no response head in {bytes(self.received)!r}"
        return self.responses[-1]

    @property
    def body(self) -> bytes:
        """The body so far of the newest response, the chunked coding taken off; empty before its head."""
        return bytes(self.responses[-1].body) if self.responses else b""

    @property
    def stream(self) -> Parsed:
        """The body as a conforming event-stream client understands it."""
        return parse(self.body)

    @property
    def events(self) -> list[Event]:
        """The events of `stream`."""
        return self.stream.events

    async def wait_for(self, what: bytes | Callable[[Self], object], within: float = 20.0) -> None:
        """Wait until the bytes are in the body or in the raw bytes, or until `what(client)` is true.

        TimeoutError with all that was received; ConnectionError when the server ends the connection
        before.
        """

        def here() -> bool:
            if isinstance(what, bytes):
                return what in self.received or any(what in answer.body for answer in self.responses)
            return bool(what(self))

        await self._changes.until(lambda: here() or self.ending is not None, within, self._story)
        if not here():
            raise ConnectionError(f"ended ({self.ending}) before it came: {self._story()}")

    async def wait_response(self, within: float = 20.0) -> Response:
        """Wait for a response to be whole."""
        await self.wait_for(lambda client: client.responses and client.responses[-1].complete, within)
        return self.response

    async def wait_head(self, within: float = 20.0) -> Response:
        """Wait for a response head."""
        await self.wait_for(lambda client: client.responses, within)
        return self.response

    async def wait_end(self, within: float = 20.0) -> Ending:
        """Wait until the server ends the connection; says how."""
        await self._changes.until(lambda: self.ending is not None, within, self._story)
        assert self.ending is not None
        return self.ending

    def _story(self) -> str:
        return f"received {bytes(self.received)!r}"

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)  # of a bytearray, asyncio's TLS would fill a copy

    def buffer_updated(self, nbytes: int) -> None:
        arrival = Arrival(self._loop.time(), bytes(self._buffer[:nbytes]))
        self.received += arrival.data
        self.arrivals.append(arrival)
        if self.invalid is None:
            try:
                body = self._reader.feed(arrival.data)
            except ValueError as error:
                self.invalid = error
            else:
                if body:
                    self.body_arrivals.append(Arrival(arrival.at, body))
        if self._read_pause and not self._paused:
            self.transport.pause_reading()
            self._resume_timer = self._loop.call_later(self._read_pause, self.transport.resume_reading)
        self._changes.notify()

    def eof_received(self) -> bool:
        self.ending = self.ending or Ending.EOF
        self._reader.end()
        self._changes.notify()
        return self.transport.get_extra_info("sslcontext") is None

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_timer()
        self.ending = self.ending or (Ending.RESET if error else Ending.EOF)
        self._lost.set()
        self._changes.notify()

    def _stop_timer(self) -> None:
        if self._resume_timer is not None:
            self._resume_timer.cancel()
