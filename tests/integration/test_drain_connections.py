"""Kept connections during a drain: no request is lost that left its client within the grace."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import pytest

from tests.support.http1 import request
from tests.support.instance import Instance, config
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import RawUpstream, UpstreamConnection, response, stream_head
from tests.support.running import on_each_loop, soon

pytestmark = pytest.mark.usefixtures("on_both")
CONNECTIONS = 300
GRACE = 0.6  # seconds
LAST_MOMENT = 0.9  # seconds after the beginning of the drain


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request that was sent `at` seconds after the drain began."""

    at: float
    answered: bool
    says_close: bool


async def script(connection: UpstreamConnection) -> None:
    asked = await connection.next_request()
    await connection.send(stream_head() if asked.target == "/events" else response(body=b"whole"))


async def ask_during(client: RawClient, began_at: asyncio.Future[float]) -> Outcome:
    """Send a request, in one piece or in two, at a random moment of the drain."""
    loop = asyncio.get_running_loop()
    beginning = await began_at
    await asyncio.sleep(random.uniform(0, LAST_MOMENT))
    raw = request("/plain")
    if random.random() < 0.3:
        half = random.randrange(1, len(raw))
        client.send(raw[:half])
        at = loop.time() - beginning  # from its first byte on the connection is not idle any more
        await asyncio.sleep(random.uniform(0, LAST_MOMENT))
        client.send(raw[half:])
    else:
        client.send(raw)
        at = loop.time() - beginning
    await client.wait_end(within=20)
    answer = client.responses[-1]
    answered = len(client.responses) == 2 and answer.complete and bytes(answer.body) == b"whole"
    return Outcome(at, answered, answer.header("connection") == "close")


@on_each_loop
async def test_no_request_is_lost_that_left_its_client_within_the_grace() -> None:
    drain = f"drain: {{timeout: 20s, spread: 2s, idle_grace: {round(GRACE * 1000)}ms}}"
    loop = asyncio.get_running_loop()
    async with RawUpstream(script) as upstream, Instance(config(upstream, before=drain)) as proxy:
        stream = await proxy.event_source()
        await stream.wait_for(b"connection_confirmed")
        clients = [await proxy.client() for _ in range(CONNECTIONS)]
        for client in clients:
            client.send(request("/plain"))
        for client in clients:
            await client.wait_response()
        await soon(lambda: proxy.idle)
        began_at: asyncio.Future[float] = loop.create_future()
        asking = [asyncio.create_task(ask_during(client, began_at)) for client in clients]
        await asyncio.sleep(0)  # all of them wait now
        began_at.set_result(loop.time())
        draining = asyncio.create_task(proxy.server.drain(asyncio.Event()))
        outcomes = await asyncio.gather(*asking)
        await draining
        for client in (*clients, stream):
            await client.close()
    in_time = [outcome for outcome in outcomes if outcome.at < GRACE]
    assert len(in_time) > CONNECTIONS / 10  # two thirds, unless the machine stands still meanwhile
    assert [outcome for outcome in in_time if not (outcome.answered and outcome.says_close)] == []
