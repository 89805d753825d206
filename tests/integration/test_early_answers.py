"""A stream that begins before the whole request has come, and clients that close their side early."""

from __future__ import annotations

import pytest

from sse_keepalive_proxy.stream.messages import CloseReason
from tests.support.http1 import request
from tests.support.instance import Instance, config
from tests.support.raw_upstream import GOT_REQUEST, LAST_CHUNK, RawUpstream, chunk, stream_head
from tests.support.running import on_each_loop
from tests.support.sockets import Ending

HEAD = b"POST /events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n"
SIZED = HEAD + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
EVENT = b"data: 1\n\n"


def answered(proxy: Instance) -> dict[str, float]:
    """How many requests were answered with which code."""
    families = proxy.server.metrics.registry.collect()
    (family,) = (family for family in families if family.name == "sse_proxy_requests")
    return {sample.labels["code"]: sample.value for sample in family.samples}


@pytest.mark.usefixtures("on_both")
@pytest.mark.parametrize(("head", "body"), [(SIZED, b"hello"), (CHUNKED, b"5\r\nhello\r\n0\r\n\r\n")])
@on_each_loop
async def test_a_stream_begins_before_the_body_and_the_body_still_reaches_upstream(
    head: bytes, body: bytes
) -> None:
    async with (
        RawUpstream(
            [stream_head(), chunk(EVENT), GOT_REQUEST, chunk(b"data: 2\n\n"), LAST_CHUNK]
        ) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.client() as client,
    ):
        client.send(head)
        await client.wait_for(EVENT)
        client.send(body)
        assert await client.wait_end() is Ending.EOF
        assert client.body.endswith(b"data: 2\n\n")
        assert client.response.complete
        (connection,) = upstream.connections
        assert bytes((await connection.request()).body) == b"hello"
        await proxy.until_closed("upstream_end")
        assert answered(proxy) == {"200": 1}


@pytest.mark.usefixtures("on_both")
@on_each_loop
async def test_a_client_that_leaves_such_a_stream_is_gone_and_counted_once() -> None:
    async with (
        RawUpstream([stream_head(), chunk(EVENT)]) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.client() as client,
    ):
        client.send(SIZED)
        await client.wait_for(EVENT)
        await client.close()
        await proxy.until_closed(CloseReason.CLIENT_GONE)
        await upstream.wait_all_closed()
        assert answered(proxy) == {"200": 1}


@pytest.mark.usefixtures("on_both")
@on_each_loop
async def test_an_invalid_rest_of_the_body_ends_such_a_stream_visibly() -> None:
    async with (
        RawUpstream([stream_head(), chunk(EVENT)]) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.client() as client,
    ):
        client.send(CHUNKED)
        await client.wait_for(EVENT)
        client.send(b"zz\r\n")
        await client.wait_end()
        assert not client.response.complete
        await upstream.wait_all_closed()


@on_each_loop
async def test_a_client_that_closed_its_side_before_the_stream_gets_the_stream() -> None:
    async with (
        RawUpstream([GOT_REQUEST, 0.2, stream_head(), chunk(EVENT), 0.2, LAST_CHUNK]) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.client() as client,
    ):
        client.send(request("/events"))
        client.half_close()
        assert await client.wait_end() is Ending.EOF
        assert client.body.endswith(EVENT)
        assert client.response.complete
        await proxy.until_closed("upstream_end")


@on_each_loop
async def test_one_that_closes_its_side_during_the_stream_has_left() -> None:
    async with (
        RawUpstream([GOT_REQUEST, stream_head(), chunk(EVENT)]) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/events")
        await client.wait_for(EVENT)
        client.half_close()
        await proxy.until_closed(CloseReason.CLIENT_GONE)
        await upstream.wait_all_closed()


@on_each_loop
async def test_one_that_has_gone_before_the_stream_takes_the_opening_with_it() -> None:
    async with (
        RawUpstream([GOT_REQUEST]) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/events")
        await (await upstream.connection()).request()
        await client.close()
        await upstream.wait_all_closed()
        await proxy.until(lambda: len(proxy.server.streams) == 0)


@on_each_loop
async def test_one_that_goes_after_it_has_closed_its_side_is_found_by_the_pings() -> None:
    async with (
        RawUpstream([GOT_REQUEST, 0.1, stream_head()]) as upstream,
        Instance(config(upstream, "keepalive: {interval: 50ms}")) as proxy,
        await proxy.client() as client,
    ):
        client.send(request("/events"))
        client.half_close()
        await client.wait_for(b":ping")
        await client.close()
        await proxy.until_closed(CloseReason.CLIENT_GONE)
        await upstream.wait_all_closed()
