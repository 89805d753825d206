"""What each step on the way of a byte costs, without the system calls: `python -m bench.steps`.

Real objects of the proxy between two sockets that are none: reading gives the same chunk again, writing takes
everything. Each step is called alone, so the sum is a little more than the whole. Prints nanoseconds, the
least of several runs.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import uvloop

from sse_keepalive_proxy.config import load
from sse_keepalive_proxy.http.exchange import Exchange
from sse_keepalive_proxy.live.backlog import Backlog
from sse_keepalive_proxy.live.route import StreamRoutes
from sse_keepalive_proxy.live.stream import Stream
from sse_keepalive_proxy.net.transport import SocketTransport
from sse_keepalive_proxy.observe.metrics import Metrics
from sse_keepalive_proxy.observe.registry import Registry
from sse_keepalive_proxy.stream.policy import Family, Terminator
from sse_keepalive_proxy.wire.block import tally

_EVENT = b"data: " + b"x" * 180 + b"\n\n"
_CHUNK = b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_CONFIG = """
upstreams: {up: {url: "http://127.0.0.1:9"}}
routes: [{name: all, match: {path: /*}, upstream: up, stream: {confirm: {form: comment}}}]
"""
_CALLS, _RUNS = 50_000, 9


class _Socket:
    """Reads `data` for ever, and takes what is written. Both are C functions, and cost next to nothing."""

    family = socket.AF_UNIX

    def __init__(self, data: bytes) -> None:
        self.recv = {64 * 1024: data}.__getitem__
        self.send = len

    def fileno(self) -> int:
        return 0

    def setsockopt(self, *_: object) -> None:
        """Any option."""

    def close(self) -> None:
        """Nothing to close."""


class _Poller:
    """Tells nobody."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()

    def watch(self, *_: object) -> None:
        """Nothing is watched."""

    def forget(self, *_: object) -> None:
        """Nothing was."""

    def close(self) -> None:
        """Nothing to close."""


def _transport(data: bytes, protocol: asyncio.Protocol) -> SocketTransport:
    return SocketTransport(_Poller(), cast(Any, _Socket(data)), protocol)


def _stream() -> tuple[SocketTransport, Exchange, Stream]:
    """A stream that has begun, and upstream's side of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(_CONFIG, encoding="utf-8")
        route = load(path, environ={}).settings.routes[0]
    if route.stream is None:
        raise AssertionError("the configuration above has a stream")
    streams = Registry(10, None)
    metrics = Metrics(streams, asyncio.get_running_loop().time)
    routes = StreamRoutes(
        route.name, route.stream.policy, metrics.route(route.name), streams, Backlog(1 << 28)
    )
    shared = routes.for_client(Family.HTTP, Terminator.AUTO)
    stream = Stream(shared, stream_id="1", client="127.0.0.1", target="/")
    streams.add(stream)
    exchange = Exchange(head_only=False)
    upstream = _transport(_CHUNK, exchange)
    exchange.data_received(_HEAD)
    stream.begin(lambda protocol: _transport(b"", protocol), chunked=True)
    stream.commit(b"HTTP/1.1 200 OK\r\n\r\n", exchange)
    return upstream, exchange, stream


def _nanoseconds(step: Callable[[], object]) -> float:
    calling = min(timeit.repeat(lambda: None, number=_CALLS, repeat=_RUNS))
    return (min(timeit.repeat(step, number=_CALLS, repeat=_RUNS)) - calling) / _CALLS * 1e9


async def _main() -> None:
    upstream, exchange, stream = _stream()
    flow, loop = stream.flow, asyncio.get_running_loop()
    down, decoder = flow.down, exchange._decoder  # noqa: SLF001 (it is taken apart here)
    if down is None or decoder is None:
        raise AssertionError("the stream above has begun")
    framer, transport = flow._framer, down._transport  # noqa: SLF001

    whole = _nanoseconds(lambda: upstream.ready(1))
    decoded = _nanoseconds(lambda: decoder.only_chunk(_CHUNK))
    framed = _nanoseconds(lambda: framer.feed(_EVENT))
    tallied = _nanoseconds(lambda: tally(_EVENT))
    received = _nanoseconds(lambda: flow.life.received(loop.time(), True))
    sent = _nanoseconds(lambda: transport.write(_CHUNK))
    written = _nanoseconds(lambda: down.write(_EVENT))
    relayed = _nanoseconds(lambda: flow.data(_EVENT))
    steps = {
        "SocketTransport.ready, Exchange.data_received": whole - relayed - decoded,
        "ChunkedDecoder: the chunked coding off": decoded,
        "Framer.feed": framed,
        "tally": tallied,
        "the time, Lifecycle.received": received,
        "Relay: counts, the client looked up": relayed - framed - tallied - received - written,
        "Downstream.write: the chunked coding on": written - sent,
        "SocketTransport.write": sent,
        "all of it": whole,
    }
    for name, cost in steps.items():
        print(f"{name:48} {cost:6.0f} ns")


if __name__ == "__main__":
    uvloop.run(_main())
