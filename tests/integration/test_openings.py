"""Openings take turns: streams of one upstream, on real sockets."""

from __future__ import annotations

import asyncio
import math
from contextlib import AsyncExitStack

import pytest

from sse_keepalive_proxy.http import openings
from sse_keepalive_proxy.observe.registry import Spread
from tests.support.http1 import request
from tests.support.instance import EVENT_SOURCE, Instance, config
from tests.support.raw_upstream import (
    CLOSE,
    GOT_REQUEST,
    LAST_CHUNK,
    RawUpstream,
    UpstreamConnection,
    response,
    stream_head,
)
from tests.support.running import on_each_loop, settings_of, soon

ONE = "limits: {max_opening: 1}"


class Doorman:
    """An upstream that answers a request for a stream when it is told to, and any other at once."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._answers: list[asyncio.Event] = []

    async def __call__(self, connection: UpstreamConnection) -> None:
        asked = await connection.next_request()
        if asked.target.startswith("/other"):
            await connection.send(response(body=b"whole"))
            return
        answer = asyncio.Event()
        self.asked.append(asked.target)
        self._answers.append(answer)
        await answer.wait()
        await connection.send(stream_head())

    async def answer(self, number: int) -> None:
        await soon(lambda: len(self.asked) > number, lambda: f"asked for {self.asked}", within=15.0)
        self._answers[number].set()

    async def until_asked(self, *targets: str) -> None:
        await soon(lambda: len(self.asked) >= len(targets), lambda: f"asked for {self.asked}", within=15.0)
        assert self.asked == list(targets)


async def waiting(proxy: Instance, count: int) -> None:
    await proxy.until(lambda: proxy.metric("upstream_openings_waiting", upstream="up") == count)


@on_each_loop
async def test_streams_are_opened_in_turn_and_in_the_order_of_their_requests() -> None:
    door = Doorman()
    async with (
        RawUpstream(door) as upstream,
        Instance(config(upstream, before=ONE)) as proxy,
        await proxy.event_source("/events?1") as first,
    ):
        await door.until_asked("/events?1")
        async with await proxy.event_source("/events?2") as second:
            await waiting(proxy, 1)
            async with await proxy.event_source("/events?3") as third:
                await waiting(proxy, 2)
                await door.until_asked("/events?1")
                assert proxy.metric("streams_active", state="connecting") == 3
                for number, client in enumerate((first, second, third)):
                    await door.answer(number)
                    await client.wait_for(b"connection_confirmed")
                    await waiting(proxy, max(1 - number, 0))
                await door.until_asked("/events?1", "/events?2", "/events?3")


@on_each_loop
@pytest.mark.parametrize("ends", [[response("503 Busy")], [b"nothing of HTTP\r\n\r\n"], [CLOSE]])
async def test_a_refusal_or_an_error_ends_the_turn(ends: list[bytes]) -> None:
    section = "reconnect: {first_within: off}"
    async with (
        RawUpstream([GOT_REQUEST, *ends]) as upstream,
        Instance(config(upstream, section, before=ONE)) as proxy,
    ):
        for _ in range(3):
            async with await proxy.event_source() as client:
                await client.wait_response()
                assert client.response.status in (502, 503)


@on_each_loop
@pytest.mark.parametrize("early", ["", "early_commit: {after: 50ms}"], ids=["no status yet", "early commit"])
async def test_a_client_that_goes_leaves_the_queue(early: str) -> None:
    door = Doorman()
    async with (
        RawUpstream(door) as upstream,
        Instance(config(upstream, early, before=ONE)) as proxy,
        await proxy.event_source("/events?1") as first,
    ):
        await door.until_asked("/events?1")
        gone = await proxy.event_source("/events?2")
        await waiting(proxy, 1)
        if early:
            await gone.wait_for(b":ok")  # it is answered in the queue
        await gone.close()
        await waiting(proxy, 0)
        async with await proxy.event_source("/events?3") as third:
            await waiting(proxy, 1)
            await door.answer(0)
            await first.wait_for(b"connection_confirmed")
            await door.until_asked("/events?1", "/events?3")
            await door.answer(1)
            await third.wait_for(b"connection_confirmed")


@on_each_loop
async def test_the_wait_for_a_turn_is_none_of_upstreams_time() -> None:
    door = Doorman()
    section = "open_timeout: 1s\nreconnect: {first_within: off}"
    async with (
        RawUpstream(door) as upstream,
        Instance(config(upstream, section, before=ONE)) as proxy,
        await proxy.event_source("/events?1") as first,
    ):
        await door.until_asked("/events?1")
        async with await proxy.event_source("/events?2") as second:
            await first.wait_response()  # nobody answers it for one second
            assert first.response.status == 504
            await door.until_asked("/events?1", "/events?2")
            await asyncio.sleep(0.2)
            assert second.received == b""
            await door.answer(1)
            await second.wait_for(b"connection_confirmed")


OTHERS = {
    "another route": request("/other", EVENT_SOURCE),
    "any type": request("/events", "Accept: */*"),
    "a body": request("/events", EVENT_SOURCE, method="POST", body=b"{}"),
    "a WebSocket": request(
        "/events",
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAccept: text/event-stream",
    ),
}


@on_each_loop
@pytest.mark.parametrize("other", OTHERS)
async def test_what_asks_for_no_stream_takes_no_turn(other: str) -> None:
    door = Doorman()
    async with (
        RawUpstream(door) as upstream,
        Instance(config(upstream, before=ONE)) as proxy,
        await proxy.event_source("/events?1"),
        await proxy.client() as client,
    ):
        await door.until_asked("/events?1")
        client.send(OTHERS[other])
        if other == "another route":
            await client.wait_response()
            assert client.response.status == 200
        else:
            await door.until_asked("/events?1", "/events")


@on_each_loop
async def test_a_stream_that_lost_its_upstream_waits_for_its_turn_too() -> None:
    door, lost = Doorman(), asyncio.Event()

    async def script(connection: UpstreamConnection) -> None:
        if len(upstream.connections) > 1:
            await door(connection)
            return
        await connection.next_request()
        await connection.send(stream_head())
        await lost.wait()
        connection.close()

    section = "reconnect: {when: always, delay: 1ms, max_delay: 2ms}"
    async with (
        RawUpstream(script) as upstream,
        Instance(config(upstream, section, before=ONE)) as proxy,
        await proxy.event_source("/events?lives") as lives,
    ):
        await lives.wait_for(b"connection_confirmed")
        async with await proxy.event_source("/events?opens") as opens:
            await door.until_asked("/events?opens")
            lost.set()
            await waiting(proxy, 1)
            assert proxy.metric("streams_active", state="reconnecting") == 1
            await door.answer(0)
            await opens.wait_for(b"connection_confirmed")
            await door.until_asked("/events?opens", "/events?lives")
            await door.answer(1)
            await lives.wait_for(b"stream_recovered")


@on_each_loop
async def test_the_streams_of_all_routes_of_an_upstream_stand_in_one_queue_and_a_reload_keeps_it() -> None:
    door = Doorman()
    routes = "- {name: more, match: {path: /more}, upstream: up, stream: }"
    async with (
        RawUpstream(door) as upstream,
        Instance(config(upstream, before=ONE, routes=routes)) as proxy,
        await proxy.event_source("/events") as first,
    ):
        await door.until_asked("/events")
        async with (
            await proxy.event_source("/more") as second,
            await proxy.event_source("/events?3") as third,
        ):
            await waiting(proxy, 2)
            wider = settings_of(config(upstream, before="limits: {max_opening: 2}", routes=routes))
            await proxy.proxy.adopt(wider)
            await waiting(proxy, 1)
            await door.until_asked("/events", "/more")
            for number, client in enumerate((first, second, third)):
                await door.answer(number)
                await client.wait_for(b"connection_confirmed")
                await waiting(proxy, 0)


@on_each_loop
async def test_a_drain_ends_a_stream_that_was_answered_in_the_queue() -> None:
    door = Doorman()
    async with (
        RawUpstream(door) as upstream,
        Instance(config(upstream, "early_commit: {after: 50ms}", before=ONE)) as proxy,
        await proxy.event_source("/events?1") as first,
    ):
        await door.until_asked("/events?1")
        async with await proxy.event_source("/events?2") as second:
            await second.wait_for(b":ok")
            now = asyncio.get_running_loop().time()
            proxy.server.streams.drain(Spread(now, now + 0.05, now + 0.05))
            for client in (first, second):
                await client.wait_end()
                assert b'"reason":"drain"' in client.body
            await waiting(proxy, 0)


@on_each_loop
async def test_a_drain_does_not_wait_for_turns_that_do_not_come() -> None:
    door = Doorman()
    times = "drain: {timeout: 300ms, spread: 100ms, idle_grace: 100ms}"
    async with (
        RawUpstream(door) as upstream,
        Instance(config(upstream, before=f"{ONE}\n{times}")) as proxy,
        await proxy.event_source("/events?1") as first,
    ):
        await door.until_asked("/events?1")
        async with await proxy.event_source("/events?2") as second:
            await waiting(proxy, 1)
            await proxy.server.drain(asyncio.Event())
            await waiting(proxy, 0)
            for client in (first, second):
                await client.wait_end()
        assert door.asked == ["/events?1"]


# An upstream that is back.


@on_each_loop
async def test_the_first_stream_that_gets_through_brings_the_others_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openings, "_WITHIN", 0.2)
    section = "reconnect: {when: always, delay: 12h, max_delay: 12h, give_up_after: 24h}"
    async with (
        RawUpstream([GOT_REQUEST, stream_head()]) as upstream,
        Instance(config(upstream, section)) as proxy,
        AsyncExitStack() as clients,
    ):
        lost = [await clients.enter_async_context(await proxy.event_source()) for _ in range(20)]
        for client in lost:
            await client.wait_for(b"connection_confirmed")
        upstream.refuse()
        for connection in upstream.connections:
            connection.reset()
        await proxy.until(lambda: proxy.metric("streams_active", state="reconnecting") == len(lost))
        await asyncio.sleep(0.2)
        await upstream.start()
        async with await proxy.event_source() as first:
            await first.wait_for(b"connection_confirmed")
            for client in lost:
                await client.wait_for(b"stream_recovered")
            assert proxy.metric("upstream_reconnects_total", result="reopened") == len(lost)


@on_each_loop
async def test_a_stream_that_upstream_has_ended_cleanly_keeps_its_wait() -> None:
    """Two streams of a server with one place for each user would evict each other faster otherwise."""
    section = "reconnect: {when: always, delay: 1000h, max_delay: 1000h, give_up_after: 2000h}"
    end = asyncio.Event()

    async def script(connection: UpstreamConnection) -> None:
        await connection.next_request()
        await connection.send(stream_head())
        await end.wait()
        if connection is upstream.connections[0]:
            await connection.send(LAST_CHUNK)

    async with (
        RawUpstream(script) as upstream,
        Instance(config(upstream, section)) as proxy,
        await proxy.event_source() as ended,
    ):
        await ended.wait_for(b"connection_confirmed")
        end.set()
        await proxy.until(lambda: proxy.metric("streams_active", state="reconnecting") == 1)
        (stream,) = proxy.server.streams
        due, queue = stream.life.next_deadline, proxy.proxy._openings["up"]
        before = due()
        queue._succeeded_at = -math.inf
        async with await proxy.event_source() as another:
            await another.wait_for(b"connection_confirmed")
            assert proxy.metric("streams_active", state="reconnecting") == 1
            assert not queue._expecting
            assert due() == before
