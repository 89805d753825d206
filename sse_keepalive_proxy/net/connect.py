"""Connects a socket. To a server on the same host that takes no turn of the loop."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from functools import lru_cache
from pathlib import Path

from aiohappyeyeballs import AddrInfoType, start_connection

from sse_keepalive_proxy.net.tasks import spawn

__all__ = ["Resolver", "connect_tcp", "connect_unix"]

_FULL = 0.02
"""Seconds until a Unix socket whose backlog is full is tried again: nobody tells when it is not."""

_ATTEMPT_DELAY = 0.25
"""Seconds that an address has before the next one is tried beside it (RFC 8305, section 5)."""

_UNDER_WAY = frozenset({errno.EINPROGRESS, errno.EALREADY})

Address = tuple[str | int | bytes, ...] | str


class Resolver:
    """Looks names up with the loop's resolver, one look-up at a time for each name and port.

    Whoever asks meanwhile gets its result. Nothing is kept of it: the next one who asks begins a new look-up.
    """

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, int], asyncio.Task[list[AddrInfoType]]] = {}

    async def resolve(self, host: str, port: int) -> list[AddrInfoType]:
        """Return the addresses of `host`, in the resolver's order. Raises OSError, and UnicodeError for what
        cannot be a name.

        A caller that is cancelled leaves the look-up to the others. When none is left it runs on: the
        resolver's thread cannot be stopped, and a second one would wait for the same server.
        """
        key = host, port
        looking_up = self._under_way.get(key)
        if looking_up is None:
            looking_up = self._under_way[key] = spawn(_look_up(host, port))
            looking_up.add_done_callback(lambda done: self._finish(key, done))
        return await asyncio.shield(looking_up)

    def _finish(self, key: tuple[str, int], done: asyncio.Task[list[AddrInfoType]]) -> None:
        del self._under_way[key]
        if not done.cancelled():
            done.exception()  # it is retrieved even when nobody waits any more


async def _look_up(host: str, port: int) -> list[AddrInfoType]:
    return list(await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM))


async def connect_tcp(host: str, port: int, *, within: float, resolver: Resolver) -> socket.socket:
    """Return a non-blocking socket connected to `host`, a name or an address, within so many seconds.

    The addresses of a name are tried in the resolver's order, families in turn, each beside the ones before
    it as soon as those have failed or have had their time (RFC 8305). Raises OSError and TimeoutError.
    """
    literal = _literal(host, port)
    if literal is not None:
        sock, connected = _begin(*literal)
        if connected:
            return _other_end(sock, port)
        async with asyncio.timeout(within):
            return _other_end(await _finish(sock, literal[1]), port)
    async with asyncio.timeout(within):
        found = await resolver.resolve(host, port)
        sock = await start_connection(found, happy_eyeballs_delay=_ATTEMPT_DELAY, socket_factory=_tcp_socket)
    return _other_end(sock, port)


async def connect_unix(path: str, *, within: float) -> socket.socket:
    """Return a non-blocking socket connected to the one at `path`. Raises OSError and TimeoutError."""
    async with asyncio.timeout(within):
        while True:
            try:
                return _begin(socket.AF_UNIX, path)[0]
            except BlockingIOError:
                await asyncio.sleep(_FULL)


def _tcp_socket(address: AddrInfoType) -> socket.socket:
    sock = socket.socket(address[0], socket.SOCK_STREAM)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _begin(family: int, address: Address) -> tuple[socket.socket, bool]:
    """Return a socket, and whether it is connected already."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        failed = sock.connect_ex(address)
        if failed == errno.EINPROGRESS:
            failed = sock.connect_ex(address)  # the same host has answered by now: 20 µs less than a wait
    except BaseException:
        sock.close()
        raise
    if failed and failed not in _UNDER_WAY:
        sock.close()
        raise OSError(failed, os.strerror(failed))
    return sock, not failed


async def _finish(sock: socket.socket, address: Address) -> socket.socket:
    """Return `sock` once it is connected; close it when it will not be."""
    try:
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _other_end(sock: socket.socket, port: int) -> socket.socket:
    """Return `sock`, unless it has met itself: where nobody listens on a port that the kernel also lends, a
    connection to it may be given that very port, and would keep the server from coming back.
    """
    if port >= _first_lent() and sock.getsockname() == sock.getpeername():
        sock.close()
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    return sock


@lru_cache(maxsize=1)
def _first_lent() -> int:
    """Return the lowest port that the kernel lends to connections; where that is not known, 1024."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 1024


@lru_cache(maxsize=256)
def _literal(host: str, port: int) -> tuple[int, Address] | None:
    """Return family and address where `host` needs no resolver."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return family, (host, port)
    return None
