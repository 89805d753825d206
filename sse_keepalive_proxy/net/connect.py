"""Connect sockets to servers. A connection to the same host takes no turn of the event loop."""

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
"""Seconds until the next attempt when the backlog of a Unix socket is full. The kernel does not report when
there is room again.
"""

_ATTEMPT_DELAY = 0.25
"""Seconds between the start of one attempt and the start of the next, in parallel (RFC 8305, section 5)."""

_UNDER_WAY = frozenset({errno.EINPROGRESS, errno.EALREADY})

Address = tuple[str | int | bytes, ...] | str


class Resolver:
    """Look up names with the loop's resolver. At most one look-up runs at a time for each name and port.

    Calls made during a look-up share its result. The result is not cached: the next call starts a new one.
    """

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, int], asyncio.Task[list[AddrInfoType]]] = {}

    async def resolve(self, host: str, port: int) -> list[AddrInfoType]:
        """Return the addresses of `host`, in the resolver's order. Raises OSError, and UnicodeError if `host`
        cannot be a name.

        Cancelling a caller does not cancel the look-up, even if there is no other caller: the resolver's
        thread cannot be stopped, and a second thread would wait for the same server.
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
            done.exception()  # without this call asyncio reports an exception that no caller retrieved


async def _look_up(host: str, port: int) -> list[AddrInfoType]:
    return list(await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM))


async def connect_tcp(host: str, port: int, *, within: float, resolver: Resolver) -> socket.socket:
    """Return a non-blocking socket connected to `host`, a name or an address, in at most `within` seconds.

    The addresses of a name are tried in the resolver's order, with alternating families. The next attempt
    starts when the one before it fails, or after `_ATTEMPT_DELAY`, in parallel (RFC 8305). Raises OSError and
    TimeoutError.
    """
    literal = _literal(host, port)
    if literal is not None:
        sock, connected = _begin(*literal)
        if connected:
            return _not_itself(sock, port)
        async with asyncio.timeout(within):
            return _not_itself(await _finish(sock, literal[1]), port)
    async with asyncio.timeout(within):
        found = await resolver.resolve(host, port)
        sock = await start_connection(found, happy_eyeballs_delay=_ATTEMPT_DELAY, socket_factory=_tcp_socket)
    return _not_itself(sock, port)


async def connect_unix(path: str, *, within: float) -> socket.socket:
    """Return a non-blocking socket connected to `path` in at most `within` seconds. Raises OSError and
    TimeoutError.
    """
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
    """Start to connect. Return the socket, and whether it is already connected. Raises OSError."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        failed = sock.connect_ex(address)
        if failed == errno.EINPROGRESS:
            failed = sock.connect_ex(address)  # the same host has answered by now; this saves 20 µs
    except BaseException:
        sock.close()
        raise
    if failed and failed not in _UNDER_WAY:
        sock.close()
        raise OSError(failed, os.strerror(failed))
    return sock, not failed


async def _finish(sock: socket.socket, address: Address) -> socket.socket:
    """Return `sock` when it is connected. Close it if that fails. Raises OSError."""
    try:
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _not_itself(sock: socket.socket, port: int) -> socket.socket:
    """Return `sock` unless it is connected to itself. Raises ConnectionRefusedError if it is.

    The kernel may give a connection its own destination as the local port, if no server listens there. Such
    a connection would block the port for the server.
    """
    if port >= _first_ephemeral() and sock.getsockname() == sock.getpeername():
        sock.close()
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    return sock


@lru_cache(maxsize=1)
def _first_ephemeral() -> int:
    """Return the lowest port that the kernel assigns to connections, or 1024 if it is not known."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 1024


@lru_cache(maxsize=256)
def _literal(host: str, port: int) -> tuple[int, Address] | None:
    """Return family and address if `host` is an IP address, otherwise None."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return family, (host, port)
    return None
