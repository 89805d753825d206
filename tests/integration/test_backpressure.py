"""Clients that read slowly, a little, or not at all; and what the sockets of a stream are set to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from sse_keepalive_proxy.live.stream import Stream
from tests.support.http1 import joined
from tests.support.instance import Instance, config
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import (
    GOT_REQUEST,
    LAST_CHUNK,
    RawUpstream,
    UpstreamConnection,
    chunk,
    stream_head,
)
from tests.support.running import OVER_TLS, on_each_loop
from tests.support.sockets import Ending

pytestmark = pytest.mark.usefixtures("on_both")
SILENT = [GOT_REQUEST, stream_head()]
EVENT = b"data: 1\n\n"
COMMENT = "confirm: {form: comment}\n"
READ = 256_000 + 4096  # of upstream, at most, at a time, by uvloop; with a block that was unfinished
FEW = 4096  # a receive buffer that is full at once
MANY = (
    32 * 1024
)  # the client's TLS reads ahead by 256 KiB: less at a time would not reach the kernel for long


def blocks(count: int, size: int = 1000) -> bytes:
    """So many events, numbered, of about `size` bytes each."""
    return b"".join(b"data: %08d %b\n\n" % (number, b"x" * size) for number in range(count))


def pieces(body: bytes) -> Iterator[bytes]:
    """The body in chunks that end anywhere."""
    return (body[at : at + 50_001] for at in range(0, len(body), 50_001))


def now() -> float:
    return asyncio.get_running_loop().time()


def streams(proxy: Instance) -> list[Stream]:
    """The open streams, which here are all of one kind."""
    found = list(proxy.server.streams)
    assert all(isinstance(stream, Stream) for stream in found)
    return found  # type: ignore[return-value]


def waiting(stream: Stream) -> int:
    """Bytes in this process for the client."""
    assert stream.down is not None
    return stream.down.waiting


async def asleep(proxy: Instance, **how: int) -> RawClient:
    """A client that has its first byte and reads no further."""
    client = await proxy.event_source(receive_buffer=FEW, **how)
    await client.wait_for(b":ok")
    client.pause()
    return client


async def passing(seconds: float, proxy: Instance) -> None:
    """Time goes by, which is what this is about."""
    end_at = now() + seconds
    await proxy.until(lambda: now() >= end_at)


# Upstream is paused.


@on_each_loop
async def test_past_max_buffer_upstream_is_paused_and_in_the_end_everything_is_delivered_in_order() -> None:
    body = blocks(16_000)
    async with (
        RawUpstream([*SILENT, go := asyncio.Event(), *map(chunk, pieces(body)), LAST_CHUNK]) as upstream,
        Instance(config(upstream, COMMENT + "max_buffer: 256KiB")) as proxy,
        await asleep(proxy) as client,
    ):
        go.set()
        connection = await upstream.connection()
        await connection.wait_blocked()
        (stream,) = streams(proxy)
        await proxy.until(lambda: stream._paused)
        came = stream.flow.upstream_bytes
        assert 256 * 1024 < waiting(stream) <= 256 * 1024 + READ
        assert stream.flow._framer.pending < 2000
        client.resume()
        await client.wait_for(lambda client: len(client.received) > len(body) / 2, within=20)
        assert stream.flow.upstream_bytes > came
        await client.wait_response(within=20)
        assert client.body == b":ok\n" + body
        await proxy.until_closed("upstream_end")


@on_each_loop
async def test_max_buffer_holds_across_reopenings_and_a_lost_upstream_is_asked_when_there_is_room_again() -> (
    None
):
    life = [*SILENT, chunk(blocks(60)), LAST_CHUNK]  # 60 KB, and the end in the same breath
    section = COMMENT + "max_buffer: 64KiB\nreconnect: {when: always, delay: 1ms, max_delay: 2ms}"
    async with (
        RawUpstream(life) as upstream,
        Instance(config(upstream, section)) as proxy,
        await asleep(proxy) as client,
    ):
        (stream,) = streams(proxy)
        await proxy.until(lambda: stream._paused and stream._exchange is None)
        asked = len(upstream.connections)
        await passing(0.3, proxy)  # a hundred times the longest wait
        assert len(upstream.connections) == asked
        assert waiting(stream) <= 64 * 1024 + READ + 61_000
        client.resume()
        await proxy.until(lambda: len(upstream.connections) > asked + 10)
        assert stream.life.close_reason is None


@on_each_loop
async def test_upstreams_silence_is_not_held_against_it_while_we_have_paused_it() -> None:
    section = COMMENT + "max_buffer: 1KiB\nstall: {after: 250ms}\nkeepalive: off"
    async with (
        RawUpstream([*SILENT, go := asyncio.Event(), chunk(blocks(8000))]) as upstream,
        Instance(config(upstream, section)) as proxy,
        await asleep(proxy) as client,
    ):
        go.set()
        (stream,) = streams(proxy)
        await proxy.until(lambda: stream._paused)
        before = proxy.metric("upstream_stalls_total")  # a slow machine may have let it stall before `go`
        await passing(0.75, proxy)
        assert stream._paused
        assert proxy.metric("upstream_stalls_total") == before
        client.resume()
        await client.wait_for(lambda client: len(client.received) > 8000 * 1000, within=20)
        await proxy.until(lambda: proxy.metric("upstream_stalls_total") > before)  # now it is silent


@on_each_loop
async def test_no_ping_is_written_after_bytes_that_still_wait() -> None:
    body = blocks(8000)
    section = COMMENT + "keepalive: {interval: 50ms}\nmax_buffer: 16MiB"
    async with (
        RawUpstream([*SILENT, go := asyncio.Event(), *map(chunk, pieces(body))]) as upstream,
        Instance(config(upstream, section)) as proxy,
        await asleep(proxy) as client,
    ):
        go.set()
        (stream,) = streams(proxy)
        await proxy.until(lambda: stream.flow.upstream_bytes == len(body) and waiting(stream))
        before, waited = stream.pings, body[-waiting(stream) // 2 :]
        await passing(0.3, proxy)
        assert stream.pings == before
        client.resume()
        end = b"x\n\n:ping\n"
        size = len(b":ok\n" + body)
        await client.wait_for(
            lambda client: len(client.response.body) > size and end in client.response.body[-1000:], within=20
        )
        assert waited in client.body  # in one piece
        assert client.body.replace(b":ping\n", b"") == b":ok\n" + body


@on_each_loop
async def test_a_slow_client_harms_no_other() -> None:
    body = blocks(8000)

    async def script(connection: UpstreamConnection) -> None:
        await connection.play(SILENT)
        for piece in pieces(body):
            await connection.send(chunk(piece))

    def pinged(client: RawClient) -> bool:
        tail = client.responses[0].body[-2000:]
        return b"data: %08d " % 7999 in tail and tail.endswith(2 * b":ping\n")

    section = COMMENT + "keepalive: {interval: 50ms}\nmax_buffer: 64KiB"
    async with (
        RawUpstream(script) as upstream,
        Instance(config(upstream, section)) as proxy,
        await asleep(proxy) as slow,
    ):
        (stream,) = streams(proxy)
        await proxy.until(lambda: stream._paused)
        async with await proxy.event_source() as fast:
            await fast.wait_head()
            await fast.wait_for(pinged, within=20)
            assert fast.body.replace(b":ping\n", b"") == b":ok\n" + body
            assert stream._paused
            assert waiting(stream) <= 64 * 1024 + READ
        slow.resume()
        await slow.wait_for(pinged, within=20)
        assert slow.body.replace(b":ping\n", b"") == b":ok\n" + body


@on_each_loop
async def test_slow_clients_together_hold_at_most_max_buffered_and_one_that_reads_loses_nothing() -> None:
    body = blocks(12_000)  # three times what the kernel takes for a client that does not read
    limit = 8 << 20

    async def script(connection: UpstreamConnection) -> None:
        await connection.play(SILENT)
        for piece in pieces(body):
            await connection.send(chunk(piece))

    def everything(client: RawClient) -> bool:
        return len(client.responses[0].body) >= len(body)

    limits = "limits: {max_buffered: 8MiB}"
    async with (
        RawUpstream(script) as upstream,
        Instance(config(upstream, COMMENT + "max_buffer: 16MiB", before=limits)) as proxy,
        contextlib.AsyncExitStack() as stack,
    ):
        for _ in range(12):
            await stack.enter_async_context(await asleep(proxy))
        await proxy.until(lambda: proxy.metric("streams_closed_total", reason="client_stalled") >= 6)
        async with await proxy.event_source() as fast:
            await fast.wait_head()
            await fast.wait_for(everything, within=20)
            assert fast.body == b":ok\n" + body
        assert sum(map(waiting, streams(proxy))) <= limit
        assert proxy.metric("streams_closed_total", reason="client_gone") <= 1


# A client that takes nothing.


@on_each_loop
async def test_a_client_that_reads_nothing_is_reset_after_write_timeout_and_upstream_is_closed() -> None:
    section = COMMENT + "max_buffer: 64KiB\nwrite_timeout: 400ms"
    async with (
        RawUpstream([*SILENT, go := asyncio.Event(), joined(pieces(blocks(24_000)))]) as upstream,
        Instance(config(upstream, section)) as proxy,
        await asleep(proxy) as client,
    ):
        go.set()
        connection = await upstream.connection()
        begun_at = now()
        await connection.wait_closed()
        assert now() - begun_at >= 0.399
        await proxy.until_closed("client_stalled")
        await proxy.until(lambda: len(proxy.server.streams) == 0)
        client.resume()
        assert await client.wait_end() is Ending.RESET
        assert not client.response.complete


@on_each_loop
async def test_a_client_that_reads_a_little_now_and_then_is_not_taken_for_one_that_reads_nothing() -> None:
    body = blocks(12_000)
    section = COMMENT + "max_buffer: 64KiB\nwrite_timeout: 800ms"
    async with (
        RawUpstream([*SILENT, go := asyncio.Event(), *map(chunk, pieces(body)), LAST_CHUNK]) as upstream,
        Instance(config(upstream, section)) as proxy,
        await asleep(proxy, read_size=FEW if OVER_TLS.get() is None else MANY) as client,
    ):
        go.set()
        (stream,) = streams(proxy)
        await proxy.until(lambda: stream._paused)
        end_at = now() + 1.6
        while now() < end_at:
            size = len(client.received)
            client.resume()
            await client.wait_for(lambda client: len(client.received) > size)  # noqa: B023
            client.pause()
            await proxy.until(lambda: stream._paused)  # all the time there was more than it would take
            await passing(0.03, proxy)
        assert proxy.closed() == {}
        client.resume()
        await client.wait_response(within=20)
        assert client.body == b":ok\n" + body


@on_each_loop
async def test_the_kernel_does_not_end_a_client_that_always_takes_a_little() -> None:
    # With TLS more than the client has read ahead, so that it reads its socket each time.
    little = 0 if OVER_TLS.get() is None else 512 * 1024
    section = COMMENT + "max_buffer: 64KiB\nwrite_timeout: 2s\nkeepalive: {interval: 200ms}"
    async with (
        RawUpstream([*SILENT, go := asyncio.Event(), joined(pieces(blocks(12_000)))]) as upstream,
        Instance(config(upstream, section)) as proxy,
        await asleep(proxy, read_size=FEW if OVER_TLS.get() is None else MANY) as client,
    ):
        go.set()
        (stream,) = streams(proxy)
        assert stream.down is not None
        sock = stream.down._transport.get_extra_info("socket")
        await proxy.until(lambda: stream._paused)
        for _ in range(10):  # there is always more than it takes, so its window is closed nearly all the time
            size = len(client.received)
            client.resume()
            await client.wait_for(lambda client: len(client.received) > size + little)  # noqa: B023
            client.pause()
            await passing(0.3, proxy)
        assert proxy.closed() == {}
        assert stream._paused
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0
        client.resume()
        await proxy.until(lambda: sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 2000)


@on_each_loop
async def test_an_end_that_a_client_does_not_take_is_given_up_after_write_timeout() -> None:
    section = COMMENT + "max_buffer: 16MiB\nwrite_timeout: 600ms"
    async with (
        RawUpstream([*SILENT, go := asyncio.Event(), joined(pieces(blocks(1000))), LAST_CHUNK]) as upstream,
        Instance(config(upstream, section)) as proxy,
        await asleep(proxy) as client,
    ):
        (stream,) = streams(proxy)
        assert stream.down is not None
        sock = stream.down._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)  # so that little fills it, and at once
        go.set()
        await proxy.until_closed("upstream_end")
        assert proxy.metric("streams_active", state="draining") == 1
        await proxy.until(lambda: len(proxy.server.streams) == 0)
        client.resume()
        assert await client.wait_end() is Ending.RESET
        assert not client.response.complete
        assert proxy.closed() == {"upstream_end": 1}


# Sockets.


@on_each_loop
async def test_vanished_peers_are_left_to_the_kernel_to_find_and_no_event_waits_for_another() -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, COMMENT + "write_timeout: 12s")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b":ok")
        (stream,) = streams(proxy)
        assert stream.down is not None
        assert stream._exchange is not None
        assert stream._exchange._transport is not None
        downstream = stream.down._transport.get_extra_info("socket")
        up = stream._exchange._transport.get_extra_info("socket")
        assert downstream.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 12_000
        assert up.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, interval, count = (
            up.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + interval * count <= 120
        for sock in (downstream, up):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
