"""Behind Caddy's `reverse_proxy`: HTTP/1.1 over connections that it keeps."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.hops import Tap, caddy
from tests.support.looping import in_loop
from tests.support.raw_client import RawClient
from tests.support.stand_in import event_source, healing, pings, said, say


@in_loop
async def test_a_silent_stream_is_heard_at_once_and_goes_on(tmp_path: Path) -> None:
    async with healing(tmp_path, interval="500ms") as (notify, proxy):
        with caddy(tmp_path, notify.url, proxy.url) as (bare, healed):
            async with (
                await event_source(bare, notify) as unheard,
                await event_source(healed, notify) as heard,
            ):
                await heard.wait_for(lambda client: pings(client.body) >= 3)
                assert [data["type"] for data in said(heard)] == ["connection_confirmed"]
                assert unheard.body == b""
                say(notify, "hi")
                await heard.wait_for(b"stream_recovered")
                assert [data["type"] for data in said(heard)] == ["connection_confirmed", "new_message"]


@in_loop
async def test_a_silent_stream_dies_of_a_read_timeout_and_outlives_it_through_the_proxy(
    tmp_path: Path,
) -> None:
    async with healing(tmp_path, interval="500ms") as (notify, proxy):
        impatient = "transport http {\nread_timeout 2s\n}"
        with caddy(tmp_path, notify.url, proxy.url, more=impatient) as (bare, healed):
            async with (
                await event_source(bare, notify) as dying,
                await event_source(healed, notify) as living,
            ):
                await asyncio.gather(dying.wait_head(), living.wait_head())
                await dying.wait_for(lambda client: client.ending or client.response.complete)
                assert dying.body == b""
                before = pings(living.body)
                await living.wait_for(lambda client: pings(client.body) > before)
                assert living.ending is None


@in_loop
async def test_one_connection_carries_all_plain_requests_and_each_stream_has_its_own(tmp_path: Path) -> None:
    async with healing(tmp_path, interval="500ms") as (notify, proxy), Tap(proxy.port) as tap:
        with caddy(tmp_path, tap.url) as (front,):
            async with await RawClient.connect(front) as client:

                async def ask(target: str, method: str = "GET", body: bytes = b"") -> int:
                    client.request(target, method=method, body=body)
                    count = len(client.responses) + 1
                    await client.wait_for(lambda it: len(it.responses) == count and it.response.complete)
                    return client.response.status

                for _ in range(20):
                    assert await ask("/health") == 200
                    assert await ask("/events") == 401
                    assert await ask("/demo/publish", "POST", b"no JSON") == 400
                assert tap.connections == 1
                async with await event_source(front, notify) as stream:
                    await stream.wait_for(lambda stream: pings(stream.body) > 0)
                    assert await ask("/health") == 200
                async with await event_source(front, notify) as stream:
                    await stream.wait_for(lambda stream: pings(stream.body) > 0)
                    assert await ask("/health") == 200
                assert tap.connections == 1 + 2
