"""Accepts connections on one listening socket."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable

from sse_keepalive_proxy.net.interfaces import Protocol
from sse_keepalive_proxy.net.poller import READ, Poller
from sse_keepalive_proxy.net.tls import Handshakes
from sse_keepalive_proxy.net.transport import SocketTransport

__all__ = ["Listener"]

logger = logging.getLogger("sse_keepalive_proxy.net")

_AT_ONCE = 32
"""Connections accepted in one turn of the loop: those that are open get theirs in between."""

_REST = 1.0
"""Seconds until the next attempt when the system has no room for another connection: the socket stays ready,
and a loop that goes on trying does nothing else.
"""

_NOT_NOW = (BlockingIOError, InterruptedError, ConnectionAbortedError)


class Listener:
    """Gives every connection that `sock` accepts to a protocol of its own, made by `factory`. With `tls`, it
    gives it once `tls` has shaken hands.
    """

    def __init__(
        self,
        poller: Poller,
        sock: socket.socket,
        factory: Callable[[], Protocol],
        tls: Handshakes | None = None,
    ) -> None:
        self._poller, self.sock, self._factory, self._tls = poller, sock, factory, tls
        self._resting: asyncio.TimerHandle | None = None
        poller.watch(sock.fileno(), self, READ, 0)

    def ready(self, events: int) -> None:  # noqa: ARG002 (a poller's watcher)
        """Connections wait."""
        for _ in range(_AT_ONCE):
            try:
                sock, _ = self.sock.accept()
            except _NOT_NOW:
                return
            except OSError as error:
                self._rest(error)
                return
            sock.setblocking(False)
            if self._tls is None:
                SocketTransport(self._poller, sock, self._factory())
            else:
                self._tls.accept(sock, self._factory)

    def close(self) -> None:
        """Accept no more."""
        if self._resting is not None:
            self._resting.cancel()
        self._poller.forget(self.sock.fileno())
        self.sock.close()

    def _rest(self, error: OSError) -> None:
        logger.warning(
            "cannot accept connections, trying again in %g s: %s (raise `ulimit -n`, or lower the limits)",
            _REST,
            os.strerror(error.errno or 0),
        )
        self._poller.watch(self.sock.fileno(), self, 0, READ)
        self._resting = asyncio.get_running_loop().call_later(_REST, self._go_on)

    def _go_on(self) -> None:
        self._resting = None
        self._poller.watch(self.sock.fileno(), self, READ, 0)
