"""The scripted upstream and the raw client, against each other."""

import asyncio
from pathlib import Path

import pytest

from tests.support.http1 import LAST_CHUNK, chunk, joined, request, response, stream_head
from tests.support.looping import in_loop
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import (
    CLOSE,
    GOT_REQUEST,
    HALF_CLOSE,
    HOLD,
    RESET,
    RawUpstream,
    Step,
    UpstreamConnection,
)
from tests.support.sockets import Ending


@in_loop
async def test_a_script_is_served_step_by_step_and_every_byte_is_kept() -> None:
    go_on = asyncio.Event()
    script: list[Step] = [
        GOT_REQUEST,
        stream_head(),
        chunk(b"data: 1\n\n"),
        go_on,
        chunk(b"data: 2\n\n"),
        LAST_CHUNK,
        CLOSE,
    ]
    async with RawUpstream(script) as upstream, await RawClient.connect(upstream.url) as client:
        client.request("/events?x=1", "Accept: text/event-stream")
        await client.wait_for(b"data: 1\n\n")
        assert [event.data for event in client.events] == ["1"]
        go_on.set()
        assert await client.wait_end() is Ending.EOF
        assert client.response.complete
        assert client.body == b"data: 1\n\ndata: 2\n\n"
        connection = await upstream.connection()
        assert (await connection.request()).target == "/events?x=1"
        assert connection.received == request(
            "/events?x=1", "Accept: text/event-stream", host=f"127.0.0.1:{upstream.port}"
        )
        assert client.invalid is None
        assert await connection.wait_closed() is Ending.SELF


@in_loop
async def test_arrivals_carry_the_time_they_came() -> None:
    later = asyncio.Event()
    before = asyncio.get_running_loop().time()
    async with (
        RawUpstream([stream_head(), chunk(b":a\n"), later, chunk(b":b\n")]) as upstream,
        await RawClient.connect(upstream.url) as client,
    ):
        await client.wait_for(b":a\n")
        between = asyncio.get_running_loop().time()
        later.set()
        await client.wait_for(b":b\n")
        first, second = client.body_arrivals
        assert (first.data, second.data) == (b":a\n", b":b\n")
        assert before <= first.at <= between <= second.at


@in_loop
async def test_a_reset_is_told_from_a_clean_end() -> None:
    async with RawUpstream([GOT_REQUEST, RESET], [GOT_REQUEST, CLOSE], [GOT_REQUEST, HALF_CLOSE]) as upstream:
        for ending in (Ending.RESET, Ending.EOF, Ending.EOF):
            async with await RawClient.connect(upstream.url) as client:
                client.request("/")
                assert await client.wait_end() is ending


@in_loop
async def test_the_upstream_knows_how_the_client_left() -> None:
    async with RawUpstream([stream_head(), HOLD]) as upstream:
        closing, aborting, half = [await RawClient.connect(upstream.url) for _ in range(3)]
        await upstream.wait_connections(3)
        await closing.close()
        assert await (await upstream.connection(0)).wait_closed() is Ending.EOF
        aborting.abort()
        assert await (await upstream.connection(1)).wait_closed() is Ending.RESET
        half.half_close()
        assert await (await upstream.connection(2)).wait_closed() is Ending.EOF
        await upstream.wait_all_closed()
        await half.close()
        await aborting.close()


@in_loop
async def test_after_a_half_close_the_upstream_can_still_answer() -> None:
    async def late(connection: UpstreamConnection) -> None:
        await connection.wait_closed()
        await connection.send(response(body=b"late"))

    async with RawUpstream(late) as upstream, await RawClient.connect(upstream.url) as client:
        client.half_close()
        assert bytes((await client.wait_response()).body) == b"late"


@in_loop
async def test_bytes_can_be_split_at_every_place() -> None:
    async def bytewise(connection: UpstreamConnection) -> None:
        await connection.next_request()
        await connection.send_split(stream_head() + joined([b"data: ", b"1\n\n"]) + LAST_CHUNK)

    async with RawUpstream(bytewise) as upstream, await RawClient.connect(upstream.url) as client:
        await client.send_split(request("/split"))
        await client.wait_response()
        assert client.body == b"data: 1\n\n"
        assert len(client.arrivals) > 10


@in_loop
async def test_several_requests_on_one_connection_are_answered_in_turn() -> None:
    async def echo(connection: UpstreamConnection) -> None:
        for _ in range(2):
            asked = await connection.next_request()
            await connection.send(response(body=asked.target.encode()))

    async with RawUpstream(echo) as upstream, await RawClient.connect(upstream.url) as client:
        client.request("/a")
        client.request("/b")
        await client.wait_for(b"/b")
        assert [bytes(answer.body) for answer in client.responses] == [b"/a", b"/b"]


@in_loop
async def test_a_client_that_does_not_read_makes_the_upstream_wait() -> None:
    async def flood(connection: UpstreamConnection) -> None:
        while True:
            await connection.send(b"x" * 65536)

    async with (
        RawUpstream(flood) as upstream,
        await RawClient.connect(upstream.url, receive_buffer=4096) as client,
    ):
        client.pause()
        connection = await upstream.connection()
        await connection.wait_blocked()
        seen = len(client.received)
        client.resume()
        await client.wait_for(lambda client: len(client.received) > seen + 1_000_000)


@in_loop
async def test_a_slow_client_reads_little_at_a_time() -> None:
    async with (
        RawUpstream([b"x" * 100, CLOSE]) as upstream,
        await RawClient.connect(upstream.url, read_size=10, read_pause=0.001) as client,
    ):
        await client.wait_end()
        assert [len(arrival.data) for arrival in client.arrivals] == [10] * 10


@in_loop
async def test_waiting_fails_early_when_the_connection_ends_and_with_the_story_when_nothing_comes() -> None:
    async with RawUpstream([b"HTTP/1.1 200 OK\r\n", CLOSE], [b"HTTP"]) as upstream:
        async with await RawClient.connect(upstream.url) as client:
            with pytest.raises(ConnectionError, match="200 OK"):
                await client.wait_for(b"never")
        async with await RawClient.connect(upstream.url) as client:
            await client.wait_for(b"HTTP")
            with pytest.raises(TimeoutError, match="received b'HTTP'"):
                await client.wait_for(b"never", within=0.01)


@in_loop
async def test_an_error_in_a_script_reaches_the_test() -> None:
    async def broken(connection: UpstreamConnection) -> None:
        raise RuntimeError("in the script")

    upstream = await RawUpstream(broken).start()
    async with await RawClient.connect(upstream.url) as client:
        await client.wait_end()
    with pytest.raises(RuntimeError, match="in the script"):
        await upstream.stop()


@in_loop
async def test_an_upstream_can_refuse_and_come_back_on_the_same_port() -> None:
    async with RawUpstream([stream_head()]) as upstream, await RawClient.connect(upstream.url) as first:
        await first.wait_head()
        upstream.refuse()
        with pytest.raises(ConnectionRefusedError):
            await RawClient.connect(upstream.url)
        await upstream.start()
        async with await RawClient.connect(upstream.url) as second:
            await second.wait_head()
        assert first.ending is None


@in_loop
async def test_both_ends_speak_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "upstream.sock"
    async with (
        RawUpstream([GOT_REQUEST, response(body=b"unix")], path=path) as upstream,
        await RawClient.connect(path=path) as client,
    ):
        assert upstream.url == f"unix:{path}"
        client.request("/")
        assert bytes((await client.wait_response()).body) == b"unix"


@in_loop
async def test_a_thousand_connections_are_open_at_once() -> None:
    async with RawUpstream([GOT_REQUEST, stream_head(), chunk(b"data: 1\n\n")]) as upstream:
        clients = await asyncio.gather(*(RawClient.connect(upstream.url) for _ in range(1000)))
        for client in clients:
            client.request("/events")
        await asyncio.gather(*(client.wait_for(b"data: 1\n\n", within=10) for client in clients))
        await upstream.wait_connections(1000)
        await asyncio.gather(*(client.close() for client in clients))
        await upstream.wait_all_closed()
