"""A credential that upstream accepted once and refuses when it is asked again (`reconnect.on_refusal`)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.integration.sharing_attacks import OURS, token
from tests.integration.test_sharing import SILENT, confirmed, data_of
from tests.support.instance import Instance, config
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import GOT_REQUEST, LAST_CHUNK, RawUpstream, Script, chunk, response
from tests.support.running import on_each_loop

REFUSES: Script = [GOT_REQUEST, response("401 Unauthorized", b"no")]
ENDS = "reconnect: {when: always, delay: 10ms}\n"
KEEPS = "reconnect: {when: always, delay: 10ms, on_refusal: keep}\n"
SHARED = "share: {by: 'claim:user.id'}\n"


@asynccontextmanager
async def route(
    folder: Path, *scripts: Script, stream: str
) -> AsyncIterator[tuple[RawUpstream, Instance, AsyncExitStack]]:
    """An upstream, and a proxy that verifies tokens itself. Clients may enter the stack."""
    key = folder / "public.pem"
    key.write_bytes(OURS.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    identity = f"identity: {{from: 'query:access_token', verify: jwt, public_key_file: '{key}'}}\n"
    pings = "keepalive: {interval: 100ms}\n"
    async with (
        RawUpstream(*scripts) as upstream,
        Instance(config(upstream, stream + identity + pings)) as proxy,
        AsyncExitStack() as stack,
    ):
        yield upstream, proxy, stack


async def opened(proxy: Instance, stack: AsyncExitStack, given: str) -> RawClient:
    """A confirmed client with this token."""
    client = await stack.enter_async_context(await proxy.event_source(f"/events?access_token={given}"))
    await confirmed(client)
    return client


async def ended(client: RawClient) -> None:
    await client.wait_response()
    assert client.events[-1].type == "stream_closing"
    assert '"reason":"unauthorized"' in client.events[-1].data


async def pinged(client: RawClient, times: int = 2) -> None:
    """The client gets so many further pings."""
    wanted = client.body.count(b":ping") + times
    await client.wait_for(lambda client: client.body.count(b":ping") >= wanted)


@on_each_loop
async def test_a_refused_client_ends_by_default(tmp_path: Path) -> None:
    async with route(tmp_path, SILENT, REFUSES, stream=ENDS) as (upstream, proxy, stack):
        client = await opened(proxy, stack, token())
        await (await upstream.connection()).send(LAST_CHUNK)
        await ended(client)
        assert proxy.closed() == {"unauthorized": 1}


@on_each_loop
async def test_a_refused_client_is_kept_with_pings_until_its_token_expires(tmp_path: Path) -> None:
    async with route(tmp_path, SILENT, REFUSES, stream=KEEPS) as (upstream, proxy, stack):
        client = await opened(proxy, stack, token(lives=2.0))
        await (await upstream.connection()).send(LAST_CHUNK)
        await proxy.until(lambda: proxy.metric("upstream_reconnects_total", result="failed") == 1)
        await pinged(client)
        assert proxy.metric("streams_active", state="reconnecting") == 1
        assert proxy.closed() == {}
        await ended(client)
        assert proxy.closed() == {"unauthorized": 1}
        assert len(upstream.connections) == 2  # it was not asked in vain


@on_each_loop
async def test_a_refusal_of_the_first_request_ends_a_client_that_was_answered_early(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    slow: Script = [GOT_REQUEST, go_on, response("401 Unauthorized", b"no")]
    stream = KEEPS + "early_commit: {after: 50ms}\n"
    async with route(tmp_path, slow, stream=stream) as (_, proxy, stack):
        client = await stack.enter_async_context(await proxy.event_source(f"/events?access_token={token()}"))
        await client.wait_for(b":ok\n")
        go_on.set()
        await ended(client)
        assert client.events[-2].type == "proxy_error"
        assert '"status":401' in client.events[-2].data
        assert proxy.closed() == {"unauthorized": 1}


@on_each_loop
async def test_a_refused_client_of_a_group_stays_until_its_own_token_expires(tmp_path: Path) -> None:
    # The token of the newest is refused when upstream is asked again; that of the other is not.
    scripts: list[Script] = [SILENT, SILENT, REFUSES, SILENT]
    async with route(tmp_path, *scripts, stream=SHARED + KEEPS) as (upstream, proxy, stack):
        other = await opened(proxy, stack, token())
        refused = await opened(proxy, stack, token(lives=2.0))
        await (await upstream.connection(1)).send(LAST_CHUNK)
        server = await upstream.connection(3)
        await proxy.until(lambda: proxy.metric("upstream_reconnects_total", result="reopened") == 1)
        await server.send(chunk(b"data: 1\n\n"))
        for client in (other, refused):
            await client.wait_for(b"data: 1\n\n")
        await ended(refused)
        await server.send(chunk(b"data: 2\n\n"))
        await other.wait_for(b"data: 2\n\n")
        assert proxy.closed() == {"unauthorized": 1}


@on_each_loop
async def test_refused_clients_of_a_group_go_on_when_a_client_with_a_new_token_comes(tmp_path: Path) -> None:
    scripts: list[Script] = [SILENT, REFUSES, SILENT]
    async with route(tmp_path, *scripts, stream=SHARED + KEEPS) as (upstream, proxy, stack):
        old = await opened(proxy, stack, token())
        await (await upstream.connection()).send(LAST_CHUNK)
        await proxy.until(lambda: proxy.metric("upstream_reconnects_total", result="failed") == 1)
        await pinged(old)
        new = await opened(proxy, stack, token(n=1))
        server = await upstream.connection(2)
        await server.send(chunk(b"data: 1\n\n"))
        for client in (old, new):
            await client.wait_for(b"data: 1\n\n")
            assert data_of(client) == ["1"]
        assert any(event.type == "stream_recovered" for event in old.events)
        assert proxy.closed() == {}
        assert proxy.metric("share_groups") == 1


@on_each_loop
async def test_a_refused_client_of_a_group_stays_if_its_token_is_accepted_again(tmp_path: Path) -> None:
    scripts: list[Script] = [SILENT, SILENT, SILENT, REFUSES, REFUSES, SILENT, SILENT]
    async with route(tmp_path, *scripts, stream=SHARED + KEEPS) as (upstream, proxy, stack):
        other = await opened(proxy, stack, token())
        refused = await opened(proxy, stack, token(n=1, lives=2.0))
        given = token(n=2, lives=1.5)
        accepted = await opened(proxy, stack, given)
        await (await upstream.connection(2)).send(LAST_CHUNK)
        await proxy.until(lambda: proxy.metric("upstream_reconnects_total", result="reopened") == 1)
        await opened(proxy, stack, given)
        server = await upstream.connection(6)
        await ended(refused)  # after the other one has expired
        await server.send(chunk(b"data: 1\n\n"))
        for client in (other, accepted):
            await client.wait_for(b"data: 1\n\n")
        assert proxy.closed() == {"unauthorized": 1}
