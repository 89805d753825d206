"""Messages of a real nats-server for streams, through the whole proxy."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
from nats.aio.client import Client

from sse_keepalive_proxy.demo.tokens import new_tokens
from sse_keepalive_proxy.live.place import Place
from sse_keepalive_proxy.stream.messages import CloseReason
from tests.support.instance import Instance, config
from tests.support.nats import nats_server, publisher, send
from tests.support.programs import free_port
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import (
    GOT_REQUEST,
    HOLD,
    LAST_CHUNK,
    RawUpstream,
    Script,
    chunk,
    response,
    stream_head,
)
from tests.support.running import on_each_loop, on_loop, settings_of

SILENT = [GOT_REQUEST, stream_head()]
TOKENS = new_tokens()
BRIDGE = """\
identity: {{verify: upstream}}
reconnect: {{when: always, delay: 20ms}}
{more}
bridge:
  servers: nats://127.0.0.1:{port}
  mode: {mode}
  grace: {grace}
  subscriber: claim:user.id
  subjects:
    - subject: chat.*
      when: text
      recipients: to
      keys: [id, text]
      upstream_keys: [id, text]
      data: "{{id: id, text: text}}"
"""


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with nats_server(tmp_path_factory.mktemp("nats")) as (_, port):
        yield port


def bridged(port: int, mode: str = "fill", grace: str = "100ms", more: str = "") -> str:
    return BRIDGE.format(port=port, mode=mode, grace=grace, more=more)


async def joined(stack: AsyncExitStack, proxy: Instance, user: int = 7) -> RawClient:
    """A confirmed client of a user."""
    target = f"/events?access_token={TOKENS.issue(user)}"
    client = await stack.enter_async_context(await proxy.event_source(target))
    await client.wait_for(b"connection_confirmed")
    return client


@asynccontextmanager
async def scene(
    port: int, stream: str, *scripts: Script
) -> AsyncIterator[tuple[RawUpstream, Instance, Client, AsyncExitStack]]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(RawUpstream(*scripts))
        proxy = await stack.enter_async_context(Instance(config(upstream, stream)))
        clients = await stack.enter_async_context(AsyncExitStack())
        nats = await stack.enter_async_context(publisher(port))
        await proxy.until(lambda: proxy.metric("bridge_connected"))
        yield upstream, proxy, nats, clients


def message(number: int, *to: int) -> dict[str, Any]:
    return {"id": number, "text": f"message {number}", "to": list(to or (7,))}


def event(number: int) -> bytes:
    return chunk(b"data: " + json.dumps({"id": number, "text": f"message {number}"}).encode() + b"\n\n")


def ids(client: RawClient) -> list[int]:
    """The ids of the messages that a client has got, in order."""
    return [json.loads(each.data)["id"] for each in client.events if each.type == "message"]


def places(proxy: Instance) -> list[Place]:
    """The places of all streams and groups at the bridge."""
    streams = proxy.server.streams
    found = [source.flow.bridge for source in (*streams, *streams.groups)]
    return [place for place in found if isinstance(place, Place)]


async def read(proxy: Instance, client: Client) -> None:
    """Return when the proxy has read what `client` has published. A message for nobody shows it."""
    before = proxy.metric("bridge_events_total", outcome="no_subscriber")
    await send(client, "chat.1", message(0, 99))
    await proxy.until(lambda: proxy.metric("bridge_events_total", outcome="no_subscriber") > before)


def counted(proxy: Instance) -> dict[str, int]:
    outcomes = ("delivered", "filled", "dropped", "missed", "no_subscriber", "invalid")
    counts = {each: int(proxy.metric("bridge_events_total", outcome=each)) for each in outcomes}
    return {outcome: count for outcome, count in counts.items() if count}


@on_each_loop
async def test_a_message_that_upstream_does_not_deliver_is_filled(nats: int) -> None:
    async with scene(nats, bridged(nats), SILENT) as (_, proxy, client, stack):
        mine, other = await joined(stack, proxy, 7), await joined(stack, proxy, 8)
        for number in range(20):
            await send(client, "chat.1", message(number))
        await mine.wait_for(lambda each: len(ids(each)) == 20)
        assert ids(mine) == list(range(20))
        assert ids(other) == []
        assert counted(proxy) == {"filled": 20}
        assert b'data: {"id":3,"text":"message 3"}\n\n' in mine.body


@on_each_loop
async def test_what_upstream_delivers_in_time_is_not_filled(nats: int) -> None:
    async with scene(nats, bridged(nats, grace="10m"), SILENT) as (upstream, proxy, client, stack):
        mine = await joined(stack, proxy)
        server = await upstream.connection()
        await send(client, "chat.1", message(1))
        await read(proxy, client)
        await server.send(event(1))
        await mine.wait_for(lambda each: ids(each) == [1])
        assert counted(proxy) == {"delivered": 1, "no_subscriber": 1}
        assert proxy.metric("upstream_events_total") == 1


@on_each_loop
async def test_a_late_copy_of_what_was_filled_is_dropped(nats: int) -> None:
    async with scene(nats, bridged(nats), SILENT) as (upstream, proxy, client, stack):
        mine = await joined(stack, proxy)
        server = await upstream.connection()
        await send(client, "chat.1", message(2))
        await mine.wait_for(lambda each: ids(each) == [2])
        await server.send(event(2) + event(3))
        await mine.wait_for(lambda each: ids(each) == [2, 3])
        assert counted(proxy) == {"filled": 1, "dropped": 1}
        assert proxy.metric("upstream_events_total") == 2


@on_each_loop
async def test_replace_delivers_at_once_and_drops_the_event_of_upstream(nats: int) -> None:
    stream = bridged(nats, "replace", "10m")
    async with scene(nats, stream, SILENT) as (upstream, proxy, client, stack):
        mine = await joined(stack, proxy)
        server = await upstream.connection()
        await server.send(event(1) + chunk(b"data: no json\n\n"))
        await mine.wait_for(b"no json")
        await send(client, "chat.1", message(1))
        await mine.wait_for(lambda each: b'"id":1' in each.body)
        await send(client, "chat.1", message(2))
        await mine.wait_for(lambda each: b'"id":2' in each.body)
        await server.send(event(2) + chunk(b"data: last\n\n"))
        await mine.wait_for(b"data: last")
        assert mine.body.count(b"message 1") == mine.body.count(b"message 2") == 1
        assert counted(proxy) == {"filled": 2, "dropped": 2}


@pytest.mark.parametrize("share", ["", "share: {by: claim:user.id}"])
@pytest.mark.parametrize("mode", ["fill", "replace"])
def test_what_comes_while_upstream_opens_the_stream_is_heard_once(nats: int, mode: str, share: str) -> None:
    async def story() -> None:
        opens = [GOT_REQUEST, HOLD]
        async with scene(nats, bridged(nats, mode, more=share), opens) as (upstream, proxy, client, stack):
            target = f"/events?access_token={TOKENS.issue(7)}"
            mine = await stack.enter_async_context(await proxy.event_source(target))
            server = await upstream.connection()
            await send(client, "chat.1", message(1))
            await send(client, "chat.1", message(2))
            await read(proxy, client)
            # Upstream has two events for one message.
            copies = chunk(b'data: {"id":1}\n\ndata: {"text":"message 1"}\n\n')
            await server.send(stream_head() + copies + chunk(b"data: last\n\n"))
            await mine.wait_for(b"data: last")
            await mine.wait_for(lambda each: each.body.count(b"message 2") == 1)
            assert mine.body.startswith(b"event: connection_confirmed")
            heard = [data for data in mine.body.split(b"\n\n") if b'"id":1' in data or b"message 1" in data]
            assert len(heard) == 1
            assert counted(proxy).get("no_subscriber") == 1  # that of `read`

    on_loop("asyncio", story())


@on_each_loop
async def test_what_comes_while_upstream_is_asked_is_not_for_a_client_that_it_refuses(nats: int) -> None:
    async with scene(nats, bridged(nats), [GOT_REQUEST, HOLD]) as (upstream, proxy, client, stack):
        target = f"/events?access_token={TOKENS.issue(7)}"
        mine = await stack.enter_async_context(await proxy.event_source(target))
        server = await upstream.connection()
        await send(client, "chat.1", message(1))
        await server.send(response("401 Unauthorized", b"no"))
        assert (await mine.wait_response()).status == 401
        assert mine.body == b"no"
        while not counted(proxy):  # its place is gone soon
            await send(client, "chat.1", message(2))
        assert set(counted(proxy)) == {"no_subscriber"}


@on_each_loop
async def test_replace_passes_after_the_grace_what_nats_does_not_have(nats: int) -> None:
    async with scene(nats, bridged(nats, "replace"), SILENT) as (upstream, proxy, _, stack):
        mine = await joined(stack, proxy)
        await (await upstream.connection()).send(event(1))
        await mine.wait_for(lambda each: ids(each) == [1])
        assert proxy.metric("downstream_bytes_total", origin="upstream") == len(event(1)) - 6
        assert counted(proxy) == {}


@on_each_loop
async def test_observe_counts_and_changes_no_byte(nats: int) -> None:
    async with scene(nats, bridged(nats, "observe"), SILENT) as (upstream, proxy, client, stack):
        mine = await joined(stack, proxy)
        server = await upstream.connection()
        await send(client, "chat.1", message(1))
        await proxy.until(lambda: counted(proxy) == {"missed": 1})
        await server.send(event(1) + event(2))
        await send(client, "chat.1", message(2))
        await proxy.until(lambda: counted(proxy) == {"missed": 1, "delivered": 1})
        await mine.wait_for(lambda each: ids(each) == [1, 2])
        assert mine.body.endswith(b'data: {"id": 2, "text": "message 2"}\n\n')


@on_each_loop
async def test_what_nats_carried_while_upstream_was_away_is_no_gap(nats: int) -> None:
    ends = [GOT_REQUEST, stream_head(), event(1), LAST_CHUNK]
    async with scene(nats, bridged(nats), ends, [GOT_REQUEST], SILENT) as (upstream, proxy, client, stack):
        mine = await joined(stack, proxy)
        second = await upstream.connection(1)
        for number in (1, 2, 3):
            await send(client, "chat.1", message(number))
        await mine.wait_for(lambda each: ids(each) == [1, 2, 3])
        second.close()
        await upstream.connection(2)
        await proxy.until(lambda: proxy.metric("upstream_reconnects_total", result="reopened") == 1)
        await send(client, "chat.1", message(4))
        await mine.wait_for(lambda each: ids(each) == [1, 2, 3, 4])
        assert b"stream_recovered" not in mine.body
        assert counted(proxy) == {"delivered": 1, "filled": 3}


@on_each_loop
async def test_clients_of_a_group_get_a_message_once_and_a_returning_one_too(nats: int) -> None:
    share = "share: {by: claim:user.id, linger: 1m, replay: {ids: add}}"
    stream = bridged(nats, more=share)
    async with scene(nats, stream, SILENT, SILENT, SILENT, SILENT) as (_, proxy, client, stack):
        tabs = [await joined(stack, proxy) for _ in range(3)]
        await send(client, "chat.1", message(1))
        for tab in tabs:
            await tab.wait_for(lambda each: ids(each) == [1])
        assert counted(proxy) == {"filled": 1}
        known = tabs[0].events[-1].last_event_id
        await tabs[0].close()
        await send(client, "chat.1", message(2))
        await proxy.until(lambda: counted(proxy) == {"filled": 2})
        target = f"/events?access_token={TOKENS.issue(7)}"
        back = await stack.enter_async_context(await proxy.event_source(target, f"Last-Event-ID: {known}"))
        await back.wait_for(lambda each: ids(each) == [2])
        assert [ids(tab) for tab in tabs[1:]] == [[1, 2], [1, 2]]


@on_each_loop
async def test_nothing_is_written_into_a_block_of_upstream(nats: int) -> None:
    async with scene(nats, bridged(nats), SILENT) as (upstream, proxy, client, stack):
        mine = await joined(stack, proxy)
        server = await upstream.connection()
        await server.send(chunk(b'data: {"id": 1,\n'))
        await send(client, "chat.1", message(2))
        await proxy.until(lambda: counted(proxy) == {"filled": 1})
        await server.send(chunk(b'data: "text": "message 1"}\n\n'))
        await mine.wait_for(lambda each: sorted(ids(each)) == [1, 2])


@on_each_loop
async def test_a_client_that_does_not_read_is_cut_before_all_memory_is_its_own(nats: int) -> None:
    stream = bridged(nats, "replace", more="max_buffer: 64KiB")
    async with scene(nats, stream, SILENT, SILENT) as (_, proxy, client, stack):
        slow, quick = await joined(stack, proxy), await joined(stack, proxy)
        slow.pause()
        number = 0
        while not proxy.closed():
            number += 1
            await send(client, "chat.1", {**message(number), "text": "x" * 300_000})
            await proxy.until(
                lambda last=number: counted(proxy).get("filled", 0) >= 2 * last or proxy.closed()
            )
            assert all(each.buffered < 1 << 20 for each in proxy.proxy._process.streams)
            await quick.wait_for(lambda each, last=number: len(each.received) > last * 300_000)
        assert proxy.closed() == {"client_stalled": 1}
        await quick.wait_for(lambda each: each.body.count(b'"id":') == number)


@on_each_loop
async def test_the_bytes_of_a_message_are_none_of_upstream_also_in_a_group(nats: int) -> None:
    stream = bridged(nats, more="share: {by: claim:user.id}")
    async with scene(nats, stream, [*SILENT, event(1)], [*SILENT, HOLD]) as (_, proxy, client, stack):
        tabs = [await joined(stack, proxy) for _ in range(2)]
        await tabs[0].wait_for(lambda each: ids(each) == [1])
        at, sent = proxy.metric("upstream_last_event_timestamp_seconds"), _from_upstream(proxy)
        await send(client, "chat.1", message(2))
        for tab in tabs:
            await tab.wait_for(lambda each: ids(each)[-1:] == [2])
        assert proxy.metric("upstream_last_event_timestamp_seconds") == at > 0
        assert _from_upstream(proxy) == sent
        assert proxy.metric("downstream_bytes_total", origin="synthetic") > 2 * len(event(2))


def _from_upstream(proxy: Instance) -> float:
    return proxy.metric("downstream_bytes_total", origin="upstream")


@on_each_loop
async def test_a_server_that_goes_and_comes_back_harms_no_stream(tmp_path: Path) -> None:
    port = free_port()
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(RawUpstream(SILENT))
        proxy = await stack.enter_async_context(Instance(config(upstream, bridged(port))))
        clients = await stack.enter_async_context(AsyncExitStack())
        mine = await joined(clients, proxy)  # NATS was never there
        for number in (1, 2):
            with nats_server(tmp_path, port):
                await proxy.until(lambda: proxy.metric("bridge_connected"))
                async with publisher(port) as client:
                    await send(client, "chat.1", message(number))
                await mine.wait_for(lambda each, last=number: ids(each)[-1:] == [last])
            await proxy.until(lambda: not proxy.metric("bridge_connected"))
        assert ids(mine) == [1, 2]


@on_each_loop
@pytest.mark.parametrize("mode", ["fill", "replace"])
async def test_what_still_waits_is_written_before_a_drain_ends_the_stream(nats: int, mode: str) -> None:
    """With `fill` a message waits for upstream, with `replace` an event of upstream waits for its message."""
    async with scene(nats, bridged(nats, mode, "10m"), SILENT) as (upstream, proxy, client, stack):
        mine = await joined(stack, proxy)
        if mode == "fill":
            await send(client, "chat.1", message(1))
        else:
            await (await upstream.connection()).send(event(1))
            await proxy.until(lambda: proxy.metric("upstream_events_total") == 1)
        await send(client, "chat.1", message(2, 9))
        await proxy.until(lambda: counted(proxy) == {"no_subscriber": 1})
        assert ids(mine) == []
        (stream,) = proxy.server.streams
        stream.leave(0.0, CloseReason.DRAIN)
        await mine.wait_for(lambda each: each.events[-1].type == "stream_closing")
        assert ids(mine) == [1]


@on_each_loop
async def test_routes_with_the_same_servers_share_a_connection_and_a_reload_closes_what_is_unused(
    tmp_path: Path,
) -> None:
    with nats_server(tmp_path, None, "-m", str(monitor := free_port())) as (_, port):
        stream = bridged(port)
        async with RawUpstream(SILENT, SILENT) as upstream:
            second = "- name: more\n  match: {path: /more}\n  upstream: up\n  stream:\n"
            text = config(upstream, stream, routes=second + indent(stream, "    "))
            async with Instance(text) as proxy:
                for route in ("events", "more"):
                    await proxy.until(lambda route=route: proxy.metric("bridge_connected", route=route))
                await proxy.until(lambda: _connections(monitor) == (1, 1))  # the probe for its port has gone
                async with AsyncExitStack() as stack:
                    await joined(stack, proxy)
                    await proxy.proxy.adopt(settings_of(config(upstream)))
                    assert _connections(monitor) == (1, 1)  # a stream keeps its policy
                await proxy.until(lambda: _connections(monitor) == (0, 0))


def _connections(monitor: int) -> tuple[int, int]:
    """The connections to a server, and their subscriptions."""
    with urllib.request.urlopen(f"http://127.0.0.1:{monitor}/connz") as answer:
        found = json.loads(answer.read())["connections"]
    return len(found), sum(each["subscriptions"] for each in found)


@on_each_loop
@pytest.mark.parametrize("mode", ["fill", "replace", "observe"])
async def test_a_stream_stalls_only_after_a_message_that_upstream_has_not_delivered(
    nats: int, mode: str
) -> None:
    more = "stall: {after: 300ms, sign_of_life: bridge, action: reconnect}\nkeepalive: {interval: 250ms}"
    stream = bridged(nats, mode, grace="100ms", more=more)

    async def long_after(page: RawClient) -> None:
        pings = len(page.stream.comments) + 4
        await page.wait_for(lambda page: len(page.stream.comments) >= pings)

    async with scene(nats, stream, [*SILENT, event(1), HOLD], [*SILENT, HOLD]) as (
        upstream,
        proxy,
        client,
        clients,
    ):
        page = await joined(clients, proxy)
        await page.wait_for(lambda page: ids(page) == [1] or mode == "replace")
        await send(client, "chat.1", message(1))
        await page.wait_for(lambda page: ids(page) == [1])
        await send(client, "chat.1", message(2, 8))  # for another user
        await long_after(page)
        assert len(upstream.connections) == 1
        assert proxy.metric("upstream_stalls_total") == 0
        await send(client, "chat.1", message(3))
        await proxy.until(lambda: len(upstream.connections) == 2)
        assert proxy.metric("upstream_stalls_total") == 1
        await long_after(page)
        assert len(upstream.connections) == 2  # the new stream has missed nothing
