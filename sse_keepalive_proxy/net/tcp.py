"""What the kernel does for a connection: finds a peer that vanished, tells how much one has taken, drops what
one that takes nothing has left.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import sys
import termios
from asyncio import Transport
from typing import Any, Final

__all__ = [
    "has_left",
    "has_unread",
    "keep_alive",
    "peer_address",
    "prepare",
    "reset",
    "scheme",
    "shown_address",
    "taken",
    "untaken",
    "watch",
]

_LONGEST = (1 << 31) - 1
"""Milliseconds that TCP_USER_TIMEOUT can hold: 24 days."""

_USER_TIMEOUT: Final = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux has it

_ACKED: Final = slice(120, 128)
"""Where `tcpi_bytes_acked` is in Linux's `struct tcp_info` (since 4.1)."""

_TCP = frozenset({socket.AF_INET, socket.AF_INET6})
_LEFT = frozenset({7, 8})
"""TCP_CLOSE and TCP_CLOSE_WAIT of Linux's `tcp_states.h`."""

_PROBES: Final = [
    (option, value)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
    if (option := getattr(socket, name, None)) is not None
]
"""Seconds, seconds, probes: a peer that vanished is found in about two minutes
(behaviour.md#no-stream-outlives-its-client).
"""


def prepare(listening: socket.socket, send_timeout: float) -> None:
    """Set the options of every connection accepted from `listening`: on Linux they are inherited, which saves
    six system calls each.
    """
    if listening.family in _TCP:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _end_vanished(listening, send_timeout)
    keep_alive(listening)


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel probe an idle TCP connection, and end it when its peer has vanished."""
    if sock.family in _TCP:
        with contextlib.suppress(OSError):  # it is closed already, where the kernel minds that
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _PROBES:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)


def watch(transport: Transport, write_timeout: float) -> None:
    """Let the kernel end a connection whose peer has vanished: writing alone does not find out for hours
    (facts.md#vanished-clients).
    """
    sock = transport.get_extra_info("socket")
    if sock is not None:
        try:
            _end_vanished(sock, write_timeout)
        except OSError:  # a Unix socket's peer does not vanish
            return


def _end_vanished(sock: socket.socket, after: float) -> None:
    if _USER_TIMEOUT is not None:
        sock.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, min(round(after * 1000), _LONGEST))


def reset(transport: Transport) -> None:
    """End a connection with RST. A plain abort would leave the kernel megabytes to offer a client that
    takes none of them.
    """
    sock = _tcp(transport)
    if sock is not None:
        with contextlib.suppress(OSError):  # it is closed already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def taken(transport: Transport, written: int) -> int:
    """Return how many of the bytes `written` have arrived at the peer: not those that wait here nor, where
    the kernel tells (Linux), those in its send queue, which can be megabytes.

    Behind TLS several buffers hold other bytes than were written. There it is what the peer has acknowledged.
    """
    sock = _tcp(transport)
    if sock is not None and transport.get_extra_info("sslcontext") is not None:
        with contextlib.suppress(OSError):
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED.stop)
            return int.from_bytes(info[_ACKED], sys.byteorder)
    return written - untaken(transport)


def untaken(transport: Transport) -> int:
    """Return how many bytes wait: in the transport and, where the kernel tells (Linux), in its send queue."""
    waiting = transport.get_write_buffer_size()
    sock = _tcp(transport)
    if sock is not None:
        with contextlib.suppress(OSError):
            waiting += struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    return waiting


def has_left(transport: Transport) -> bool:
    """Whether the peer has closed or broken its connection, told without reading (on Linux; else no)."""
    sock = _tcp(transport)
    if sock is None or not hasattr(socket, "TCP_INFO"):
        return False
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _LEFT
    except OSError:
        return True


def has_unread(transport: Transport) -> bool:
    """Return whether bytes of the peer wait in the kernel for the next read."""
    sock = _tcp(transport)
    if sock is None:
        return False
    try:
        return any(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)))
    except OSError:
        return False


def peer_address(transport: Transport | None) -> str:
    """The address at the other end, IPv4 as such; nothing for a unix socket, `?` when it has gone."""
    address = transport.get_extra_info("peername") if transport is not None else None
    return "?" if address is None else shown_address(address)


def shown_address(name: Any) -> str:
    """Return the address of a socket's `name`, as `getpeername` gives it, like `peer_address`."""
    return str(name[0]).removeprefix("::ffff:") if isinstance(name, tuple) else ""


def scheme(transport: Transport | None) -> bytes:
    """By what scheme the client has come."""
    return b"https" if transport is not None and transport.get_extra_info("sslcontext") else b"http"


def _tcp(transport: Transport) -> socket.socket | None:
    sock: socket.socket | None = transport.get_extra_info("socket")
    return sock if sock is not None and sock.family in _TCP else None
