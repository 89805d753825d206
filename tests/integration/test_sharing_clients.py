"""Clients of every kind in one group, and requests that only look alike."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.integration.sharing_attacks import Asks, Attack, Mode, Staged, staged, token
from tests.integration.test_sharing import SHARE, SILENT, TAB, confirmed, data_of, group
from tests.support.instance import Instance, config
from tests.support.raw_upstream import GOT_REQUEST, LAST_CHUNK, RawUpstream, chunk, stream_head
from tests.support.running import on_each_loop, settings_of


@on_each_loop
async def test_each_client_of_a_group_gets_the_frames_of_its_own_family() -> None:
    stream = SHARE + "keepalive: {interval: 300ms}\n"
    async with (
        group(SILENT, stream=stream, tabs=1) as (upstream, proxy, [browser]),
        await proxy.client() as curl,
        await proxy.client() as mcp,
        await proxy.client() as old,
    ):
        curl.request(TAB)
        mcp.request(TAB, "Accept: text/event-stream, application/json", "Mcp-Protocol-Version: 1")
        old.send(f"GET {TAB} HTTP/1.0\r\nHost: {proxy.address}\r\n\r\n".encode())
        for client, pings in ((curl, b":ping\n\n"), (mcp, b":ping\n"), (old, b":ping\n\n")):
            await client.wait_for(b":ok\n")
            await client.wait_for(pings)
            assert b"connection_confirmed" not in client.received
        await browser.wait_for(b":ping\n")
        await (await upstream.connection()).send(chunk(b"data: 1\n\n"))
        for client in (browser, curl, mcp, old):
            await client.wait_for(b"data: 1\n\n")
        assert b"Transfer-Encoding" not in old.received
        assert len(upstream.connections) == 1
        assert proxy.metric("share_groups") == 1


@on_each_loop
async def test_a_client_that_waits_for_the_opening_of_another_is_answered_early() -> None:
    go_on = asyncio.Event()
    slow = [GOT_REQUEST, go_on, stream_head()]
    stream = SHARE + "early_commit: {after: 50ms}\n"
    async with (
        RawUpstream(slow) as upstream,
        Instance(config(upstream, stream)) as proxy,
        await proxy.event_source(TAB) as first,
        await proxy.event_source(TAB) as second,
    ):
        for client in (first, second):
            await client.wait_for(b":ok\n")
        assert len(upstream.connections) == 1
        go_on.set()
        await confirmed(first, second)
        await (await upstream.connection()).send(chunk(b"data: 1\n\n"))
        for client in (first, second):
            await client.wait_for(b"data: 1")
            assert data_of(client) == ["1"]
        assert len(upstream.connections) == 1


@on_each_loop
async def test_the_place_of_the_token_counts_if_it_is_not_a_place_of_a_credential() -> None:
    stream = (
        "share: {by: credential}\ncredential: ['header:cookie']\n"
        "identity: {from: 'header:x-token', verify: upstream}\n"
    )
    async with RawUpstream(SILENT) as upstream, Instance(config(upstream, stream)) as proxy:
        for number, user in enumerate((1, 2)):
            fields = ("Cookie: a=1", f"X-Token: {token(user)}")
            async with await proxy.event_source("/events", *fields) as client:
                await confirmed(client)
                assert len(upstream.connections) == number + 1


@on_each_loop
async def test_a_claim_that_is_true_or_false_is_no_subject() -> None:
    stream = "share: {by: 'claim:user.id'}\nidentity: {from: 'query:access_token', verify: upstream}\n"
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, stream)) as proxy,
        await proxy.event_source(f"/events?access_token={token(True)}") as client,
    ):
        await confirmed(client)
        assert proxy.metric("share_groups") == 0


@on_each_loop
async def test_a_client_that_is_cut_while_it_gets_what_it_has_missed_is_no_member() -> None:
    stream = "share: {by: credential, linger: 100ms, replay: {ids: add, bytes: 8MiB}}\nmax_buffer: 8MiB\n"
    limits = "limits: {max_buffered: 1MiB}"
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, stream, before=limits)) as proxy,
        await proxy.event_source(TAB) as first,
    ):
        await first.wait_for(b"connection_confirmed")
        server = await upstream.connection()
        await server.send(chunk(b"data: 1\n\n"))
        await first.wait_for(b"data: 1\n\n")
        last = next(event.last_event_id for event in first.events if event.data == "1")
        for _ in range(7):
            await server.send(chunk(b"data: " + b"x" * (1 << 20) + b"\n\n"))
        await proxy.until(lambda: proxy.metric("upstream_events_total") == 8)
        async with await proxy.event_source(TAB, f"Last-Event-ID: {last}") as again:
            again.pause()
            await proxy.until(lambda: proxy.closed().get("client_stalled", 0) >= 1)
            again.resume()
        await first.close()
        await proxy.until(lambda: proxy.metric("share_groups") == 0)


@on_each_loop
async def test_a_refused_client_of_a_group_may_stay_and_gets_what_the_others_get(tmp_path: Path) -> None:
    async def play(scene: Staged) -> None:
        refused = token(n=1)
        clients = [await scene.opened(Asks()), await scene.opened(Asks(token=refused))]
        scene.refuses = lambda request: refused in request.target
        await scene.upstream.connections[-1].send(LAST_CHUNK)
        await scene.proxy.until(lambda: scene.proxy.metric("upstream_reconnects_total", result="reopened"))
        await scene.upstream.connections[-1].send(chunk(b"data: 1\n\n"))
        for client in clients:
            await client.wait_for(b"data: 1")
        assert scene.proxy.closed() == {}

    stream = "reconnect: {when: always, delay: 10ms, on_refusal: keep}"
    keeps = Attack("", "", play, stream=stream)
    async with staged(Mode.JWT, tmp_path, keeps) as scene:
        await play(scene)


@on_each_loop
async def test_a_reload_that_leaves_share_alone_leaves_the_groups() -> None:
    async with group(SILENT, tabs=1) as (upstream, proxy, [first]):
        await proxy.proxy.adopt(settings_of(config(upstream, SHARE + "keepalive: {interval: 1h}\n")))
        async with await proxy.event_source(TAB) as second:
            await confirmed(second)
            assert len(upstream.connections) == 1
            await proxy.proxy.adopt(settings_of(config(upstream, "share: {by: credential, trust: 1m}\n")))
            async with await proxy.event_source(TAB) as third:
                await confirmed(third)
                assert len(upstream.connections) == 2
                await (await upstream.connection()).send(chunk(b"data: 1\n\n"))
                for client in (first, second):
                    await client.wait_for(b"data: 1")
                assert data_of(third) == []
