"""Many clients that come at one instant: all at a server whose openings are expensive, and all at once when a
server that they have lost is back.

`herd` and `comeback` are the measurements; the tests are small ones that the suite can afford.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from sse_keepalive_proxy.demo.knobs import Knobs
from sse_keepalive_proxy.demo.notify_server import NotifyServer
from sse_keepalive_proxy.demo.openings import CONNECTIONS
from sse_keepalive_proxy.http import openings
from tests.integration.test_many_streams import descriptors
from tests.integration.test_restarts import RECOVERED, everybody, recoveries
from tests.support.instance import EVENT_SOURCE
from tests.support.looping import run
from tests.support.proxy_process import running_proxy
from tests.support.raw_client import RawClient
from tests.support.stand_in import Killable, event_source, example, healing

CLIENTS = 200
CONFIRM = b'{"type":"connection_confirmed","stream_id":'


async def herd(directory: Path, clients: int) -> list[tuple[float, float]]:
    """The seconds until each of so many clients has its response head, and its confirm."""
    async with Killable(clients, "silent") as upstream:
        with running_proxy(directory, config=example(upstream.url)) as proxy:
            streams = [await RawClient.connect(proxy.url) for _ in range(clients)]
            asked_at = asyncio.get_running_loop().time()
            for stream, target in zip(streams, upstream.targets, strict=True):
                stream.request(target, EVENT_SOURCE)
            await everybody(streams, CONFIRM, 1)
            await asyncio.gather(*(stream.close() for stream in streams))
    return [(stream.arrivals[0].at - asked_at, _at(stream, CONFIRM) - asked_at) for stream in streams]


def _at(client: RawClient, marker: bytes) -> float:
    return next(arrival.at for arrival in client.arrivals if marker in arrival.data)


async def comeback(directory: Path, clients: int, away: float, **values: str) -> list[float]:
    """The seconds until each of so many clients is back at an upstream that was `away` for a time. `values`
    as for `example`.
    """
    async with Killable(clients, knobs=Knobs(opening_cost=0.0)) as upstream:
        with running_proxy(directory, config=example(upstream.url, **values)) as proxy:
            streams = [await RawClient.connect(proxy.url) for _ in range(clients)]
            for stream, target in zip(streams, upstream.targets, strict=True):
                stream.request(target, EVENT_SOURCE)
            await everybody(streams, CONFIRM, 1)
            upstream.kill()
            await asyncio.sleep(away)
            await upstream.start()
            listens_at = asyncio.get_running_loop().time()
            await everybody(streams, RECOVERED, 1)
            assert all(stream.ending is None for stream in streams)
            await asyncio.gather(*(stream.close() for stream in streams))
    return [recoveries(stream)[0] - listens_at for stream in streams]


async def most(count: Callable[[], int]) -> int:
    """The highest count, until it is cancelled."""
    highest = 0
    try:
        while True:
            highest = max(highest, count())
            await asyncio.sleep(0.001)
    except asyncio.CancelledError:
        return highest


async def confirmed(proxy_url: str, notify: NotifyServer) -> None:
    async with await event_source(proxy_url, notify) as client:
        await client.wait_for(CONFIRM, within=60)


def test_clients_that_come_at_one_instant_are_opened_sixty_four_at_a_time(tmp_path: Path) -> None:
    async def story() -> None:
        async with healing(tmp_path) as (notify, proxy):
            watching = asyncio.create_task(most(lambda: notify._openings.under_way))
            await asyncio.gather(*(confirmed(proxy.url, notify) for _ in range(CLIENTS)))
            watching.cancel()
            highest = await watching
            assert highest <= 64 < CONNECTIONS < CLIENTS
            assert proxy.metric("sse_proxy_upstream_openings_waiting", upstream="notify") == 0

    with descriptors(4 * CLIENTS):
        run(story(), within=120)


def test_an_upstream_that_was_away_has_all_its_clients_back_long_before_their_waits_end(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        away = openings._WITHIN + 0.2  # after a shorter time nobody is called back
        returned = await comeback(tmp_path, CLIENTS, away, delay="1m", max_delay="1m")
        assert max(returned) < 30.0  # the longest of 200 random waits is about a minute

    with descriptors(4 * CLIENTS):
        run(story(), within=120)
