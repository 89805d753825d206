"""The real process takes up a new configuration: when asked and by itself, all or nothing, under load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.instance import EVENT_SOURCE, config
from tests.support.proxy_process import ProxyProcess, running_proxy
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import (
    GOT_REQUEST,
    LAST_CHUNK,
    RawUpstream,
    UpstreamConnection,
    chunk,
    response,
    stream_head,
)
from tests.support.running import on_loop, soon

logger = logging.getLogger(__name__)

SILENT = [GOT_REQUEST, stream_head()]
NOWHERE = "http://127.0.0.1:1"
UNWATCHED = "watch: false"

LOAD_SECONDS = 12
"""How long two reloads a second go on under load. A minute of it shows nothing that this does not."""

STREAMS = 20
PLAIN = 4
EVERY = 0.01


def answering(body: bytes) -> RawUpstream:
    return RawUpstream([GOT_REQUEST, response("200 OK", body)])


async def body_of(proxy: ProxyProcess, target: str = "/plain") -> bytes:
    async with await RawClient.connect(proxy.url) as client:
        client.request(target)
        await client.wait_response()
        return client.body


async def stream_of(proxy: ProxyProcess, target: str = "/events") -> RawClient:
    """A client whose stream has been confirmed."""
    client = await RawClient.connect(proxy.url)
    client.request(target, EVENT_SOURCE)
    await client.wait_for(b"connection_confirmed")
    return client


def reloads(proxy: ProxyProcess, result: str = "success") -> float:
    return proxy.metric("sse_proxy_config_reloads_total", result=result)


def hang_up(proxy: ProxyProcess, result: str = "success") -> None:
    """Send SIGHUP; returns when the configuration has been read anew, with that result."""
    before = reloads(proxy, result)
    proxy.send_signal(signal.SIGHUP)
    proxy.wait_for_metric("sse_proxy_config_reloads_total", before + 1, result=result)


def errors(proxy: ProxyProcess) -> list[str]:
    return [line.partition(" ERROR ")[2].strip() for line in proxy.log.splitlines() if " ERROR " in line]


# When.


def test_a_hangup_reloads_and_running_streams_keep_their_pings(tmp_path: Path) -> None:
    async def story() -> None:
        async with answering(b"new") as new, RawUpstream(SILENT) as old:
            text = config(old, "keepalive: {interval: 50ms, text: old}", before=UNWATCHED)
            with running_proxy(tmp_path, config=text) as proxy:
                async with await stream_of(proxy) as client:
                    proxy.write_config(config(new, before=UNWATCHED))
                    hang_up(proxy)
                    proxy.wait_for_log("configuration reloaded  changed=routes.events,upstreams.up")
                    assert await body_of(proxy) == b"new"
                    pings = client.body.count(b":old")
                    await client.wait_for(lambda client: client.body.count(b":old") > pings + 2)
                    assert client.ending is None
                assert proxy.stop() == 0
                assert "Traceback" not in proxy.log

    on_loop("asyncio", story())


def test_a_rename_over_the_file_reloads_by_itself(tmp_path: Path) -> None:
    async def story() -> None:
        async with answering(b"old") as old, answering(b"new") as new:
            with running_proxy(tmp_path, config=config(old)) as proxy:
                assert await body_of(proxy) == b"old"
                proxy.write_config(config(new))
                proxy.wait_for_metric("sse_proxy_config_reloads_total", 1, within=20, result="success")
                assert await body_of(proxy) == b"new"

    on_loop("asyncio", story())


def test_the_swap_of_a_config_map_reloads_by_itself(tmp_path: Path) -> None:
    def version(number: int, text: str) -> None:
        folder = tmp_path / f"..2026_{number}"
        folder.mkdir()
        (folder / "config.yaml").write_text(text)
        (tmp_path / "..data_tmp").symlink_to(folder.name)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    async def story() -> None:
        async with answering(b"old") as old, answering(b"new") as new:
            version(1, config(old))
            (tmp_path / "config.yaml").symlink_to("..data/config.yaml")
            with running_proxy(tmp_path, config=tmp_path / "config.yaml") as proxy:
                assert await body_of(proxy) == b"old"
                version(2, config(new))
                proxy.wait_for_metric("sse_proxy_config_reloads_total", 1, within=20, result="success")
                assert await body_of(proxy) == b"new"

    on_loop("asyncio", story())


def test_without_a_file_a_hangup_is_one_line_in_the_log(tmp_path: Path) -> None:
    with running_proxy(tmp_path, upstream=NOWHERE) as proxy:
        proxy.send_signal(signal.SIGHUP)
        proxy.wait_for_log("there is nothing to reload: the proxy was started without a configuration file")
        assert reloads(proxy) == 0
        assert proxy.stop() == 0


def test_while_it_drains_a_hangup_changes_nothing_and_stops_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with RawUpstream(SILENT) as upstream:
            text = config(upstream, before="drain: {timeout: 600s, spread: 600s}")
            with running_proxy(tmp_path, config=text) as proxy:
                async with await stream_of(proxy) as client:
                    proxy.send_signal(signal.SIGTERM)
                    proxy.wait_for_log("draining")
                    proxy.send_signal(signal.SIGHUP)
                    proxy.wait_for_log("the configuration is not reloaded: the proxy is draining")
                    assert client.ending is None
                    assert proxy.stop() == 0  # a second signal, and one that ends it

    on_loop("asyncio", story())


# All of it or nothing.


def test_a_bad_file_keeps_the_old_one_and_says_where(tmp_path: Path) -> None:
    async def story() -> None:
        async with answering(b"old") as old:
            with running_proxy(tmp_path, config=config(old, before=UNWATCHED)) as proxy:
                proxy.write_config(config(NOWHERE, "keepalive: {interval: 15}", before="wach: false"))
                hang_up(proxy, "failure")
                proxy.wait_for_log("the last valid one stays in force")
                file = proxy.config_file
                first, second, verdict = errors(proxy)
                assert first.startswith(f"{file}:1: wach: ")
                assert second.startswith(f"{file}:8: routes[0].stream.keepalive.interval: ")
                assert verdict.endswith(f"file={file} problems=2")
                assert proxy.metric("sse_proxy_config_last_reload_successful") == 0
                assert proxy.admin("/readyz") == (200, "ready\n")
                assert await body_of(proxy) == b"old"
                assert f"url: {old.url}\n" in proxy.admin("/config")[1]

    on_loop("asyncio", story())


def test_a_removed_route_lets_its_streams_go_and_says_why(tmp_path: Path) -> None:
    async def story() -> None:
        async with RawUpstream(SILENT) as upstream:
            before = f"{UNWATCHED}\ndrain: {{spread: 100ms}}"
            text = config(upstream, before=before)
            with running_proxy(tmp_path, config=text) as proxy:
                async with await stream_of(proxy) as client:
                    proxy.write_config(text.replace("name: events", "name: others"))
                    hang_up(proxy)
                    await client.wait_response()
                    *_, block, rest = client.body.split(b"\n\n")
                    assert (block.split(b"\n")[0], rest) == (b"event: stream_closing", b"")
                    data = json.loads(block.partition(b"data: ")[2])
                    assert data == {"type": "stream_closing", "reason": "route_removed"}
                closed = "sse_proxy_streams_closed_total"
                proxy.wait_for_metric(closed, 1, route="events", reason="route_removed")
                proxy.wait_for_log("configuration reloaded  routes_added=others routes_removed=events")
                async with await stream_of(proxy):
                    assert [stream["route"] for stream in proxy.streams()["streams"]] == ["others"]

    on_loop("asyncio", story())


# Under load.


class Numbered:
    """An upstream whose streams are numbered events, cut into chunks anywhere, and whose plain answers echo
    what was sent. `sent` is how many events each stream had, by its target.
    """

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.sent: dict[str, int] = {}

    async def __call__(self, connection: UpstreamConnection) -> None:
        """The script of a connection."""
        request = await connection.next_request(within=60)
        if not request.target.startswith("/events"):
            await connection.send(response("200 OK", bytes(request.body)))
            return
        await connection.send(stream_head())
        number, tail = 0, b""
        while not self.over.is_set():
            event = tail + b"data: %d %s\n\n" % (number, b"x" * (number % 90))
            number += 1
            cut = number * 7 % len(event)
            await connection.send(chunk(event[: cut or None]))
            tail = event[cut:] if cut else b""
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.over.wait(), EVERY)
        self.sent[request.target] = number
        await connection.send((chunk(tail) if tail else b"") + LAST_CHUNK)


def configurations(url: str) -> Iterator[tuple[str, str]]:
    """Configurations without end, each unlike the one before, and whether it is good."""
    more = "- {name: more, match: {path: /more}, upstream: up}\n"
    while True:
        yield config(url, "reconnect: off\nkeepalive: {interval: 1s}", before=UNWATCHED), "success"
        limits = f"{UNWATCHED}\nlimits: {{max_streams: 500}}\ntrusted_proxies: [10.0.0.0/8]"
        yield config(url, "reconnect: off\nmax_event: 2MiB", before=limits, routes=more), "success"
        yield config(url, "no_such_key: 1", before=UNWATCHED), "failure"
        yield config(url, "reconnect: off\nkeepalive: off", before=UNWATCHED), "success"


def whole(client: RawClient, count: int) -> None:
    """Every event of the stream came once, in order, and whole."""
    assert client.invalid is None
    heard = [event.data for event in client.events if event.type == "message"]
    assert heard == [f"{number} {'x' * (number % 90)}" for number in range(count)]


async def plain_requests(proxy: ProxyProcess, over: asyncio.Event, done: Counter[str], name: str) -> None:
    """Requests one after the other on one connection, each with its own answer; `done` says how many."""
    count = 0
    async with await RawClient.connect(proxy.url) as client:
        while not over.is_set():
            body = b"%d " % count * 5000
            client.request("/echo", method="POST", body=body)
            count += 1
            await client.wait_for(
                lambda client, count=count: len(client.responses) == count and client.response.complete, 30
            )
            assert (client.response.status, client.body) == (200, body)
            done[name] = count
            await asyncio.sleep(EVERY)


async def comers_and_goers(proxy: ProxyProcess, over: asyncio.Event, done: Counter[str]) -> None:
    """Streams that are opened while configurations change, and left again; `done` says how many."""
    count = 0
    while not over.is_set():
        count += 1
        async with await RawClient.connect(proxy.url) as client:
            client.request(f"/events?brief={count}", EVENT_SOURCE)
            await client.wait_for(lambda client: len(client.body_arrivals) > 5, 30)
            heard = [event.data for event in client.events if event.type == "message"]
            assert heard == [f"{number} {'x' * (number % 90)}" for number in range(len(heard))]
            assert heard
        done["brief"] = count


async def reload_again_and_again(
    proxy: ProxyProcess, url: str, seconds: float, enough: Callable[[], bool]
) -> dict[str, int]:
    """Two reloads a second, every fourth a failure, for a time and until it is `enough`; how many of each."""
    loop, asked = asyncio.get_running_loop(), {"success": 0, "failure": 0}
    began_at = loop.time()
    for text, result in configurations(url):
        if loop.time() >= began_at + seconds and enough():
            return asked
        proxy.write_config(text)
        proxy.send_signal(signal.SIGHUP)
        asked[result] += 1
        await asyncio.sleep(max(0.0, began_at + sum(asked.values()) / 2 - loop.time()))
        await soon(lambda: reloads(proxy, result) == asked[result], within=30)  # noqa: B023 (waited for here)
    raise AssertionError("there are always more")


@pytest.mark.parametrize("seconds", [LOAD_SECONDS])
def test_two_reloads_a_second_under_load_lose_no_byte(seconds: int, tmp_path: Path) -> None:
    async def story() -> None:
        numbered, over, done = Numbered(), asyncio.Event(), Counter[str]()
        async with RawUpstream(numbered) as upstream:
            first, _ = next(configurations(upstream.url))
            with running_proxy(tmp_path, config=first) as proxy:
                streams = [await stream_of(proxy, f"/events?n={index}") for index in range(STREAMS)]
                names = [f"plain {number}" for number in range(PLAIN)]
                async with asyncio.TaskGroup() as beside:
                    for name in names:
                        beside.create_task(plain_requests(proxy, over, done, name))
                    beside.create_task(comers_and_goers(proxy, over, done))
                    loaded = [*names, "brief"]
                    asked = await reload_again_and_again(
                        proxy, upstream.url, seconds, lambda: min(done[name] for name in loaded) > seconds
                    )
                    over.set()
                numbered.over.set()
                for index, client in enumerate(streams):
                    await client.wait_response(within=30)
                    whole(client, numbered.sent[f"/events?n={index}"])
                    await client.close()
                ended = "sse_proxy_streams_closed_total"
                proxy.wait_for_metric(ended, STREAMS, route="events", reason="upstream_end")
                proxy.wait_for_metric(ended, done["brief"], route="events", reason="client_gone")
                assert {result: reloads(proxy, result) for result in asked} == asked
                assert proxy.stop() == 0
                assert "Traceback" not in proxy.log
                events = sum(numbered.sent[f"/events?n={index}"] for index in range(STREAMS))
                assert events > seconds  # there was a load
                logger.info("%s reloads, %s events, %s", asked, events, done)

    on_loop("asyncio", story(), within=seconds + 120)
