"""A thousand streams under traffic when the process is told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path

from tests.integration.test_many_streams import a_client, descriptors
from tests.support.instance import config
from tests.support.looping import run
from tests.support.proxy_process import ProxyProcess, running_proxy
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import RawUpstream, UpstreamConnection, chunk, stream_head
from tests.support.sockets import Ending

CLIENTS = 1000
SPREAD, TIMEOUT = 5, 20  # seconds
DRAIN = f"drain: {{timeout: {TIMEOUT}s, spread: {SPREAD}s}}"
HALF = 0.3  # seconds between two halves of an event: at any time half of the streams are inside one


def block(number: int) -> bytes:
    return b"id: %d\ndata: event %d\n\n" % (number, number)


class Numbering:
    """An upstream that counts aloud on each connection, one event in two pieces after the other."""

    def __init__(self) -> None:
        self.begun: list[int] = []  # how many events were begun, in the order in which connections were lost

    async def script(self, connection: UpstreamConnection) -> None:
        await connection.next_request(within=60)
        await connection.send(stream_head())
        number = 0
        try:
            while connection.ending is None:
                whole = block(number)
                number += 1
                await connection.send(chunk(whole[:11]))
                await asyncio.sleep(HALF)
                await connection.send(chunk(whole[11:]))
                await asyncio.sleep(HALF)
        finally:
            self.begun.append(number)


def blocks(client: RawClient) -> list[bytes]:
    """What the client got, block by block; the last one is what is behind the last blank line."""
    return [part + b"\n\n" for part in client.body.split(b"\n\n")[:-1]]


def test_a_thousand_streams_end_one_by_one_each_with_all_that_upstream_had_sent(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        numbering = Numbering()
        async with RawUpstream(numbering.script) as upstream:
            with running_proxy(tmp_path, config=config(upstream, before=DRAIN)) as proxy:
                clients = await asyncio.gather(*(a_client(proxy) for _ in range(CLIENTS)))
                for client in clients:
                    await client.wait_for(block(1), within=30)
                await told_to_stop(proxy, clients)
            await upstream.wait_all_closed()
        # What upstream had begun when a stream was to end was waited for, else half of the streams would lack
        # an event. Bytes can still be on their way.
        received = sum(len(blocks(client)) - 2 for client in clients)
        assert sum(numbering.begun) - received < CLIENTS * 0.4
        await asyncio.gather(*(client.close() for client in clients))

    with descriptors(4 * CLIENTS):
        run(story(), within=120)


async def told_to_stop(proxy: ProxyProcess, clients: list[RawClient]) -> None:
    proxy.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(proxy.wait) == 0  # `cut=0` below: not by its timeout
    for client in clients:
        assert await client.wait_end() is Ending.EOF
        assert client.response.complete
        assert client.body.endswith(b"\n\n")
        confirm, *events, farewell = blocks(client)
        assert b"connection_confirmed" in confirm
        assert events == [block(number) for number in range(len(events))]
        assert farewell.startswith(b"event: stream_closing\nretry: ")
        assert b'"reason":"drain"' in farewell
    first = min(client.arrivals[-1].at for client in clients)
    ends = Counter(int(client.arrivals[-1].at - first) for client in clients)
    assert set(range(SPREAD)) <= set(ends), f"ended in each second: {sorted(ends.items())}"
    assert proxy.log.count("reason=drain") == CLIENTS
    assert "cut=0" in proxy.log
