"""A stream in mid-life: pings, stalls, upstream's bytes in every shape, notify-server in its three modes."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sse_keepalive_proxy.demo.frames import rfc3339
from sse_keepalive_proxy.demo.knobs import Knobs
from sse_keepalive_proxy.demo.notify_server import NotifyServer
from sse_keepalive_proxy.net import timers
from tests.support import sse_reference
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
from tests.support.running import on_each_loop
from tests.support.sse_reference import Event

pytestmark = pytest.mark.usefixtures("on_both")
SILENT = [GOT_REQUEST, stream_head()]
EVENT = b"data: 1\n\n"
COMMENT = "confirm: {form: comment}\n"
FAST = COMMENT + "keepalive: {interval: 50ms}"


def now() -> float:
    return asyncio.get_running_loop().time()


def pings(client: RawClient) -> int:
    return client.body.count(b":ping")


# Keepalive.


@on_each_loop
async def test_an_idle_stream_gets_a_ping_each_interval_and_never_earlier() -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, COMMENT + "keepalive: {interval: 100ms}")) as proxy,
    ):
        asked_at = now()
        async with await proxy.event_source() as client:
            await client.wait_for(lambda client: pings(client) >= 5)
            assert client.body == b":ok\n" + pings(client) * b":ping\n"
            for count, ping in enumerate(client.body_arrivals[1:], 1):
                assert ping.at - asked_at >= count * 0.099
            assert proxy.metric("pings_sent_total", form="comment") >= 5
            assert proxy.metric("downstream_bytes_total", origin="synthetic") >= len(client.body)
            assert proxy.metric("downstream_bytes_total", origin="upstream") == 0


@on_each_loop
async def test_a_busy_stream_gets_no_ping_and_one_that_falls_silent_does() -> None:
    busy = [step for _ in range(40) for step in (0.02, chunk(EVENT))]
    async with (
        RawUpstream([*SILENT, *busy]) as upstream,
        Instance(config(upstream, COMMENT + "keepalive: {interval: 600ms}")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b":ping")
        assert client.body == b":ok\n" + 40 * EVENT + b":ping\n"


@on_each_loop
async def test_a_ping_goes_around_an_event_that_is_half_sent() -> None:
    steps = [*SILENT, chunk(b"data: 1\ndata: ha"), go := asyncio.Event(), chunk(b"lf\n"), chunk(b"\n")]
    async with (
        RawUpstream(steps) as upstream,
        Instance(config(upstream, FAST)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(lambda client: pings(client) >= 2)
        assert b"data" not in client.body
        go.set()
        await client.wait_for(b"half\n\n")
        assert re.fullmatch(rb":ok\n(:ping\n){2,}data: 1\ndata: half\n\n(:ping\n)*", client.body)


@on_each_loop
@pytest.mark.parametrize(
    ("terminator", "before_id", "after_id"),
    [("auto", rb":ping\n\n", rb":ping\n"), ("blank", *2 * [rb":ping\n\n"]), ("newline", *2 * [rb":ping\n"])],
)
async def test_a_ping_ends_in_a_blank_line_until_an_id_was_seen_unless_configured_otherwise(
    terminator: str, before_id: bytes, after_id: bytes
) -> None:
    steps = [*SILENT, chunk(b"id\ndata: 1\n\n"), go := asyncio.Event(), chunk(b"data: 2\nid: 7\n\n")]
    keepalive = f"keepalive: {{interval: 50ms, terminator: {terminator}}}"
    async with (
        RawUpstream(steps) as upstream,
        Instance(config(upstream, COMMENT + keepalive)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/events")  # `Accept: */*`: to this client a comment ends by what upstream has sent
        await client.wait_for(b":ping\n")
        go.set()
        await client.wait_for(lambda client: client.body.partition(b"id: 7\n\n")[2].count(b":ping\n") >= 3)
        ok = before_id.replace(b"ping", b"ok")
        shape = rb"%bid\ndata: 1\n\n(%b)+data: 2\nid: 7\n\n(%b){3,}" % (ok, before_id, after_id)
        assert re.fullmatch(shape, client.body)
        assert [event.data for event in client.events] == ["1", "2"]


@on_each_loop
@pytest.mark.parametrize(("event", "heard_as"), [("tick", "tick"), ('""', "message")])
async def test_a_ping_can_be_an_event(event: str, heard_as: str) -> None:
    keepalive = (
        f"keepalive: {{interval: 50ms, form: event, event: {event}, "
        'data: {type: ping, at: "{now}", on: "{route}", of: "{stream_id}"}}'
    )
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, COMMENT + keepalive)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(lambda client: len(client.events) >= 2)
        for ping in client.events:
            data = json.loads(ping.data)
            assert ping.type == heard_as
            assert (data["type"], data["on"], len(data["of"])) == ("ping", "events", 16)
            assert data["at"].endswith("Z")
        assert proxy.metric("pings_sent_total", form="event") >= 2
        assert proxy.metric("pings_sent_total", form="comment") == 0


@on_each_loop
async def test_a_ping_says_what_the_configuration_says_and_how_long_upstream_has_been_idle() -> None:
    keepalive = "keepalive: {interval: 800ms, text: still here, report_idle: true}"
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, COMMENT + keepalive)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"=2s")
        assert client.body == b":ok\n:still here upstream_idle=1s\n:still here upstream_idle=2s\n"


@on_each_loop
async def test_with_keepalive_off_a_silent_stream_stays_silent() -> None:
    stream = COMMENT + "keepalive: off\nstall: {after: 300ms, sign_of_life: events, action: notify}"
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, stream)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b":stalled")
        assert re.fullmatch(rb":ok\n:stalled silent_for=\ds\n", client.body)
        assert proxy.metric("pings_sent_total", form="comment") == 0


# Stalls.


@on_each_loop
async def test_a_stalled_upstream_shows_in_the_gauge_until_it_sends_an_event() -> None:
    steps = [*SILENT, go := asyncio.Event(), chunk(b": no event\n\n"), event := asyncio.Event(), chunk(EVENT)]
    begun_at = now()
    async with (
        RawUpstream([*steps, *50 * [0.02, chunk(EVENT)]]) as upstream,
        Instance(config(upstream, COMMENT + "keepalive: {interval: 50ms}\nstall: {after: 200ms}")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b":ok")
        assert proxy.metric("upstream_stalled_streams") == 0 or now() - begun_at >= 0.2
        await proxy.until(lambda: proxy.metric("upstream_stalled_streams") == 1)
        assert now() - begun_at >= 0.2
        assert proxy.metric("streams_active", state="stalled") == 1
        assert proxy.metric("upstream_oldest_stall_seconds") >= 0.199
        assert proxy.metric("upstream_last_event_timestamp_seconds") == 0
        go.set()
        await client.wait_for(b": no event\n\n")
        assert proxy.metric("upstream_stalled_streams") == 1  # pings do not help it, nor do comments
        assert proxy.metric("upstream_stalls_total") == 1
        assert proxy.metric("upstream_stall_recoveries_total") == 0
        event.set()
        before = time.time()
        await client.wait_for(EVENT)
        # A machine that stands still makes one more stall, which the next event ends.
        await proxy.until(lambda: proxy.metric("upstream_stalled_streams") == 0)
        assert proxy.metric("upstream_oldest_stall_seconds") == 0
        assert proxy.metric("upstream_stall_recoveries_total") == proxy.metric("upstream_stalls_total") >= 1
        assert proxy.metric("upstream_stall_seconds_sum") >= 0.199
        assert proxy.metric("upstream_silence_seconds_count") >= 1
        assert proxy.metric("upstream_last_event_timestamp_seconds") >= before - 1
        assert b"stalled" not in client.body  # action: observe


@on_each_loop
async def test_notify_tells_an_event_source_by_an_event_and_others_by_a_comment() -> None:
    stream = "keepalive: {interval: 1h}\nstall: {after: 200ms, sign_of_life: events, action: notify}"
    async with (
        RawUpstream([*SILENT, chunk(b"id: 7\ndata: 1\n\n")]) as upstream,
        Instance(config(upstream, stream)) as proxy,
        await proxy.event_source() as browser,
        await proxy.client() as other,
    ):
        other.request("/events")
        await browser.wait_for(lambda client: len(client.events) == 3)
        notice = browser.events[-1]
        assert notice.type == "stalled"
        data = json.loads(notice.data)
        assert data == {"type": "stalled", "silent_ms": data["silent_ms"]}
        assert data["silent_ms"] >= 199
        assert notice.last_event_id == "7"
        await other.wait_for(b"silent_for")
        # One newline, by facts.md#comment-terminators.
        assert re.fullmatch(rb":ok\n\nid: 7\ndata: 1\n\n:stalled silent_for=\ds\n", other.body)
        assert browser.ending is other.ending is None


async def drip(connection: UpstreamConnection) -> None:
    """Send every 25 ms what the request asks for."""
    what = {
        "half": b"data: x",
        "comment": b": alive\n\n",
        "event": EVENT,
        "named": b"event: heartbeat\ndata: {}\n\n",
        "typed": b'data: {"type":"heartbeat"}\n\n',
        "other": b'event: beat\ndata: {"type":"news"}\n\n',
    }
    path = (await connection.next_request()).target
    await connection.send(stream_head())
    while True:
        await connection.send(chunk(what[path.rpartition("/")[2]]))
        await asyncio.sleep(0.025)


async def stalls(proxy: Instance, expected: dict[str, int], paths: list[str]) -> None:
    """So many streams of each route stall, of one for each path. Those that do not have more than twice the
    time of those that do.
    """

    def found(name: str) -> dict[str, float]:
        return {route: proxy.metric(name, route=route) for route in expected}

    begun_at = now()
    streams = [await proxy.event_source(f"/{route}/{path}") for route in expected for path in paths]
    await proxy.until(lambda: found("upstream_stalled_streams") == expected and now() > begun_at + 1.2)
    # On a machine that stands still all of them may stall: who gives signs of life is back at the next one.
    assert all(count >= expected[route] for route, count in found("upstream_stalls_total").items())
    await asyncio.gather(*(stream.close() for stream in streams))


def by(route: str, stall: str) -> str:
    return (
        f"- {{name: {route}, match: {{path: /{route}/*}}, upstream: up, "
        f"stream: {{stall: {{after: 500ms, {stall}}}}}}}\n"
    )


@on_each_loop
async def test_what_counts_as_a_sign_of_life_is_the_configurations_to_say() -> None:
    routes = "".join(by(f"by_{least}", f"sign_of_life: {least}") for least in ("bytes", "comments", "events"))
    async with RawUpstream(drip) as upstream, Instance(config(upstream, routes=routes)) as proxy:
        expected = {"by_bytes": 0, "by_comments": 1, "by_events": 2}
        await stalls(proxy, expected, ["half", "comment", "event"])


@on_each_loop
async def test_events_that_are_ignored_are_no_sign_of_life() -> None:
    routes = (
        by("by_name", "ignore: {events: [heartbeat]}")
        + by("by_type", "ignore: {types: [heartbeat, connection_confirmed]}")
        + by("by_both", "ignore: {events: [heartbeat], types: [heartbeat]}")
        + by("by_bytes", "sign_of_life: bytes, ignore: {types: [heartbeat]}")
    )
    async with RawUpstream(drip) as upstream, Instance(config(upstream, routes=routes)) as proxy:
        expected = {"by_name": 1, "by_type": 1, "by_both": 2, "by_bytes": 0}
        await stalls(proxy, expected, ["named", "typed", "other"])


@on_each_loop
async def test_close_after_ends_a_stalled_stream_and_says_so_to_an_event_source() -> None:
    stream = "keepalive: {interval: 60ms}\nstall: {after: 100ms, close_after: 150ms}"
    async with RawUpstream(SILENT) as upstream, Instance(config(upstream, stream)) as proxy:
        asked_at = now()
        async with await proxy.event_source() as browser, await proxy.client() as other:
            other.request("/events")
            await browser.wait_response()
            assert now() - asked_at >= 0.249
            last = browser.events[-1]
            assert (last.type, last.data) == (
                "stream_closing",
                '{"type":"stream_closing","reason":"stalled"}',
            )
            assert 1000 <= (browser.stream.reconnection_time or 0) <= 5000
            assert b":ping\n" in browser.body
            await other.wait_end()
            assert not other.response.complete
            assert re.fullmatch(rb":ok\n\n(:ping\n\n)+event: proxy_error\ndata: [^\n]+\n\n", other.body)
        await upstream.wait_all_closed()
        await proxy.until_closed("stalled", 2)
        assert proxy.metric("upstream_stalled_streams") == 0


@on_each_loop
async def test_an_event_saves_a_stalled_stream_from_being_closed() -> None:
    async def late(connection: UpstreamConnection) -> None:
        await connection.play(SILENT)
        for count in range(1, 4):
            await proxy.until(lambda: proxy.metric("upstream_stalls_total") == count)  # noqa: B023
            await connection.send(chunk(EVENT))

    stream = COMMENT + "stall: {after: 100ms, close_after: 400ms}"
    async with RawUpstream(late) as upstream, Instance(config(upstream, stream)) as proxy:
        async with await proxy.event_source() as client:
            await client.wait_end()
            assert not client.response.complete
            assert client.body == b":ok\n" + 3 * EVENT
        await proxy.until_closed("stalled")
        assert proxy.metric("upstream_stalls_total") == 4
        assert proxy.metric("upstream_stall_recoveries_total") == 3


# Upstream's bytes.

SHAPES = {
    "LF": b"data: 1\nid: 7\n\n: note\n\nevent: a\ndata: 2\ndata: 3\n\n",
    "CRLF": b"data: 1\r\nid: 7\r\n\r\n: note\r\n\r\nevent: a\r\ndata: 2\r\ndata: 3\r\n\r\n",
    "CR": b"data: 1\rid: 7\r\r: note\r\revent: a\rdata: 2\rdata: 3\r\r",
    "mixed": b"data: 1\r\n\rdata: 2\n\r\n\ndata: 3\r\r\ndata: 4\r\n\n\rdata: 5\n\n",
    "BOM": b"\xef\xbb\xbfdata: 1\n\n\xef\xbb\xbfdata: no field\n\ndata: 2\n\n",
    "not UTF-8": b"data: \xff\xe2\x80\xa8\x00\n\ndata: \xe2\x80\n\n",
}


@on_each_loop
@pytest.mark.parametrize("shape", SHAPES)
async def test_a_stream_that_comes_byte_by_byte_with_pings_between_means_what_it_meant(
    shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timers, "_GRAIN", 0.001)
    body = SHAPES[shape]

    async def trickle(connection: UpstreamConnection) -> None:
        await connection.play(SILENT)
        for at in range(len(body)):
            await connection.send(chunk(body[at : at + 1]))
            await asyncio.sleep(0.003)
        await connection.send(LAST_CHUNK)

    stream = COMMENT + "keepalive: {interval: 1ms}\nstall: off\nreconnect: off"
    async with (
        RawUpstream(trickle) as upstream,
        Instance(config(upstream, stream)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        meant = sse_reference.parse(body)
        assert pings(client) > len(body) / 2
        assert client.events == meant.events
        assert client.stream.last_event_id == meant.last_event_id
        assert proxy.metric("upstream_events_total") == len(meant.events)
        assert proxy.metric("upstream_bytes_total") == len(body)


@on_each_loop
@pytest.mark.parametrize("shape", SHAPES)
async def test_a_stream_that_comes_at_once_passes_byte_for_byte(shape: str) -> None:
    body = SHAPES[shape]
    async with (
        RawUpstream([*SILENT, chunk(body), LAST_CHUNK]) as upstream,
        Instance(config(upstream, "confirm: off\nreconnect: off")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        assert client.body == body


@on_each_loop
async def test_a_ping_between_the_cr_and_the_lf_of_one_line_end_makes_no_second_one() -> None:
    steps = [*SILENT, chunk(b"data: 1\r\n\r"), go := asyncio.Event(), chunk(b"\n"), chunk(b"data: 2\r\n\r\n")]
    async with (
        RawUpstream(steps) as upstream,
        Instance(config(upstream, FAST)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"data: 1\r\n\r")  # at once: the CR alone ends it
        await client.wait_for(lambda client: pings(client) >= 2)
        go.set()
        await client.wait_for(b"data: 2\r\n\r\n")
        shape = rb":ok\ndata: 1\r\n\r\n(:ping\n){2,}data: 2\r\n\r\n(:ping\n)*"
        assert re.fullmatch(shape, client.body)


@on_each_loop
async def test_a_mark_split_over_chunks_is_dropped_once_and_hides_no_event_after_the_confirm() -> None:
    mark = b"\xef\xbb\xbf"
    steps = [*SILENT, *(step for at in range(3) for step in (chunk(mark[at : at + 1]), 0.01))]
    async with (
        RawUpstream([*steps, chunk(EVENT), chunk(mark + EVENT), LAST_CHUNK]) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        assert client.body.partition(b"}\n\n")[2] == EVENT + mark + EVENT
        assert [event.type for event in client.events] == ["connection_confirmed", "message"]


@on_each_loop
async def test_a_block_without_its_blank_line_is_forwarded_where_the_stream_ends_with_it() -> None:
    async with (
        RawUpstream([*SILENT, chunk(EVENT + b"data: [DONE]\n"), LAST_CHUNK]) as upstream,
        Instance(config(upstream, COMMENT)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        assert client.body == b":ok\n" + EVENT + b"data: [DONE]\n"
        await proxy.until_closed("upstream_end")
        assert proxy.metric("upstream_events_total") == 2


@on_each_loop
async def test_unnamed_events_are_heard_by_onmessage_and_all_else_stays() -> None:
    blocks = [
        b'data: {"type":"new_message"}\nevent: Generic\n\n',
        b"event:Generic\r\nid: 7\r\ndata: 2\r\n\r\n",
        b"event: Generic2\ndata: 3\n\n",
        b": event: Generic\n\n",
    ]
    async with (
        RawUpstream([*SILENT, joined(blocks), LAST_CHUNK]) as upstream,
        Instance(config(upstream, "confirm: off\nreconnect: off\nrewrite: {unname: [Generic]}")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        assert client.body == b"".join(
            (b'data: {"type":"new_message"}\n\n', b"id: 7\r\ndata: 2\r\n\r\n", blocks[2], blocks[3])
        )
        assert client.events == [
            Event("message", '{"type":"new_message"}', ""),
            Event("message", "2", "7"),
            Event("Generic2", "3", "7"),
        ]


# notify-server, as the stand-in plays it.


@asynccontextmanager
async def notify_server(mode: str, **knobs: Any) -> AsyncIterator[NotifyServer]:
    server = NotifyServer(mode, knobs=Knobs(**knobs))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def say(server: NotifyServer, content: str) -> int:
    """A message of user 4 to the chat; how many streams it reached."""
    payload = {
        "event_type": "new_message",
        "chat_id": 2,
        "sender_id": 4,
        "sender_name": "User 4",
        "content": content,
        "files": [],
        "timestamp": rfc3339(time.time_ns()),
        "workspace_id": 2,
    }
    return server.publish("fechatter.message.new", payload).delivered


def contents(client: RawClient) -> list[str]:
    heard = [json.loads(event.data) for event in client.events if event.type == "message"]
    return [data["content"] for data in heard if data["type"] == "new_message"]


HEALED = """\
    keepalive: {interval: 100ms}
    stall: {after: 300ms, ignore: {types: [heartbeat, connection_confirmed]}}
    rewrite: {unname: [Generic]}
"""


async def opened(proxy: Instance, server: NotifyServer, user: int, streams: int) -> RawClient:
    client = await proxy.event_source(f"/events?access_token={server.token(user)}")
    await client.wait_for(b"connection_confirmed")
    async with asyncio.timeout(5):
        await server.wait_open(streams)
    return client


@on_each_loop
async def test_the_silent_build_is_confirmed_pinged_and_seen_to_end_after_its_first_event() -> None:
    async with (
        notify_server("silent") as server,
        Instance(config(server.url, HEALED)) as proxy,
        await opened(proxy, server, 2, streams=1) as client,
    ):
        await client.wait_for(lambda client: pings(client) >= 2)
        assert say(server, "hello") == 1
        await client.wait_response()
        assert contents(client) == ["hello"]
        await proxy.until_closed("upstream_end")
        assert proxy.metric("upstream_eof_after_first_event_total") == 1


@on_each_loop
async def test_the_zombie_of_the_fixed_build_is_seen_through_its_heartbeats() -> None:
    naive = "stall: {after: 300ms}"
    async with (
        notify_server("fixed", heartbeat_interval=0.05) as server,
        Instance(config(server.url, HEALED)) as proxy,
        Instance(config(server.url, naive)) as blind,
        await opened(proxy, server, 2, streams=1) as client,
        await opened(blind, server, 3, streams=2) as other,
    ):
        assert say(server, "lost") == 0  # it unregisters everybody after the confirm frame
        await proxy.until(lambda: proxy.metric("upstream_stalled_streams") == 1)
        heartbeats = proxy.metric("upstream_events_total")
        await proxy.until(lambda: proxy.metric("upstream_events_total") > heartbeats + 2)
        assert proxy.metric("upstream_stalled_streams") == 1
        assert proxy.metric("upstream_stall_recoveries_total") == 0
        # They are signs of life there, which end also a stall of a machine that has stood still.
        await blind.until(lambda: blind.metric("upstream_stalled_streams") == 0)
        assert blind.metric("upstream_stalls_total") == blind.metric("upstream_stall_recoveries_total")
        assert contents(client) == []
        assert client.ending is other.ending is None
        assert proxy.metric("upstream_eof_after_first_event_total") == 0


@on_each_loop
async def test_the_healthy_mode_delivers_every_message_in_order_to_each_stream_of_a_user() -> None:
    async with (
        notify_server("healthy", heartbeat_interval=0.05) as server,
        Instance(config(server.url, HEALED)) as proxy,
        await opened(proxy, server, 2, streams=1) as first,
        await opened(proxy, server, 2, streams=2) as second,
    ):
        for number in range(20):
            assert say(server, str(number)) == 2
        for client in (first, second):
            await client.wait_for(lambda client: contents(client) == [str(number) for number in range(20)])
        assert proxy.closed() == {}
        assert proxy.opened() == 2
