"""Clients with the same credential that do not share: upstream tells them apart by something else."""

from __future__ import annotations

import asyncio

from tests.integration.sharing_attacks import token
from tests.integration.test_sharing import SILENT, TAB, confirmed, data_of, group, without_clients
from tests.support.raw_upstream import (
    GOT_REQUEST,
    HOLD,
    LAST_CHUNK,
    UpstreamConnection,
    chunk,
    response,
    stream_head,
)
from tests.support.running import on_each_loop

BY_TENANT = [GOT_REQUEST, stream_head("Vary: X-Tenant")]


@on_each_loop
async def test_a_client_for_which_upstream_chooses_another_stream_has_it_alone() -> None:
    async with (
        group(BY_TENANT, tabs=0) as (upstream, proxy, _),
        await proxy.event_source(TAB, "X-Tenant: a") as a,
        await proxy.event_source(TAB, "X-Tenant: b") as b,
    ):
        await confirmed(a)
        await confirmed(b)
        for client, index, text in ((b, 1, "only b"), (a, 0, "only a")):
            await (await upstream.connection(index)).send(chunk(f"data: {text}\n\n".encode()))
            await client.wait_for(text.encode())
            assert data_of(client) == [text]
        async with await proxy.event_source(TAB, "x-tenant:  a") as again:  # the same as a's
            await confirmed(again)
            assert len(upstream.connections) == 2
            assert proxy.metric("share_groups") == 1


@on_each_loop
async def test_pages_of_different_origins_share_if_upstream_chooses_fields_of_the_head_by_it() -> None:
    varies = [GOT_REQUEST, stream_head("Vary: Origin, Access-Control-Request-Method, Accept-Encoding")]
    async with (
        group(varies, tabs=0) as (upstream, proxy, _),
        await proxy.event_source(TAB, "Origin: https://a.example", "Accept-Encoding: gzip") as a,
        await proxy.event_source(TAB, "Origin: https://b.example", "Accept-Encoding: br") as b,
        await proxy.event_source(TAB) as c,
    ):
        await confirmed(a, b, c)
        assert len(upstream.connections) == 3  # each is accepted itself
        await (await upstream.connection(2)).send(chunk(b"data: 1\n\n"))
        for client in (a, b, c):
            await client.wait_for(b"data: 1")
        assert proxy.metric("share_groups") == 1


@on_each_loop
async def test_upstream_is_not_asked_with_the_last_id_of_a_group_for_another_tenant() -> None:
    stream = "share: {by: credential}\nreconnect: {when: always, delay: 10ms}\n"
    ends = [*BY_TENANT, chunk(b"id: 7\ndata: 1\n\n"), LAST_CHUNK]
    unanswered = [GOT_REQUEST, HOLD]
    async with (
        group(ends, unanswered, BY_TENANT, stream=stream, tabs=0) as (upstream, proxy, _),
        await proxy.event_source(TAB, "X-Tenant: a") as a,
    ):
        await a.wait_for(b"data: 1")
        assert (await (await upstream.connection(1)).request()).header("last-event-id") == "7"
        async with await proxy.event_source(TAB, "X-Tenant: b") as b:
            await confirmed(b)
            assert (await (await upstream.connection(2)).request()).header("last-event-id") is None
            assert a.ending is None


@on_each_loop
async def test_tokens_of_one_subject_share_also_if_upstream_chooses_by_the_header_of_the_token() -> None:
    stream = "share: {by: 'claim:user.id'}\nidentity: {from: 'header:authorization', verify: upstream}\n"
    varies = [GOT_REQUEST, stream_head("Vary: Authorization, Accept-Encoding")]
    async with group(varies, stream=stream, tabs=0) as (upstream, proxy, _):
        first, second = (f"Authorization: Bearer {token(n=n)}" for n in range(2))
        async with (
            await proxy.event_source("/events", first) as a,
            await proxy.event_source("/events", second) as b,
        ):
            await confirmed(a, b)
            await (await upstream.connection(1)).send(chunk(b"data: 1\n\n"))
            for client in (a, b):
                await client.wait_for(b"data: 1")
            assert proxy.metric("share_groups") == 1


@on_each_loop
async def test_two_sessions_of_mcp_do_not_share_and_one_without_a_credential_does_not_either() -> None:
    sessions = (
        ("Mcp-Session-Id: 1", "Authorization: Bearer k"),
        ("Mcp-Session-Id: 2", "Authorization: Bearer k"),
        ("Mcp-Session-Id: 3",),
        ("Mcp-Session-Id: 3",),
    )
    async with group(SILENT, tabs=0) as (upstream, proxy, _):
        for number, headers in enumerate(sessions):
            client = await proxy.client()
            async with client:
                client.request("/events", "Accept: text/event-stream", *headers)
                await client.wait_for(b":ok")
                assert len(upstream.connections) == number + 1


@on_each_loop
async def test_a_client_that_wants_no_stream_is_answered_by_upstream() -> None:
    async def serve(connection: UpstreamConnection) -> None:
        request = await connection.next_request()
        wants_json = request.header("accept") == "application/json"
        await connection.send(response(body=b"{}") if wants_json else stream_head())

    async with group(serve, tabs=2) as (upstream, proxy, _), await proxy.client() as other:
        assert len(upstream.connections) == 1
        other.request(TAB, "Accept: application/json")
        await other.wait_response()
        assert other.response.body == b"{}"


@on_each_loop
async def test_a_client_that_will_be_alone_is_asked_for_with_its_own_id() -> None:
    stream = "share: {by: credential, max_clients: 1, replay: {ids: upstream}}\n"
    async with group(SILENT, stream=stream, tabs=1) as (upstream, proxy, [first]):
        await (await upstream.connection()).send(chunk(b"id: 1\ndata: 1\n\n"))
        await first.wait_for(b"data: 1")
        async with await proxy.event_source(TAB, "Last-Event-ID: 1") as again:
            await confirmed(again)
            request = await (await upstream.connection(1)).request()
            assert request.header("last-event-id") == "1"


@on_each_loop
async def test_the_log_lives_while_a_returning_client_waits_for_its_answer() -> None:
    go = asyncio.Event()
    slow = [GOT_REQUEST, go, stream_head()]
    stream = "share: {by: credential, linger: 300ms, replay: {ids: add}}\n"
    async with group(SILENT, slow, stream=stream, tabs=1) as (upstream, proxy, [first]):
        server = await upstream.connection()
        await server.send(chunk(b"data: 1\n\n"))
        await first.wait_for(b"data: 1")
        last = first.events[-1].last_event_id
        async with await proxy.client() as again:  # its `Accept` makes it ask
            again.request(TAB, "Accept: text/html", f"Last-Event-ID: {last}")
            await (await upstream.connection(1)).request()
            await server.send(chunk(b"data: 2\n\n"))
            await first.wait_for(b"data: 2")
            await first.close()
            await without_clients(proxy, "lingering")
            await asyncio.sleep(0.5)  # longer than `linger`
            go.set()
            await again.wait_for(b"data: 2")
            assert b"stream_gap" not in again.received
            assert b"data: 1" not in again.received
    assert proxy.metric("share_groups") == 0
