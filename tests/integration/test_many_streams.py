"""Many streams at once, on the proxy as users run it: a process of its own."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.instance import EVENT_SOURCE, config
from tests.support.looping import run
from tests.support.proxy_process import ProxyProcess, running_proxy
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import GOT_REQUEST, RawUpstream, stream_head

CLIENTS = 1000
STREAM = "keepalive: {interval: 1s}"


@contextmanager
def descriptors(count: int) -> Iterator[None]:
    """Room for so many open files, in this process and in those it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.fail(f"the descriptor limit of this machine is {hard}; {count} are needed (`ulimit -Hn`)")
    enough = soft == resource.RLIM_INFINITY or soft >= count
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft if enough else count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def a_client(proxy: ProxyProcess) -> RawClient:
    client = await RawClient.connect(proxy.url)
    client.request("/events", EVENT_SOURCE)
    await client.wait_for(b"connection_confirmed", within=30)
    return client


def test_a_thousand_clients_of_a_silent_upstream_are_confirmed_and_kept_alive(tmp_path: Path) -> None:
    async def story() -> None:
        async with RawUpstream([GOT_REQUEST, stream_head()]) as upstream:
            with running_proxy(tmp_path, config=config(upstream, STREAM)) as proxy:
                await told(upstream, proxy)

    async def told(upstream: RawUpstream, proxy: ProxyProcess) -> None:
        clients = await asyncio.gather(*(a_client(proxy) for _ in range(CLIENTS)))
        assert proxy.metric("sse_proxy_confirms_sent_total", route="events", form="event") == CLIENTS
        assert sum(client.body.count(b"connection_confirmed\n") for client in clients) == CLIENTS
        assert upstream.open_connections == CLIENTS

        for client in clients:
            await client.wait_for(lambda client: client.body.count(b":ping\n") >= 4, within=30)
        assert all(client.ending is None for client in clients)
        metrics = proxy.metrics()
        closed = [value for (name, _), value in metrics.items() if name == "sse_proxy_streams_closed_total"]
        assert sum(closed) == 0
        assert proxy.metric("sse_proxy_pings_sent_total", route="events", form="comment") >= 4 * CLIENTS
        assert len(proxy.streams()["streams"]) == CLIENTS

        await asyncio.gather(*(client.close() for client in clients))
        await upstream.wait_all_closed(within=30)
        labels = {"route": "events", "reason": "client_gone"}
        proxy.wait_for_metric("sse_proxy_streams_closed_total", CLIENTS, **labels)
        assert proxy.stop() == 0

    with descriptors(4 * CLIENTS):
        run(story(), within=120)
