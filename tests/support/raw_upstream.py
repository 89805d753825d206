"""A scripted upstream on a raw socket: it says exactly what a test wants and keeps all it hears.

A script is an async function of the connection, or a list of steps:

    async with RawUpstream([GOT_REQUEST, stream_head(), chunk(b"data: 1\\n\\n"), go_on, RESET]) as upstream:
        ...
        go_on.set()
        connection = await upstream.connection()
        assert (await connection.request()).target == "/events"

Several scripts serve one connection each, the last one all that follow. When a script is over the
connection stays open until the peer closes it: nothing happens that was not written down.
"""

from __future__ import annotations

import asyncio
import os
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum, auto
from typing import Self, TypeAlias, cast

from tests.support.http1 import LAST_CHUNK, Request, RequestReader, chunk, joined, response, stream_head
from tests.support.looping import Changes
from tests.support.programs import free_port
from tests.support.sockets import Ending, reset

__all__ = [
    "CLOSE",
    "GOT_REQUEST",
    "HALF_CLOSE",
    "HOLD",
    "LAST_CHUNK",
    "RESET",
    "RawUpstream",
    "Script",
    "Step",
    "UpstreamConnection",
    "chunk",
    "joined",
    "response",
    "stream_head",
]


class Action(Enum):
    """Steps that are not bytes."""

    GOT_REQUEST = auto()
    CLOSE = auto()
    RESET = auto()
    HALF_CLOSE = auto()
    HOLD = auto()


GOT_REQUEST = Action.GOT_REQUEST  # wait for the next whole request
CLOSE = Action.CLOSE  # send what is left, then close (FIN)
RESET = Action.RESET  # RST
HALF_CLOSE = Action.HALF_CLOSE  # close the writing side only
HOLD = Action.HOLD  # wait until the peer closes

Step: TypeAlias = bytes | asyncio.Event | float | Action  # a number is seconds of real time
Script: TypeAlias = "Callable[[UpstreamConnection], Awaitable[None]] | Sequence[Step]"


class UpstreamConnection(asyncio.Protocol):
    """One connection somebody made to the upstream."""

    def __init__(self, upstream: RawUpstream) -> None:
        self._upstream = upstream
        self._reader = RequestReader()
        self._taken = 0
        self._changes = Changes()
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._task: asyncio.Task[None] | None = None
        self.received = bytearray()  # every byte, as it came
        self.ending: Ending | None = None  # how the peer ended it; SELF when this side was first
        self.lost = False  # the socket is closed
        self.invalid: ValueError | None = None  # the peer sent something that is no HTTP request

    # What scripts and tests use.

    @property
    def transport(self) -> asyncio.Transport:
        """The connection's transport."""
        assert self._transport is not None
        return self._transport

    @property
    def requests(self) -> list[Request]:
        """The requests so far; a request is listed once its head is whole."""
        return self._reader.requests

    @property
    def unsent(self) -> int:
        """Bytes the peer's slowness keeps in this process."""
        return self.transport.get_write_buffer_size()

    async def request(self, index: int = 0, within: float = 20.0) -> Request:
        """The `index`-th request of this connection, with its whole body."""
        await self._changes.until(
            lambda: len(self.requests) > index and self.requests[index].complete,
            within,
            lambda: f"request {index}; received {bytes(self.received)!r}",
        )
        return self.requests[index]

    async def next_request(self, within: float = 20.0) -> Request:
        """The first request that no earlier call returned."""
        request = await self.request(self._taken, within)
        self._taken += 1
        return request

    async def send(self, data: bytes) -> None:
        """Send bytes; waits while the peer does not take them. ConnectionResetError once it has gone."""
        if self.lost or self.transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        self.transport.write(data)
        await self._writable.wait()

    def put(self, data: bytes) -> None:
        """Send `data`, which is in the peer's kernel when this returns: no loop's transport promises that."""
        descriptor = self.transport.get_extra_info("socket").fileno()
        assert os.write(descriptor, data) == len(data)

    async def wait_blocked(self, within: float = 20.0) -> None:
        """Wait until the peer takes no more: bytes stay in this process."""
        await self._changes.until(
            lambda: not self._writable.is_set(), within, lambda: f"{self.unsent} unsent"
        )

    async def send_split(self, data: bytes, size: int = 1, pause: float = 0.0) -> None:
        """Send `data` in pieces of `size` bytes, each a write of its own, `pause` seconds apart."""
        for start in range(0, len(data), size):
            await self.send(data[start : start + size])
            await asyncio.sleep(pause)

    def half_close(self) -> None:
        """Close the writing side; what the peer sends is still heard."""
        self.transport.write_eof()

    def close(self) -> None:
        """Send what is left, then close."""
        self.ending = self.ending or Ending.SELF
        self.transport.close()

    def reset(self) -> None:
        """End with RST."""
        self.ending = self.ending or Ending.SELF
        reset(self.transport)

    async def wait_closed(self, within: float = 20.0) -> Ending:
        """Wait until the peer has ended its side (or this side was closed); says how."""
        await self._changes.until(lambda: self.ending is not None, within, lambda: f"{self!r} is open")
        assert self.ending is not None
        return self.ending

    async def wait_received(self, needle: bytes, within: float = 20.0) -> None:
        """Wait until the peer has sent `needle`."""
        await self._changes.until(
            lambda: needle in self.received,
            within,
            lambda: f"{needle!r}; received {bytes(self.received)!r}",
        )

    async def play(self, steps: Sequence[Step]) -> None:
        """Do the steps one after the other."""
        for step in steps:
            match step:
                case bytes():
                    await self.send(step)
                case asyncio.Event():
                    await step.wait()
                case int() | float():
                    await asyncio.sleep(step)
                case Action.GOT_REQUEST:
                    await self.next_request(within=60)
                case Action.CLOSE:
                    self.close()
                case Action.RESET:
                    self.reset()
                case Action.HALF_CLOSE:
                    self.half_close()
                case Action.HOLD:
                    await self.wait_closed(within=3600)

    def __repr__(self) -> str:
        return f"<UpstreamConnection {len(self.requests)} requests, ended: {self.ending}>"

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self._task = asyncio.get_running_loop().create_task(self._run(self._upstream.joined(self)))

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.invalid is None:
            try:
                self._reader.feed(data)
            except ValueError as error:
                self.invalid = error
        self._changes.notify()

    def eof_received(self) -> bool:
        self.ending = self.ending or Ending.EOF
        self._changes.notify()
        self._upstream.changes.notify()
        return self._upstream.half_opens

    def pause_writing(self) -> None:
        self._writable.clear()
        self._changes.notify()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.ending = self.ending or (Ending.RESET if error else Ending.EOF)
        self.lost = True
        self._writable.set()
        if self._task is not None:
            self._task.cancel()
        self._changes.notify()
        self._upstream.changes.notify()

    # The script.

    async def _run(self, script: Script) -> None:
        try:
            if callable(script):
                await script(self)
            else:
                await self.play(script)
            await self.wait_closed(within=3600)
        except ConnectionResetError:
            pass  # the peer left in the middle of the script: `ending` says so
        except Exception as error:  # noqa: BLE001 - shown by RawUpstream.stop(), where the test can fail
            self._upstream.script_errors.append(error)
        self.transport.close()

    async def ended(self) -> None:
        """Stop the script; returns when its task is over."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if not self.lost:
            self.transport.abort()


class RawUpstream:
    """Listens, and gives each connection its script. An async context manager.

    `scripts` may be changed while it runs; `connections` lists all there ever were, in order.
    """

    def __init__(
        self,
        *scripts: Script,
        path: str | os.PathLike[str] | None = None,
        ssl: ssl_module.SSLContext | None = None,
    ) -> None:
        self.scripts: list[Script] = list(scripts) or [[]]
        self.connections: list[UpstreamConnection] = []
        self.script_errors: list[Exception] = []
        self.changes = Changes()
        self.host = "127.0.0.1"
        self.port = 0
        self._path = path
        self._ssl = ssl
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`, or `unix:/path`."""
        if self._path is not None:
            return f"unix:{os.fspath(self._path)}"
        return f"{'https' if self._ssl else 'http'}://{self.host}:{self.port}"

    @property
    def half_opens(self) -> bool:
        """Whether it may go on after the peer's end. TLS knows no half-open connection."""
        return self._ssl is None

    @property
    def open_connections(self) -> int:
        """Connections whose peer has not ended them."""
        return sum(connection.ending is None for connection in self.connections)

    async def start(self) -> Self:
        """Listen. After `refuse()` the same port is used again."""
        loop = asyncio.get_running_loop()
        if self._path is not None:
            self._server = await loop.create_unix_server(
                lambda: UpstreamConnection(self), os.fspath(self._path), ssl=self._ssl, backlog=2048
            )
            return self
        self.port = self.port or free_port()  # nobody else gets it while it refuses
        self._server = await loop.create_server(
            lambda: UpstreamConnection(self), self.host, self.port, ssl=self._ssl, backlog=2048
        )
        return self

    def refuse(self) -> None:
        """Stop listening: new connections are refused, open ones live on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def stop(self) -> None:
        """End everything. Raises what a script raised, for the test to fail."""
        self.refuse()
        await asyncio.gather(*(connection.ended() for connection in self.connections))
        await asyncio.sleep(0)  # transports close their sockets in the loop's next turn
        if self.script_errors:
            raise self.script_errors[0]

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def connection(self, index: int = 0, within: float = 20.0) -> UpstreamConnection:
        """The `index`-th connection, waiting until it is made."""
        await self.changes.until(
            lambda: len(self.connections) > index,
            within,
            lambda: f"connection {index}; there are {len(self.connections)}",
        )
        return self.connections[index]

    async def wait_connections(self, count: int, within: float = 20.0) -> None:
        """Wait until `count` connections are open at once."""
        await self.changes.until(
            lambda: self.open_connections == count, within, lambda: f"{self.open_connections} open"
        )

    async def wait_all_closed(self, within: float = 20.0) -> None:
        """Wait until no connection is open."""
        await self.wait_connections(0, within)

    def joined(self, connection: UpstreamConnection) -> Script:
        """A connection was made: list it and choose its script."""
        self.connections.append(connection)
        self.changes.notify()
        return self.scripts[min(len(self.connections), len(self.scripts)) - 1]
