"""Open connections to upstreams. No other module does.

Each connection resolves the name again with the loop's resolver. Connections opened at the same time share
one look-up.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from sse_keepalive_proxy.config.types.address import UpstreamAddress
from sse_keepalive_proxy.errors import UpstreamRefused, UpstreamTimeout
from sse_keepalive_proxy.http.exchange import Exchange
from sse_keepalive_proxy.http.failures import in_words, is_of_tls
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.net.connect import Resolver, connect_tcp, connect_unix
from sse_keepalive_proxy.net.poller import Poller
from sse_keepalive_proxy.net.transport import SocketTransport

__all__ = ["Dialer", "UpstreamTls"]


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """The TLS settings of an upstream. `server_name` None: use the host of its address."""

    context: ssl.SSLContext
    server_name: str | None = None


class Dialer:
    """Open connections to upstreams, and count the open ones."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._resolver = Resolver()
        self.open_connections = 0
        self._closed = self._forget  # bound once, not per connection

    async def open(
        self,
        address: UpstreamAddress,
        *,
        within: float,
        tls: UpstreamTls | None = None,
        head_only: bool = False,
        interim: Callable[[ResponseHead], None] | None = None,
    ) -> Exchange:
        """Connect to `address` within `within` seconds. Raises `UpstreamRefused`, `UpstreamTimeout`.

        `tls` is required for an `https` address, and ignored for others.
        `head_only`: the response has no body, whatever its headers say (HEAD).
        """
        made = Exchange(head_only=head_only, interim=interim)
        try:
            await self._connect(made, address, within, tls)
        except TimeoutError:
            raise UpstreamTimeout(f"no connection to {address} within {within:g} s") from None
        except (OSError, UnicodeError) as error:
            text = "upstream cannot be reached"
            if is_of_tls(error):
                text = "the TLS handshake with upstream failed"
            raise UpstreamRefused(f"cannot connect to {address}: {in_words(error)}", text) from error
        self.open_connections += 1
        made.when_closed(self._closed)
        return made

    async def _connect(
        self, exchange: Exchange, address: UpstreamAddress, within: float, tls: UpstreamTls | None
    ) -> None:
        host, port, protocol = address.host or "", address.port or 0, cast(asyncio.Protocol, exchange)
        if address.unix_path is not None:
            sock = await connect_unix(address.unix_path, within=within)
        elif address.scheme != "https":
            sock = await connect_tcp(host, port, within=within, resolver=self._resolver)
        else:
            if tls is None:
                raise AssertionError("an https upstream needs TLS settings")
            async with asyncio.timeout(within):  # for the connection and the handshake together
                await asyncio.get_running_loop().create_connection(
                    lambda: protocol,
                    sock=await connect_tcp(host, port, within=within, resolver=self._resolver),
                    ssl=tls.context,
                    server_hostname=tls.server_name or host,
                    ssl_handshake_timeout=within,
                )
            return
        SocketTransport(self._poller, sock, protocol)

    def _forget(self) -> None:
        self.open_connections -= 1
