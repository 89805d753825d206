"""A quiet chat is no stall, and a message that upstream has not delivered is one: `config.example.yaml`, both
builds of notify-server, and a real NATS (behaviour.md#sign-of-life-bridge).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sse_keepalive_proxy.demo.knobs import Knobs
from tests.support.chat import listening_to_nats, messages, publish
from tests.support.instance import EVENT_SOURCE
from tests.support.looping import in_loop, soon
from tests.support.nats import nats_server, publisher
from tests.support.raw_client import RawClient
from tests.support.stand_in import CHAT, healing, listening, pings, say

SENDER, READER, OTHER = 2, 3, 9  # nothing is said to the last one
TIMES = {
    "stall_after": "250ms",
    "interval": "250ms",
    "drain_timeout": "500ms",  # at the end NATS is away, so there is nothing to wait for
    "drain_spread": "500ms",
}
SEVERAL = 4


async def quiet(pages: Sequence[RawClient]) -> None:
    """Wait for several pings on each page, so for several times `stall.after`."""
    before = [pings(page.body) for page in pages]
    for page, had in zip(pages, before, strict=True):
        await page.wait_for(lambda page, had=had: pings(page.body) >= had + SEVERAL)


@pytest.mark.parametrize(("build", "delivered"), [("silent", 1), ("fixed", 0)])
@in_loop
async def test_only_a_message_that_upstream_has_not_delivered_opens_a_stream_again(
    build: str, delivered: int, tmp_path: Path
) -> None:
    knobs = Knobs(ping_interval=0.2, heartbeat_interval=0.7)  # no signs of life
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(AsyncExitStack())
        _, port = nats.enter_context(nats_server(tmp_path))
        notify, proxy = await stack.enter_async_context(
            healing(tmp_path, build, knobs, servers=f"nats://127.0.0.1:{port}", **TIMES)
        )
        await nats.enter_async_context(listening_to_nats(port, notify.publish))

        def count(name: str) -> float:
            return proxy.metric(f"sse_proxy_{name}", route="events")

        async def until(name: str, value: float, **labels: str) -> None:
            name = f"sse_proxy_{name}"
            await asyncio.to_thread(proxy.wait_for_metric, name, value, route="events", **labels)

        await until("bridge_connected", 1)
        pages = [await stack.enter_async_context(await RawClient.connect(proxy.url)) for _ in range(3)]
        for page, user in zip(pages, (SENDER, READER, OTHER), strict=True):
            page.request(f"/events?access_token={notify.token(user)}", EVENT_SOURCE)
            await page.wait_for(b"connection_confirmed")
        await quiet(pages)
        assert (count("upstream_stalls_total"), notify.hub.opened_total) == (0, 3)

        async with publisher(port) as client:
            await publish(client, 1, chat=CHAT, members=(SENDER, READER), sender=SENDER, content="hi")
            await client.flush()
        undelivered = 2 - delivered
        await until("upstream_stalls_total", undelivered)
        await until("upstream_reconnects_total", 2, result="reopened")  # what is delivered ends a stream, too
        assert count("upstream_stalled_streams") == undelivered
        await quiet(pages)  # the new streams have missed nothing
        assert count("upstream_stalls_total") == undelivered
        assert notify.hub.opened_total == 5
        assert [messages(page) for page in pages] == [["hi"], ["hi"], []]

        await nats.aclose()
        await until("bridge_connected", 0)
        assert say(notify, "past NATS", sender=SENDER).delivered == delivered
        await until("upstream_eof_after_first_event_total", 2 * delivered)
        await until("upstream_reconnects_total", 2 + delivered, result="reopened")
        await quiet(pages)  # without NATS, a quiet chat is none, either
        assert count("upstream_stalls_total") == undelivered
        assert notify.hub.opened_total == 5 + delivered


@in_loop
async def test_a_frozen_server_is_noticed_by_the_first_message_that_it_does_not_deliver(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        _, port = stack.enter_context(nats_server(tmp_path))
        notify, proxy = await stack.enter_async_context(
            healing(tmp_path, servers=f"nats://127.0.0.1:{port}", frozen_after="300ms", **TIMES)
        )
        await stack.enter_async_context(listening_to_nats(port, notify.publish))
        connected = "sse_proxy_bridge_connected"
        await asyncio.to_thread(proxy.wait_for_metric, connected, 1, route="events")
        page = await stack.enter_async_context(await RawClient.connect(proxy.url))
        page.request(f"/events?access_token={notify.token(READER)}", EVENT_SOURCE)
        await page.wait_for(b"connection_confirmed")
        async with await RawClient.connect(notify.url) as past_the_proxy:
            past_the_proxy.request(f"/events?access_token={notify.token(SENDER)}", EVENT_SOURCE)
            await listening(notify, 2)
        await soon(lambda: len(notify.hub.streams) == 1)

        client = await stack.enter_async_context(publisher(port))
        for number, content in enumerate(("freezes it", "to a frozen one")):
            await publish(client, number, chat=CHAT, members=(READER,), sender=OTHER, content=content)
        await page.wait_for(lambda page: messages(page) == ["freezes it", "to a frozen one"])
        await soon(lambda: notify.hub.frozen)
        await soon(lambda: proxy.admin("/upstreams/notify")[0] == 503)
        assert page.ending is None
