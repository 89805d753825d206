"""Connects a socket. To a server on the same host that takes no turn of the loop."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from functools import lru_cache
from pathlib import Path

__all__ = ["connect_tcp", "connect_unix"]

_FULL = 0.02
"""Seconds until a Unix socket whose backlog is full is tried again: nobody tells when it is not."""

_UNDER_WAY = frozenset({errno.EINPROGRESS, errno.EALREADY})

Address = tuple[str | int | bytes, ...] | str


async def connect_tcp(host: str, port: int, *, within: float) -> socket.socket:
    """A non-blocking socket connected to `host`, a name or an address, `within` so many seconds: to the first
    of its addresses, in the resolver's order, that accepts. Raises the last one's OSError, and TimeoutError.
    """
    literal = _literal(host, port)
    if literal is not None:
        sock, connected = _begin(*literal)
        if connected:
            return _other_end(sock, port)
        async with asyncio.timeout(within):
            return _other_end(await _finish(sock, literal[1]), port)
    async with asyncio.timeout(within):
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        last: OSError | None = None
        for family, _, _, _, address in found:
            try:
                sock, connected = _begin(family, address)
                return _other_end(sock if connected else await _finish(sock, address), port)
            except OSError as error:
                last = error
    raise last or OSError(errno.EADDRNOTAVAIL, "the name has no address")


async def connect_unix(path: str, *, within: float) -> socket.socket:
    """A non-blocking socket connected to the one at `path`. Raises OSError and TimeoutError."""
    async with asyncio.timeout(within):
        while True:
            try:
                return _begin(socket.AF_UNIX, path)[0]
            except BlockingIOError:
                await asyncio.sleep(_FULL)


def _begin(family: int, address: Address) -> tuple[socket.socket, bool]:
    """A socket, and whether it is connected already."""
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
    """`sock` once it is connected; closed, when it will not be."""
    try:
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _other_end(sock: socket.socket, port: int) -> socket.socket:
    """`sock`, unless it has met itself: where nobody listens on a port that the kernel also lends, a
    connection to it may be given that very port, and would keep the server from coming back.
    """
    if port >= _first_lent() and sock.getsockname() == sock.getpeername():
        sock.close()
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    return sock


@lru_cache(maxsize=1)
def _first_lent() -> int:
    """The lowest port that the kernel lends to connections; where it does not tell, the lowest it may."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 1024


@lru_cache(maxsize=256)
def _literal(host: str, port: int) -> tuple[int, Address] | None:
    """Family and address where `host` needs no resolver."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return family, (host, port)
    return None
