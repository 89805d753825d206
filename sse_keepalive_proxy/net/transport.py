"""A transport over one plain socket: asyncio's interface, as little of it as there is need for.

It reads when the poller says so and writes at once; what the kernel does not take waits. Two of them in the
place of two of uvloop's make an idle stream 2 KiB lighter (of 5.5), and cost less to open and to close. TLS
is not its business: an encrypted connection has one of asyncio's.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any, Final, cast

from sse_keepalive_proxy.net.interfaces import Protocol
from sse_keepalive_proxy.net.poller import READ, WRITE, Poller

__all__ = ["SocketTransport"]

_READ_SIZE: Final = 64 * 1024
"""Bytes read at most at once (facts.md#large-reads)."""

_HIGH_WATER: Final = 64 * 1024
_AGAIN = (BlockingIOError, InterruptedError)


class SocketTransport:
    """One connected socket, non-blocking, which belongs to the transport from now on.

    As with asyncio, `protocol` hears `connection_made` at once, and `connection_lost` once, never inside a
    call that it makes. What is written after `close`, `abort` or `write_eof` is dropped.
    """

    __slots__ = (
        "_blocked", "_closing", "_descriptor", "_ended", "_events", "_high", "_loop", "_poller", "_protocol",
        "_receive", "_send", "_sock", "_waiting",
    )  # fmt: skip

    def __init__(self, poller: Poller, sock: socket.socket, protocol: Protocol) -> None:
        self._loop = asyncio.get_running_loop()
        self._poller, self._sock, self._descriptor = poller, sock, sock.fileno()
        self._protocol = protocol
        self._receive, self._send = sock.recv, sock.send  # found once, not for every event
        self._waiting: bytearray | None = None
        self._high = _HIGH_WATER
        self._blocked = self._closing = self._ended = False
        self._events = 0
        self._want(READ)
        protocol.connection_made(self)

    # What the poller tells.

    def ready(self, events: int) -> None:
        """The socket can be read, written, or is broken."""
        if self._waiting is not None and events != READ:
            self._flush()
        if not self._events & READ or events == WRITE:
            return
        try:
            data = self._receive(_READ_SIZE)
        except _AGAIN:
            return
        except OSError as error:
            self._force_close(error)
            return
        try:
            if data:
                self._protocol.data_received(data)
            elif not self._protocol.eof_received():
                self.close()
            else:
                self.pause_reading()  # there is nothing more to come
        except Exception as error:  # noqa: BLE001 (the loop's handler hears of it)
            self._broke(error)

    def _flush(self) -> None:
        waiting = self._waiting
        if waiting is None:
            return
        try:
            sent = self._send(waiting)
        except _AGAIN:
            return
        except OSError as error:
            self._force_close(error)
            return
        del waiting[:sent]
        if waiting:
            return
        self._waiting = None
        if self._closing:
            self._gone(None)
            return
        if self._ended:
            self._shut()
        self._want(self._events & ~WRITE)
        if self._blocked:
            self._blocked = False
            self._protocol.resume_writing()

    # What the protocol asks for.

    def write(self, data: bytes) -> None:
        """Send `data` behind what waits."""
        if self._closing or self._ended:
            return
        if self._waiting is not None:
            self._waiting += data
        else:
            try:
                sent = self._send(data)
            except _AGAIN:
                sent = 0
            except OSError as error:
                self._force_close(error)
                return
            if sent == len(data):
                return
            self._waiting = bytearray(memoryview(data)[sent:])
            self._want(self._events | WRITE)
        if not self._blocked and len(self._waiting) > self._high:
            self._blocked = True
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        """Whether `write_eof` can be called."""
        return True

    def write_eof(self) -> None:
        """Tell the peer, behind what waits, that nothing more comes; what it sends is still read."""
        if not self._closing and not self._ended:
            self._ended = True
            if self._waiting is None:
                self._shut()

    def pause_reading(self) -> None:
        """Read nothing until `resume_reading`. Nor is the peer's departure heard of meanwhile."""
        if not self._closing:
            self._want(self._events & ~READ)

    def resume_reading(self) -> None:
        """Read again."""
        if not self._closing:
            self._want(self._events | READ)

    def close(self) -> None:
        """Close behind what waits."""
        if self._closing:
            return
        self._closing = True
        if self._waiting is None:
            self._gone(None)
        else:
            self._want(WRITE)

    def abort(self) -> None:
        """Close now; what waits is lost."""
        self._force_close(None)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:  # noqa: ARG002
        """`pause_writing` when more than `high` bytes wait; `resume_writing` when none does."""
        self._high = _HIGH_WATER if high is None else high
        if not self._blocked and len(self._waiting or b"") > self._high:
            self._blocked = True
            self._protocol.pause_writing()

    # What it tells.

    def is_reading(self) -> bool:
        """Whether it reads."""
        return bool(self._events & READ)

    def is_closing(self) -> bool:
        """Whether it is closed, or is about to be."""
        return self._closing

    def get_write_buffer_size(self) -> int:
        """Bytes that wait."""
        return 0 if self._waiting is None else len(self._waiting)

    def set_protocol(self, protocol: Protocol) -> None:
        """Another protocol hears of everything from now on."""
        self._protocol = protocol

    def get_protocol(self) -> Protocol:
        """The protocol that hears of everything."""
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`socket`, and `peername` as long as there is a peer."""
        if name == "socket":
            return self._sock
        if name == "peername":
            try:
                return self._sock.getpeername()
            except OSError:
                return default
        return default

    # Inside.

    def _shut(self) -> None:
        with contextlib.suppress(OSError):  # the peer has gone, which reading will tell
            self._sock.shutdown(socket.SHUT_WR)

    def _want(self, events: int) -> None:
        before, self._events = self._events, events
        if events != before:
            self._poller.watch(self._descriptor, self, events, before)

    def _broke(self, error: Exception) -> None:
        context = {"message": "a protocol failed", "exception": error, "transport": self}
        self._loop.call_exception_handler(context)
        self._force_close(error)

    def _force_close(self, error: Exception | None) -> None:
        """Close now, unless it is closed."""
        if not self._closing or self._waiting is not None:
            self._closing, self._waiting = True, None
            self._gone(error)

    def _gone(self, error: Exception | None) -> None:
        self._events = 0
        self._poller.forget(self._descriptor)
        self._loop.call_soon(self._call_connection_lost, error)

    def _call_connection_lost(self, error: Exception | None) -> None:
        protocol, self._protocol = self._protocol, _NOBODY
        try:
            protocol.connection_lost(error)
        finally:
            self._sock.close()


_NOBODY = cast(Protocol, asyncio.Protocol())
