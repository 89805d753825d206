"""Clients whose tokens the proxy has verified are served from NATS while upstream is away, frozen or refuses
(behaviour.md#served-without-upstream).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from sse_keepalive_proxy.demo.tokens import new_tokens
from tests.integration.test_bridge import SILENT, TOKENS, bridged, counted, event, ids, joined, message, scene
from tests.support.nats import nats_server, send
from tests.support.raw_upstream import (
    CLOSE,
    GOT_REQUEST,
    HOLD,
    RESET,
    Step,
    UpstreamConnection,
    response,
    stream_head,
)
from tests.support.running import on_each_loop

DOWN = pytest.mark.parametrize(
    "down", [response("503 Service Unavailable", b"no"), RESET], ids=["answers 503", "breaks off"]
)


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with nats_server(tmp_path_factory.mktemp("nats")) as (_, port):
        yield port


@pytest.fixture
def signed(tmp_path: Path) -> str:
    """Lines of a stream whose tokens are verified by their signature, and that is answered early."""
    key = tmp_path / "key.pem"
    pem = TOKENS.public_key_pem
    assert pem is not None, "needs cryptography: pip install -e '.[dev]'"
    key.write_bytes(pem)
    return f"early_commit: {{after: 50ms}}\nidentity: {{public_key_file: '{key}'}}\n"


def served(port: int, signed: str, mode: str = "fill", more: str = "") -> str:
    return bridged(port, mode, more=signed + more).replace("identity: {verify: upstream}\n", "", 1)


@on_each_loop
async def test_a_client_with_a_valid_token_is_served_while_upstream_answers_nothing(
    nats: int, signed: str
) -> None:
    frozen = [GOT_REQUEST, HOLD]
    async with scene(nats, served(nats, signed), frozen) as (upstream, proxy, client, stack):
        mine = await joined(stack, proxy)
        assert mine.body.startswith(b"data:") or mine.body.startswith(b"event: connection_confirmed")
        await send(client, "chat.1", message(1))
        await mine.wait_for(lambda each: ids(each) == [1])
        server = await upstream.connection()
        await server.send(stream_head() + event(1) + event(2))  # upstream has come back to life
        await mine.wait_for(lambda each: ids(each) == [1, 2])
        assert mine.body.count(b"connection_confirmed") == 2  # the name, and the type
        assert counted(proxy) == {"filled": 1, "dropped": 1}


@on_each_loop
async def test_a_refusal_of_upstream_ends_a_client_that_was_served_before_it(nats: int, signed: str) -> None:
    frozen = [GOT_REQUEST, HOLD]
    async with scene(nats, served(nats, signed), frozen) as (upstream, proxy, client, stack):
        mine = await joined(stack, proxy)
        await send(client, "chat.1", message(1))
        await mine.wait_for(lambda each: ids(each) == [1])
        server = await upstream.connection()
        await server.send(response("401 Unauthorized", b"no"))
        await mine.wait_end()
        assert b"proxy_error" in mine.body
        while not counted(proxy).get("no_subscriber"):  # its place is gone soon
            await send(client, "chat.1", message(2))
        assert ids(mine) == [1]


@on_each_loop
async def test_a_token_that_nobody_has_verified_is_not_served_before_upstream_accepts_it(
    nats: int, signed: str
) -> None:
    frozen = [GOT_REQUEST, HOLD]
    async with scene(nats, served(nats, signed), frozen) as (_, proxy, client, stack):
        token = new_tokens().issue(7)  # signed with another key
        mine = await stack.enter_async_context(await proxy.event_source(f"/events?access_token={token}"))
        await mine.wait_for(b":ok")
        await send(client, "chat.1", message(1))
        await proxy.until(lambda: counted(proxy) == {"no_subscriber": 1})
        assert b"connection_confirmed" not in mine.body


@on_each_loop
async def test_clients_that_are_served_alone_form_a_group_and_nothing_is_lost_or_doubled(
    nats: int, signed: str
) -> None:
    frozen = [GOT_REQUEST, HOLD]
    stream = served(nats, signed, more="share: {by: claim:user.id, replay: {ids: add}}\n")
    async with scene(nats, stream, frozen, frozen) as (upstream, proxy, client, stack):
        tabs = [await joined(stack, proxy)]
        target = f"/events?access_token={TOKENS.issue(7, lifetime=999)}"
        tabs.append(await stack.enter_async_context(await proxy.event_source(target)))
        await tabs[1].wait_for(b"connection_confirmed")
        await send(client, "chat.1", message(1))
        for tab in tabs:
            await tab.wait_for(lambda each: ids(each) == [1])
        first, second = await upstream.connection(0), await upstream.connection(1)
        await send(client, "chat.1", message(2))  # waits while the clients join
        for joins, server in enumerate((first, second), 1):
            await server.send(stream_head())
            await proxy.until(lambda joins=joins: proxy.metric("share_joins_total", how="asked") == joins)
        await send(client, "chat.1", message(3))
        for tab in tabs:
            await tab.wait_for(lambda each: ids(each) == [1, 2, 3])
        await second.send(event(1) + event(2) + event(3) + event(4))
        for tab in tabs:
            await tab.wait_for(lambda each: ids(each) == [1, 2, 3, 4])
        assert proxy.metric("share_groups") == 1


@on_each_loop
@DOWN
async def test_a_client_with_a_valid_token_is_served_while_upstream_is_down(
    down: Step, nats: int, signed: str
) -> None:
    back = asyncio.Event()

    async def script(connection: UpstreamConnection) -> None:
        await connection.play([GOT_REQUEST])
        await connection.play([stream_head(), event(1), event(2)] if back.is_set() else [down])

    stream = served(nats, signed).replace("delay: 20ms", "delay: 20ms, max_delay: 50ms")
    async with scene(nats, stream, script) as (_, proxy, client, stack):
        mine = await joined(stack, proxy)
        await send(client, "chat.1", message(1))
        await mine.wait_for(lambda each: ids(each) == [1])
        back.set()
        await mine.wait_for(lambda each: ids(each) == [1, 2])
        assert proxy.closed() == {}
        assert counted(proxy) == {"filled": 1, "dropped": 1}


@on_each_loop
@DOWN
async def test_a_client_is_served_again_after_the_proxy_has_given_up(
    down: Step, nats: int, signed: str
) -> None:
    committed = asyncio.Event()
    answers = [GOT_REQUEST, committed, down]
    stream = served(nats, signed).replace(
        "delay: 20ms", "delay: 20ms, first_within: 50ms, give_up_after: 300ms"
    )
    async with scene(nats, stream, answers) as (_, proxy, client, stack):
        mine = await joined(stack, proxy)
        committed.set()
        await mine.wait_end()
        await proxy.until_closed("give_up")
        committed.clear()
        again = await joined(stack, proxy)
        await send(client, "chat.1", message(1))
        await again.wait_for(lambda each: ids(each) == [1])


@on_each_loop
async def test_a_client_that_upstream_refuses_later_is_kept_and_hears_what_nats_has(
    nats: int, signed: str
) -> None:
    keeps = served(nats, signed).replace("when: always", "when: always, on_refusal: keep")
    refuses = [GOT_REQUEST, response("401 Unauthorized", b"no")]
    async with scene(nats, keeps, [*SILENT, CLOSE], refuses) as (_, proxy, client, stack):
        mine = await joined(stack, proxy)
        await proxy.until(lambda: proxy.metric("upstream_reconnects_total", result="failed"))
        await send(client, "chat.1", message(1))
        await mine.wait_for(lambda each: ids(each) == [1])
        assert proxy.closed() == {}
