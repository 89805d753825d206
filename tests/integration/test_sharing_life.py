"""A group in mid-life: its room, its silence, its bytes, and what else a route may ask for."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.integration.test_sharing import SHARE, SILENT, TAB, confirmed, data_of, group
from tests.support.authority import Authority
from tests.support.instance import EVENT_SOURCE, config
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import GOT_REQUEST, chunk, stream_head
from tests.support.running import on_each_loop, settings_of

REPLAY = "share: {by: credential, linger: 1m, replay: {ids: add}}\n"


def id_of(client: RawClient, data: str) -> str:
    """The id of the event with this data."""
    return next(event.last_event_id for event in client.events if event.data == data)


# Who joins.


@on_each_loop
async def test_a_client_for_which_a_group_has_no_room_has_a_stream_of_its_own() -> None:
    stream = "share: {by: credential, max_clients: 2}\n"
    async with group(SILENT, stream=stream, tabs=3) as (upstream, proxy, [first, second, alone]):
        shared, own = await upstream.connection(), await upstream.connection(1)
        assert proxy.metric("share_groups") == 1
        await shared.send(chunk(b"data: shared\n\n"))
        await own.send(chunk(b"data: own\n\n"))
        for client in (first, second):
            await client.wait_for(b"data: shared")
            assert data_of(client) == ["shared"]
        await alone.wait_for(b"data: own")
        assert data_of(alone) == ["own"]
        await first.close()
        await proxy.until(lambda: proxy.closed() == {"client_gone": 1})
        async with await proxy.event_source(TAB) as again:  # there is room again
            await confirmed(again)
            assert len(upstream.connections) == 2


@on_each_loop
@pytest.mark.parametrize("varies", [(), ("Vary: Origin",)], ids=["for any origin", "by the origin"])
async def test_a_page_of_another_origin_asks_upstream_itself(varies: tuple[str, ...]) -> None:
    head = [GOT_REQUEST, stream_head(*varies)]
    async with group(head, tabs=0) as (upstream, proxy, _):
        for origin, asked in (("a", 1), ("a", 1), ("b", 2), ("b", 2)):
            async with await proxy.event_source(TAB, f"Origin: https://{origin}.example") as client:
                await confirmed(client)
                assert len(upstream.connections) == asked
        request = await upstream.connections[1].request()
        assert request.header("origin") == "https://b.example"


@on_each_loop
async def test_a_client_over_tls_shares_a_stream_like_any_other(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    file = authority.certificate("proxy", "127.0.0.1", "localhost")
    before = f"tls: {{cert_file: '{file}', key_file: '{file}'}}"
    async with (
        group(SILENT, stream=REPLAY, tabs=0, before=before) as (upstream, proxy, _),
        await proxy.event_source(TAB, ssl=authority.client()) as first,
        await proxy.event_source(TAB, ssl=authority.client()) as second,
    ):
        await confirmed(first, second)
        server = await upstream.connection()
        large = "x" * 100_000
        await server.send(chunk(f"data: {large}\n\n".encode()) + chunk(b"data: 1\n\n"))
        for client in (first, second):
            await client.wait_for(b"data: 1\n\n")
            assert data_of(client) == [large, "1"]
        await first.close()
        async with await proxy.event_source(
            TAB, f"Last-Event-ID: {id_of(second, large)}", ssl=authority.client()
        ) as again:
            await again.wait_for(b"data: 1\n\n")
            assert data_of(again) == ["1"]
        assert len(upstream.connections) == 1


@on_each_loop
async def test_each_client_waits_for_its_own_confirm() -> None:
    brief, long = (SHARE + f"confirm: {{wait: {wait}}}\n" for wait in ("200ms", "1h"))
    async with group(SILENT, stream=brief, tabs=1) as (upstream, proxy, [first]):
        server = await upstream.connection()
        assert proxy.metric("confirms_sent_total", form="event") == 1
        await proxy.proxy.adopt(settings_of(config(upstream, long)))
        async with await proxy.event_source(TAB) as second, await proxy.event_source(TAB) as third:
            for client in (second, third):
                await client.wait_head()
            await proxy.until(lambda: proxy.opened() == 3)
            await server.send(chunk(b"data: 1\n\n"))  # upstream speaks first: no confirm follows
            for client in (first, second, third):
                await client.wait_for(b"data: 1")
            await proxy.proxy.adopt(settings_of(config(upstream, brief)))
            async with await proxy.event_source(TAB) as last:
                await confirmed(last)
            for client in (second, third):
                assert b"connection_confirmed" not in client.received
        assert proxy.metric("confirms_sent_total", form="event") == 2


# Upstream's bytes.


@on_each_loop
async def test_unnamed_events_are_unnamed_for_all_clients_and_in_the_log() -> None:
    stream = REPLAY + "rewrite: {unname: [Generic]}\n"
    async with group(SILENT, stream=stream) as (upstream, proxy, [first, second]):
        server = await upstream.connection()
        for number in (1, 2):
            await server.send(chunk(b"event: Generic\ndata: %d\n\n" % number))
        await server.send(chunk(b"event: Other\ndata: 3\n\n"))
        for client in (first, second):
            await client.wait_for(b"data: 3\n\n")
            assert data_of(client) == ["1", "2"]
        async with await proxy.event_source(TAB, f"Last-Event-ID: {id_of(first, '1')}") as again:
            await again.wait_for(b"data: 3\n\n")
            assert [(event.type, event.data) for event in again.events[1:]] == [
                ("message", "2"),
                ("Other", "3"),
            ]


@on_each_loop
async def test_too_many_bytes_in_all_logs_empty_the_one_that_was_written_longest_ago() -> None:
    stream = "share: {by: credential, replay: {ids: add, bytes: 1MiB}}\n"
    before = "limits: {max_replay: 1MiB}\n"
    async with group(SILENT, stream=stream, before=before, tabs=1) as (upstream, proxy, [old]):
        server, large = await upstream.connection(), "x" * 600_000
        await server.send(chunk(b"data: 1\n\n") + chunk(f"data: {large}\n\n".encode()))
        await old.wait_for(b"x\n\n")
        async with await proxy.event_source(TAB + "&other") as new:
            await confirmed(new)
            await (await upstream.connection(1)).send(chunk(f"data: {large}\n\n".encode()))
            await new.wait_for(b"x\n\n")
        assert proxy.metric("replay_logs_emptied_total") == 1
        for last, gaps in ((large, []), ("1", ["too_old"])):
            async with await proxy.event_source(TAB, f"Last-Event-ID: {id_of(old, last)}") as again:
                await confirmed(again)
                await server.send(chunk(b"data: live\n\n"))
                await again.wait_for(b"data: live\n\n")
                told = [event.data for event in again.events if event.type == "stream_gap"]
                assert [json.loads(each)["reason"] for each in told] == gaps
        assert proxy.metric("replay_gaps_total", reason="too_old") == 1
        assert len(upstream.connections) == 2


# Silence.


@on_each_loop
async def test_each_client_hears_once_in_its_own_form_that_upstream_is_silent() -> None:
    stream = (
        SHARE + "keepalive: {interval: 1h}\nstall: {after: 200ms, sign_of_life: events, action: notify}\n"
    )
    opens = asyncio.Event()
    async with (
        group([GOT_REQUEST, opens, stream_head()], stream=stream, tabs=0) as (upstream, proxy, _),
        await proxy.client() as first,
        await proxy.client() as second,
        await proxy.client() as curl,
    ):
        browsers = (first, second)
        for browser in browsers:
            browser.request(TAB, EVENT_SOURCE)
        curl.request(TAB)
        await proxy.until(lambda: proxy.server.streams.connecting == 3)
        opens.set()  # all of them are there when upstream's silence begins
        for browser in browsers:
            await browser.wait_for(b"event: stalled\n")
        await curl.wait_for(b":stalled silent_for=")
        await (await upstream.connection()).send(chunk(b"data: 1\n\n"))
        for client in (*browsers, curl):
            await client.wait_for(b"data: 1\n\n")
        for browser in browsers:
            assert [event.type for event in browser.events] == ["connection_confirmed", "stalled", "message"]
        assert curl.body.count(b"stalled") == 1
        assert proxy.metric("upstream_stalls_total") == 1
        assert len(upstream.connections) == 1


@on_each_loop
async def test_a_silent_upstream_is_replaced_once_for_all() -> None:
    stream = SHARE + (
        "stall: {after: 500ms, sign_of_life: events, action: reconnect}\n"
        "reconnect: {when: always, delay: 10ms}\n"
    )
    speaks = asyncio.Event()
    new = [GOT_REQUEST, stream_head(), chunk(b"data: 1\n\n"), speaks, chunk(b"data: 2\n\n")]
    async with group(SILENT, new, stream=stream, tabs=3) as (upstream, proxy, clients):
        for client in clients:
            await client.wait_for(b"data: 1\n\n")
        await upstream.connections[0].wait_closed()
        speaks.set()
        for client in clients:
            await client.wait_for(b"data: 2\n\n")
            assert [event.type for event in client.events] == [
                "connection_confirmed",
                "stream_recovered",
                "message",
                "message",
            ]
            assert json.loads(client.events[1].data)["reason"] == "stalled"
        assert proxy.metric("upstream_stalls_total") == 1
        assert proxy.metric("upstream_reconnects_total", result="reopened") == 1
        assert len(upstream.connections) == 2
        assert proxy.closed() == {}
