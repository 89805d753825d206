"""The real server inside the test's own loop, and the proof that it leaves nothing behind.

    @on_each_loop
    async def test_…() -> None:
        async with RawUpstream([GOT_REQUEST, response(body=b"hello")]) as upstream:
            async with Running(plain(upstream.url)) as proxy, await proxy.client() as client:
                client.request("/")

Upstreams are started before the proxy and end after it: `Running` fails the test when the proxy still
holds a connection to one, or any socket or task, after its drain.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl as ssl_module
import stat
import tempfile
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Self

from sse_keepalive_proxy.config import Settings, load
from sse_keepalive_proxy.gateway.app import Proxy
from sse_keepalive_proxy.serve.server import Server
from tests.support.authority import Authority
from tests.support.looping import LOOPS, on_each_loop, on_loop, soon
from tests.support.raw_client import RawClient

__all__ = [
    "LOOPS",
    "OVER_TLS",
    "Running",
    "client_context",
    "on_each_loop",
    "on_loop",
    "plain",
    "settings_of",
    "soon",
]


def plain(url: str, *, route: str = "", upstream: str = "", rest: str = "") -> str:
    """A configuration of one route `all` (`/*`) to `url`.

    `route` and `upstream` are more keys of theirs, in flow style (`stream: {…}`); `rest` are whole lines.
    """
    return (
        f"upstreams: {{up: {{url: '{url}'{', ' if upstream else ''}{upstream}}}}}\n"
        f"routes: [{{name: all, match: {{path: /*}}, upstream: up{', ' if route else ''}{route}}}]\n{rest}\n"
    )


OVER_TLS: ContextVar[Authority | None] = ContextVar("OVER_TLS", default=None)
"""Set: every configuration without a `tls` of its own presents a certificate of this authority."""


def client_context() -> ssl_module.SSLContext | None:
    """What a client of `OVER_TLS` trusts; None when it speaks plain HTTP."""
    authority = OVER_TLS.get()
    return None if authority is None else authority.client()


def settings_of(text: str) -> Settings:
    """The configuration in `text`; without listeners of its own it gets free ports of 127.0.0.1."""
    authority = OVER_TLS.get()
    if authority is not None and not any(given.startswith("tls:") for given in text.splitlines()):
        file = authority.certificate("proxy", "127.0.0.1", "localhost")
        text += f"\ntls: {{cert_file: '{file}', key_file: '{file}'}}"
    for key, line in (("listen", "listen: 127.0.0.1:0"), ("admin", "admin: off")):
        if not any(given.startswith(f"{key}:") for given in text.splitlines()):
            text += f"\n{line}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(text)
        return load(path, environ={}).settings


class Running:
    """A started `Server` for a configuration. On leaving, it is drained and must have let go of all."""

    def __init__(self, config: str) -> None:
        self.server = Server(settings_of(config))

    async def __aenter__(self) -> Self:
        await self.server.start()
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        if kind is None:
            await soon(lambda: self.idle, lambda: "requests are still being answered")
        hurry = asyncio.Event()
        hurry.set()
        await self.server.drain(hurry)
        if kind is None:
            await soon(lambda: not self.upstream_connections, lambda: "connections to upstream are left open")
            await soon(lambda: not _sockets_on(self.port), lambda: f"left open: {_sockets_on(self.port)}")

    @property
    def proxy(self) -> Proxy:
        """The proxy by this configuration."""
        assert self.server._proxy is not None
        return self.server._proxy

    @property
    def idle(self) -> bool:
        """Whether no request is being answered."""
        return not any(connection.answering for connection in self.proxy.frontend.connections)

    @property
    def upstream_connections(self) -> int:
        """How many connections to upstreams are open, as the proxy counts them."""
        return self.proxy._process.dialer.open_connections

    @property
    def address(self) -> str:
        """Where it listens, as in a configuration."""
        return self.server.addresses[0]

    @property
    def port(self) -> int:
        """The port of its first listener."""
        return int(self.address.rpartition(":")[2])

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"{'http' if self.server._settings.tls is None else 'https'}://{self.address}"

    async def client(self, *, ssl: ssl_module.SSLContext | None = None, **how: Any) -> RawClient:
        """A new connection to it (see `RawClient.connect`)."""
        ssl = ssl or client_context()
        return await RawClient.connect(self.url, ssl=ssl, **how)

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample; 0 while there is none."""
        return self.server.metrics.registry.get_sample_value(name, labels) or 0.0


def _sockets_on(port: int) -> list[str]:
    """What this process has open on a port of 127.0.0.1: the listener, and accepted connections."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # it was closed meanwhile
            if stat.S_ISSOCK(link.stat().st_mode):
                with socket.socket(fileno=os.dup(int(link.name))) as sock:
                    if sock.family == socket.AF_INET and sock.getsockname()[1] == port:
                        found.append(repr(sock))
    return found
