"""Accepts connections on one listening socket."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable

from sse_keepalive_proxy.net.poller import READ, Poller

__all__ = ["Listener"]

logger = logging.getLogger("sse_keepalive_proxy.net")

_AT_ONCE = 32
"""Connections accepted in one turn of the loop: those that are open get theirs in between."""

_REST = 1.0
"""Seconds until the next attempt when the system has no room for another connection: the socket stays ready,
and a loop that goes on trying does nothing else.
"""

_MOST_PENDING = 65_536
"""Connections that `close` accepts at most: the longest backlog that a kernel keeps. A flood of new ones must
not keep it from closing.
"""

_NOT_NOW = (BlockingIOError, InterruptedError)


class Listener:
    """Calls `accepted` with every socket that is accepted from `sock`, non-blocking. `accepted` owns it from
    then on and closes it when it raises: it makes a transport over it, or starts a TLS handshake.

    An OSError, of accepting or of `accepted`, means that the system has no room: one log line says so, and
    accepting rests for a second.
    """

    def __init__(
        self, poller: Poller, sock: socket.socket, accepted: Callable[[socket.socket], object]
    ) -> None:
        self._poller, self.sock, self._accepted = poller, sock, accepted
        self._loop = asyncio.get_running_loop()
        self._resting: asyncio.TimerHandle | None = None
        poller.watch(sock.fileno(), self, READ, 0)

    def ready(self, events: int) -> None:  # noqa: ARG002 (a poller's watcher)
        """Accept connections that wait."""
        try:
            self._accept(_AT_ONCE)
        except OSError as error:
            self._poller.watch(self.sock.fileno(), self, 0, READ)
            self._rest(error)

    def close(self) -> None:
        """Accept every connection that waits, then close: one whose handshake is complete is not reset."""
        try:
            self._accept(_MOST_PENDING)
        except OSError as error:
            logger.warning("connections that were waiting are lost: %s", _reason(error))
        if self._resting is not None:
            self._resting.cancel()
        self._poller.forget(self.sock.fileno())
        self.sock.close()

    def _accept(self, most: int) -> None:
        """Accept up to `most` connections that wait. Raises OSError when there is no room."""
        for _ in range(most):
            try:
                sock, _ = self.sock.accept()
            except _NOT_NOW:
                return
            except ConnectionAbortedError:  # it has left already
                continue
            sock.setblocking(False)
            try:
                self._accepted(sock)
            except OSError:
                raise
            except Exception as error:  # noqa: BLE001 (the loop's handler receives it, the others are accepted)
                context = {"message": "a connection could not be served", "exception": error}
                self._loop.call_exception_handler(context)

    def _rest(self, error: OSError) -> None:
        logger.warning(
            "cannot accept connections, trying again in %g s: %s (raise `ulimit -n`, or lower the limits)",
            _REST,
            _reason(error),
        )
        self._resting = self._loop.call_later(_REST, self._go_on)

    def _go_on(self) -> None:
        self._resting = None
        try:
            self._poller.watch(self.sock.fileno(), self, READ, 0)
        except OSError as error:
            self._rest(error)


def _reason(error: OSError) -> str:
    return os.strerror(error.errno or 0)
