"""How the clients of a group end: one alone, or all together, and what becomes of upstream."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.integration.test_sharing import ASKED, SHARE, SILENT, TAB, confirmed, data_of, group
from tests.support.instance import config
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import GOT_REQUEST, Step, chunk, response, stream_head
from tests.support.running import on_each_loop, settings_of

LOST = "reconnect: {when: always, delay: 10ms, give_up_after: 300ms}\n"


async def says(client: RawClient, reason: str) -> None:
    """The stream of `client` ends whole, and its last event says why."""
    await client.wait_response()
    assert client.events[-1].type == "stream_closing"
    assert f'"reason":"{reason}"' in client.events[-1].data


@on_each_loop
async def test_a_client_of_the_largest_age_ends_alone() -> None:
    async with group(SILENT, stream=SHARE + "max_age: 500ms\n", tabs=1) as (upstream, proxy, [old]):
        await proxy.proxy.adopt(settings_of(config(upstream, SHARE)))  # the young one lives without a limit
        async with await proxy.event_source(TAB) as young:
            await confirmed(young)
            await says(old, "max_age")
            await (await upstream.connection()).send(chunk(b"data: 1\n\n"))
            await young.wait_for(b"data: 1")
            assert proxy.closed() == {"max_age": 1}
            assert len(upstream.connections) == 1


@on_each_loop
async def test_a_drain_ends_each_client_in_its_time_and_upstream_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shares = iter((0.0, 0.9, 0.9, 1.0, 1.0))  # of the spread; drawn at random, the last could be the first
    monkeypatch.setattr(random, "uniform", lambda least, most: least + next(shares) * (most - least))
    before = "drain: {timeout: 30s, spread: 600ms}\n"
    async with group(SILENT, tabs=5, before=before) as (upstream, proxy, clients):
        server = await upstream.connection()
        hurry = asyncio.Event()
        drain = asyncio.get_running_loop().create_task(proxy.server.drain(hurry))
        await proxy.until(lambda: proxy.closed().get("drain"))
        await server.send(chunk(b"data: 1\n\n"))
        for client in clients:
            await says(client, "drain")
            assert server.ending is None or proxy.closed() == {"drain": 5}
        assert any(data_of(client) == ["1"] for client in clients)  # not all at once
        hurry.set()  # nothing but the linger is left
        await drain
        await server.wait_closed()
        assert proxy.metric("share_groups") == 0


@on_each_loop
async def test_a_removed_route_ends_all_clients() -> None:
    before = "drain: {spread: 100ms}\n"
    async with group(SILENT, before=before, stream="share: {by: credential, linger: 50ms}\n") as (
        upstream,
        proxy,
        clients,
    ):
        renamed = config(upstream, SHARE, before=before).replace("name: events", "name: others")
        await proxy.server._adopt(settings_of(renamed))
        for client in clients:
            await says(client, "route_removed")
        await (await upstream.connection()).wait_closed()
        assert proxy.closed() == {"route_removed": 2}


@on_each_loop
async def test_an_upstream_that_stays_away_ends_all_clients() -> None:
    unavailable: list[Step] = [GOT_REQUEST, response("503 Service Unavailable")]
    async with group(SILENT, unavailable, stream=SHARE + LOST) as (upstream, proxy, clients):
        (await upstream.connection()).reset()
        for client in clients:
            await says(client, "give_up")
        assert proxy.closed() == {"give_up": 2}
        assert proxy.metric("share_groups") == 0


@on_each_loop
async def test_an_event_that_is_too_large_ends_all_clients() -> None:
    async with group(SILENT, stream=SHARE + "max_event: 64KiB\n") as (upstream, proxy, clients):
        server = await upstream.connection()
        await server.send(chunk(b"data: " + b"x" * (1 << 17)))
        for client in clients:
            await says(client, "event_too_large")
            assert b"xxx" not in client.received
        await server.wait_closed()
        assert proxy.closed() == {"event_too_large": 2}
        assert proxy.metric("share_groups") == 0


@on_each_loop
async def test_a_body_that_is_no_event_stream_has_one_client() -> None:
    opaque = [GOT_REQUEST, stream_head(), chunk(b'{"ok":1}')]
    async with group(SILENT, tabs=0) as (upstream, proxy, _):
        upstream.scripts = [opaque]
        for number in range(2):
            async with await proxy.event_source(TAB) as client:
                await client.wait_for(b'{"ok":1}')
                assert len(upstream.connections) == number + 1
                assert proxy.metric("share_joins_total", how="trusted") == 0


@on_each_loop
async def test_nobody_joins_a_body_that_turns_out_to_be_no_event_stream() -> None:
    go_on = asyncio.Event()
    opaque = [GOT_REQUEST, stream_head(), go_on, chunk(b'{"ok":1}')]
    async with group(opaque, SILENT) as (upstream, proxy, clients):
        go_on.set()
        for client in clients:
            await client.wait_for(b'{"ok":1}')
        async with await proxy.event_source(TAB) as another:
            await confirmed(another)
            assert len(upstream.connections) == 2


@on_each_loop
async def test_a_further_client_whose_body_is_no_event_stream_gets_it_alone() -> None:
    opaque = [GOT_REQUEST, stream_head() + chunk(b'{"ok":1}')]  # its beginning comes with the head
    async with group(ASKED, opaque, tabs=1) as (upstream, proxy, [first]):
        async with await proxy.event_source(TAB) as second:
            await second.wait_for(b'{"ok":1}')
            await (await upstream.connection()).send(chunk(b"data: 1\n\n"))
            await first.wait_for(b"data: 1\n\n")
            assert b'{"ok":1}' not in first.received
            assert b"data: 1" not in second.received
        assert proxy.metric("share_groups") == 1
