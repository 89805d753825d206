"""`/upstreams/NAME`: 503 only for an upstream that accepts openings of streams and answers none."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from tests.support.instance import EVENT_SOURCE, Instance, config
from tests.support.looping import run
from tests.support.proxy_process import ProxyProcess, running_proxy
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import GOT_REQUEST, HOLD, RawUpstream, stream_head
from tests.support.running import on_each_loop, soon
from tests.support.stand_in import Killable, example

DEAF = [GOT_REQUEST, HOLD]
NOBODY_WAITS = (200, "not frozen: no opening of a stream waits for it\n")
ONCE = "reconnect: {first_within: off}"


def watched(upstream: RawUpstream, stream: str = ONCE, frozen_after: str = "300ms") -> str:
    text = config(upstream, stream, before="admin: {listen: '127.0.0.1:0'}")
    return text.replace(f"url: '{upstream.url}'", f"url: '{upstream.url}', frozen_after: {frozen_after}")


async def probe(proxy: Instance, name: str = "up", method: str = "GET") -> tuple[int, str]:
    port = int(proxy.server.admin_addresses[0].rpartition(":")[2])
    async with await RawClient.connect(host="127.0.0.1", port=port) as client:
        client.request(f"/upstreams/{name}", method=method)
        await client.wait_response()
        return client.response.status, client.body.decode()


async def until_frozen(proxy: Instance) -> str:
    async with asyncio.timeout(20):
        while True:
            status, body = await probe(proxy)
            if status == 503:
                return body


def oldest(proxy: Instance) -> float:
    return proxy.metric("upstream_oldest_opening_seconds")


@on_each_loop
async def test_an_upstream_that_accepts_and_does_not_answer_is_frozen_until_it_answers() -> None:
    async with RawUpstream(DEAF) as upstream, Instance(watched(upstream)) as proxy:
        assert await probe(proxy) == NOBODY_WAITS
        assert (await probe(proxy, "down"))[0] == 404
        async with await proxy.event_source():
            asked = await upstream.connection()
            body = await until_frozen(proxy)
            frozen = re.fullmatch(
                r"frozen: openings of streams are accepted, and none was answered for (\d+\.\d+) s "
                r"\(frozen_after: 0\.3 s\)\n",
                body,
            )
            assert frozen is not None, body
            assert float(frozen[1]) >= 0.3
            assert await probe(proxy, method="HEAD") == (503, "")
            assert oldest(proxy) >= 0.3
            await asked.send(stream_head())
            await proxy.until(lambda: oldest(proxy) == 0)
            assert await probe(proxy) == NOBODY_WAITS


@on_each_loop
async def test_an_error_status_is_an_answer() -> None:
    async with (
        RawUpstream(DEAF) as upstream,
        Instance(watched(upstream)) as proxy,
        await proxy.event_source() as client,
    ):
        asked = await upstream.connection()
        await until_frozen(proxy)
        await asked.send(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")
        assert (await client.wait_response()).status == 500
        assert await probe(proxy) == NOBODY_WAITS


@on_each_loop
async def test_plain_requests_and_posts_and_the_queue_show_no_freeze() -> None:
    async with RawUpstream(DEAF) as upstream:
        text = "limits: {max_opening: 1}\n" + watched(upstream)
        async with Instance(text) as proxy, await proxy.client() as plain, await proxy.client() as post:
            plain.request("/rest")
            post.request("/events", "Accept: text/event-stream", method="POST", body=b"{}")
            await upstream.wait_connections(2)
            assert await probe(proxy) == NOBODY_WAITS
            assert oldest(proxy) == 0
            async with await proxy.event_source(), await proxy.event_source():
                opening = await upstream.connection(2)
                waiting = "upstream_openings_waiting"
                await proxy.until(lambda: proxy.metric(waiting, upstream="up") == 1)
                await until_frozen(proxy)
                now = asyncio.get_running_loop().time
                answered_at = now()
                await opening.send(stream_head())
                await (await upstream.connection(3)).request()  # the turn of the second one
                await proxy.until(lambda: oldest(proxy) > 0)  # uvloop's clock stands for a millisecond
                assert oldest(proxy) <= now() - answered_at


@on_each_loop
async def test_an_upstream_that_breaks_or_refuses_is_down_and_not_frozen() -> None:
    async with RawUpstream(DEAF) as upstream, Instance(watched(upstream)) as proxy:
        async with await proxy.event_source() as client:
            asked = await upstream.connection()
            await until_frozen(proxy)
            asked.reset()
            assert (await client.wait_response()).status == 502
            assert await probe(proxy) == NOBODY_WAITS
        await upstream.stop()
        async with await proxy.event_source() as client:
            assert (await client.wait_response()).status == 502
            assert await probe(proxy) == NOBODY_WAITS


@on_each_loop
async def test_an_opening_that_is_held_without_its_client_still_waits() -> None:
    stream = f"{ONCE}\nleave: {{hold: 1m}}"
    async with RawUpstream(DEAF) as upstream, Instance(watched(upstream, stream)) as proxy:
        async with await proxy.event_source():
            asked = await upstream.connection()
        await until_frozen(proxy)
        await asked.send(stream_head())
        await proxy.until(lambda: oldest(proxy) == 0)
        assert await probe(proxy) == NOBODY_WAITS


@on_each_loop
async def test_an_opening_that_ends_with_its_client_waits_no_more() -> None:
    async with RawUpstream(DEAF) as upstream, Instance(watched(upstream)) as proxy:
        async with await proxy.event_source():
            await upstream.connection()
            await until_frozen(proxy)
        await proxy.until(lambda: oldest(proxy) == 0)
        assert await probe(proxy) == NOBODY_WAITS


@on_each_loop
async def test_a_server_that_sends_its_head_with_the_first_event_need_not_be_watched() -> None:
    async with (
        RawUpstream(DEAF) as upstream,
        Instance(watched(upstream, frozen_after="off")) as proxy,
        await proxy.event_source(),
    ):
        await upstream.connection()
        assert await probe(proxy) == (200, "not watched: frozen_after is off\n")


def test_a_frozen_notify_server_is_found_and_is_well_again_after_its_restart(tmp_path: Path) -> None:
    def status(proxy: ProxyProcess) -> int:
        return proxy.admin("/upstreams/notify")[0]

    async def story() -> None:
        notify = Killable(2, "silent")
        await notify.start()
        try:
            text = example(notify.url, hold="off", linger="1ms", frozen_after="1s")
            with running_proxy(tmp_path, config=text) as proxy:
                first, second = notify.targets
                assert status(proxy) == 200
                async with await RawClient.connect(proxy.url) as leaver:
                    leaver.request(first, EVENT_SOURCE)
                    await leaver.wait_for(b"connection_confirmed")
                while not (await notify.state())["closed_total"]:  # noqa: ASYNC110 (another process)
                    await asyncio.sleep(0.02)
                await notify.say("hi")
                async with await RawClient.connect(proxy.url) as stays:
                    stays.request(second, EVENT_SOURCE)
                    await soon(lambda: status(proxy) == 503, lambda: "not frozen")
                    notify.kill()
                    await notify.start()
                    await stays.wait_for(b"connection_confirmed", within=20)
                    await soon(lambda: status(proxy) == 200, lambda: "not well")
        finally:
            notify.kill()

    run(story(), within=90)
