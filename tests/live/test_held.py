"""Upstream's stream after its client has gone (behaviour.md#leave-hold)."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest

from sse_keepalive_proxy.live.stream import Stream
from tests.support.instance import EVENT_SOURCE, Instance, config
from tests.support.raw_client import LEAVING
from tests.support.raw_upstream import (
    CLOSE,
    GOT_REQUEST,
    LAST_CHUNK,
    RESET,
    RawUpstream,
    Step,
    chunk,
    response,
    stream_head,
)
from tests.support.running import on_each_loop

HOLD = "leave: {hold: 1h}\n"
EVENT = b"id: 7\ndata: 1\n\n"
SILENT = [GOT_REQUEST, stream_head()]


def held(proxy: Instance) -> list[dict[str, Any]]:
    """What `/streams` shows of the streams without a client."""
    now = asyncio.get_running_loop().time()
    return [stream.snapshot(now) for stream in proxy.server.streams.held]


async def until_held(proxy: Instance, count: int = 1) -> None:
    await proxy.until(lambda: proxy.metric("upstream_held_streams") == len(held(proxy)) == count)


@on_each_loop
@pytest.mark.parametrize("how", LEAVING)
async def test_upstream_is_read_without_a_client_until_it_ends(how: str) -> None:
    goes = [go := asyncio.Event(), chunk(EVENT * 100_000), done := asyncio.Event(), LAST_CHUNK]
    async with (
        RawUpstream([*SILENT, chunk(EVENT), *goes]) as upstream,
        Instance(config(upstream, HOLD)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(EVENT)
        (stream,) = proxy.server.streams
        assert isinstance(stream, Stream)
        client.leave(how)
        await proxy.until_closed("client_gone")
        await until_held(proxy)
        (row,) = held(proxy)
        assert (row["state"], row["route"], row["events"]) == ("held", "events", 1)
        assert row["age_s"] >= row["held_s"] >= 0
        await proxy.until(lambda: len(proxy.server.streams) == 0)
        assert (
            sum(proxy.metric("streams_active", state=state) for state in ("idle", "flowing", "draining")) == 0
        )
        delivered = proxy.metric("downstream_bytes_total", origin="upstream")
        go.set()
        connection = await upstream.connection()
        await proxy.until(lambda: not connection.unsent)
        assert proxy.metric("downstream_bytes_total", origin="upstream") == delivered
        assert not connection.lost
        done.set()
        await connection.wait_closed()
        await until_held(proxy, 0)
        assert proxy.closed() == {"client_gone": 1}
        assert not stream.route.timers._sleepers


@on_each_loop
async def test_what_upstream_breaks_is_held_no_longer() -> None:
    async with (
        RawUpstream([*SILENT, go := asyncio.Event(), RESET]) as upstream,
        Instance(config(upstream, HOLD)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"connection_confirmed")
        await client.close()
        await until_held(proxy)
        go.set()
        await until_held(proxy, 0)


@on_each_loop
async def test_it_is_closed_when_its_time_is_over() -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, "leave: {hold: 300ms}")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"connection_confirmed")
        begun = asyncio.get_running_loop().time()
        await client.close()
        await (await upstream.connection()).wait_closed()
        assert asyncio.get_running_loop().time() - begun >= 0.3
        await until_held(proxy, 0)


@on_each_loop
async def test_the_oldest_is_closed_for_one_more_than_the_limit() -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, HOLD, before="limits: {max_held: 2}")) as proxy,
    ):
        for number in range(3):
            async with await proxy.event_source() as client:
                await client.wait_for(b"connection_confirmed")
            await proxy.until_closed("client_gone", number + 1)
        await until_held(proxy, 2)
        first, second, third = upstream.connections
        await first.wait_closed()
        assert not second.lost
        assert not third.lost


# Every way in which a client's stream ends while upstream's goes on.

BIG = chunk(b"data: " + b"x" * 3000)


@on_each_loop
@pytest.mark.parametrize(
    ("stream", "sent", "reason"),
    [
        ("max_age: 200ms", EVENT, "max_age"),
        ("max_event: 2KiB", b"data: " + b"x" * 3000, "event_too_large"),
        ("stall: {after: 100ms, sign_of_life: events, close_after: 100ms}", EVENT, "stalled"),
    ],
)
async def test_upstream_is_held_whatever_ends_the_clients_stream(
    stream: str, sent: bytes, reason: str
) -> None:
    async with (
        RawUpstream([*SILENT, chunk(sent)]) as upstream,
        Instance(config(upstream, HOLD + stream)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_end()
        await proxy.until_closed(reason)
        await until_held(proxy)
        assert not (await upstream.connection()).lost


@on_each_loop
async def test_upstream_is_held_and_read_on_after_a_client_that_took_nothing() -> None:
    body = EVENT * 500_000
    async with (
        RawUpstream([*SILENT, chunk(body)]) as upstream,
        Instance(config(upstream, HOLD + "max_buffer: 1KiB\nwrite_timeout: 300ms")) as proxy,
        await proxy.event_source(receive_buffer=8192) as client,
    ):
        client.pause()
        await proxy.until_closed("client_stalled")
        await until_held(proxy)
        connection = await upstream.connection()
        await proxy.until(lambda: not connection.unsent)
        assert not connection.lost


@on_each_loop
async def test_an_end_of_upstream_leaves_nothing_to_hold() -> None:
    async with (
        RawUpstream([*SILENT, chunk(b"data: 1\n\n"), LAST_CHUNK]) as upstream,
        Instance(config(upstream, HOLD)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        await proxy.until_closed("upstream_end")
        assert held(proxy) == []


@on_each_loop
async def test_an_encoded_stream_is_held_too() -> None:
    async with (
        RawUpstream([GOT_REQUEST, stream_head("Content-Encoding: gzip"), chunk(b"\x1f\x8b")]) as upstream,
        Instance(config(upstream, HOLD)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"\x1f\x8b")
        await client.close()
        await until_held(proxy)
        assert not (await upstream.connection()).lost


@on_each_loop
async def test_a_stream_that_was_decoded_is_held_and_read_on_with_its_coding() -> None:
    coded = gzip.compress(EVENT)
    steps: list[Step] = [chunk(coded), go := asyncio.Event(), chunk(b"no gzip" * 100_000), CLOSE]
    async with (
        RawUpstream([GOT_REQUEST, stream_head("Content-Encoding: gzip"), *steps]) as upstream,
        Instance(config(upstream, HOLD + "decode: on")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(EVENT)
        await client.close()
        await until_held(proxy)
        assert not (await upstream.connection()).lost
        go.set()
        await until_held(proxy, 0)
        assert proxy.closed() == {"client_gone": 1}


# Before upstream has answered.


@on_each_loop
@pytest.mark.parametrize("early", ["", "early_commit: {after: 50ms}\n"])
@pytest.mark.parametrize("reconnect", ["", "reconnect: off\n"])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_request_that_was_sent_is_held_and_so_is_the_stream_that_answers_it(
    how: str, reconnect: str, early: str
) -> None:
    script: list[Step] = [
        GOT_REQUEST,
        go := asyncio.Event(),
        stream_head(),
        chunk(EVENT),
        done := asyncio.Event(),
    ]
    async with (
        RawUpstream([*script, CLOSE]) as upstream,
        Instance(config(upstream, HOLD + reconnect + early)) as proxy,
        await proxy.event_source() as client,
    ):
        connection = await upstream.connection()
        await connection.request()
        if early:
            await client.wait_for(b":ok")
        client.leave(how)
        await until_held(proxy)
        await proxy.until(lambda: len(proxy.server.streams) == 0)
        assert held(proxy)[0]["since_upstream_byte_s"] is None
        go.set()
        await proxy.until(lambda: held(proxy)[0]["since_upstream_byte_s"] is not None)
        assert not connection.lost
        assert len(upstream.connections) == 1
        done.set()
        await until_held(proxy, 0)


@on_each_loop
async def test_an_answer_that_is_no_stream_is_not_held() -> None:
    endless = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{}\n"
    async with (
        RawUpstream([GOT_REQUEST, go := asyncio.Event(), endless]) as upstream,
        Instance(config(upstream, HOLD)) as proxy,
        await proxy.event_source() as client,
    ):
        connection = await upstream.connection()
        await connection.request()
        await client.close()
        await until_held(proxy)
        go.set()
        await connection.wait_closed()
        await until_held(proxy, 0)


@on_each_loop
async def test_a_plain_answer_that_its_client_leaves_is_closed() -> None:
    endless = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{}\n"
    async with (
        RawUpstream([GOT_REQUEST, endless]) as upstream,
        Instance(config(upstream, HOLD)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"{}\n")
        client.abort()
        await (await upstream.connection()).wait_closed()
        assert held(proxy) == []


@on_each_loop
async def test_a_request_whose_body_has_not_come_is_not_held() -> None:
    async with (
        RawUpstream([GOT_REQUEST]) as upstream,
        Instance(config(upstream, HOLD)) as proxy,
        await proxy.client() as client,
    ):
        client.send(b"POST /events HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
        connection = await upstream.connection()
        await connection.wait_received(b"half")
        await client.close()
        await connection.wait_closed()
        assert held(proxy) == []


@on_each_loop
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_stream_that_began_before_the_body_of_its_request_is_not_held(how: str) -> None:
    async with (
        RawUpstream([0.1, stream_head()]) as upstream,
        Instance(config(upstream, HOLD)) as proxy,
        await proxy.client() as client,
    ):
        client.send(b"POST /events HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
        await client.wait_head()
        client.leave(how)
        await (await upstream.connection()).wait_closed()
        await proxy.until(lambda: len(proxy.server.streams) == 0)
        assert held(proxy) == []


@on_each_loop
async def test_a_request_whose_body_was_sent_is_held() -> None:
    async with (
        RawUpstream([GOT_REQUEST]) as upstream,
        Instance(config(upstream, HOLD)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/events", EVENT_SOURCE, method="POST", body=b"{}")
        await (await upstream.connection()).request()
        await client.close()
        await until_held(proxy)


@on_each_loop
async def test_an_attempt_to_open_upstream_again_is_held() -> None:
    async with (
        RawUpstream([*SILENT, chunk(EVENT), RESET], [GOT_REQUEST]) as upstream,
        Instance(config(upstream, HOLD + "reconnect: {delay: 10ms}")) as proxy,
        await proxy.event_source() as client,
    ):
        attempt = await upstream.connection(1)
        await attempt.request()
        await client.close()
        await proxy.until_closed("client_gone")
        await until_held(proxy)
        assert not attempt.lost


@on_each_loop
async def test_an_attempt_that_was_not_connected_yet_leaves_nothing_to_hold() -> None:
    async with (
        RawUpstream([*SILENT, chunk(EVENT), RESET]) as upstream,
        Instance(
            config(upstream, HOLD + "reconnect: {delay: 1h, max_delay: 1h, give_up_after: 10h}")
        ) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(EVENT)
        await (await upstream.connection()).wait_closed()
        await client.close()
        await proxy.until_closed("client_gone")
        assert held(proxy) == []


@on_each_loop
async def test_a_refused_client_asks_nothing_of_upstream_that_could_be_held() -> None:
    async with (
        RawUpstream([GOT_REQUEST, response("401 Unauthorized", b"no")]) as upstream,
        Instance(config(upstream, HOLD)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        assert client.response.status == 401
        assert held(proxy) == []
