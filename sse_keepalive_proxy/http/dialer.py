"""Opens connections to upstream: the only place that does.

Names are resolved anew for every connection, by the loop's own resolver. What the operating system or
TLS says of a failure is translated here, once.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import cast

from sse_keepalive_proxy.config.types.address import UpstreamAddress
from sse_keepalive_proxy.errors import UpstreamRefused, UpstreamTimeout
from sse_keepalive_proxy.http.exchange import Exchange
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.net.connect import connect_tcp, connect_unix
from sse_keepalive_proxy.net.poller import Poller
from sse_keepalive_proxy.net.transport import SocketTransport

__all__ = ["Dialer"]


class Dialer:
    """Opens connections to the upstreams of a configuration, and counts the open ones."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._tls: ssl.SSLContext | None = None
        self.open_connections = 0
        self._closed = self._forget  # bound once, not for every connection

    async def open(
        self,
        address: UpstreamAddress,
        *,
        within: float,
        head_only: bool = False,
        interim: Callable[[ResponseHead], None] | None = None,
    ) -> Exchange:
        """Connect to `address` within `within` seconds. Raises `UpstreamRefused`, `UpstreamTimeout`.

        `head_only`: the response to come has no body whatever its headers say (HEAD).
        """
        made = Exchange(head_only=head_only, interim=interim)
        try:
            await self._connect(made, address, within)
        except TimeoutError:
            raise UpstreamTimeout(f"no connection to {address} within {within:g} s") from None
        except (OSError, UnicodeError) as error:
            raise UpstreamRefused(f"cannot connect to {address}: {_why(error)}") from error
        self.open_connections += 1
        made.when_closed(self._closed)
        return made

    async def _connect(self, exchange: Exchange, address: UpstreamAddress, within: float) -> None:
        host, port = address.host or "", address.port or 0
        if address.unix_path is not None:
            sock = await connect_unix(address.unix_path, within=within)
        elif address.scheme != "https":
            sock = await connect_tcp(host, port, within=within)
        else:
            async with asyncio.timeout(within):
                loop = asyncio.get_running_loop()
                await loop.create_connection(
                    lambda: cast(asyncio.Protocol, exchange), host, port, ssl=self._context()
                )
            return
        SocketTransport(self._poller, sock, exchange)

    def _forget(self) -> None:
        self.open_connections -= 1

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls


def _why(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "the name cannot be resolved"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno)  # asyncio's own text of it is about a call
    return str(error) or type(error).__name__
