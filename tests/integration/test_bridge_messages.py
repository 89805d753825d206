"""Messages of a real nats-server that are large, many, or nonsense: no stream is harmed, no ping is late."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.integration.test_bridge import SILENT, bridged, counted, event, ids, joined, message, scene
from tests.support.instance import Instance, config
from tests.support.nats import nats_server, publisher, send
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import HOLD, RawUpstream
from tests.support.running import on_each_loop
from tests.support.sockets import Ending

MIB = 1 << 20
NONSENSE = """\
identity: {{verify: upstream}}
bridge:
  servers: nats://127.0.0.1:{port}
  mode: replace
  subscriber: claim:user.id
  subjects:
    - {{subject: recipients, recipients: to, data: n}}
    - {{subject: data, recipients: "`7`", data: data}}
    - {{subject: keys, recipients: "`7`", keys: ["length(n)", "{{a: n}}"],
       upstream_keys: ["length(n)", n], data: n}}
    - {{subject: function, recipients: "`7`", data: length(n)}}
    - {{subject: when, recipients: "`7`", when: "sum(to)", data: n}}
"""


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with nats_server(tmp_path_factory.mktemp("nats")) as (_, port):
        yield port


@on_each_loop
async def test_what_cannot_be_read_is_counted_and_logged_once(
    nats: int, caplog: pytest.LogCaptureFixture
) -> None:
    bad = [b"", b"no json", b"\xff", b"[" * 5000, b'{"text": NaN}', b"{" + b"x" * 900_000]
    with caplog.at_level(logging.WARNING, "sse_keepalive_proxy.bridge"):
        async with scene(nats, bridged(nats), SILENT) as (_, proxy, client, stack):
            mine = await joined(stack, proxy)
            for payload in bad * 20:
                await client.publish("chat.1", payload)
            await send(client, "chat.1", {"id": 1, "to": [7]})  # `when` is null
            await send(client, "chat.1", {"id": 1, "text": "x", "to": {"a": 1}})
            await send(client, "chat.1", message(3, 99))
            await send(client, "chat.1", message(4))
            await mine.wait_for(lambda each: ids(each) == [4])
            assert counted(proxy) == {"filled": 1, "invalid": 120, "no_subscriber": 2}
    lines = [each.getMessage() for each in caplog.records if "cannot be read" in each.getMessage()]
    assert len(lines) == 1


@on_each_loop
async def test_nonsense_of_an_expression_is_counted_and_logged_once_per_kind(
    nats: int, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = [[[7]], [[[7], [8]]], {"a": 7}, [{"a": 7}], True, "", [None, ""], 7.5, "7 ", [], "x" * 10_000]
    heard = [7, "7", [7, 7, "7"], [None, 7, {}]]
    data = ["text", 0, -1.5, True, [], [None], {}, "\r\n\0\ud800", "x" * 10_000]
    with caplog.at_level(logging.WARNING, "sse_keepalive_proxy.bridge"):
        async with scene(nats, NONSENSE.format(port=nats), SILENT) as (_, proxy, client, stack):
            mine = await joined(stack, proxy)
            for to in nobody + heard:
                await send(client, "recipients", {"to": to, "n": 1})
            await proxy.until(lambda: counted(proxy) == {"no_subscriber": len(nobody), "filled": len(heard)})
            await mine.wait_for(lambda each: [event.data for event in each.events][1:] == ["1"] * len(heard))
            for value in data:
                await send(client, "data", {"data": value})
            await send(client, "data", {})  # null: there is nothing to send
            await proxy.until(lambda: counted(proxy).get("invalid") == 1)
            await mine.wait_for(lambda each: len(each.events) == 1 + len(heard) + len(data))
            assert [json.loads(event.data) for event in mine.events[-len(data) :]] == data
            for number in range(50):
                await client.publish("function", b'{"n": 1}')  # `length` of a number
                await client.publish("when", b'{"to": "7"}')
                await client.publish("keys", b'{"n": %d}' % number)  # only one of them has a value
            await client.flush()
            await mine.wait_for(lambda each: each.events[-1].data == "49")
            await proxy.until(lambda: counted(proxy).get("invalid") == 101)
            assert counted(proxy) == {
                "no_subscriber": len(nobody),
                "filled": len(heard) + len(data) + 50,
                "invalid": 101,
            }
            assert mine.ending is None
    fields = [each.__dict__["fields"] for each in caplog.records if "cannot be read" in each.getMessage()]
    assert sorted(each["subject"] for each in fields) == ["data", "function", "when"]


@on_each_loop
@pytest.mark.parametrize("mode", ["fill", "replace"])
async def test_of_a_message_without_data_for_any_event_upstreams_own_event_arrives(
    nats: int, mode: str
) -> None:
    none = bridged(nats, mode).replace('data: "{id: id, text: text}"', "data: body")
    async with scene(nats, none, [*SILENT, HOLD]) as (upstream, proxy, client, stack):
        mine = await joined(stack, proxy)
        server = await upstream.connection()
        await send(client, "chat.1", message(1))
        await proxy.until(lambda: counted(proxy) == {"invalid": 1})
        await asyncio.sleep(0.3)  # longer than `grace`, after which it would count as filled
        await server.send(event(1))
        await mine.wait_for(lambda each: ids(each) == [1])
        await send(client, "chat.1", message(2, 99))  # nobody's: counted once, too
        await proxy.until(lambda: counted(proxy) == {"invalid": 2})


@on_each_loop
async def test_of_a_message_without_data_for_one_event_the_others_are_filled(nats: int) -> None:
    frames = "frames: [{data: body}, {event: Named, data: id}]"
    some = bridged(nats).replace('data: "{id: id, text: text}"', frames)
    async with scene(nats, some, SILENT) as (_, proxy, client, stack):
        mine = await joined(stack, proxy)
        await send(client, "chat.1", message(1))
        await mine.wait_for(b"event: Named\ndata: 1\n\n")
        assert ids(mine) == []
        await proxy.until(lambda: counted(proxy) == {"filled": 1})


@on_each_loop
async def test_observe_counts_a_message_without_an_event_as_any_other(nats: int) -> None:
    watches = bridged(nats, "observe").replace('      data: "{id: id, text: text}"\n', "")
    async with scene(nats, watches, [*SILENT, HOLD]) as (upstream, proxy, client, stack):
        mine = await joined(stack, proxy)
        await send(client, "chat.1", message(1))
        await proxy.until(lambda: counted(proxy) == {"missed": 1})
        await (await upstream.connection()).send(event(1))
        await mine.wait_for(lambda each: ids(each) == [1])


@pytest.mark.parametrize(("limit", "size"), [(None, MIB), ("2MB", 2 * MIB)])
@on_each_loop
async def test_a_message_as_large_as_nats_takes_is_filled(
    limit: str | None, size: int, tmp_path: Path
) -> None:
    (tmp_path / "nats.conf").write_text(f"max_payload: {limit}" if limit else "")
    with nats_server(tmp_path, None, "-c", str(tmp_path / "nats.conf")) as (_, port):
        async with scene(port, bridged(port, more="keepalive: {interval: 50ms}"), SILENT, SILENT) as (
            _,
            proxy,
            client,
            stack,
        ):
            mine, quiet = await joined(stack, proxy, 7), await joined(stack, proxy, 8)
            empty = json.dumps({"id": 1, "to": [7], "text": ""}).encode()
            text = "x" * (size - len(empty))
            payload = empty.replace(b'""', b'"%b"' % text.encode())
            assert len(payload) == size == client.max_payload
            await send(client, "chat.1", payload)
            await mine.wait_for(lambda each: len(each.received) > size)
            await send(client, "chat.1", message(2))
            await mine.wait_for(lambda each: b'"id":2' in each.received[-100:])
            first = b'data: {"id":1,"text":"%b"}\n\n' % text.encode()
            before, _, after = mine.body.partition(first)  # the reference parser takes minutes for this line
            assert b'"id":' not in before
            assert b'\ndata: {"id":2,' in b"\n" + after  # maybe after a ping
            assert mine.body.count(b'"id":') == 2
            pings = len(quiet.stream.comments)
            await quiet.wait_for(lambda each: len(each.stream.comments) >= pings + 2)
            assert counted(proxy) == {"filled": 2}


@on_each_loop
async def test_large_messages_for_a_client_that_reads_nothing_are_bounded_and_harm_no_other(
    nats: int,
) -> None:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(RawUpstream(SILENT, SILENT))
        limits = "limits: {max_buffered: 4MiB}"
        proxy = await stack.enter_async_context(
            Instance(config(upstream, bridged(nats, "replace"), before=limits))
        )
        clients = await stack.enter_async_context(AsyncExitStack())
        client = await stack.enter_async_context(publisher(nats))
        await proxy.until(lambda: proxy.metric("bridge_connected"))
        stuck, reading = await joined(clients, proxy, 7), await joined(clients, proxy, 8)
        stuck.pause()
        for number in range(16):
            await send(client, "chat.1", {"id": number, "text": "x" * 900_000, "to": [7, 8]})
            await reading.wait_for(lambda each, had=number + 1: len(each.received) > had * 900_000)
        await proxy.until_closed("client_stalled")
        assert reading.body.count(b'data: {"id":') == 16
        stuck.resume()
        assert await stuck.wait_end() is Ending.RESET


@on_each_loop
async def test_a_burst_delays_no_ping(nats: int) -> None:
    interval, grain = 0.04, 0.05  # a timer of the proxy ends at the next multiple of its grain
    stream = bridged(nats, more=f"keepalive: {{interval: {interval}s}}")
    async with scene(nats, stream, *[SILENT] * 6) as (_, proxy, client, stack):
        mine = await joined(stack, proxy, 7)
        quiet = [await joined(stack, proxy, user) for user in range(8, 13)]
        loop, turns = asyncio.get_running_loop(), list[float]()

        def turn() -> None:
            turns.append(loop.time())
            ticking[0] = loop.call_at(math.ceil((loop.time() + interval) / grain) * grain, turn)

        ticking = [loop.call_later(interval, turn)]  # an own timer: it is as late as a ping may be
        for number in range(10_000):
            await client.publish("chat.1", json.dumps(message(number)).encode())
        await mine.wait_for(lambda each: each.body.count(b"message ") == 10_000, within=60.0)
        ticking[0].cancel()
        assert ids(mine) == list(range(10_000))
        filled = [each.at for each in mine.body_arrivals if b"message " in each.data]
        due = len([at for at in turns if filled[0] < at < filled[-1]])

        def pings(page: RawClient) -> int:
            arrived = [each for each in page.body_arrivals if filled[0] < each.at < filled[-1]]
            return sum(each.data.count(b":ping") for each in arrived)

        assert due
        assert [pings(page) for page in quiet] == [pytest.approx(due, abs=max(2, due // 2))] * 5
