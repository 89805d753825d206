"""The bad hops."""

import asyncio

from tests.support.buffering_hop import BufferingHop, IdleHop
from tests.support.http1 import LAST_CHUNK, chunk, stream_head
from tests.support.looping import in_loop
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import CLOSE, GOT_REQUEST, HOLD, RawUpstream, Step
from tests.support.sockets import Ending


@in_loop
async def test_a_buffering_hop_holds_bytes_until_there_are_enough() -> None:
    more = asyncio.Event()
    few = stream_head() + chunk(b"x" * 100)
    async with (
        RawUpstream([GOT_REQUEST, few, more, chunk(b"y" * 4096)]) as upstream,
        BufferingHop(upstream.port, hold=4096) as hop,
        await RawClient.connect(hop.url) as client,
    ):
        client.request("/")
        await hop.wait_held(len(few))
        assert not client.received
        more.set()
        await client.wait_for(b"y" * 4096)
        assert client.body == b"x" * 100 + b"y" * 4096


@in_loop
async def test_a_quick_tunnel_holds_everything_until_the_end() -> None:
    end = asyncio.Event()
    whole = stream_head() + chunk(b"x" * 100_000) + LAST_CHUNK
    async with (
        RawUpstream([GOT_REQUEST, whole, end, CLOSE]) as upstream,
        BufferingHop(upstream.port, hold=None) as hop,
        await RawClient.connect(hop.url) as client,
    ):
        client.request("/")
        await hop.wait_held(len(whole))
        assert not client.received
        end.set()
        assert await client.wait_end() is Ending.EOF
        assert client.received == whole


@in_loop
async def test_a_hop_closes_upstream_when_the_client_leaves() -> None:
    async with RawUpstream([stream_head()]) as upstream, BufferingHop(upstream.port) as hop:
        client = await RawClient.connect(hop.url)
        connection = await upstream.connection()
        await client.close()
        await connection.wait_closed()


@in_loop
async def test_an_idle_hop_ends_a_silent_connection() -> None:
    for with_reset, ending in ((False, Ending.EOF), (True, Ending.RESET)):
        async with (
            RawUpstream([HOLD]) as upstream,
            IdleHop(upstream.port, idle=0.02, with_reset=with_reset) as hop,
            await RawClient.connect(hop.url) as client,
        ):
            client.request("/")
            assert await client.wait_end() is ending
            assert hop.died == 1
            await (await upstream.connection()).wait_closed()


@in_loop
async def test_an_idle_hop_lets_a_busy_connection_live() -> None:
    pings: list[Step] = [0.02, chunk(b":ping\n")]
    async with (
        RawUpstream([GOT_REQUEST, stream_head(), *pings * 45, LAST_CHUNK, CLOSE]) as upstream,
        IdleHop(upstream.port, idle=0.8) as hop,  # less than all the pings take
        await RawClient.connect(hop.url) as client,
    ):
        client.request("/")
        await client.wait_response()
        assert client.body == b":ping\n" * 45
        assert hop.died == 0
