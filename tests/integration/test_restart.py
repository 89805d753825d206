"""A restart with `reuse_port`: the new process starts before the old one ends, and nothing is lost."""

from __future__ import annotations

import asyncio
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.integration.test_many_streams import descriptors
from tests.support.http1 import request
from tests.support.instance import EVENT_SOURCE, config
from tests.support.looping import run
from tests.support.proxy_process import running_proxy
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import RawUpstream, UpstreamConnection, response, stream_head

STREAMS, KEPT = 300, 10
INTERVAL = 0.02  # seconds between two requests of the load: half of them on kept connections
BEFORE = "reuse_port: true\ndrain: {timeout: 20s, spread: 2s}"


async def script(connection: UpstreamConnection) -> None:
    asked = await connection.next_request(within=120)
    await connection.send(stream_head() if asked.target == "/events" else response(body=b"whole"))


class Load:
    """Streams that come back as an EventSource does, and plain requests; what became of each."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.confirmed = self.told_to_leave = 0
        self.outcomes: Counter[str] = Counter()
        self._live: set[RawClient] = set()

    @property
    def live(self) -> int:
        """How many streams are confirmed and open."""
        return sum(client.ending is None for client in self._live)

    async def stream(self) -> None:
        """One EventSource, until it is cancelled."""
        while True:
            client = await RawClient.connect(self._url)
            try:
                client.request("/events", EVENT_SOURCE)
                await client.wait_for(b"connection_confirmed", within=60)
                self.confirmed += 1
                self._live.add(client)
                await client.wait_end(within=120)
                assert b'"reason":"drain"' in client.body
                self.told_to_leave += 1
                retry = re.search(rb"retry: (\d+)\n", client.body)
                assert retry is not None
            finally:
                self._live.discard(client)
                await client.close()
            await asyncio.sleep(int(retry[1]) / 1000)

    async def kept(self) -> None:
        """Requests on one connection, and on another when that says `close`, until it is cancelled."""
        while True:
            async with await RawClient.connect(self._url) as client:
                for asked in range(1, 1_000_000):
                    client.send(request("/plain"))
                    await client.wait_for(lambda client, count=asked: whole(client, count), within=20)
                    self.outcomes[f"{client.response.status}"] += 1
                    if client.response.header("connection") == "close":
                        break
                    await asyncio.sleep(2 * KEPT * INTERVAL)

    async def single(self) -> None:
        """Requests on a connection of their own, until it is cancelled."""
        while True:
            async with await RawClient.connect(self._url) as client:
                client.send(request("/plain", "Connection: close"))
                await client.wait_end(within=20)
                self.outcomes[f"{client.response.status}, {client.body!r}"] += 1
            await asyncio.sleep(2 * INTERVAL)


def whole(client: RawClient, count: int) -> bool:
    """Whether a client has so many responses, each whole."""
    return len(client.responses) == count and client.response.complete


async def until(condition: Callable[[], bool], within: float) -> None:
    give_up_at = asyncio.get_running_loop().time() + within
    while not condition():
        assert asyncio.get_running_loop().time() < give_up_at
        await asyncio.sleep(0.05)


def test_no_connection_is_refused_and_no_request_is_lost(tmp_path: Path) -> None:
    async def story() -> None:
        (tmp_path / "new").mkdir()
        async with RawUpstream(script) as upstream:
            text = config(upstream, before=BEFORE)
            with running_proxy(tmp_path, config=text) as old:
                load = Load(old.url)
                async with asyncio.TaskGroup() as tasks:
                    running = [tasks.create_task(load.stream()) for _ in range(STREAMS)]
                    running += [tasks.create_task(load.kept()) for _ in range(KEPT)]
                    running.append(tasks.create_task(load.single()))
                    await until(lambda: load.live == STREAMS and load.outcomes.total() > 50, 60)
                    address = ("--listen", f"127.0.0.1:{old.port}")
                    with running_proxy(tmp_path / "new", config=text, arguments=address) as new:
                        old.send_signal(signal.SIGTERM)
                        assert await asyncio.to_thread(old.wait, 30) == 0
                        before = load.outcomes.total()
                        await until(lambda: load.live == STREAMS and load.outcomes.total() > before + 50, 60)
                        assert len(new.streams()["streams"]) == STREAMS
                        for task in running:
                            task.cancel()
                assert load.told_to_leave >= STREAMS
                assert set(load.outcomes) == {"200", "200, b'whole'"}
                assert "cut=0" in old.log

    with descriptors(4 * STREAMS):
        run(story(), within=180)
