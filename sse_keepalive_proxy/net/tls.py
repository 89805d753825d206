"""Do TLS handshakes on accepted sockets, within a deadline, and log failed ones.

A TLS connection has the event loop's own transport. Its protocol is made after the handshake. Until then a
client costs a socket and a timer and, after its first byte, a task.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable

from sse_keepalive_proxy.net.poller import READ, Poller
from sse_keepalive_proxy.net.tasks import spawn
from sse_keepalive_proxy.net.tcp import shown_address
from sse_keepalive_proxy.net.transport import SocketTransport

__all__ = ["Handshakes"]

logger = logging.getLogger("sse_keepalive_proxy.net")

_HANDSHAKE, _SSLV2 = 0x16, 0x80
"""The first byte of a TLS record (RFC 8446 5.1), and the highest bit of the first byte of an SSLv2 hello."""

_SHUTDOWN_TIMEOUT = 60.0
"""Seconds for a closed connection to send its remaining bytes and to receive the client's close_notify."""

_QUIET = 60.0
"""Seconds between two log lines about handshakes that failed with the same reason."""

_REASONS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client sent no certificate: `tls.client_ca_file` demands one",
    "UNSUPPORTED_PROTOCOL": "the client offers no TLS version from 1.2 on",
    "NO_PROTOCOLS_AVAILABLE": "the client offers no TLS version from 1.2 on",
    "VERSION_TOO_LOW": "the client offers no TLS version from 1.2 on",
    "NO_SHARED_CIPHER": "the client and this server have no cipher in common",
    "TLSV1_ALERT_UNKNOWN_CA": "the client does not trust the authority of `tls.cert_file`",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the client refuses the certificate of `tls.cert_file`",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the client says that the certificate of `tls.cert_file` has expired",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the client refuses the certificate of `tls.cert_file`",
}


class Handshakes:
    """Do the handshakes of clients with `context`, which may be replaced at any time.

    A handshake must be complete `within` seconds after the client has connected. If `full()` is true, new
    clients are disconnected at once. A client that does not speak TLS gets a protocol made by `plain`.
    """

    def __init__(
        self,
        poller: Poller,
        context: ssl.SSLContext,
        within: float,
        *,
        full: Callable[[], bool],
        plain: Callable[[], asyncio.Protocol],
    ) -> None:
        self.poller, self.context, self.within = poller, context, within
        self.full, self.plain = full, plain
        self.under_way: set[_Handshake] = set()
        self._failures: dict[str, tuple[float, int]] = {}  # time of the last log line, failures since then

    def accept(self, sock: socket.socket, factory: Callable[[], asyncio.Protocol]) -> None:
        """Start a handshake on `sock`, which is non-blocking. Then a protocol of `factory` gets the
        connection.

        Raises OSError if the poller has no room, and closes `sock`.
        """
        if self.full():
            sock.close()
        else:
            self.under_way.add(_Handshake(self, sock, factory))

    def close(self) -> None:
        """Disconnect all clients whose handshake is not complete."""
        for handshake in list(self.under_way):
            handshake.cut()

    def failed(self, error: Exception, peer: str) -> None:
        """Log that the handshake with `peer` failed, at most once a minute for each reason."""
        reason, now = _reason(error, self.within), asyncio.get_running_loop().time()
        said_at, unsaid = self._failures.get(reason, (now - _QUIET, 0))
        if now < said_at + _QUIET:
            self._failures[reason] = said_at, unsaid + 1
            return
        self._failures[reason] = now, 0
        fields = {"client": peer, "reason": reason, **({"unsaid": unsaid} if unsaid else {})}
        logger.warning("a TLS handshake failed", extra={"fields": fields})


class _Handshake(asyncio.Protocol):
    """One client until its handshake is complete."""

    def __init__(
        self, owner: Handshakes, sock: socket.socket, factory: Callable[[], asyncio.Protocol]
    ) -> None:
        self._owner, self._factory = owner, factory
        self._loop = asyncio.get_running_loop()
        self._sock: socket.socket | None = sock  # None: a transport owns it
        self._task: asyncio.Task[None] | None = None
        self._deadline = self._loop.time() + owner.within
        try:
            owner.poller.watch(sock.fileno(), self, READ, 0)
        except BaseException:
            sock.close()
            raise
        self._timer = self._loop.call_at(self._deadline, self.cut)

    def ready(self, events: int) -> None:  # noqa: ARG002 (a poller's watcher)
        """Start the handshake at the first byte. Close if the client has left."""
        sock = self._sock
        if sock is None:
            return
        try:
            first = sock.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            first = b""
        if not first:
            self._loop.call_soon(self.cut)  # a descriptor must not be closed inside `ready`
            return
        self._stop_watching(sock)
        if first[0] == _HANDSHAKE or first[0] & _SSLV2:
            self._task = spawn(self._shake(sock))
            self._task.add_done_callback(self._over)
        else:
            self._sock = None
            self._leave()
            SocketTransport(self._owner.poller, sock, self._owner.plain())

    def cut(self) -> None:
        """Close now."""
        if self._task is not None:
            self._task.cancel()
        elif self._sock is not None:
            self._stop_watching(self._sock)
            self._close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give the connection to its protocol."""
        self._leave()
        protocol = self._factory()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    async def _shake(self, sock: socket.socket) -> None:
        peer = "?"
        with contextlib.suppress(OSError):  # already closed
            peer = shown_address(sock.getpeername())
        self._sock = None
        try:
            await self._loop.connect_accepted_socket(
                lambda: self,
                sock,
                ssl=self._owner.context,
                ssl_handshake_timeout=max(self._deadline - self._loop.time(), 0.001),
                ssl_shutdown_timeout=_SHUTDOWN_TIMEOUT,
            )
        except OSError as error:
            self._owner.failed(error, peer)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._close()
        if not task.cancelled() and (error := task.exception()) is not None:
            context = {"message": "a TLS handshake failed inside the proxy", "exception": error}
            self._loop.call_exception_handler(context)

    def _stop_watching(self, sock: socket.socket) -> None:
        self._timer.cancel()
        self._owner.poller.watch(sock.fileno(), self, 0, READ)
        self._owner.poller.forget(sock.fileno())

    def _close(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()
        self._leave()

    def _leave(self) -> None:
        self._owner.under_way.discard(self)


def _reason(error: Exception, within: float) -> str:
    """Return why a handshake failed, with the same text for the same reason."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"the client's certificate is not accepted: {error.verify_message}"
        case ssl.SSLEOFError() | ConnectionResetError() | BrokenPipeError():
            return "the client left in the middle of it"
        case ssl.SSLError():
            reason = error.reason or "unknown"
            return _REASONS.get(reason, reason.lower().replace("_", " "))
        case ConnectionAbortedError() | TimeoutError():
            return f"it was not over after {within:g} s (limits.request_header_timeout)"
        case _:
            return str(error) or type(error).__name__
