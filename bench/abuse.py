"""How late the pings of one stream are while other clients misuse the proxy.

    python -m bench.abuse [--seconds N] [--list] [KIND…]

Each kind of abuse runs in a process of its own, on loopback, for some seconds: at most 2 MB/s, or 2,000
connections. Meanwhile this process reads a silent stream with a ping every 100 ms, and notes the longest
gap. `late` is that gap beyond the interval. A ping may be 50 ms late without any abuse (`net/timers.py`).
`machine` is how late this process itself was woken, which says how busy the machine was. A kind fails if
pings were more than 100 ms late and the machine was not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import resource
import socket
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from bench.processes import free_port

__all__ = ["KINDS", "main"]

RATE = 2_000_000
"""Bytes per second, all connections of a kind together."""

CONNECTIONS = 2_000
INTERVAL = 0.1
ALLOWED = 0.1

CONFIG = """\
listen: 127.0.0.1:{port}
admin: {{listen: '127.0.0.1:{admin}'}}
logging: {{level: info}}
upstreams: {{up: {{url: 'http://127.0.0.1:{upstream}'}}}}
routes:
  - name: quiet
    match: {{path: /quiet}}
    upstream: up
    stream: {{keepalive: {{interval: 100ms}}}}
  - name: events
    match: {{path: /events}}
    upstream: up
    cors: {{origins: [https://a.example]}}
    stream: {{early_commit: {{after: 5s, methods: [GET, POST]}}}}
  - {{name: rest, match: {{path: /*}}, upstream: up}}
"""

Abuse = Callable[["Target"], Awaitable[None]]
KINDS: dict[str, Abuse] = {}


def kind(abuse: Abuse) -> Abuse:
    """Decorator: a kind of abuse, by its name with dashes."""
    KINDS[abuse.__name__.replace("_", "-")] = abuse
    return abuse


class Target:
    """The proxy, as an attacker sees it, until `ends_at`."""

    def __init__(self, port: int, admin: int, ends_at: float) -> None:
        self.port, self.admin, self._ends_at = port, admin, ends_at
        self._began, self._sent = time.monotonic(), 0

    @property
    def over(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._ends_at

    async def connect(self, port: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the proxy, or to `port`."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port or self.port)
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return reader, writer

    async def paced(self, size: int) -> None:
        """Wait until `size` more bytes may be sent."""
        self._sent += size
        await asyncio.sleep(max(self._began + self._sent / RATE - time.monotonic(), 0))

    async def pour(
        self, head: bytes, piece: bytes, *, port: int | None = None, connections: int = 16
    ) -> None:
        """Send `head`, then `piece` again and again, on some connections. Connect again when refused."""

        async def one() -> None:
            while not self.over:
                with contextlib.suppress(OSError):
                    _, writer = await self.connect(port)
                    writer.write(head)
                    while not self.over and not writer.transport.is_closing():
                        await self.paced(len(piece))
                        writer.write(piece)
                        await writer.drain()
                    writer.close()

        await asyncio.gather(*(one() for _ in range(connections)))

    async def ask(self, raw: bytes, *, port: int | None = None, connections: int = 16) -> None:
        """Send the request `raw` again and again, and read the answers."""

        async def drop(reader: asyncio.StreamReader) -> None:
            with contextlib.suppress(OSError):
                while await reader.read(65536):
                    pass

        async def one() -> None:
            while not self.over:
                with contextlib.suppress(OSError):
                    reader, writer = await self.connect(port)
                    answers = asyncio.ensure_future(drop(reader))
                    while not self.over and not answers.done():
                        await self.paced(len(raw))
                        writer.write(raw)
                        await writer.drain()
                    answers.cancel()
                    writer.close()

        await asyncio.gather(*(one() for _ in range(connections)))

    async def hold(self, raw: bytes, *, port: int | None = None, count: int = CONNECTIONS) -> None:
        """Hold `count` connections on which `raw` was sent."""
        writers = []
        for _ in range(count):
            if self.over:
                break
            with contextlib.suppress(OSError):
                _, writer = await self.connect(port)
                writer.write(raw)
                writers.append(writer)
        await asyncio.sleep(max(self._ends_at - time.monotonic(), 0))
        for writer in writers:
            writer.close()


def head(method: bytes, target: bytes, *fields: bytes) -> bytes:
    """A request head."""
    return b"\r\n".join([method + b" " + target + b" HTTP/1.1", b"Host: a", *fields, b"", b""])


CHUNKED = head(b"POST", b"/x", b"Transfer-Encoding: chunked")
_JSON_IN_CHUNKS = head(b"POST", b"/events", b"Content-Type: application/json", b"Transfer-Encoding: chunked")


@kind
async def nothing(target: Target) -> None:
    await target.hold(b"", count=0)


@kind
async def leading_blank_lines(target: Target) -> None:
    await target.pour(b"", b"\r\n" * 8000)


@kind
async def leading_blank_lines_in_small_pieces(target: Target) -> None:
    await target.pour(b"", b"\r\n", connections=200)


@kind
async def heads_in_single_bytes(target: Target) -> None:
    await target.pour(b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"y", connections=200)


@kind
async def endless_short_fields(target: Target) -> None:
    await target.pour(b"GET / HTTP/1.1\r\n", b"a:b\r\n" * 1000)


@kind
async def requests_with_99_fields(target: Target) -> None:
    await target.ask(head(b"GET", b"/x", *[b"a: b"] * 98))


@kind
async def slow_heads(target: Target) -> None:
    await target.hold(b"GET / HTTP/1.1\r\nHost: a\r\n")


@kind
async def idle_connections(target: Target) -> None:
    await target.hold(b"")


@kind
async def chunk_extensions(target: Target) -> None:
    await target.pour(CHUNKED, b"1;" + b"a" * 14 + b"\r\nx\r\n", connections=4)


@kind
async def long_chunk_extensions(target: Target) -> None:
    await target.pour(CHUNKED + b"1;", b"a" * 8000)


@kind
async def chunks_of_one_byte(target: Target) -> None:
    await target.pour(CHUNKED, b"1\r\nx\r\n" * 2000, connections=4)


@kind
async def trailers(target: Target) -> None:
    await target.ask(CHUNKED + b"0\r\n" + b"a: b\r\n" * 4000 + b"\r\n")


@kind
async def pipelined_requests(target: Target) -> None:
    await target.ask(head(b"GET", b"/x") * 200, connections=4)


@kind
async def pipelined_requests_answered_at_once(target: Target) -> None:
    fields = b"Origin: https://a.example", b"Access-Control-Request-Method: GET"
    await target.ask(head(b"OPTIONS", b"/events", *fields) * 500, connections=4)


@kind
async def pipelined_garbage(target: Target) -> None:
    await target.pour(head(b"GET", b"/x"), bytes(range(1, 256)) * 32)


@kind
async def blank_lines_between_requests(target: Target) -> None:
    await target.ask(head(b"GET", b"/x") + b"\r\n" * 4000)


@kind
async def aborted_requests(target: Target) -> None:
    async def one() -> None:
        while not target.over:
            with contextlib.suppress(OSError):
                _, writer = await target.connect()
                writer.write(head(b"GET", b"/events", b"Accept: text/event-stream"))
                sock: socket.socket = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await target.paced(2000)  # 1,000 connections per second
                writer.transport.abort()

    await asyncio.gather(*(one() for _ in range(32)))


@kind
async def half_closed_requests(target: Target) -> None:
    async def one() -> None:
        while not target.over:
            with contextlib.suppress(OSError):
                _, writer = await target.connect()
                writer.write(head(b"GET", b"/quiet"))
                writer.write_eof()
                await target.paced(2000)
                writer.close()

    await asyncio.gather(*(one() for _ in range(32)))


@kind
async def tls_on_the_plain_port(target: Target) -> None:
    async def one() -> None:
        while not target.over:
            with contextlib.suppress(OSError):
                reader, writer = await target.connect()
                writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.randbytes(500))
                await target.paced(2000)
                await asyncio.wait_for(reader.read(), 0.5)
                writer.close()

    await asyncio.gather(*(one() for _ in range(32)), return_exceptions=True)


@kind
async def long_targets(target: Target) -> None:
    await target.ask(head(b"GET", b"/events?" + b"a" * 31_000))


@kind
async def targets_of_many_parts(target: Target) -> None:
    await target.ask(head(b"GET", b"/events?" + b"a=%41&" * 5_000))


@kind
async def targets_of_many_similar_parts(target: Target) -> None:
    await target.ask(head(b"GET", b"/events?" + b"%61ccess_tokem&" * 2_000))


@kind
async def targets_of_many_segments(target: Target) -> None:
    await target.ask(head(b"GET", b"/a@" * 10_000))


@kind
async def long_chains_of_addresses(target: Target) -> None:
    chain = b",".join(b"127.%d.%d.%d" % tuple(random.randbytes(3)) for _ in range(2_000))
    await target.ask(head(b"GET", b"/x", b"X-Forwarded-For: " + chain))


@kind
async def long_connection_fields(target: Target) -> None:
    await target.ask(head(b"GET", b"/x", b"Connection: " + b"a," * 15_000))


@kind
async def long_fields_that_tell_the_family(target: Target) -> None:
    google = b"X-Goog-Api-Client: " + b"google-genai-sdk/1.1 " * 700
    await target.ask(head(b"GET", b"/events", google, b"Accept: " + b"a," * 7_000))


@kind
async def queries_of_browsers(target: Target) -> None:
    fields = b"Accept: text/event-stream", b"Cache-Control: no-cache"
    await target.ask(head(b"GET", b"/events?" + b"a&" * 15_000, *fields))


@kind
async def queries_of_separators(target: Target) -> None:
    fields = b"Accept: text/event-stream", b"Cache-Control: no-cache"
    await target.ask(head(b"GET", b"/events?" + b"&" * 31_000, *fields))


@kind
async def queries_of_cursors(target: Target) -> None:
    fields = b"Accept: text/event-stream", b"Cache-Control: no-cache"
    await target.ask(head(b"GET", b"/events?" + b"cursor=1&lastEventId=%31&" * 1_200, *fields))


@kind
async def accept_fields_of_commas(target: Target) -> None:
    await target.ask(head(b"GET", b"/events", b"Accept: " + b"," * 31_000))


@kind
async def nested_json(target: Target) -> None:
    await target.pour(_JSON_IN_CHUNKS, b"fa0\r\n" + b'{"a":[' * 666 + b"[[[[\r\n")


@kind
async def json_in_chunks_of_one_byte(target: Target) -> None:
    await target.pour(_JSON_IN_CHUNKS + b'1\r\n{\r\n1\r\n"\r\n', b"1\r\nx\r\n" * 2_000, connections=4)


@kind
async def streams_that_all_leave(target: Target) -> None:
    while not target.over:
        writers = []
        for _ in range(CONNECTIONS // 4):
            with contextlib.suppress(OSError):
                _, writer = await target.connect()
                writer.write(head(b"GET", b"/quiet"))
                writers.append(writer)
        await asyncio.sleep(0.5)
        for writer in writers:
            writer.transport.abort()


@kind
async def many_credentials(target: Target) -> None:
    await target.ask(head(b"GET", b"/events", b"Cookie: " + b"a=b; " * 6_000))


@kind
async def admin_idle_connections(target: Target) -> None:
    await target.hold(b"", port=target.admin)


@kind
async def admin_garbage(target: Target) -> None:
    await target.pour(b"", b"GET / RTSP/1.0\r\n\r\n" * 10, port=target.admin)


@kind
async def admin_pipelined_scrapes(target: Target) -> None:
    await target.ask(head(b"GET", b"/metrics") * 100, port=target.admin, connections=16)


@kind
async def admin_slow_readers(target: Target) -> None:
    await target.hold(head(b"GET", b"/metrics") * 100, port=target.admin)


@kind
async def admin_scrapes(target: Target) -> None:
    await target.ask(head(b"GET", b"/metrics"), port=target.admin, connections=2)


async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer `/quiet` with a silent stream, and everything else with `ok` once it is whole."""
    with contextlib.suppress(
        OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError
    ):
        asked = await reader.readuntil(b"\r\n\r\n")
        if asked.startswith(b"GET /quiet"):
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            while await reader.read(65536):
                pass
        if asked.startswith(b"POST"):
            while await reader.read(65536):
                pass
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    writer.close()


async def gaps(port: int, until: float) -> float:
    """The longest time between two reads of a silent stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head(b"GET", b"/quiet"))
    await reader.readuntil(b":ok")
    longest, last = 0.0, time.monotonic()
    while time.monotonic() < until:
        data = await asyncio.wait_for(reader.read(4096), 30)
        if not data:
            raise ConnectionError("the stream ended")
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    writer.close()
    return longest


async def own_lag(until: float) -> float:
    """How late this process was woken, at most."""
    longest = 0.0
    while (now := time.monotonic()) < until:
        await asyncio.sleep(0.01)
        longest = max(longest, time.monotonic() - now - 0.01)
    return longest


@contextlib.asynccontextmanager
async def running(program: Sequence[str]) -> AsyncIterator[tuple[int, int]]:
    """The proxy in front of `upstream`: its port, and that of its admin listener."""
    server = await asyncio.start_server(upstream, "127.0.0.1", 0, limit=1 << 20)
    ports = {"port": free_port(), "admin": free_port(), "upstream": server.sockets[0].getsockname()[1]}
    with tempfile.TemporaryDirectory(prefix="abuse-") as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(CONFIG.format(**ports))
        with (Path(folder) / "log").open("wb") as log:
            proxy = await asyncio.create_subprocess_exec(*program, "run", "-c", str(file), stderr=log)
            try:
                for port in (ports["port"], ports["admin"]):
                    for _ in range(600):
                        with contextlib.suppress(OSError):
                            (await asyncio.open_connection("127.0.0.1", port))[1].close()
                            break
                        await asyncio.sleep(0.1)
                yield ports["port"], ports["admin"]
            finally:
                await _end(proxy)
    server.close()


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself
        process.kill()
    await process.wait()


async def measure(name: str, seconds: float) -> tuple[float, float]:
    """How late pings were, and how late this process was, while `name` was done to the proxy."""
    async with running([sys.executable, "-m", "sse_keepalive_proxy"]) as (port, admin):
        words = [sys.executable, "-m", "bench.abuse", "--attack", name, str(port), str(admin), str(seconds)]
        attacker = await asyncio.create_subprocess_exec(*words)
        try:
            until = time.monotonic() + seconds
            longest, lag = await asyncio.gather(gaps(port, until), own_lag(until))
        finally:
            await _end(attacker)
        return longest - INTERVAL, lag


def main(words: Sequence[str] | None = None) -> int:
    """Exit code 1 if a kind of abuse delayed pings."""
    parser = argparse.ArgumentParser(prog="python -m bench.abuse", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="which kinds (all)")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each lasts (5)")
    parser.add_argument("--list", action="store_true", help="print the kinds")
    parser.add_argument("--attack", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if args.list:
        print("\n".join(KINDS))
        return 0
    if args.attack:
        name, port, admin, seconds = args.attack
        asyncio.run(KINDS[name](Target(int(port), int(admin), time.monotonic() + float(seconds))))
        return 0
    failed = 0
    for name in args.kinds or KINDS:
        late, machine = asyncio.run(measure(name, args.seconds))
        bad = late > ALLOWED and machine < ALLOWED / 2
        failed += bad
        verdict = "   FAIL" if bad else ""
        print(f"{name:40} late {late * 1000:5.0f} ms   machine {machine * 1000:5.0f} ms{verdict}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
