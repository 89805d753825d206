"""Prometheus as the reader of `/metrics`: what it stores, what its checker says, how much it has to store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sse_keepalive_proxy.demo.knobs import Knobs
from tests.support.looping import in_loop, run
from tests.support.programs import Program, free_port, require, running
from tests.support.proxy_process import Metrics, ProxyProcess, running_proxy
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import GOT_REQUEST, RawUpstream, response
from tests.support.stand_in import event_source, example, healing, pings, said, say

STALLED = "sse_proxy_upstream_stalled_streams"
_GROWING = ("_total", "_count", "_bucket", "_sum")
_METHODS = ("PROPFIND", "MKCOL", "PURGE", "REPORT", "LOCK", "SEARCH")


class Prometheus:
    """A running Prometheus, asked over its HTTP API."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/query?"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of an instant query, as the API gives it."""
        with urllib.request.urlopen(self._url + urllib.parse.urlencode({"query": expression})) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return result

    def values(self, expression: str) -> list[float]:
        """What an expression is now: one value for each series."""
        return [float(sample["value"][1]) for sample in self.query(expression)]

    def histories(self, selector: str) -> list[list[float]]:
        """All values so far of each selected series."""
        return [[float(value) for _, value in series["values"]] for series in self.query(f"{selector}[5m]")]

    async def until(self, expression: str, value: float, meanwhile: Callable[[], object] = int) -> None:
        """Wait until an expression has this one value. It tells nobody of a scrape: so it is asked."""
        seen = None
        try:
            async with asyncio.timeout(60):
                while (seen := await asyncio.to_thread(self.values, expression)) != [value]:
                    meanwhile()
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise TimeoutError(f"{expression} is {seen}, not {value}") from None


@contextlib.contextmanager
def prometheus(directory: Path, proxy: ProxyProcess) -> Iterator[Prometheus]:
    """Prometheus that scrapes the proxy's admin listener every second."""
    port = free_port()
    file = directory / "prometheus.yml"
    file.write_text(
        "global: {scrape_interval: 1s}\n"
        "scrape_configs:\n"
        f"  - {{job_name: proxy, static_configs: [{{targets: ['127.0.0.1:{proxy.admin_port}']}}]}}\n"
    )
    command = [
        require("prometheus"),
        f"--config.file={file}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with running(command, port=port, log_file=directory / "prometheus.log") as program:
        wait_ready(f"http://127.0.0.1:{port}/-/ready", program)
        yield Prometheus(port)


def wait_ready(url: str, program: Program, within: float = 30.0) -> None:
    """Wait until it answers queries: it listens before it does."""
    give_up_at = time.monotonic() + within
    while time.monotonic() < give_up_at:
        with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(url):
            return
        time.sleep(0.05)
    raise RuntimeError(f"it is not ready after {within} s:\n{program.log}")


def test_prometheus_knows_as_many_silent_streams_as_upstream_has_and_none_once_they_speak(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        # Upstream's comments and heartbeats go on all the time: they are no sign of life here. Its streams
        # are only looked at, so that it has the same ones throughout.
        knobs = Knobs(ping_interval=0.4, heartbeat_interval=0.3)
        times = {"interval": "500ms", "stall_after": "2s", "stall_sign_of_life": "events"}
        async with healing(tmp_path, "healthy", knobs, action="observe", **times) as (notify, proxy):

            def silent() -> int:
                return sum(stream.last_event_at is None for stream in notify.hub.streams)

            with prometheus(tmp_path, proxy) as server:
                async with contextlib.AsyncExitStack() as open_streams:
                    clients = [
                        await open_streams.enter_async_context(await event_source(proxy.url, notify))
                        for _ in range(4)
                    ]
                    async with asyncio.timeout(20):
                        await notify.wait_open(4)
                    author = notify.hub.streams[0].user_id
                    stalled = f'sum({STALLED}{{route="events"}})'
                    assert silent() == 4
                    await server.until(stalled, 4)
                    await server.until('sum(sse_proxy_streams_active{state="stalled"})', 4)

                    # Everybody but the author hears the author. To keep them alive there is talk until
                    # Prometheus has come round to look.
                    def talk() -> None:
                        say(notify, "hi", sender=author)

                    talk()
                    assert silent() == 1
                    await server.until(stalled, 1, talk)
                    await server.until("sum(sse_proxy_upstream_stall_recoveries_total) >= bool 3", 1, talk)

                    def everybody() -> None:
                        talk()
                        say(notify, "hi")

                    everybody()
                    assert silent() == 0
                    await server.until(stalled, 0, everybody)
                    for client in clients:
                        await client.wait_for(lambda it: "hi" in [data.get("content") for data in said(it)])
                await server.until('sum(sse_proxy_streams_closed_total{reason="client_gone"})', 4)
                # Nothing that only grows was ever seen to shrink, not even as streams ended.
                histories = server.histories('{__name__=~"sse_proxy_.+_(total|count|bucket|sum)"}')
                assert max(len(values) for values in histories) > 3
                assert [values for values in histories if values != sorted(values)] == []

    run(story(), within=180)


@in_loop
async def test_promtool_has_no_complaint_about_any_metric(tmp_path: Path) -> None:
    require("promtool")
    async with healing(tmp_path, interval="200ms") as (notify, proxy):
        async with await event_source(proxy.url, notify) as client:
            await client.wait_for(lambda client: pings(client.body) > 0)
            say(notify, "hi")  # upstream ends its stream behind it
            await client.wait_for(b"stream_recovered")
        text = proxy.admin("/metrics")[1]
        assert 'sse_proxy_upstream_eof_after_first_event_total{route="events"} 1.0' in text
        assert 'sse_proxy_upstream_reconnects_total{result="reopened",route="events"} 1.0' in text
        done = await asyncio.to_thread(_promtool, text)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def _promtool(text: str) -> subprocess.CompletedProcess[str]:
    command = [require("promtool"), "check", "metrics"]
    return subprocess.run(command, input=text, text=True, capture_output=True, timeout=30, check=False)


def test_ten_thousand_different_paths_give_prometheus_nothing_more_to_store(tmp_path: Path) -> None:
    def ask(client: RawClient, number: int) -> None:
        host = f"Host: h{number}.example"
        match number % 8:
            case 0:
                client.request(f"/events?access_token=t{number}", host)
            case 1:
                client.request(
                    f"/known/{number}?user={number}", host, f"X-Forwarded-For: 10.0.{number % 256}.1"
                )
            case 2:  # a method that has no label of its own
                client.request(f"/known/{number}", host, method=_METHODS[number // 8 % len(_METHODS)])
            case _:
                client.request(f"/elsewhere/{number}", host)

    async def story() -> None:
        async with RawUpstream([GOT_REQUEST, response("404 Not Found")]) as upstream:
            config = example(upstream.url).replace("path: /*", "path: /known/*")
            with running_proxy(tmp_path, config=config) as proxy:
                async with await RawClient.connect(proxy.url) as client:

                    async def ask_all(numbers: range) -> None:
                        count = len(client.responses) + len(numbers)
                        for number in numbers:
                            ask(client, number)
                        await client.wait_for(
                            lambda it: len(it.responses) == count and it.response.complete, within=60
                        )

                    await ask_all(range(8))
                    before = set(proxy.metrics())
                    for start in range(8, 10_008, 250):
                        await ask_all(range(start, start + 250))
                    metrics = proxy.metrics()
                    assert set(metrics) == before
                    counts = [value for key, value in metrics.items() if key[0] == "sse_proxy_requests_total"]
                    assert sorted(counts) == [1251, 1251, 1251, 6255]

    run(story(), within=180)


@in_loop
async def test_what_only_grows_never_shrinks_while_streams_come_and_go(tmp_path: Path) -> None:
    knobs = Knobs(ping_interval=0.1)
    times = {"interval": "50ms", "stall_after": "200ms", "stall_sign_of_life": "events"}
    async with healing(tmp_path, knobs=knobs, **times) as (notify, proxy):
        over = threading.Event()

        def watch() -> int:
            """Scrape until it is over; returns how often."""
            scrapes, before = 1, _growing(proxy.metrics())
            while scrapes <= 5 or not over.is_set():
                now = _growing(proxy.metrics())
                assert {name: value for name, value in before.items() if now.get(name, -1) < value} == {}
                scrapes, before = scrapes + 1, now
            return scrapes

        async def come_and_go() -> None:
            for number in range(6):
                async with await event_source(proxy.url, notify) as client:
                    await client.wait_for(lambda it: it.ending or pings(it.body) >= 3)
                    if number % 2:
                        notify.close_streams()

        watching = asyncio.ensure_future(asyncio.to_thread(watch))
        try:
            await asyncio.gather(*(come_and_go() for _ in range(5)))
        finally:
            over.set()
            scrapes = await watching
        assert scrapes > 5
        assert proxy.metric("sse_proxy_streams_opened_total", route="events", family="browser") == 30


def _growing(metrics: Metrics) -> Metrics:
    return {key: value for key, value in metrics.items() if key[0].endswith(_GROWING)}
