"""Two bad hops between a client and a server: one that buffers, one that drops idle connections."""

from __future__ import annotations

import asyncio
from typing import Self, cast

from tests.support.looping import Changes
from tests.support.sockets import reset

__all__ = ["BufferingHop", "IdleHop"]

_READ = 65536


class _Pair:
    """One connection through a hop: bytes of `near` (the client) and `far` (the server)."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near = near
        self.far = far

    async def close(self) -> None:
        self.near.close()
        self.far.close()
        await asyncio.gather(
            *(writer.wait_closed() for writer in (self.near, self.far)), return_exceptions=True
        )


class _Hop:
    """Accepts, connects onwards, sends requests on at once. What becomes of responses is `respond`'s."""

    def __init__(self, target_port: int, target_host: str = "127.0.0.1") -> None:
        self._target = (target_host, target_port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self.changes = Changes()
        self.host = "127.0.0.1"
        self.port = 0
        self.connections = 0  # how many clients ever connected

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"http://{self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self.host, 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._ended.set()
        await asyncio.gather(*self._tasks)

    async def respond(self, server: asyncio.StreamReader, pair: _Pair) -> None:
        """Pass the server's bytes on to the client, in this hop's manner."""
        raise NotImplementedError

    async def _serve(self, client: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            server, far = await asyncio.open_connection(*self._target)
        except OSError:
            near.close()
            return
        pair = _Pair(near, far)
        running = [
            asyncio.ensure_future(work)
            for work in (self._request(client, far), self.respond(server, pair), self._ended.wait())
        ]
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for work in running:
            work.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await pair.close()

    async def _request(self, client: asyncio.StreamReader, far: asyncio.StreamWriter) -> None:
        while data := await client.read(_READ):
            far.write(data)
            await far.drain()


class BufferingHop(_Hop):
    """Holds a response back until `hold` bytes have come or the server has ended it.

    `hold=None` holds everything until the end, as a Quick Tunnel does
    (facts.md#quick-tunnels-hold-get). After a release it
    holds the next `hold` bytes.
    """

    def __init__(self, target_port: int, hold: int | None = 4096, target_host: str = "127.0.0.1") -> None:
        super().__init__(target_port, target_host)
        self._hold = hold
        self.held = 0  # bytes waiting in the hop now, of all connections

    async def wait_held(self, count: int, within: float = 20.0) -> None:
        """Wait until at least `count` bytes are held."""
        await self.changes.until(lambda: self.held >= count, within, lambda: f"{self.held} bytes held")

    async def respond(self, server: asyncio.StreamReader, pair: _Pair) -> None:
        """Collect, then pass on."""
        waiting = bytearray()
        try:
            while data := await server.read(_READ):
                waiting += data
                self.held += len(data)
                if self._hold is not None and len(waiting) >= self._hold:
                    pair.near.write(bytes(waiting))
                    self.held -= len(waiting)
                    waiting.clear()
                    await pair.near.drain()
                self.changes.notify()
            pair.near.write(bytes(waiting))
            await pair.near.drain()
        finally:
            self.held -= len(waiting)


class IdleHop(_Hop):
    """Ends a connection when the server has sent nothing for `idle` seconds
    (facts.md#idle-timeouts-of-hops).

    `with_reset` ends it with RST on the client's side instead of a clean close.
    """

    def __init__(
        self, target_port: int, idle: float, *, with_reset: bool = False, target_host: str = "127.0.0.1"
    ) -> None:
        super().__init__(target_port, target_host)
        self._idle = idle
        self._with_reset = with_reset
        self.died = 0  # connections ended for being idle

    async def wait_died(self, count: int = 1, within: float = 20.0) -> None:
        """Wait until `count` connections have been ended for being idle."""
        await self.changes.until(lambda: self.died >= count, within, lambda: f"{self.died} died")

    async def respond(self, server: asyncio.StreamReader, pair: _Pair) -> None:
        """Pass on at once, and give up on silence."""
        while True:
            try:
                async with asyncio.timeout(self._idle):
                    data = await server.read(_READ)
            except TimeoutError:
                self.died += 1
                if self._with_reset:
                    reset(cast(asyncio.Transport, pair.near.transport))
                self.changes.notify()
                return
            if not data:
                return
            pair.near.write(data)
            await pair.near.drain()
