"""Socket options and kernel data of connections: keep-alive probes, timeouts, queue sizes, addresses."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import sys
import termios
from array import array
from asyncio import Transport
from typing import Any, Final

__all__ = [
    "drop",
    "has_left",
    "has_unread",
    "ignore_newcomers",
    "is_broken",
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
"""Milliseconds, the highest value of TCP_USER_TIMEOUT: 24 days."""

_USER_TIMEOUT: Final = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux only

_ACKED: Final = slice(120, 128)
"""The place of `tcpi_bytes_acked` in Linux's `struct tcp_info` (since 4.1)."""

_TCP = frozenset({socket.AF_INET, socket.AF_INET6})
_CLOSED, _CLOSE_WAIT = 7, 8
"""States of Linux's `tcp_states.h`: the connection is over; the peer has closed its side."""

_PROBES: Final = [
    (option, value)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
    if (option := getattr(socket, name, None)) is not None
]
"""Seconds, seconds, number of probes. A vanished peer is detected after about two minutes
(behaviour.md#no-stream-outlives-its-client).
"""


_ATTACH_FILTER: Final = 26 if sys.platform == "linux" else None  # SO_ATTACH_FILTER
_NO_SYN: Final = array(
    "B",
    b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (0x30, 0, 0, 13),  # load the flags of the TCP header
            (0x54, 0, 0, 0x12),  # and of these SYN and ACK
            (0x15, 0, 1, 0x02),  # if it is SYN alone:
            (0x06, 0, 0, 0),  # drop the packet
            (0x06, 0, 0, 0xFFFFFFFF),  # otherwise keep it
        )
    ),
)
"""A program for the kernel (socket(7), SO_ATTACH_FILTER): it drops the first packet of a new connection."""


def ignore_newcomers(listening: socket.socket) -> None:
    """Drop the first packet of each connection that begins from now on. Its client sends it again after a
    second, then to another process that listens on the same address.

    The filter stays with the socket: it must not be one that another process has, too.
    """
    if _ATTACH_FILTER is not None and listening.family in _TCP:
        address, size = _NO_SYN.buffer_info()
        with contextlib.suppress(OSError):  # not allowed: a few newcomers may be reset
            listening.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", size // 8, address))


def prepare(listening: socket.socket, send_timeout: float) -> None:
    """Set the options of all connections that `listening` will accept. `send_timeout` is seconds.

    On Linux connections inherit the options of the listening socket, which saves six system calls for each.
    """
    if listening.family in _TCP:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _end_vanished(listening, send_timeout)
    keep_alive(listening)


def keep_alive(sock: socket.socket) -> None:
    """Let the kernel probe an idle TCP connection, and end it if the peer has vanished."""
    try:
        for option, value in _PROBES:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except OSError:  # the peer of a Unix socket cannot vanish; some kernels refuse options of a closed socket
        return


def watch(transport: Transport, write_timeout: float) -> None:
    """Let the kernel end a connection whose peer acknowledges nothing for `write_timeout` seconds. Without
    this (0), a vanished peer is not detected for hours (facts.md#vanished-clients).
    """
    sock = transport.get_extra_info("socket")
    if sock is not None:
        try:
            _end_vanished(sock, write_timeout)
        except OSError:  # the peer of a Unix socket cannot vanish
            return


def _end_vanished(sock: socket.socket, after: float) -> None:
    if _USER_TIMEOUT is not None:
        sock.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, min(round(after * 1000), _LONGEST))


def reset(transport: Transport) -> None:
    """Close a connection with RST. After a plain abort the kernel would keep unsent bytes, which can be
    megabytes, for a client that does not read. A Unix socket cannot be reset: it is closed.
    """
    sock = _tcp(transport)
    if sock is not None:
        with contextlib.suppress(OSError):  # already closed
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def drop(transport: Transport, *, whole: bool) -> None:
    """Close a connection now. It is reset if the last message on it is not `whole` or its bytes still wait in
    the transport, where they are lost: after a normal close, a message whose end is the end of the connection
    would look complete.
    """
    transport.abort() if whole and not transport.get_write_buffer_size() else reset(transport)


def taken(transport: Transport, written: int) -> int:
    """Return how many of the `written` bytes the peer has received. Bytes in the transport do not count, and
    on Linux those in the kernel's send queue, which can be megabytes, do not either.

    With TLS, buffers hold encrypted bytes, not the bytes written. The result is then the number of bytes that
    the peer has acknowledged.
    """
    sock = _tcp(transport)
    if sock is not None and transport.get_extra_info("sslcontext") is not None:
        with contextlib.suppress(OSError):
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED.stop)
            return int.from_bytes(info[_ACKED], sys.byteorder)
    return written - untaken(transport)


def untaken(transport: Transport) -> int:
    """Return how many bytes wait in the transport and, on Linux, in the kernel's send queue."""
    waiting = transport.get_write_buffer_size()
    sock = _tcp(transport)
    if sock is not None:
        with contextlib.suppress(OSError):
            waiting += struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    return waiting


def has_left(transport: Transport) -> bool:
    """Return whether the peer has closed its side or broken the connection, without reading. False if not on
    Linux.
    """
    return _state(transport) in (_CLOSED, _CLOSE_WAIT)


def is_broken(transport: Transport) -> bool:
    """Return whether the connection was reset, without reading. False if not on Linux."""
    return _state(transport) == _CLOSED


def _state(transport: Transport) -> int:
    sock = _tcp(transport)
    if sock is None or not hasattr(socket, "TCP_INFO"):
        return 0
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except OSError:
        return _CLOSED


def has_unread(transport: Transport) -> bool:
    """Return whether the kernel holds bytes that were not read yet."""
    sock = _tcp(transport)
    if sock is None:
        return False
    try:
        return any(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)))
    except OSError:
        return False


def peer_address(transport: Transport | None) -> str:
    """Return the address of the peer in the form of `shown_address`."""
    return shown_address(transport.get_extra_info("peername") if transport is not None else None)


def shown_address(name: Any) -> str:
    """Return the address in `name`, the `peername` of a connection: empty for a Unix socket, `?` if `name` is
    None, because the connection is closed. An IPv4 address in IPv6 form (`::ffff:192.0.2.1`) is returned as
    IPv4.
    """
    if name is None:
        return "?"
    return str(name[0]).removeprefix("::ffff:") if isinstance(name, tuple) else ""


def scheme(transport: Transport | None) -> bytes:
    """Return the scheme of the client's requests: `https` if the connection has TLS, otherwise `http`."""
    return b"https" if transport is not None and transport.get_extra_info("sslcontext") else b"http"


def _tcp(transport: Transport) -> socket.socket | None:
    sock: socket.socket | None = transport.get_extra_info("socket")
    return sock if sock is not None and sock.family in _TCP else None
