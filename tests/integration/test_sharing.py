"""Clients that share one stream of upstream: who joins, what each gets, how it ends."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from sse_keepalive_proxy.gateway.sharing import SharedOpening
from sse_keepalive_proxy.gateway.stream_request import StreamRequest
from tests.support.instance import Instance, config
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import (
    GOT_REQUEST,
    LAST_CHUNK,
    RawUpstream,
    Script,
    UpstreamConnection,
    chunk,
    response,
    stream_head,
)
from tests.support.running import on_each_loop, soon

SILENT = [GOT_REQUEST, stream_head()]
ASKED = [GOT_REQUEST, stream_head("Vary: *")]  # no client joins without asking
SHARE = "share: {by: credential}\n"
TAB = "/events?access_token=one"


def data_of(client: RawClient) -> list[str]:
    """The data of upstream's events."""
    return [event.data for event in client.events if event.type == "message"]


@asynccontextmanager
async def group(
    *scripts: Script, stream: str = SHARE, tabs: int = 2, before: str = ""
) -> AsyncIterator[tuple[RawUpstream, Instance, list[RawClient]]]:
    """An upstream, a proxy with `stream`, and so many confirmed clients with the same request, in order.
    `before`: lines at the top of the configuration.
    """
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(RawUpstream(*scripts))
        proxy = await stack.enter_async_context(Instance(config(upstream, stream, before=before)))
        clients = []
        for _ in range(tabs):
            clients.append(await stack.enter_async_context(await proxy.event_source(TAB)))
            await confirmed(clients[-1])
        yield upstream, proxy, clients


async def without_clients(proxy: Instance, state: str) -> None:
    """Wait until the only group is in this state: `lingering` or `held`."""
    now = asyncio.get_running_loop().time
    await soon(lambda: [each.snapshot(now())["state"] for each in proxy.server.streams.groups] == [state])


async def confirmed(*clients: RawClient) -> None:
    for client in clients:
        await client.wait_for(b"connection_confirmed")


@on_each_loop
async def test_clients_with_the_same_request_share_one_upstream() -> None:
    async with group(SILENT) as (upstream, proxy, clients):
        await (await upstream.connection()).send(chunk(b"data: 1\n\n") + chunk(b"data: 2\n\n"))
        for client in clients:
            await client.wait_for(b"data: 2")
            assert data_of(client) == ["1", "2"]
        assert len(upstream.connections) == 1
        assert proxy.metric("upstream_events_total") == 2
        assert proxy.metric("downstream_bytes_total", origin="upstream") == 36
        assert proxy.metric("share_groups") == 1
        assert proxy.metric("share_joins_total", how="trusted") == 1


@on_each_loop
async def test_a_client_gets_its_own_confirm_and_events_from_then_on() -> None:
    async with group(SILENT, tabs=1) as (upstream, proxy, [first]):
        server = await upstream.connection()
        await server.send(chunk(b"data: early\n\n"))
        await first.wait_for(b"early")
        async with await proxy.event_source(TAB) as second:
            await confirmed(second)
            await server.send(chunk(b"data: late\n\n"))
            await second.wait_for(b"late")
            assert data_of(second) == ["late"]
            assert first.events[0].data != second.events[0].data  # each has its own stream id


@on_each_loop
async def test_nothing_is_left_of_an_opening_that_only_the_collector_would_find() -> None:
    def left() -> list[object]:
        return [found for found in gc.get_objects() if isinstance(found, SharedOpening | StreamRequest)]

    gc.collect()
    gc.disable()
    try:
        async with group(SILENT, tabs=3):
            await soon(lambda: not left(), lambda: f"left: {left()}")
    finally:
        gc.enable()


@on_each_loop
async def test_another_credential_has_an_upstream_of_its_own() -> None:
    async with (
        group(SILENT, tabs=1) as (upstream, proxy, _),
        await proxy.event_source("/events?access_token=onf") as other,
    ):
        await confirmed(other)
        assert len(upstream.connections) == 2
        assert proxy.metric("share_groups") == 2


@on_each_loop
async def test_an_upstream_that_ends_is_asked_again_once_for_all() -> None:
    go_on = asyncio.Event()
    ends = [GOT_REQUEST, stream_head(), go_on, chunk(b"data: 0\n\n"), LAST_CHUNK]
    again = [GOT_REQUEST, stream_head(), chunk(b"data: 1\n\n"), LAST_CHUNK]
    stream = SHARE + "reconnect: {when: always, delay: 10ms}\n"
    async with group(ends, again, SILENT, stream=stream) as (upstream, proxy, clients):
        go_on.set()
        await soon(lambda: proxy.metric("upstream_reconnects_total", result="reopened") == 2)
        assert len(upstream.connections) == 3
        for client in clients:
            await client.wait_for(lambda client: data_of(client) == ["0", "1"])
            assert any(event.type == "stream_recovered" for event in client.events)


@on_each_loop
async def test_the_last_client_closes_upstream_after_the_linger() -> None:
    stream = "share: {by: credential, linger: 100ms}\n"
    async with group(SILENT, stream=stream) as (upstream, proxy, [first, second]):
        await first.close()
        await soon(lambda: proxy.metric("streams_closed_total", reason="client_gone") == 1)
        server = await upstream.connection()
        assert server.ending is None
        await second.close()
        await soon(lambda: server.ending is not None)
        await soon(lambda: proxy.metric("share_groups") == 0)


@on_each_loop
async def test_a_client_that_comes_back_while_upstream_lingers_gets_it() -> None:
    stream = "share: {by: credential, linger: 1m}\n"
    async with group(SILENT, stream=stream, tabs=1) as (upstream, proxy, [first]):
        await first.close()
        await without_clients(proxy, "lingering")
        async with await proxy.event_source(TAB) as again:
            await confirmed(again)
            assert proxy.metric("upstream_held_streams") == 0
            await (await upstream.connection()).send(chunk(b"data: 1\n\n"))
            await again.wait_for(b"data: 1")
            assert len(upstream.connections) == 1


@on_each_loop
async def test_a_refused_joiner_gets_the_refusal_and_the_others_stay() -> None:
    refuses = [GOT_REQUEST, response("401 Unauthorized", b"no")]
    async with group(ASKED, refuses, tabs=1) as (upstream, proxy, [first]):
        async with await proxy.event_source(TAB) as second:
            await second.wait_response()
            assert second.response.status == 401
        await (await upstream.connection()).send(chunk(b"data: 1\n\n"))
        await first.wait_for(b"data: 1")


@on_each_loop
async def test_the_newest_accepted_connection_serves_the_group() -> None:
    async with group(ASKED) as (upstream, _, clients):
        old, new = await upstream.connection(), await upstream.connection(1)
        await soon(lambda: old.ending is not None)
        await new.send(chunk(b"data: 1\n\n"))
        for client in clients:
            await client.wait_for(b"data: 1")
            assert [event.type for event in client.events] == ["connection_confirmed", "message"]


@on_each_loop
async def test_a_joiner_that_asked_before_the_group_asked_again_loses_no_event_of_either_stream() -> None:
    ends, first, second, more = asyncio.Event(), asyncio.Event(), asyncio.Event(), asyncio.Event()
    old = [GOT_REQUEST, stream_head("Vary: *"), ends, LAST_CHUNK]
    joins = [GOT_REQUEST, first, stream_head(), chunk(b"data: 1\n\n"), LAST_CHUNK]
    again = [GOT_REQUEST, second, stream_head(), more, chunk(b"data: 2\n\n")]
    stream = SHARE + "reconnect: {when: always, delay: 10ms}\n"
    async with (
        group(old, joins, again, stream=stream, tabs=1) as (upstream, proxy, [one]),
        await proxy.event_source(TAB) as two,
    ):
        await upstream.connection(1)
        ends.set()
        await upstream.connection(2)
        first.set()
        for client in (one, two):
            await client.wait_for(b"data: 1")
        second.set()
        await soon(lambda: proxy.metric("upstream_reconnects_total", result="reopened") == 1)
        more.set()
        for client in (one, two):
            await client.wait_for(b"data: 2")
            assert data_of(client) == ["1", "2"]
        assert len(upstream.connections) == 3


@on_each_loop
async def test_an_attempt_that_fails_behind_the_answer_to_a_joiner_harms_nobody() -> None:
    ends, first, fails = asyncio.Event(), asyncio.Event(), asyncio.Event()
    old = [GOT_REQUEST, stream_head("Vary: *"), ends, LAST_CHUNK]
    joins = [GOT_REQUEST, first, stream_head(), chunk(b"data: 1\n\n"), LAST_CHUNK]
    refuses = [GOT_REQUEST, fails, response("401 Unauthorized", b"no")]
    again = [GOT_REQUEST, stream_head(), chunk(b"data: 2\n\n")]
    stream = SHARE + "reconnect: {when: always, delay: 10ms}\n"
    async with (
        group(old, joins, refuses, again, stream=stream, tabs=1) as (upstream, proxy, [one]),
        await proxy.event_source(TAB) as two,
    ):
        await upstream.connection(1)
        ends.set()
        await upstream.connection(2)
        first.set()
        await two.wait_for(b"data: 1")
        fails.set()
        for client in (one, two):
            await client.wait_for(b"data: 2")
            assert data_of(client) == ["1", "2"]
            assert client.ending is None
        assert len(upstream.connections) == 4


@on_each_loop
async def test_a_slow_client_is_cut_alone() -> None:
    async with group(SILENT, stream=SHARE) as (upstream, proxy, [slow, quick]):
        slow.pause()
        server = await upstream.connection()
        text = b"x" * (256 << 10)
        for number in range(60):
            await server.send(chunk(b"data: %b %d.\n\n" % (text, number)))
            await quick.wait_for(b" %d.\n\n" % number)
            if proxy.metric("streams_closed_total", reason="client_stalled"):
                break
        assert proxy.metric("streams_closed_total", reason="client_stalled") == 1
        assert proxy.metric("streams_active", state="flowing") == 1


@on_each_loop
async def test_an_event_of_any_size_cuts_no_client_that_reads() -> None:
    async with group(SILENT, stream=SHARE + "max_buffer: 64KiB\n") as (upstream, proxy, clients):
        server = await upstream.connection()
        for number in range(2):
            await server.send(chunk(b"data: %b %d.\n\n" % (b"x" * (5 << 20), number)))
            for client in clients:
                await client.wait_for(b" %d.\n\n" % number, within=50.0)
        assert proxy.closed() == {}


@on_each_loop
async def test_a_fault_of_upstream_ends_those_that_do_not_wait() -> None:
    async with group(SILENT, stream=SHARE + "reconnect: off\n") as (upstream, proxy, clients):
        (await upstream.connection()).reset()
        for client in clients:
            await client.wait_end()
        assert proxy.metric("streams_closed_total", reason="upstream_reset") == 2
        assert proxy.metric("share_groups") == 0


@on_each_loop
async def test_a_client_that_comes_back_gets_what_it_has_missed() -> None:
    stream = "share: {by: credential, linger: 1m, replay: {ids: add}}\n"
    async with group(SILENT, stream=stream, tabs=1) as (upstream, proxy, [first]):
        server = await upstream.connection()
        await server.send(chunk(b"data: 1\n\n"))
        await first.wait_for(b"data: 1")
        last = next(event.last_event_id for event in first.events if event.data == "1")
        await first.close()
        await server.send(chunk(b"data: 2\n\n") + chunk(b"data: 3\n\n"))
        await soon(lambda: proxy.metric("upstream_events_total") == 3)
        async with await proxy.event_source(TAB, f"Last-Event-ID: {last}") as again:
            await again.wait_for(b"data: 3")
            await server.send(chunk(b"data: 4\n\n"))
            await again.wait_for(b"data: 4")
            assert data_of(again) == ["2", "3", "4"]
            assert len(upstream.connections) == 1
            assert proxy.metric("replayed_events_total") == 2


@on_each_loop
async def test_a_client_whose_id_is_not_in_the_log_hears_of_the_gap() -> None:
    stream = "share: {by: credential, replay: {ids: add}}\n"
    async with group(SILENT, stream=stream, tabs=1) as (upstream, proxy, _):
        headers = "Last-Event-ID: skp-00000000-7"
        async with await proxy.event_source(TAB, headers) as again:
            await again.wait_for(b"stream_gap")
            assert [event.type for event in again.events] == ["connection_confirmed", "stream_gap"]
            assert '"reason":"unknown"' in again.events[1].data
        connection = await upstream.connection()
        assert b"skp-" not in connection.received
        assert proxy.metric("replay_gaps_total", reason="unknown") == 1


@on_each_loop
@pytest.mark.parametrize("known", [True, False], ids=["in the log", "not in the log"])
async def test_an_id_of_the_proxy_may_come_as_a_cursor_in_the_query(known: bool) -> None:
    stream = "share: {by: credential, trust: 1ms, linger: 1m, replay: {ids: add}}\n"
    async with group(SILENT, SILENT, stream=stream, tabs=1) as (upstream, proxy, [first]):
        server = await upstream.connection()
        await server.send(chunk(b"data: 1\n\n"))
        await first.wait_for(b"data: 1")
        last = next(event.last_event_id for event in first.events if event.data == "1")
        await server.send(chunk(b"data: 2\n\n"))
        await first.wait_for(b"data: 2")
        if not known:
            last = "skp-00000000-7"
        await asyncio.sleep(0.01)  # longer than `trust`: upstream is asked for the returning client
        async with await proxy.event_source(f"{TAB}&lastEventId={last.replace('k', '%6B')}") as again:
            await again.wait_for(b"data: 2\n\n" if known else b"stream_gap")
            assert data_of(again) == (["2"] if known else [])
        connection = await upstream.connection(1)
        assert b"lastEventId" not in connection.received
        assert b"skp-" not in connection.received


@on_each_loop
async def test_a_client_gets_the_stream_that_was_held_for_it_with_all_that_it_has_missed() -> None:
    stream = "share: {by: credential, linger: 50ms, replay: {ids: add}}\nleave: {hold: 10m}\n"
    async with group(SILENT, stream=stream, tabs=1) as (upstream, proxy, [first]):
        server = await upstream.connection()
        await server.send(chunk(b"data: 1\n\n"))
        await first.wait_for(b"data: 1")
        last = next(event.last_event_id for event in first.events if event.data == "1")
        await first.close()
        await without_clients(proxy, "held")
        await server.send(chunk(b"data: 2\n\n"))
        await soon(lambda: proxy.metric("upstream_events_total") == 2)
        async with await proxy.event_source(TAB, f"Last-Event-ID: {last}") as again:
            await again.wait_for(b"data: 2")
            assert data_of(again) == ["2"]
            assert len(upstream.connections) == 1
            assert proxy.metric("upstream_held_streams") == 0


@on_each_loop
async def test_a_held_stream_that_upstream_ends_is_not_asked_for_again() -> None:
    stream = "share: {by: credential, linger: 50ms}\nleave: {hold: 10m}\nreconnect: {when: always}\n"
    go_on = asyncio.Event()
    ends = [GOT_REQUEST, stream_head(), go_on, chunk(b"data: 0\n\n"), LAST_CHUNK]
    async with group(ends, SILENT, stream=stream, tabs=1) as (upstream, proxy, [first]):
        await first.close()
        await without_clients(proxy, "held")
        go_on.set()
        await soon(lambda: proxy.metric("share_groups") == 0)
        assert proxy.metric("upstream_held_streams") == 0
        assert len(upstream.connections) == 1


@on_each_loop
async def test_an_upstream_that_ends_during_the_linger_is_asked_again_for_the_log() -> None:
    stream = (
        "share: {by: credential, linger: 1m, replay: {ids: add}}\nreconnect: {when: always, delay: 10ms}\n"
    )
    go_on = asyncio.Event()
    ends = [GOT_REQUEST, stream_head(), go_on, chunk(b"data: 1\n\n"), LAST_CHUNK]
    goes_on = [GOT_REQUEST, stream_head(), chunk(b"data: 2\n\n")]
    async with group(ends, goes_on, stream=stream, tabs=1) as (upstream, proxy, [first]):
        await first.close()
        await without_clients(proxy, "lingering")
        go_on.set()
        await soon(lambda: proxy.metric("upstream_events_total") == 2)
        async with await proxy.event_source(TAB, "Last-Event-ID: skp-00000000-1") as again:
            await again.wait_for(b"stream_gap")
            assert len(upstream.connections) == 2


@on_each_loop
async def test_an_id_of_another_proxy_is_passed_to_upstream_if_the_route_adds_none() -> None:
    stream = "share: {by: credential, replay: {ids: upstream}}\n"
    async with (
        group(SILENT, stream=stream, tabs=1) as (upstream, proxy, _),
        await proxy.event_source(TAB, "Last-Event-ID: skp-00000000-7") as again,
    ):
        await again.wait_for(b"stream_gap")
        request = await (await upstream.connection(1)).request()
        assert request.header("last-event-id") == "skp-00000000-7"


@on_each_loop
async def test_an_id_of_the_proxy_never_reaches_upstream_also_for_a_client_without_a_group() -> None:
    share = "share: {by: credential, max_clients: 1, replay: {ids: add}}\n"
    stream = share + "reconnect: {when: always, delay: 10ms}\n"
    ends = [GOT_REQUEST, stream_head(), chunk(b"data: 1\n\n"), LAST_CHUNK]
    async with (
        group(SILENT, ends, SILENT, stream=stream, tabs=1) as (upstream, proxy, _),
        await proxy.event_source(TAB, "Last-Event-ID: skp-00000000-7") as alone,
    ):
        await alone.wait_for(b"stream_recovered")
        for index in (1, 2):
            assert b"skp-" not in (await upstream.connection(index)).received


def single_slot(*, ends_first: asyncio.Event) -> tuple[Script, Script]:
    """A server with one place: the second request ends the first stream, before its own answer."""
    has_ended = asyncio.Event()

    async def first(connection: UpstreamConnection) -> None:
        await connection.request()
        await connection.send(stream_head("Vary: *") + chunk(b"data: 1\n\n"))
        await ends_first.wait()
        await connection.send(LAST_CHUNK)
        await connection.wait_closed()
        has_ended.set()

    async def second(connection: UpstreamConnection) -> None:
        await connection.request()
        ends_first.set()
        await has_ended.wait()
        await connection.send(stream_head("Vary: *") + chunk(b"data: 2\n\n"))

    return first, second


@on_each_loop
async def test_a_joiner_that_takes_the_only_place_ends_no_member_also_without_reconnect() -> None:
    scripts = single_slot(ends_first=asyncio.Event())
    async with group(*scripts, stream=SHARE + "reconnect: off\n") as (upstream, proxy, clients):
        for client in clients:
            await client.wait_for(b"data: 2")
        assert [event.type for event in clients[0].events] == ["connection_confirmed", "message", "message"]
        assert proxy.metric("share_groups") == 1
        assert len(upstream.connections) == 2


@on_each_loop
async def test_who_takes_the_place_of_a_held_stream_finds_its_log() -> None:
    scripts = single_slot(ends_first=asyncio.Event())
    stream = "share: {by: credential, linger: 50ms, replay: {ids: add}}\nleave: {hold: 10m}\n"
    async with group(*scripts, stream=stream, tabs=1) as (_, proxy, [first]):
        await first.wait_for(b"data: 1")
        nonce = next(event.last_event_id for event in first.events if event.data == "1").rpartition("-")[0]
        await first.close()
        await without_clients(proxy, "held")
        async with await proxy.event_source(TAB, f"Last-Event-ID: {nonce}-0") as again:
            await again.wait_for(b"data: 2")
            assert data_of(again) == ["2"]
            assert again.events[-1].last_event_id == f"{nonce}-2"  # the log goes on
