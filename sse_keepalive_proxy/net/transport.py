"""A transport over one connected socket, with the behaviour of `asyncio.Transport`.

It reads when the poller reports data, and writes at once. Bytes that the kernel does not take wait in a
buffer. Compared to uvloop's transports, two of these save 2 KiB of the 5.5 KiB of an idle stream, and they
cost less to open and to close. It does not do TLS: a TLS connection has a transport of the event loop.

`asyncio.Transport` is not the base class, because this module may be compiled: a class compiled with mypyc
2.4 must not inherit from an interpreted one (docs/design/decisions/0016-libraries.md). Casts pass it to
protocols.
`tests/net/test_transport_behaviour.py` names every difference from asyncio's and uvloop's own transports.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable
from typing import Any, Final, cast

from sse_keepalive_proxy.net.poller import READ, WRITE, Poller

__all__ = ["SocketTransport"]

_READ_SIZE: Final = 64 * 1024
"""The most bytes of one read (facts.md#large-reads)."""

_HIGH_WATER: Final = 64 * 1024
_AGAIN = (BlockingIOError, InterruptedError)

Bytes = bytes | bytearray | memoryview


class SocketTransport:
    """Own one connected, non-blocking socket, and close it at the end.

    `connection_made` of `protocol` is called at once, `connection_lost` is called once, and never inside a
    call that the protocol makes. Raises OSError if the poller cannot watch the socket, and closes it.
    """

    __slots__ = (
        "_buffer", "_closing", "_conn_lost", "_eof", "_events", "_high", "_loop", "_low", "_poller",
        "_protocol", "_protocol_paused", "_reads", "_recv", "_send", "_sock", "_sock_fd",
    )  # fmt: skip

    def __init__(self, poller: Poller, sock: socket.socket, protocol: asyncio.Protocol) -> None:
        self._loop = poller.loop
        self._poller, self._sock, self._sock_fd = poller, sock, sock.fileno()
        self._protocol = protocol
        self._recv, self._send = sock.recv, sock.send  # looked up once, not for every event
        self._buffer: bytearray | None = None
        self._high, self._low = _HIGH_WATER, _HIGH_WATER // 4
        self._protocol_paused = self._closing = self._conn_lost = self._eof = False
        self._reads = True  # false after the peer's EOF
        self._events = READ
        try:
            poller.watch(self._sock_fd, self, READ, 0)
        except BaseException:
            sock.close()
            raise
        try:
            protocol.connection_made(cast(asyncio.Transport, self))
        except Exception as error:  # noqa: BLE001 (reported to the loop's handler)
            self._fatal_error(error, "connection_made")

    # Called by the poller.

    def ready(self, events: int) -> None:
        """Read, then write. Reading comes first: if the peer has answered and closed, the answer is read
        before a write fails.
        """
        if self._events & READ and events != WRITE:
            self._read_ready()
        if self._buffer is not None and events != READ:
            self._write_ready()

    def _read_ready(self) -> bool:
        """Read once. Return whether there were bytes."""
        try:
            data = self._recv(_READ_SIZE)
        except _AGAIN:
            return False
        except OSError as error:
            self._force_close(error)
            return False
        if data:
            try:
                self._protocol.data_received(data)
            except Exception as error:  # noqa: BLE001 (reported to the loop's handler)
                self._fatal_error(error, "data_received")
            return True
        if not self._end_of_input():
            self.close()
        elif not self._closing:
            self._want(self._events & ~READ)
        return False

    def _end_of_input(self) -> bool:
        """Report the peer's EOF to the protocol. Return whether the protocol keeps the connection open."""
        self._reads = False
        try:
            return bool(self._protocol.eof_received())
        except Exception as error:  # noqa: BLE001 (reported to the loop's handler)
            self._fatal_error(error, "eof_received")
            return False

    def _write_ready(self) -> None:
        buffer = self._buffer
        if buffer is None:
            return
        try:
            sent = self._send(buffer)
        except _AGAIN:
            return
        except OSError as error:
            self._write_failed(error)
            return
        del buffer[:sent]
        if not buffer:
            self._buffer = None
            self._want(self._events & ~WRITE)
        if self._protocol_paused and len(buffer) <= self._low:
            self._protocol_paused = False
            self._call_flow_control("resume_writing", self._protocol.resume_writing)
        if self._buffer is None:
            if self._closing:
                self._lose(None)
            elif self._eof:
                self._shut_down()

    # Called by the protocol.

    def write(self, data: Bytes) -> None:
        """Send `data` after the bytes in the buffer. Do nothing if the transport is closing. Raises
        RuntimeError after `write_eof`.
        """
        if self._closing:
            return
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not isinstance(data, bytes):
            data = memoryview(data).cast("B")
        if self._buffer is not None:
            self._buffer += data
        else:
            try:
                sent = self._send(data) if data else 0
            except _AGAIN:
                sent = 0
            except OSError as error:
                self._write_failed(error)
                return
            if sent == len(data):
                return
            self._buffer = bytearray(memoryview(data)[sent:])
            self._want(self._events | WRITE)
        self._maybe_pause_protocol()

    def writelines(self, list_of_data: Iterable[Bytes]) -> None:
        """Send all of `list_of_data` in one call."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """Return True: a socket supports half-close."""
        return True

    def write_eof(self) -> None:
        """Close the connection for writing (half-close) after the bytes in the buffer. Reading goes on."""
        if not self._closing and not self._eof:
            self._eof = True
            if self._buffer is None:
                self._shut_down()

    def pause_reading(self) -> None:
        """Stop calling `data_received` until `resume_reading`.

        While reading is paused, only a failed write detects that the peer has left. The bytes that the peer
        had sent are then passed to `data_received` before `connection_lost` is called.
        """
        if not self._closing:
            self._want(self._events & ~READ)

    def resume_reading(self) -> None:
        """Call `data_received` again."""
        if self._reads and not self._closing:
            self._want(self._events | READ)

    def read_now(self, reads: int) -> None:
        """Read what the kernel has, in at most so many reads, also while reading is paused."""
        while reads > 0 and self._reads and not self._closing and self._read_ready():
            reads -= 1

    def close(self) -> None:
        """Stop reading, send the bytes in the buffer, then close."""
        if self._buffer is None:
            self._closing = True
            self._lose(None)
        elif not self._closing:
            self._closing = True
            self._want(WRITE)

    def abort(self) -> None:
        """Close now. The bytes in the buffer are lost."""
        self._force_close(None)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Call `pause_writing` if more than `high` bytes wait, then `resume_writing` if at most `low` wait.

        Raises ValueError unless high >= low >= 0.
        """
        if high is None:
            high = _HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self._high, self._low = high, low
        self._maybe_pause_protocol()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Call `protocol` from now on, an `asyncio.Protocol`. `BufferedProtocol` is not supported."""
        self._protocol = cast(asyncio.Protocol, protocol)

    # State.

    def is_reading(self) -> bool:
        """Return whether the transport is reading."""
        return bool(self._events & READ)

    def is_closing(self) -> bool:
        """Return whether the transport is closing or closed."""
        return self._closing

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes in the buffer."""
        return 0 if self._buffer is None else len(self._buffer)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the low and the high limit, in bytes."""
        return self._low, self._high

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the `socket`, its `sockname` or its `peername`, or `default` if it is not known."""
        try:
            if name == "socket":
                return self._sock
            if name == "peername":
                return self._sock.getpeername()
            if name == "sockname":
                return self._sock.getsockname()
        except OSError:  # the connection is closed
            return default
        return default

    # Inside.

    def _shut_down(self) -> None:
        with contextlib.suppress(OSError):  # the peer has left; a read reports it
            self._sock.shutdown(socket.SHUT_WR)

    def _want(self, events: int) -> None:
        before, self._events = self._events, events
        if events != before:
            try:
                self._poller.watch(self._sock_fd, self, events, before)
            except OSError as error:
                self._force_close(error)

    def _maybe_pause_protocol(self) -> None:
        if not self._protocol_paused and self.get_write_buffer_size() > self._high:
            self._protocol_paused = True
            self._call_flow_control("pause_writing", self._protocol.pause_writing)

    def _call_flow_control(self, name: str, call: Any) -> None:
        """Call a flow-control method. As in asyncio, an exception does not close the connection."""
        try:
            call()
        except Exception as error:  # noqa: BLE001 (reported to the loop's handler)
            self._report(error, name)

    def _report(self, error: Exception, name: str) -> None:
        self._loop.call_exception_handler(
            {
                "message": f"protocol.{name}() failed",
                "exception": error,
                "transport": self,
                "protocol": self._protocol,
            }
        )

    def _fatal_error(self, error: Exception, name: str) -> None:
        """Report an exception of the protocol, and close now."""
        self._report(error, name)
        self._force_close(error)

    def _write_failed(self, error: OSError) -> None:
        """Close after a failed write. Bytes that the peer had sent are passed on first, in a later turn."""
        self._buffer = None
        if self._closing or not self._reads:
            self._force_close(error)
            return
        self._closing = True
        self._stop_watching()
        self._loop.call_soon(self._read_rest, error)

    def _read_rest(self, error: OSError) -> None:
        """Read once, and again in the next turn of the loop, until there are no more bytes.

        A failed write clears the error of the socket, so a read reports EOF even after a reset. Only EPIPE
        means that the peer had sent EOF before (tcp_reset() of Linux).
        """
        if self._conn_lost:
            return
        try:
            data = self._recv(_READ_SIZE)
        except OSError:
            self._lose(error)
            return
        if data:
            try:
                self._protocol.data_received(data)
            except Exception as raised:  # noqa: BLE001 (reported to the loop's handler)
                self._fatal_error(raised, "data_received")
            self._loop.call_soon(self._read_rest, error)
            return
        if isinstance(error, BrokenPipeError):
            self._end_of_input()
        self._lose(error)

    def _force_close(self, error: Exception | None) -> None:
        self._closing, self._buffer = True, None
        self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        if not self._conn_lost:
            self._conn_lost = True
            self._stop_watching()
            self._loop.call_soon(self._call_connection_lost, error)

    def _stop_watching(self) -> None:
        self._events = 0
        self._poller.forget(self._sock_fd)

    def _call_connection_lost(self, error: Exception | None) -> None:
        protocol, self._protocol = self._protocol, _NO_PROTOCOL
        try:
            protocol.connection_lost(error)
        finally:
            self._sock.close()


_NO_PROTOCOL = asyncio.Protocol()
