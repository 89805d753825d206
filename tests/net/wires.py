"""A transport of ours at one end, a bare socket at the other, and what the protocol heard."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import cast

from sse_keepalive_proxy.net.poller import Poller, Watcher, open_poller
from sse_keepalive_proxy.net.transport import SocketTransport
from tests.support.running import soon

__all__ = ["Heard", "Refusing", "gone", "polling", "read_all", "tcp_pair", "wired"]


class Heard(asyncio.Protocol):
    """Keeps what a transport tells."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.data = b""
        self.told: list[str] = []
        self.error: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.told.append("made")

    def data_received(self, data: bytes) -> None:
        assert data
        self.data += data

    def eof_received(self) -> None:
        self.told.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")
        self.error = exc

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        return "lost" in self.told


@contextlib.contextmanager
def polling(epoll: bool) -> Iterator[Poller]:
    """A poller of the running loop, closed in the end."""
    poller = open_poller(epoll=epoll)
    try:
        yield poller
    finally:
        poller.close()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets of loopback; the first one is non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = socket.create_connection(listening.getsockname())
        mine, _ = listening.accept()
    mine.setblocking(False)
    return mine, peer


@contextlib.contextmanager
def wired(epoll: bool, heard: Heard | None = None) -> Iterator[tuple[SocketTransport, Heard, socket.socket]]:
    """A transport, what its protocol heard, and the peer: a blocking socket with a time limit."""
    heard = heard or Heard()
    with polling(epoll) as poller:
        mine, peer = tcp_pair()
        peer.settimeout(5)
        with peer:
            yield SocketTransport(poller, mine, heard), heard, peer


async def read_all(peer: socket.socket) -> bytes:
    """Everything up to the end, read in a thread."""

    def read() -> bytes:
        found = bytearray()
        while data := peer.recv(1 << 16):
            found += data
        return bytes(found)

    return await asyncio.to_thread(read)


async def gone(heard: Heard) -> None:
    """Wait until the connection is gone."""
    await soon(lambda: heard.lost)


class Refusing:
    """A poller whose kernel has no room for another descriptor (epoll_ctl(2), ENOSPC) while `full`."""

    def __init__(self, real: Poller, *, full: bool) -> None:
        self._real, self.full, self.loop = real, full, real.loop

    def watch(self, descriptor: int, watcher: Watcher, events: int, before: int) -> None:
        if self.full and not before:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._real.watch(descriptor, watcher, events, before)

    def forget(self, descriptor: int) -> None:
        self._real.forget(descriptor)

    def close(self) -> None:
        self._real.close()
