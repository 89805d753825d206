"""How much one instance takes on: `limits` of the configuration, on the wire.

Limits of streams are in `test_streams.py`.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.support.http1 import LAST_CHUNK, chunk, request, response, stream_head
from tests.support.instance import EVENT_SOURCE, config
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import GOT_REQUEST, HOLD, RawUpstream, UpstreamConnection
from tests.support.running import Running, on_each_loop, plain, soon
from tests.support.sockets import Ending

OK = response("200 OK", b"ok")


async def answering(connection: UpstreamConnection) -> None:
    """Answers with the target."""
    asked = await connection.next_request(within=60)
    await connection.send(response("200 OK", asked.target.encode()))


def limited(upstream: RawUpstream, limits: str) -> Running:
    return Running(plain(upstream.url, rest=f"limits: {{{limits}}}"))


async def answers(client: RawClient, count: int) -> None:
    """Wait for `count` whole answers."""
    await client.wait_for(lambda client: len(client.responses) == count and client.response.complete)


# request_header_timeout


@on_each_loop
async def test_a_head_that_trickles_in_is_answered_408_when_its_time_is_over() -> None:
    head = request("/", "X: " + "x" * 1000)
    async with (
        RawUpstream(answering) as upstream,
        limited(upstream, "request_header_timeout: 200ms") as proxy,
        await proxy.client(ahead=head[:1]) as client,
    ):
        for at in range(1, len(head)):
            if client.ending is not None:
                break
            client.send(head[at : at + 1])
            await asyncio.sleep(0.005)
        await client.wait_end()
        assert client.response.status == 408
        assert client.response.header("connection") == "close"
        assert client.body == b"the request head took longer than 0.2 s\n"
        assert not upstream.connections


@on_each_loop
async def test_the_time_for_a_head_counts_for_every_request_of_a_connection() -> None:
    async with (
        RawUpstream(answering) as upstream,
        limited(upstream, "request_header_timeout: 100ms") as proxy,
        await proxy.client(ahead=request("/1")) as client,
    ):
        await answers(client, 1)
        client.send(b"GET /2")
        await client.wait_end()
        assert [answer.status for answer in client.responses] == [200, 408]


@on_each_loop
async def test_a_connection_that_never_says_a_word_is_closed_without_one() -> None:
    async with (
        RawUpstream(answering) as upstream,
        limited(upstream, "request_header_timeout: 100ms") as proxy,
        await proxy.client() as client,
    ):
        assert await client.wait_end() is Ending.EOF
        assert client.received == b""


@on_each_loop
async def test_neither_bodies_nor_answers_nor_idleness_are_measured_by_the_time_for_a_head() -> None:
    async def late(connection: UpstreamConnection) -> None:
        asked = await connection.next_request(within=60)
        await asyncio.sleep(0.25)
        await connection.send(response("200 OK", bytes(asked.body)))

    async with (
        RawUpstream(late) as upstream,
        limited(upstream, "request_header_timeout: 100ms") as proxy,
        await proxy.client(ahead=b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n") as client,
    ):
        await client.send_split(b"hello", pause=0.05)
        await answers(client, 1)
        assert client.body == b"hello"
        await asyncio.sleep(0.25)
        assert client.ending is None
        client.request("/")
        await answers(client, 2)


@on_each_loop
async def test_as_many_requests_at_once_as_the_server_queues_leave_no_deadline() -> None:
    requests = b"".join(request(f"/{number}") for number in range(32))
    async with (
        RawUpstream(answering) as upstream,
        limited(upstream, "request_header_timeout: 100ms") as proxy,
        await proxy.client(ahead=requests) as client,
    ):
        await answers(client, 32)
        await asyncio.sleep(0.25)
        assert client.ending is None
        client.request("/last")
        await answers(client, 33)
        assert [bytes(answer.body) for answer in client.responses[-2:]] == [b"/31", b"/last"]


@on_each_loop
async def test_bytes_after_a_refused_upgrade_are_another_request_with_its_own_body() -> None:
    go_on = asyncio.Event()

    async def refuses(connection: UpstreamConnection) -> None:
        asked = await connection.next_request(within=60)
        await go_on.wait()
        await connection.send(response("426 Upgrade Required", bytes(asked.body)))

    async with (
        RawUpstream(refuses) as upstream,
        limited(upstream, "request_header_timeout: 100ms, max_request_header: 1KiB") as proxy,
        await proxy.client(ahead=request("/ws", "Connection: Upgrade", "Upgrade: websocket")) as client,
    ):
        await upstream.connection()
        client.send(request("/", "Content-Length: 5000", method="POST") + b"x" * 1000)
        await asyncio.sleep(0.15)  # longer than a head may take
        go_on.set()
        await upstream.connection(1)
        for _ in range(4):
            client.send(b"x" * 1000)
            await asyncio.sleep(0.05)
        await answers(client, 2)
        assert client.body == b"x" * 5000
        await asyncio.sleep(0.15)
        assert client.ending is None


# max_request_header


@on_each_loop
async def test_a_head_over_the_limit_is_answered_431_whole_or_endless() -> None:
    async with RawUpstream(answering) as upstream, limited(upstream, "max_request_header: 1KiB") as proxy:
        for raw in (
            request("/", "X: " + "x" * 1024),
            request("/", *["X: y"] * 200),
            request("/" + "x" * 1024),
            b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200,
        ):
            async with await proxy.client() as client:
                client.send(raw)
                await client.wait_end()
                assert client.response.status == 431
                assert b"1024 bytes" in client.body
        assert not upstream.connections


@on_each_loop
async def test_a_head_is_measured_by_itself_whatever_comes_with_it() -> None:
    field = "X: " + "x" * 700
    async with (
        RawUpstream(answering) as upstream,
        limited(upstream, "max_request_header: 1KiB") as proxy,
        await proxy.client() as client,
    ):
        for number in range(3):
            client.request(f"/{number}", field)
            await answers(client, number + 1)
        client.send(
            request("/3", field, method="POST", body=b"x" * 5000)
            + request("/4", field)
            + request("/5", field)
        )
        await answers(client, 6)
        assert [answer.body for answer in client.responses] == [b"/%d" % number for number in range(6)]


# max_request_body


@on_each_loop
async def test_a_body_that_announces_more_than_the_limit_is_413_and_upstream_is_not_asked() -> None:
    async with RawUpstream(answering) as upstream, limited(upstream, "max_request_body: 1KiB") as proxy:
        for expect in ([], ["Expect: 100-continue"]):
            async with await proxy.client() as client:
                client.send(request("/", *expect, "Content-Length: 1025", method="POST"))
                await client.wait_response()
                assert client.response.status == 413
                assert client.body == b'route "all": the request\'s body is larger than 1024 bytes\n'
                assert not client.informational
                assert client.response.header("connection") == "close"
                client.half_close()
                await client.wait_end()
        assert not upstream.connections
        assert proxy.metric("sse_proxy_requests_total", route="all", method="POST", code="413") == 2


@on_each_loop
async def test_a_chunked_body_is_413_once_it_is_larger_and_upstream_never_has_it_whole() -> None:
    async with (
        RawUpstream(answering) as upstream,
        limited(upstream, "max_request_body: 1KiB") as proxy,
        await proxy.client() as client,
    ):
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"x" * 1024))
        connection = await upstream.connection()
        await connection.wait_received(b"x" * 1024)
        client.send(chunk(b"y"))
        await client.wait_response()
        assert client.response.status == 413
        await connection.wait_closed()
        assert b"y" not in connection.received.partition(b"\r\n\r\n")[2]
        assert not connection.requests[0].complete
        client.send(LAST_CHUNK)
        await client.wait_end()


@on_each_loop
async def test_a_body_just_within_the_limit_passes() -> None:
    async with RawUpstream(answering) as upstream, limited(upstream, "max_request_body: 1KiB") as proxy:
        coded = b"POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        for raw in (
            request("/a", method="POST", body=b"x" * 1024),
            coded + chunk(b"x" * 1000) + chunk(b"x" * 24) + LAST_CHUNK,
        ):
            async with await proxy.client() as client:
                client.send(raw)
                assert (await client.wait_response()).status == 200
        assert [len(connection.requests[0].body) for connection in upstream.connections] == [1024, 1024]


@on_each_loop
async def test_once_upstream_has_begun_to_answer_a_body_over_the_limit_can_only_cut_the_answer() -> None:
    async with (
        RawUpstream([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", HOLD]) as upstream,
        limited(upstream, "max_request_body: 1KiB") as proxy,
        await proxy.client() as client,
    ):
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.wait_for(b"half")
        client.send(chunk(b"x" * 1025))
        await client.wait_end()
        assert not client.response.complete
        assert [answer.status for answer in client.responses] == [200]
        await upstream.wait_all_closed()


@on_each_loop
async def test_the_limit_of_bodies_holds_on_stream_routes_too() -> None:
    async with RawUpstream([GOT_REQUEST, stream_head()]) as upstream:
        text = config(upstream, before="limits: {max_request_body: 1KiB}")
        async with Running(text) as proxy, await proxy.client() as client:
            client.send(request("/events", "Content-Length: 1025", method="POST"))
            await client.wait_response()
            assert client.response.status == 413
            await soon(lambda: not proxy.server.streams)


# max_connections


async def refused(proxy: Running) -> bool:
    """Whether one more connection finds no room."""
    async with await proxy.client() as client:
        client.request("/room")
        await client.wait_for(lambda client: client.responses or client.ending)
        if client.response.status == 200:
            return False
        assert client.response.status == 503
        assert client.response.header("connection") == "close"
        assert 1 <= int(client.response.header("retry-after") or 0) <= 10
        await client.wait_end()
        return True


@on_each_loop
async def test_one_connection_more_than_there_may_be_is_503_and_none_that_is_open_suffers() -> None:
    async with RawUpstream(answering) as upstream, limited(upstream, "max_connections: 2") as proxy:
        first, second = await proxy.client(), await proxy.client()
        first.request("/first")
        await answers(first, 1)
        assert await refused(proxy)
        second.request("/second")
        await answers(second, 1)
        await first.close()
        await soon(lambda: len(proxy.proxy.frontend.connections) == 1)
        assert not await refused(proxy)
        await second.close()


@pytest.mark.parametrize("answered", [False, True], ids=["asked for", "open"])
@on_each_loop
async def test_a_stream_takes_the_room_of_one_connection(answered: bool) -> None:
    async def streams(connection: UpstreamConnection) -> None:
        if (await connection.next_request()).target == "/events":
            if answered:
                await connection.send(stream_head())
            await connection.wait_closed(within=60)
        await connection.send(OK)

    async with RawUpstream(streams) as upstream:
        text = config(upstream, before="limits: {max_connections: 2}")
        async with Running(text) as proxy, await proxy.client() as stream:
            stream.request("/events", EVENT_SOURCE)
            await (stream.wait_for(b"connection_confirmed") if answered else upstream.connection())
            assert not await refused(proxy)
            await soon(lambda: len(proxy.proxy.frontend.connections) == (not answered))
            async with await proxy.client() as other:
                other.request("/")
                await answers(other, 1)
                assert await refused(proxy)


@on_each_loop
async def test_a_websocket_takes_the_room_of_one_connection() -> None:
    async def switches(connection: UpstreamConnection) -> None:
        if (await connection.next_request()).target == "/ws":
            await connection.send(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            )
            await connection.wait_closed(within=60)
        else:
            await connection.send(OK)

    async with RawUpstream(switches) as upstream, limited(upstream, "max_connections: 1") as proxy:
        async with await proxy.client() as client:
            client.request("/ws", "Connection: Upgrade", "Upgrade: websocket")
            await client.wait_head()
            assert await refused(proxy)
        await soon(lambda: not proxy.proxy.busy and not proxy.proxy.frontend.connections)
        assert not await refused(proxy)
