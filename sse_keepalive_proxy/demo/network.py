"""The network between a page and a server, which the demo can take away from the page."""

from __future__ import annotations

import asyncio
import contextlib

__all__ = ["Network"]

_HOST = "127.0.0.1"
_PIECE = 65536  # bytes


class Network:
    """A port of loopback that leads to another one. While it is down, it breaks every connection."""

    def __init__(self) -> None:
        self.url = ""
        self._port = 0
        self._up = True
        self._listener: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()  # of both sides of the open connections

    async def start(self, port: int) -> None:
        """Listen at `url`, and lead to `port`."""
        self._port = port
        self._listener = await asyncio.start_server(self._accepted, _HOST, 0)
        self.url = f"http://{_HOST}:{self._listener.sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        """Break every connection, and accept none."""
        self.turn(up=False)
        if self._listener is not None:
            self._listener.close()

    def turn(self, *, up: bool) -> None:
        """Take the network away, or bring it back."""
        self._up = up
        if not up:
            for end in self._ends:
                end.transport.abort()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            their_reader, their_writer = await asyncio.open_connection(_HOST, self._port)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, their_writer}
        self._ends |= ends
        if not self._up:
            self.turn(up=False)
        async with asyncio.TaskGroup() as both:
            both.create_task(_copy(reader, their_writer))
            both.create_task(_copy(their_reader, writer))
        self._ends -= ends


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until one side ends, and close the connection to the other one."""
    with contextlib.suppress(OSError):
        while data := await reader.read(_PIECE):
            writer.write(data)
            await writer.drain()
    writer.close()
