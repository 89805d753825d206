"""Two replicas of the proxy behind a balancer with a file of `deploy/`, and the name server that knows them.

    async with Replicas() as replicas:
        async with nginx(tmp_path, replicas) as front:
            async with Clients(front) as clients:
                await clients.open("alice")
                assert replicas.counts == [1, 0]

The replicas run in the test's loop. They have one port and an address each, 127.0.0.2 and 127.0.0.3, as
containers of one service have.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Self

from tests.support.hops import nginx_of
from tests.support.instance import EVENT_SOURCE
from tests.support.programs import free_port, require, running
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import RawUpstream, UpstreamConnection, response, stream_head
from tests.support.running import Running

__all__ = ["DEPLOY", "Clients", "Replicas", "haproxy", "nginx"]

DEPLOY = Path(__file__).parents[2] / "deploy"

_ADDRESSES = ("127.0.0.2", "127.0.0.3")
_A, _ANSWER, _RECORD = 1, 0x8180, 0xC00C
_PLAIN = {"route": "rest", "method": "GET", "code": "200"}


class Replicas:
    """Two proxies with one upstream behind them. `limits` are those of the first, `stream` is the section of
    both. `upstream` is the URL of another upstream than one whose streams say nothing.
    """

    def __init__(self, limits: str = "", stream: str = "", upstream: str = "") -> None:
        self.port, self.admin_port = (free_port(address) for address in _ADDRESSES)
        self.upstream = RawUpstream(_serve)
        self._limits, self._stream, self._url = (limits, ""), stream, upstream
        self._stack = contextlib.AsyncExitStack()
        self._running: list[Running] = []

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.upstream)
        for address, limits in zip(_ADDRESSES, self._limits, strict=True):
            replica = Running(
                f"listen: [127.0.0.1:0, {address}:{self.port}]\n"
                f"admin: {{listen: {address}:{self.admin_port}}}\n"
                f"limits: {{{limits}}}\n"
                f"upstreams: {{up: {{url: '{self._url or self.upstream.url}'}}}}\n"
                "routes:\n"
                "  - {name: events, match: {path: /events}, upstream: up, "
                f"stream: {{{self._stream}}}}}\n"
                "  - {name: rest, match: {path: /*}, upstream: up}\n"
            )
            self._running.append(await self._stack.enter_async_context(replica))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def counts(self) -> list[int]:
        """How many streams each has open."""
        return [len(replica.server.streams) for replica in self._running]

    @property
    def addresses(self) -> list[str]:
        """Where each listens for the balancer."""
        return [f"{address}:{self.port}" for address in _ADDRESSES]

    def metric(self, which: int, name: str, **labels: str) -> float:
        """A sample of one of them, by its name without the prefix."""
        return self._running[which].metric(f"sse_proxy_{name}", **labels)

    async def stop(self, which: int) -> None:
        """End one as a deployment does: it refuses connections and lets its streams go, here all at once."""
        hurry = asyncio.Event()
        hurry.set()
        await self._running[which].server.drain(hurry)


async def _serve(connection: UpstreamConnection) -> None:
    """A stream that says nothing for `/events`, a short answer for everything else."""
    asked = await connection.next_request(within=60)
    await connection.send(stream_head() if asked.target.startswith("/events") else response("200 OK", b"ok"))


class Clients:
    """Browsers that have streams open through a balancer."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def open(self, token: str | None = None, *headers: str) -> RawClient:
        """One more stream, with a token in its query or without one; it has been confirmed."""
        client = await self._stack.enter_async_context(await RawClient.connect(self._url))
        query = "" if token is None else f"?access_token={token}"
        client.request(f"/events{query}", EVENT_SOURCE, *headers)
        assert (await client.wait_head()).status == 200, client.received
        await client.wait_for(b"connection_confirmed")
        return client

    async def ask(self) -> int:
        """The status of a plain request."""
        async with await RawClient.connect(self._url) as client:
            client.request("/health")
            return (await client.wait_response()).status


@contextlib.asynccontextmanager
async def nginx(directory: Path, replicas: Replicas, *changes: tuple[str, str]) -> AsyncIterator[str]:
    """nginx with `scaled.conf` as its `http` section, and these texts changed in it; its URL."""
    port = free_port()
    names = [(f"proxy-{at}:8080", address) for at, address in enumerate(replicas.addresses, start=1)]
    text = _changed("nginx/scaled.conf", ("listen 8080;", f"listen 127.0.0.1:{port};"), *names, *changes)
    with nginx_of(directory, text, port) as (url,):
        yield url


@contextlib.asynccontextmanager
async def haproxy(directory: Path, replicas: Replicas, *changes: tuple[str, str]) -> AsyncIterator[str]:
    """HAProxy with `scaled.cfg`, and these texts changed in it, once it knows both replicas; its URL."""
    port = free_port()
    async with _name_server(_ADDRESSES) as names_port:
        text = _changed(
            "haproxy/scaled.cfg",
            ("maxconn 40000", "maxconn 1000"),  # it does not start where descriptors are too few for it
            ("bind :8080", f"bind 127.0.0.1:{port}"),
            ("nameserver dns 127.0.0.11:53", f"nameserver dns 127.0.0.1:{names_port}"),
            ("proxy:8080", f"proxy:{replicas.port}"),
            ("check port 9090", f"check port {replicas.admin_port}"),
            *changes,
        )
        file = directory / "scaled.cfg"
        file.write_text(text)
        command = [require("haproxy"), "-db", "-f", file]
        with running(command, port=port, log_file=directory / "haproxy.log", env={**os.environ}):
            url = f"http://127.0.0.1:{port}"
            await _knows_both(url, replicas)
            yield url


async def _knows_both(url: str, replicas: Replicas) -> None:
    """Ask until each of them has been asked: an answer of the name server tells nobody that it was heard."""
    clients = Clients(url)
    for _ in range(500):
        await clients.ask()
        if all(replicas.metric(which, "requests_total", **_PLAIN) for which in (0, 1)):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("HAProxy does not find both replicas")


def _changed(file: str, *changes: tuple[str, str]) -> str:
    """A file of `deploy/` with other texts in the place of some. Every one of them has to occur."""
    text = (DEPLOY / file).read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextlib.asynccontextmanager
async def _name_server(addresses: Sequence[str]) -> AsyncIterator[int]:
    """A DNS server for which every name has these addresses, as Docker's has for a service; its UDP port."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Names(addresses), local_addr=("127.0.0.1", 0))
    try:
        yield transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


class _Names(asyncio.DatagramProtocol):
    """Answers one question a message (RFC 1035 4.1): A with every address, other types with nothing."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = [bytes(map(int, address.split("."))) for address in addresses]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        name_end = data.index(b"\0", 12) + 1
        (kind,) = struct.unpack_from("!H", data, name_end)
        found = self._addresses if kind == _A else []
        head = struct.pack("!2s5H", data[:2], _ANSWER, 1, len(found), 0, 0)
        records = [struct.pack("!3HIH4s", _RECORD, _A, 1, 1, 4, packed) for packed in found]
        self._transport.sendto(b"".join((head, data[12 : name_end + 4], *records)), address)
