"""One request to upstream and what is made of its answer: heads, bodies, endings, pressure.

Where the way of the bytes matters a scripted upstream is behind a real socket; where only the bytes do,
they are fed in.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from sse_keepalive_proxy.config.types.address import parse_upstream
from sse_keepalive_proxy.errors import ProxyError, UpstreamInvalid, UpstreamReset, UpstreamTimeout
from sse_keepalive_proxy.http.dialer import Dialer
from sse_keepalive_proxy.http.exchange import Exchange
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.net.poller import open_poller
from tests.support.http1 import LAST_CHUNK, chunk, joined, response
from tests.support.looping import Changes, in_loop
from tests.support.raw_upstream import (
    CLOSE,
    GOT_REQUEST,
    HALF_CLOSE,
    HOLD,
    RESET,
    RawUpstream,
    Script,
    UpstreamConnection,
)
from tests.support.running import on_each_loop, soon
from tests.support.sockets import Ending

HELLO = response("200 OK", b"hello")
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


class Heard:
    """A sink that remembers. `react` is called with every piece of the body."""

    def __init__(self, react: Callable[[], None] = lambda: None) -> None:
        self.pieces: list[bytes] = []
        self.size = 0
        self.ends = 0
        self.errors: list[ProxyError] = []
        self._react = react
        self._changes = Changes()

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def data(self, data: bytes) -> None:
        assert data
        assert not self.ends
        assert not self.errors
        self.pieces.append(data)
        self.size += len(data)
        self._changes.notify()
        self._react()

    def end(self) -> None:
        self.ends += 1
        self._changes.notify()

    def failed(self, error: ProxyError) -> None:
        self.errors.append(error)
        self._changes.notify()

    async def over(self) -> None:
        """Wait for the one ending there may be."""
        await self.until(lambda: self.ends or self.errors)
        assert self.ends + len(self.errors) == 1

    async def until(self, condition: Callable[[], object]) -> None:
        await self._changes.until(lambda: bool(condition()), 20.0, lambda: f"{self.size} bytes heard")


@dataclass(frozen=True, slots=True)
class Asked:
    """An exchange with its upstream's side."""

    exchange: Exchange
    upstream: UpstreamConnection
    dialer: Dialer

    async def heard(self) -> tuple[ResponseHead, Heard]:
        """The whole answer."""
        head = await self.exchange.response(20.0)
        sink = Heard()
        self.exchange.attach(sink)
        await sink.over()
        return head, sink


@contextlib.asynccontextmanager
async def asked(script: Script, **how: Any) -> AsyncIterator[Asked]:
    """An exchange with a scripted upstream, which answers once it has the request. On leaving, nothing may
    be left of it.
    """
    dialer = Dialer(open_poller())
    async with RawUpstream(script if callable(script) else [GOT_REQUEST, *script]) as upstream:
        exchange = await dialer.open(parse_upstream(upstream.url), within=20.0, **how)
        exchange.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        try:
            yield Asked(exchange, await upstream.connection(), dialer)
        finally:
            exchange.close()
            await soon(lambda: not dialer.open_connections)
            await upstream.wait_all_closed()


def fed(*pieces: bytes, **how: Any) -> tuple[Exchange, Heard]:
    """An exchange without a connection that reads `pieces`, and the sink that listens from the start."""
    exchange, sink = Exchange(**{"head_only": False, **how}), Heard()
    exchange.attach(sink)
    for piece in pieces:
        exchange.data_received(piece)
    return exchange, sink


# Heads.


@in_loop
async def test_a_head_is_what_upstream_wrote_in_order_with_repeats_and_raw_bytes() -> None:
    raw = b"HTTP/1.1 299 Quite \xfc\r\nSet-Cookie: a=1\r\nX-ONE: \xe9 \t\r\nset-cookie:b=2\r\nEmpty:\r\n"
    exchange, _ = fed(raw + b"Content-Length: 0\r\n\r\n")
    head = await exchange.response(None)
    assert head == ResponseHead(
        299,
        b"Quite \xfc",
        [
            (b"Set-Cookie", b"a=1"),
            (b"X-ONE", b"\xe9"),
            (b"set-cookie", b"b=2"),
            (b"Empty", b""),
            (b"Content-Length", b"0"),
        ],
    )
    assert head.get(b"set-cookie") == b"a=1"
    assert head.get_all(b"set-cookie") == [b"a=1", b"b=2"]
    assert (head.get(b"none"), head.get_all(b"none")) == (b"", [])


@pytest.mark.parametrize("line", [b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.0 200"])
@in_loop
async def test_a_reason_may_be_left_out(line: bytes) -> None:
    exchange, sink = fed(line + b"\r\nContent-Length: 0\r\n\r\n")
    head = await exchange.response(None)
    assert (head.status, head.reason, sink.ends) == (200, b"", 1)


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + response("200 OK", b"hello", "A: 1"), b"hello"),
        (CHUNKED + joined([b"he", b"l", b"lo"]) + LAST_CHUNK, b"hello"),
        (CHUNKED + b"5;x=y\r\nhello\r\n0\r\nTrailer: 1\r\n\r\n", b"hello"),
    ],
    ids=["length", "chunks", "extension and trailer"],
)
@in_loop
async def test_it_does_not_matter_where_the_bytes_are_split(raw: bytes, body: bytes) -> None:
    whole = await fed(raw)[0].response(None)
    splits = [[raw[:at], raw[at:]] for at in range(1, len(raw))]
    for pieces in [*splits, [raw[at : at + 1] for at in range(len(raw))]]:
        exchange, sink = fed(*pieces)
        assert await exchange.response(None) == whole
        assert (sink.body, sink.ends, sink.errors) == (body, 1, [])


@in_loop
async def test_what_comes_in_one_read_reaches_the_sink_in_one_call() -> None:
    _, sink = fed(CHUNKED + joined([b"a", b"b", b"c"]), joined([b"d", b"e"]) + LAST_CHUNK)
    assert sink.pieces == [b"abc", b"de"]


@in_loop
async def test_interim_heads_are_passed_on_in_order_and_are_not_the_answer() -> None:
    told: list[ResponseHead] = []
    exchange, sink = fed(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\nLink: b\r\n\r\n" + HELLO,
        interim=told.append,
    )
    assert [(head.status, head.headers) for head in told] == [
        (100, []),
        (103, [(b"Link", b"a"), (b"Link", b"b")]),
    ]
    assert (await exchange.response(None)).status == 200
    assert sink.body == b"hello"


# Bodies, and where they end.


BODYLESS = [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", True),
    (CHUNKED, True),
    (UNTIL_CLOSE, True),
    (b"HTTP/1.1 204 No Content\r\n\r\n", False),
    (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", False),
    (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", False),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", False),
    (CHUNKED + LAST_CHUNK, False),
]
UNASKED = [
    HELLO,
    b"\x00",
    b"5\r\nhello\r\n0\r\n\r\n",
    SWITCH,
    SWITCH + b"\x81\x00",
    b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno",
    CHUNKED + chunk(b"no") + LAST_CHUNK,
]


@pytest.mark.parametrize(("raw", "head_only"), BODYLESS)
@in_loop
async def test_an_answer_without_a_body_ends_with_its_head_and_later_bytes_are_dropped(
    raw: bytes, head_only: bool
) -> None:
    for behind in [b"", *UNASKED]:
        for pieces in ([raw + behind], [raw, behind]):
            exchange, sink = fed(*pieces, head_only=head_only)
            await exchange.response(None)
            assert (sink.body, sink.ends, sink.errors) == (b"", 1, []), pieces
            assert exchange.surplus == b""


@pytest.mark.parametrize("raw", [HELLO, CHUNKED + joined([b"he", b"llo"]) + LAST_CHUNK])
@in_loop
async def test_a_second_answer_is_dropped(raw: bytes) -> None:
    for behind in UNASKED:
        for pieces in ([raw + behind], [raw, behind], [raw[:-3], raw[-3:] + behind]):
            exchange, sink = fed(*pieces)
            assert (await exchange.response(None)).status == 200
            assert (sink.body, sink.ends, sink.errors) == (b"hello", 1, []), pieces
            assert exchange.surplus == b""


@in_loop
async def test_an_interim_head_after_the_answer_is_dropped() -> None:
    told: list[ResponseHead] = []
    fed(HELLO + b"HTTP/1.1 103 Early Hints\r\n\r\n", interim=told.append)
    assert told == []


@on_each_loop
async def test_a_body_may_end_with_the_connection() -> None:
    for head in (UNTIL_CLOSE, b"HTTP/1.0 200 OK\r\n\r\n"):
        for end in (CLOSE, HALF_CLOSE):
            async with asked([head, b"hel", b"lo", end]) as it:
                _, sink = await it.heard()
                assert (sink.body, sink.ends) == (b"hello", 1)


BROKEN_OFF = [
    (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", b"hello"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b""),
    (CHUNKED + chunk(b"hello"), b"hello"),
    (CHUNKED + b"9\r\nhello", b"hello"),
    (CHUNKED + chunk(b"hello") + b"0\r\n", b"hello"),
]


@pytest.mark.parametrize("end", [CLOSE, RESET])
@on_each_loop
async def test_a_body_that_breaks_off_is_a_reset_after_the_received_bytes(end: Any) -> None:
    for sent, body in BROKEN_OFF:
        go_on = asyncio.Event()
        async with asked([sent, go_on, end]) as it:
            await it.exchange.response(20.0)
            sink = Heard()
            it.exchange.attach(sink)
            await sink.until(lambda sink=sink, body=body: sink.body == body)
            go_on.set()
            await sink.over()
            assert isinstance(sink.errors[0], UpstreamReset)
            assert sink.body == body


@on_each_loop
async def test_a_body_until_the_close_that_ends_in_a_reset_is_broken_too() -> None:
    go_on = asyncio.Event()
    async with asked([UNTIL_CLOSE + b"hello", go_on, RESET]) as it:
        await it.exchange.response(20.0)
        sink = Heard()
        it.exchange.attach(sink)
        go_on.set()
        await sink.over()
        assert (sink.body, len(sink.errors)) == (b"hello", 1)


@in_loop
async def test_a_broken_chunk_fails_after_the_whole_ones() -> None:
    _, sink = fed(CHUNKED + chunk(b"hello") + b"x\r\n")
    assert sink.body == b"hello"
    assert isinstance(sink.errors[0], UpstreamInvalid)


@in_loop
async def test_trailers_are_not_kept() -> None:
    exchange, sink = fed(CHUNKED + chunk(b"hello") + b"0\r\n", *[b"Trailer: 1\r\n"] * 100)
    assert (sink.body, sink.ends) == (b"hello", 0)
    exchange.data_received(b"\r\n")
    assert (sink.body, sink.ends) == (b"hello", 1)
    assert len((await exchange.response(None)).headers) == 1


@on_each_loop
async def test_a_sink_gets_the_bytes_and_the_end_that_came_before_it_was_attached() -> None:
    for rest, ends, failures in ((b"o", 1, 0), (b"", 0, 1)):
        async with asked([HELLO[:-1] + rest, CLOSE]) as it:
            await it.exchange.response(20.0)
            await soon(lambda it=it: not it.dialer.open_connections)
            sink = Heard()
            it.exchange.attach(sink)
            assert sink.body == b"hell" + rest
            assert (sink.ends, len(sink.errors)) == (ends, failures)


@on_each_loop
async def test_the_first_bytes_can_be_looked_at_before_a_sink_is_attached() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    for body, early in ((b"", b""), (b"hello", b"hello"), (b"x" * 1000, b"x" * 128)):
        async with asked([head + body]) as it:
            await it.exchange.response(20.0)
            assert it.exchange.early == early
            it.exchange.attach(sink := Heard())
            assert sink.body == body
            assert it.exchange.early == b""


# What is no HTTP/1.1.


GARBAGE = {
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a page without a head": b"<html></html>\r\n\r\n",
    "TLS": b"\x15\x03\x03\x00\x02\x02\x50",
    "no status": b"HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a transfer coding nobody asked for": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab",
    "a switch that names no protocol": b"HTTP/1.1 101 Switching Protocols\r\n\r\nab",
}


@in_loop
async def test_what_is_no_http_1_1_is_no_answer() -> None:
    for name, raw in GARBAGE.items():
        for pieces in ([raw], [raw[at : at + 1] for at in range(len(raw))]):
            exchange, sink = fed(*pieces)
            assert [type(error) for error in sink.errors] == [UpstreamInvalid], name
            assert str(sink.errors[0]).startswith("upstream's answer is not valid HTTP: "), name
            with pytest.raises(UpstreamInvalid):
                await exchange.response(20.0)
            assert sink.body == b"", name


@on_each_loop
async def test_no_answer_closes_the_connection_at_once() -> None:
    async with asked([b"SSH-2.0\r\n", HOLD]) as it:
        with pytest.raises(UpstreamInvalid):
            await it.exchange.response(20.0)
        await it.upstream.wait_closed()


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 100),
        (b"HTTP/1.1 200 OK\r\nA: ", b"x" * 1000),
        (b"HTTP/1.1 200 ", b"x" * 1000),
        (b"", b"\r\n" * 1000),
        (b"", b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n"),
    ],
    ids=["fields", "value", "reason", "blank lines", "interim heads"],
)
@in_loop
async def test_a_head_without_an_end_is_given_up(begin: bytes, piece: bytes) -> None:
    exchange, sink = fed(*[begin] * bool(begin))
    for _ in range(300_000 // len(piece)):
        exchange.data_received(piece)
    assert isinstance(sink.errors[0], UpstreamInvalid)
    assert re.search("its head is larger than|it has more than 1000 interim heads", str(sink.errors[0]))


@in_loop
async def test_a_large_head_is_taken() -> None:
    fields = b"A: %b\r\n" % (b"b" * 250) * 999
    exchange, sink = fed(b"HTTP/1.1 200 OK\r\n" + fields + HELLO.partition(b"\r\n")[2])
    assert len((await exchange.response(None)).headers) == 1000
    assert sink.body == b"hello"


@pytest.mark.parametrize("end", [CLOSE, RESET])
@on_each_loop
async def test_a_connection_that_breaks_before_the_head_is_a_reset(end: Any) -> None:
    for sent in (b"", b"HTTP/1.1 200 OK\r\nA:", b"HTTP/1.1 100 Continue\r\n\r\n"):
        async with asked([sent, end] if sent else [end]) as it:
            with pytest.raises(UpstreamReset):
                await it.exchange.response(20.0)


@pytest.mark.parametrize(
    ("sent", "progress"),
    [
        (b"", "before it answered"),
        (b"HTTP/1.1 200 OK\r\nA:", "in the middle of its response head"),
        (CHUNKED + chunk(b"hello"), "before its answer was whole"),
    ],
)
@on_each_loop
async def test_a_reset_says_how_far_the_answer_had_come(sent: bytes, progress: str) -> None:
    for end, said in ((CLOSE, "upstream closed the connection"), (RESET, "upstream's connection broke")):
        go_on = asyncio.Event()
        async with asked([sent, go_on, end] if sent else [go_on, end]) as it:
            sink = Heard()
            it.exchange.attach(sink)
            await soon(
                lambda it=it: it.exchange._reader is None or it.exchange._reader.is_empty != bool(sent)
            )
            go_on.set()
            await sink.over()
            assert str(sink.errors[0]).startswith(f"{said} {progress}")


@on_each_loop
async def test_the_wait_for_a_head_can_have_an_end() -> None:
    async with asked([b"HTTP/1.1 100 Continue\r\n\r\n", HOLD]) as it:
        with pytest.raises(UpstreamTimeout, match=r"within 0\.05 s"):
            await it.exchange.response(0.05)


@in_loop
async def test_a_head_is_given_out_once() -> None:
    exchange, _ = fed(HELLO)
    await exchange.response(None)
    with pytest.raises(RuntimeError):
        await exchange.response(None)


# Pressure, both ways.


async def flood(connection: UpstreamConnection) -> None:
    await connection.next_request()
    await connection.send(UNTIL_CLOSE)
    while True:
        await connection.send(b"x" * 65536)


async def stands_still(connection: UpstreamConnection) -> None:
    """Wait until upstream gets nothing more rid of."""
    loop = asyncio.get_running_loop()
    last, since = connection.unsent, loop.time()
    while not last or loop.time() < since + 0.1:
        await asyncio.sleep(0.005)
        if connection.unsent != last:
            last, since = connection.unsent, loop.time()


@on_each_loop
async def test_before_a_sink_is_there_upstream_waits() -> None:
    async with asked(flood) as it:
        await it.exchange.response(20.0)
        await stands_still(it.upstream)
        sink = Heard()
        it.exchange.attach(sink)
        assert sink.size < 512 * 1024
        await sink.until(lambda: sink.size > 8 << 20)


@in_loop
async def test_the_stock_loop_reads_no_more_at_once_than_it_can_without_mapping_memory() -> None:
    async with asked(flood) as it:
        await it.exchange.response(20.0)
        await stands_still(it.upstream)
        sink = Heard()
        it.exchange.attach(sink)
        await sink.until(lambda: sink.size > 1 << 20)
        assert max(map(len, sink.pieces[1:])) <= 65536


@on_each_loop
async def test_a_pause_is_felt_upstream_until_reading_goes_on() -> None:
    async with asked(flood) as it:
        await it.exchange.response(20.0)
        sink = Heard(it.exchange.pause)
        it.exchange.attach(sink)
        await stands_still(it.upstream)
        heard = len(sink.pieces)
        assert sink.size < 512 * 1024
        it.exchange.resume()
        await sink.until(lambda: len(sink.pieces) > heard)


@on_each_loop
async def test_a_request_waits_while_upstream_does_not_read() -> None:
    reads = asyncio.Event()

    async def unwilling(connection: UpstreamConnection) -> None:
        connection.transport.pause_reading()
        await reads.wait()
        connection.transport.resume_reading()

    async with asked(unwilling) as it:
        while it.exchange._drained is None:
            it.exchange.send(b"x" * 65536)
            await asyncio.sleep(0)
        drained = asyncio.ensure_future(it.exchange.drained())
        assert not (await asyncio.wait([drained], timeout=0.05))[0]
        reads.set()
        assert await drained is True


@on_each_loop
async def test_a_sender_that_waits_learns_that_the_connection_is_closed() -> None:
    async with asked([HOLD]) as it:
        it.upstream.transport.pause_reading()
        while it.exchange._drained is None:
            it.exchange.send(b"x" * 65536)
            await asyncio.sleep(0)
        drained = asyncio.ensure_future(it.exchange.drained())
        await asyncio.sleep(0)
        it.exchange.close()
        assert await drained is False
        it.exchange.send(b"into the void")
        it.upstream.transport.resume_reading()


# What has come when another connection takes the place of this one.


@on_each_loop
async def test_bytes_that_have_come_are_read_out_in_the_same_turn_and_the_sink_goes_on() -> None:
    async with asked([CHUNKED, HOLD]) as it:
        await it.exchange.response(20.0)
        assert it.exchange.read_out() == (b"", False)
        it.upstream.put(chunk(b"1"))
        assert it.exchange.read_out() == (b"1", False)
        it.upstream.put(chunk(b"2"))
        await asyncio.sleep(0)
        sink = Heard()
        it.exchange.attach(sink)
        await sink.until(lambda: sink.body == b"2")
        it.upstream.put(chunk(b"3"))
        assert it.exchange.read_out() == (b"3", False)
        it.upstream.put(chunk(b"4") + LAST_CHUNK)
        await sink.over()
        assert (sink.body, sink.ends) == (b"24", 1)


@on_each_loop
@pytest.mark.parametrize("end", [LAST_CHUNK, b"no chunk"])
async def test_an_end_that_was_read_out_is_no_news_for_the_sink(end: bytes) -> None:
    async with asked([CHUNKED, HOLD]) as it:
        await it.exchange.response(20.0)
        sink = Heard()
        it.exchange.attach(sink)
        it.upstream.put(chunk(b"1") + end)
        assert it.exchange.read_out() == (b"1", True)
        assert it.exchange.read_out() == (b"", True)
        it.exchange.part(Exchange.close)
        await soon(lambda: not it.dialer.open_connections)
        assert (sink.body, sink.ends, sink.errors) == (b"", 0, [])


@on_each_loop
async def test_more_bytes_than_can_be_read_out_at_once_come_later() -> None:
    async with asked([CHUNKED, HOLD]) as it:
        await it.exchange.response(20.0)
        sink = Heard()
        it.exchange.attach(sink)
        much = chunk(bytes(1 << 20))
        sending = asyncio.ensure_future(it.upstream.send(much))
        await sink.until(lambda: sink.size)
        data, over = it.exchange.read_out()
        assert len(data) <= 4 * 65536
        assert not over
        await sink.until(lambda: sink.size + len(data) == 1 << 20)
        await sending


@on_each_loop
async def test_an_answer_can_be_looked_at_before_it_is_returned() -> None:
    async with asked([HOLD]) as it:
        answer = asyncio.ensure_future(it.exchange.response(20.0))
        await asyncio.sleep(0)
        assert it.exchange.answered() is None
        await it.upstream.request()
        it.upstream.put(CHUNKED + chunk(b"1"))
        head = it.exchange.answered()
        assert head is not None
        assert it.exchange.read_out() == (b"1", False)
        assert await answer is head
        assert it.exchange.answered() is None


# Endings from this side, and the switch.


@on_each_loop
async def test_a_closed_exchange_says_nothing_more_and_upstream_notices() -> None:
    async with asked(flood) as it:
        await it.exchange.response(20.0)
        sink = Heard(it.exchange.close)
        it.exchange.attach(sink)
        await it.upstream.wait_closed()
        assert (len(sink.pieces), sink.ends, sink.errors) == (1, 0, [])


@on_each_loop
async def test_a_sink_may_close_on_what_came_before_it() -> None:
    for answer, body in ((HELLO, b"hello"), (HELLO[:-1], b"hell")):
        async with asked([answer, CLOSE]) as it:
            await it.exchange.response(20.0)
            await soon(lambda it=it: not it.dialer.open_connections)
            sink = Heard(it.exchange.close)
            it.exchange.attach(sink)
            assert (sink.body, sink.ends, sink.errors) == (body, 0, [])


@on_each_loop
async def test_a_whole_answer_closes_the_connection_whatever_upstream_wants() -> None:
    async with asked([HELLO, HOLD]) as it:
        _, sink = await it.heard()
        assert sink.body == b"hello"
        assert await it.upstream.wait_closed() is not Ending.SELF
        await soon(lambda: not it.dialer.open_connections)


@on_each_loop
async def test_a_failure_is_reported_once_to_each_waiting_caller() -> None:
    async with asked([HOLD]) as it:
        waiting = asyncio.ensure_future(it.exchange.response(20.0))
        await asyncio.sleep(0)
        it.exchange.fail(UpstreamReset("one"))
        it.exchange.fail(UpstreamReset("two"))
        with pytest.raises(UpstreamReset, match="one"):
            await waiting
        sink = Heard()
        it.exchange.attach(sink)
        assert [str(error) for error in sink.errors] == ["one"]


class Frames(asyncio.Protocol):
    """What takes over after a switch."""

    def __init__(self) -> None:
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data


@on_each_loop
async def test_after_a_switch_another_protocol_takes_over_and_not_a_byte_is_lost() -> None:
    async def switch(connection: UpstreamConnection) -> None:
        await connection.send(SWITCH + b"\x81\x01a")
        await connection.send(b"\x81\x01b")

    async with asked(switch) as it:
        assert (await it.exchange.response(20.0)).status == 101
        frames = Frames()
        transport = it.exchange.splice(frames)
        assert it.dialer.open_connections == 1  # until whoever took it says that it is gone
        assert it.exchange.surplus.startswith(b"\x81\x01a")
        transport.resume_reading()
        await soon(lambda: it.exchange.surplus + frames.received == b"\x81\x01a\x81\x01b")
        transport.write(b"up")
        await it.upstream.wait_received(b"up")
        transport.close()
        it.exchange.closed()
        assert not it.dialer.open_connections


@on_each_loop
async def test_a_switch_on_a_closed_connection_is_a_reset() -> None:
    async with asked([SWITCH, RESET]) as it:
        await it.exchange.response(20.0)
        it.exchange.resume()
        await soon(lambda: not it.dialer.open_connections)
        with pytest.raises(UpstreamReset):
            it.exchange.splice(Frames())


@on_each_loop
async def test_the_close_is_reported_once_also_to_a_late_callback() -> None:
    closes: list[str] = []
    async with asked([HOLD]) as it:
        it.exchange.when_closed(lambda: closes.append("early"))
        it.dialer.open_connections -= 1  # its own wish was replaced
        it.exchange.close()
        await soon(lambda: closes)
        it.exchange.when_closed(lambda: closes.append("late"))
        assert closes == ["early", "late"]


@on_each_loop
async def test_a_vanished_upstream_is_found_by_the_kernel() -> None:
    async with asked([HOLD]) as it:
        assert it.exchange._transport is not None
        sock = it.exchange._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_KEEPIDLE"):
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            idle, interval, count = (sock.getsockopt(socket.IPPROTO_TCP, option) for option in options)
            assert idle + interval * count <= 120


# What a head says.


@pytest.mark.parametrize(
    ("value", "media_type"),
    [
        (b"text/event-stream", b"text/event-stream"),
        (b"Text/Event-Stream; charset=utf-8", b"text/event-stream"),
        (b"text/event-stream ;x", b"text/event-stream"),
        (b"", b""),
        (b";", b""),
    ],
)
def test_a_media_type_is_lower_case_and_without_its_parameters(value: bytes, media_type: bytes) -> None:
    assert ResponseHead(200, b"", ((b"CONTENT-type", value),)).media_type == media_type


@pytest.mark.parametrize(
    ("values", "media_type"),
    [
        ([b"text/event-stream", b"application/json"], b"application/json"),
        ([b"application/json", b"Text/Event-Stream;x"], b"text/event-stream"),
        ([b"application/json, text/event-stream; charset=utf-8"], b"text/event-stream"),
        ([b"text/event-stream", b""], b"text/event-stream"),
        ([b"text/event-stream, utf-8"], b"text/event-stream"),
        ([b'text/event-stream; x="a,b"'], b"text/event-stream"),
    ],
)
def test_of_several_media_types_the_last_counts_as_in_browsers(
    values: list[bytes], media_type: bytes
) -> None:
    assert ResponseHead(200, b"", [(b"Content-Type", value) for value in values]).media_type == media_type


def test_no_type_is_no_type() -> None:
    assert ResponseHead(200, b"", ()).media_type == b""


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"0", 0.0),
        (b" 7 ", 7.0),
        (b"007", 7.0),
        (b"0000000000120", 120.0),
        (b"9" * 400, 999_999_999.0),
        (b"-1", 0.0),
        (b"1.5", 0.0),
        (b"1e3", 0.0),
        (b"\xb2", 0.0),  # a digit to Unicode
        (b"soon", 0.0),
        (b"", 0.0),
        (b"\xff\x00", 0.0),
        (b"Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        (b"Thu, 32 Jan 2026 00:00:00 GMT", 0.0),
        (b"Thu, 01 Jan 99999 00:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_from_now_or_nothing(value: bytes, seconds: float) -> None:
    assert ResponseHead(503, b"", ((b"Retry-After", value),)).retry_after == seconds


@pytest.fixture
def _far_from_utc() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "EST5")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("_far_from_utc")
@pytest.mark.parametrize(
    "form", ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"]
)
def test_retry_after_may_be_a_date_in_any_form_of_http_wherever_the_proxy_stands(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0)
    value = time.strftime(form, time.gmtime(1_800_000_090)).encode()
    assert ResponseHead(503, b"", ((b"Retry-After", value),)).retry_after == 90


def test_without_retry_after_nothing_is_asked_for() -> None:
    assert ResponseHead(503, b"", ()).retry_after == 0
