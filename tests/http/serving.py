"""A frontend with a handler of the test's own, on a port of 127.0.0.1."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

from aiohttp import web

from sse_keepalive_proxy.http.connection import ClientConnection
from sse_keepalive_proxy.http.frontend import ConnectionLimits, Frontend, Handler
from sse_keepalive_proxy.net.listener import Listener
from sse_keepalive_proxy.net.poller import open_poller
from tests.support.http1 import response
from tests.support.raw_client import RawClient
from tests.support.running import soon

__all__ = ["Held", "Serving", "echo"]


async def echo(connection: ClientConnection, request: web.BaseRequest) -> bool:
    """Take the whole body, answer with the target and the body, and keep the connection if it may be."""
    body = b""
    while data := await request.content.readany():
        body += data
    connection.write(response(body=connection.head.target + body))
    return connection.keeps_alive


class Held:
    """Answers once `go` is set, and remembers what became of each request."""

    def __init__(self, *, keep_alive: bool = True) -> None:
        self.story: list[str] = []
        self.go = asyncio.Event()
        self._keep_alive = keep_alive

    async def __call__(self, connection: ClientConnection, asked: web.BaseRequest) -> bool:
        self.story.append(f"begin {connection.head.target.decode()}")
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.story.append(f"cancelled {connection.head.target.decode()}")
            raise
        connection.write(response(body=connection.head.target))
        self.story.append(f"end {connection.head.target.decode()}")
        return self._keep_alive and connection.keeps_alive


class Serving:
    """On leaving, nothing of it may be left: no connection, no deadline of one, no task.

    `refused` is what the frontend was told, as status, reason and peer. `room` may be set at any time.
    """

    def __init__(
        self,
        handler: Handler = echo,
        *,
        max_head: int = 4096,
        head_timeout: float = 60.0,
        idle_timeout: float = 3630.0,
    ) -> None:
        self.refused: list[tuple[int, str, str]] = []
        self.room: Callable[[], int] = lambda: 1
        limits = ConnectionLimits(
            max_head=max_head,
            head_timeout=head_timeout,
            room=lambda: self.room(),
            refused=lambda *told: self.refused.append(told),
            idle_timeout=idle_timeout,
        )
        self.frontend = Frontend(handler, limits)
        self._poller = open_poller()
        self._listener: Listener | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        self.port = sock.getsockname()[1]
        self._listener = self.frontend.listen(self._poller, sock)
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        assert self._listener is not None
        self._listener.close()
        await self.frontend.cut()
        await soon(lambda: not self.frontend.connections, lambda: "connections are left")
        await asyncio.sleep(0)  # sockets are closed in the turn in which the end is told
        self._poller.close()
        if kind is None:
            left = [sleeper for tick in self.frontend.timers._sleepers.values() for sleeper in tick]
            assert not left, f"deadlines of what is gone: {left}"

    def limit(self, **changed: Any) -> None:
        """Change limits: from now on, they are those of every connection."""
        self.frontend.limits = replace(self.frontend.limits, **changed)

    async def client(self) -> RawClient:
        """A new connection to it."""
        return await RawClient.connect(port=self.port)

    async def served(self) -> ClientConnection:
        """The one connection that there is, once it is there."""
        await soon(lambda: len(self.frontend.connections) == 1)
        (connection,) = self.frontend.connections
        return connection

    async def until_gone(self) -> None:
        """Wait until no connection is left."""
        await soon(lambda: not self.frontend.connections, lambda: f"left: {self.frontend.connections}")
