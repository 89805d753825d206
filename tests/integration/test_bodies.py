"""Bodies are streamed: passed on before they are whole, both ways, and waiting where they came from."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from sse_keepalive_proxy.http import connection as connection_module
from sse_keepalive_proxy.http.connection import ClientConnection
from tests.support.http1 import LAST_CHUNK, chunk, joined, request, response
from tests.support.raw_upstream import (
    CLOSE,
    GOT_REQUEST,
    HALF_CLOSE,
    HOLD,
    RawUpstream,
    UpstreamConnection,
)
from tests.support.running import Running, on_each_loop, plain
from tests.support.sockets import Ending

OK = response("200 OK", b"ok")
CHUNKED_POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n"


# Request bodies.


@on_each_loop
async def test_a_requests_body_is_passed_on_before_it_is_whole() -> None:
    for head, coded in (
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n", bytes),
        (CHUNKED_POST, chunk),
    ):
        async with (
            RawUpstream([GOT_REQUEST, OK]) as upstream,
            Running(plain(upstream.url)) as proxy,
            await proxy.client() as client,
        ):
            client.send(head)
            connection = await upstream.connection()
            await connection.wait_received(b"\r\n\r\n")
            for piece in (b"one", b"two", b"end"):
                assert not connection.requests[0].complete
                client.send(coded(piece))
                await connection.wait_received(piece)
            if coded is chunk:
                client.send(LAST_CHUNK)
            await client.wait_response()
            framing = connection.requests[0].header("transfer-encoding")
            assert framing == ("chunked" if coded is chunk else None)
            assert connection.requests[0].body == b"onetwoend"


def pattern(size: int) -> bytes:
    """Bytes that do not repeat, so that nothing lost or doubled stays unseen."""
    return b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(size // 32))


@on_each_loop
async def test_a_large_body_waits_in_its_client_while_upstream_does_not_read() -> None:
    body, reads = pattern(16 << 20), asyncio.Event()

    async def slow(connection: UpstreamConnection) -> None:
        connection.transport.pause_reading()
        await reads.wait()
        connection.transport.resume_reading()
        await connection.next_request(within=20)
        await connection.send(OK)

    async with (
        RawUpstream(slow) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/", method="POST", body=body)
        await _settles(client.transport.get_write_buffer_size)
        reads.set()
        await client.wait_response(within=20)
        assert (await (await upstream.connection()).request()).body == body


@on_each_loop
async def test_a_large_answer_waits_in_upstream_while_the_client_does_not_read() -> None:
    body = pattern(16 << 20)
    for raw in (response("200 OK", body), CHUNKED + joined([body]) + LAST_CHUNK, UNTIL_CLOSE + body):
        async with (
            RawUpstream([GOT_REQUEST, raw, CLOSE]) as upstream,
            Running(plain(upstream.url)) as proxy,
            await proxy.client(receive_buffer=65536) as client,
        ):
            client.request("/")
            await client.wait_head()
            client.pause()
            connection = await upstream.connection()
            await _settles(lambda connection=connection: connection.unsent)
            client.resume()
            await client.wait_response(within=20)
            assert client.body == body


async def _settles(waiting: Callable[[], int]) -> None:
    """Wait until no more is taken of what waits in a sender, though there is some."""
    loop = asyncio.get_running_loop()
    last, since = waiting(), loop.time()
    while loop.time() < since + 0.1:
        await asyncio.sleep(0.01)
        if waiting() != last:
            last, since = waiting(), loop.time()
    assert last > 1 << 20


@on_each_loop
async def test_bodies_flow_both_ways_at_once() -> None:
    async def echo(connection: UpstreamConnection) -> None:
        await connection.send(CHUNKED)
        for piece in (b"one", b"two", b"end"):
            await connection.wait_received(piece)
            await connection.send(chunk(piece.upper()))
        await connection.request()
        await connection.send(LAST_CHUNK)

    async with (
        RawUpstream(echo) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        client.send(CHUNKED_POST)
        for piece in (b"one", b"two", b"end"):
            client.send(chunk(piece))
            await client.wait_for(piece.upper())
        client.send(LAST_CHUNK)
        await client.wait_response()
        assert client.body == b"ONETWOEND"


@pytest.mark.parametrize(
    ("begin", "coded", "end"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", bytes, b""),
        (CHUNKED, chunk, LAST_CHUNK),
        (CHUNKED, chunk, b"0\r\nX-Trailer: 1\r\n\r\n"),
        (UNTIL_CLOSE, bytes, CLOSE),
        (UNTIL_CLOSE, bytes, HALF_CLOSE),
        (b"HTTP/1.0 200 OK\r\n\r\n", bytes, CLOSE),
    ],
    ids=["length", "chunks", "trailer", "until the close", "until the half-close", "HTTP/1.0"],
)
@on_each_loop
async def test_the_pieces_of_an_answer_arrive_before_it_ends(begin: bytes, coded: Any, end: Any) -> None:
    go_on = [asyncio.Event() for _ in range(3)]
    script = [GOT_REQUEST, begin, go_on[0], coded(b"one"), go_on[1], coded(b"two"), go_on[2], coded(b"end")]
    async with (
        RawUpstream([*script, *[end] * bool(end)]) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/")
        await client.wait_head()
        for event, piece in zip(go_on, (b"one", b"two", b"end"), strict=True):
            assert not client.response.complete
            event.set()
            await client.wait_for(piece)
        await client.wait_response()
        assert client.body == b"onetwoend"
        chunked = client.response.header("transfer-encoding")
        assert chunked == (None if b"Content-Length" in begin else "chunked")
        assert b"X-Trailer" not in client.received
        client.request("/next")  # whatever ended upstream's connection, the client's lives
        await upstream.connection(1)


# Expectations and interim answers.


@on_each_loop
async def test_a_client_hears_100_when_upstream_says_so_and_not_before() -> None:
    say = asyncio.Event()

    async def continues(connection: UpstreamConnection) -> None:
        await connection.wait_received(b"\r\n\r\n")
        await say.wait()
        await connection.send(b"HTTP/1.1 100 Continue\r\nX-Hop: 1\r\nConnection: x-hop\r\n\r\n")
        await connection.request()
        await connection.send(OK)

    async with (
        RawUpstream(continues) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        client.send(request("/", "Expect: 100-continue", "Content-Length: 4", method="POST"))
        connection = await upstream.connection()
        await connection.wait_received(b"Expect: 100-continue\r\n")
        await asyncio.sleep(0.05)
        assert client.received == b""
        say.set()
        await client.wait_for(lambda client: client.informational)
        assert client.received == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"body")
        await client.wait_response()
        assert (connection.requests[0].body, client.body) == (b"body", b"ok")


@on_each_loop
async def test_an_answer_instead_of_100_ends_the_connection_for_the_body_is_still_on_its_way() -> None:
    async def refuses(connection: UpstreamConnection) -> None:
        await connection.wait_received(b"\r\n\r\n")
        await connection.send(response("417 Expectation Failed", b"no"))

    behind = request("/behind")
    expecting = request("/", "Expect: 100-continue", f"Content-Length: {len(behind)}", method="POST")
    async with RawUpstream(refuses) as upstream, Running(plain(upstream.url)) as proxy:
        for status in (417, 502):
            async with await proxy.client() as client:
                client.send(expecting)
                answer = await client.wait_response()
                assert (answer.status, answer.header("connection")) == (status, "close")
                client.send(behind + behind)  # its body, and what would be another request
                await client.wait_end()
                assert len(client.responses) == 1
            upstream.refuse()
        assert len(upstream.connections) == 1


@on_each_loop
async def test_other_interim_answers_pass_in_order_except_to_http_1_0() -> None:
    script = [
        GOT_REQUEST,
        b"HTTP/1.1 102 Processing\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nLink: </b>\r\n\r\n",
        OK,
    ]
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nLink: </b>\r\n\r\n"
    async with RawUpstream(script) as upstream, Running(plain(upstream.url)) as proxy:
        for raw, interim in (
            (request("/"), b"HTTP/1.1 102 Processing\r\n\r\n" + hints),
            (b"GET / HTTP/1.0\r\n\r\n", b""),
        ):
            async with await proxy.client() as client:
                client.send(raw)
                await client.wait_response()
                assert client.received.startswith(interim + b"HTTP/1.1 200 OK\r\n")


@on_each_loop
async def test_an_answer_ahead_of_the_body_ends_the_connection_honestly() -> None:
    async def impatient(connection: UpstreamConnection) -> None:
        await connection.wait_received(b"half")
        await connection.send(response("413 Content Too Large", b"no"))

    async with (
        RawUpstream(impatient) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        client.send(request("/", "Content-Length: 8", method="POST") + b"half")
        answer = await client.wait_response()
        assert (answer.status, answer.header("connection"), client.body) == (413, "close", b"no")
        client.send(b"rest" + request("/next"))
        await client.wait_end()
        assert len(client.responses) == len(upstream.connections) == 1


@on_each_loop
async def test_an_early_answer_to_a_large_upload_arrives_each_time() -> None:
    async def impatient(connection: UpstreamConnection) -> None:
        await connection.wait_received(b"\r\n\r\n")
        await connection.send(response("413 Content Too Large", b"enough"))
        connection.transport.close()

    upload = pattern(8 << 20)
    async with RawUpstream(impatient) as upstream, Running(plain(upstream.url)) as proxy:
        for _ in range(10):
            async with await proxy.client() as client:
                client.send(request("/", method="POST", body=upload))
                await client.wait_end()
                assert (client.response.status, client.body) == (413, b"enough")


@on_each_loop
async def test_a_body_that_pauses_for_too_long_is_answered_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "_BODY_TIMEOUT", 0.05)
    for head in (CHUNKED_POST, request("/", "Content-Length: 8", method="POST")):
        async with (
            RawUpstream([GOT_REQUEST, OK]) as upstream,
            Running(plain(upstream.url)) as proxy,
            await proxy.client() as client,
        ):
            client.send(head + b"4\r\nhalf")
            await client.wait_end()
            assert client.response.status == 408
            assert client.body == b'route "all": nothing of the request\'s body came for 0.05 s\n'
            await upstream.wait_all_closed()
            assert not any(asked.complete for each in upstream.connections for asked in each.requests)


@on_each_loop
async def test_an_internal_error_during_an_answer_cuts_it_and_writes_nothing_into_the_body(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(connection: ClientConnection) -> None:
        raise RuntimeError("planned")

    monkeypatch.setattr(ClientConnection, "drained", fails)
    for answer in (response("200 OK", b"x" * 9), CHUNKED + chunk(b"x" * 9), UNTIL_CLOSE + b"x" * 9):
        for version in (b"1.0", b"1.1"):
            async with (
                RawUpstream([GOT_REQUEST, answer, HOLD]) as upstream,
                Running(plain(upstream.url)) as proxy,
                await proxy.client() as client,
            ):
                client.send(b"GET / HTTP/%b\r\nHost: a\r\n\r\n" % version)
                assert await client.wait_end() is Ending.RESET
                assert [each.status for each in client.responses] in ([], [200])
                assert b"the proxy failed" not in client.received
    assert "please report this" in caplog.text
