"""Accept connections on one listening socket."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable

from sse_keepalive_proxy.net.poller import READ, Poller
from sse_keepalive_proxy.net.tcp import ignore_newcomers

__all__ = ["Listener"]

logger = logging.getLogger("sse_keepalive_proxy.net")

_AT_ONCE = 32
"""Connections accepted in one turn of the event loop. Open connections are served between two turns."""

_RETRY_DELAY = 1.0
"""Seconds until the next attempt when the system has no room for another connection. The socket stays ready,
so without a delay the event loop would do nothing else.
"""

_MOST_PENDING = 65_536
"""The most connections that `close` accepts: the longest backlog of a kernel. A flood of new connections must
not prevent it from closing.
"""

_WOULD_BLOCK = (BlockingIOError, InterruptedError)


class Listener:
    """Accept connections from `sock` and call `accepted` with each socket, which is non-blocking.

    `accepted` owns the socket: it makes a transport or starts a TLS handshake, and closes the socket if it
    raises. An OSError means that the system has no room: the listener logs it and pauses for a second.
    """

    def __init__(
        self, poller: Poller, sock: socket.socket, accepted: Callable[[socket.socket], object]
    ) -> None:
        self._poller, self.sock, self._accepted = poller, sock, accepted
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        poller.watch(sock.fileno(), self, READ, 0)

    def ready(self, events: int) -> None:  # noqa: ARG002 (a poller's watcher)
        """Accept waiting connections."""
        try:
            self._accept(_AT_ONCE)
        except OSError as error:
            self._poller.watch(self.sock.fileno(), self, 0, READ)
            self._pause(error)

    def close(self, *, leaves_newcomers: bool = False) -> None:
        """Accept all waiting connections, then close. The kernel would reset those that are not accepted.

        `leaves_newcomers`: another process may listen on the address, and gets the connections that begin
        meanwhile. The socket must be one of this process alone.
        """
        if leaves_newcomers:
            ignore_newcomers(self.sock)
        try:
            self._accept(_MOST_PENDING)
        except OSError as error:
            logger.warning("waiting connections are lost: %s", _reason(error))
        if self._retry is not None:
            self._retry.cancel()
        self._poller.forget(self.sock.fileno())
        self.sock.close()

    def _accept(self, most: int) -> None:
        """Accept up to `most` waiting connections. Raises OSError if the system has no room."""
        for _ in range(most):
            try:
                sock, _ = self.sock.accept()
            except _WOULD_BLOCK:
                return
            except ConnectionAbortedError:  # the client closed it before it was accepted
                continue
            sock.setblocking(False)
            try:
                self._accepted(sock)
            except OSError:
                raise
            except Exception as error:  # noqa: BLE001 (reported to the loop's handler; accepting continues)
                context = {"message": "a connection could not be served", "exception": error}
                self._loop.call_exception_handler(context)

    def _pause(self, error: OSError) -> None:
        logger.warning(
            "cannot accept connections, trying again in %g s: %s (raise `ulimit -n`, or lower the limits)",
            _RETRY_DELAY,
            _reason(error),
        )
        self._retry = self._loop.call_later(_RETRY_DELAY, self._resume)

    def _resume(self) -> None:
        self._retry = None
        try:
            self._poller.watch(self.sock.fileno(), self, READ, 0)
        except OSError as error:
            self._pause(error)


def _reason(error: OSError) -> str:
    return os.strerror(error.errno or 0)
