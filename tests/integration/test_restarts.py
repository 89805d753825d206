"""Upstream killed and started again, many times, under many clients: the storm that reconnecting must not be.
And what is never asked twice, whatever becomes of it: a request with a body.

`storm` is the measurement; the test is a small one that the suite can afford.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.integration.test_many_streams import descriptors
from tests.support.instance import EVENT_SOURCE, Instance, config
from tests.support.looping import run
from tests.support.proxy_process import ProxyProcess, running_proxy
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import (
    CLOSE,
    GOT_REQUEST,
    LAST_CHUNK,
    RESET,
    RawUpstream,
    chunk,
    response,
    stream_head,
)
from tests.support.running import on_each_loop
from tests.support.stand_in import Killable, example

CLIENTS, RESTARTS = 200, 4
BUCKET = 0.05  # seconds
RECOVERED = b"event: stream_recovered\n"


async def a_client(proxy: ProxyProcess, target: str) -> RawClient:
    client = await RawClient.connect(proxy.url)
    client.request(target, EVENT_SOURCE)
    await client.wait_for(b"connection_confirmed", within=30)
    return client


def recoveries(client: RawClient) -> list[float]:
    """When the client was told of the end of each gap."""
    return [arrival.at for arrival in client.body_arrivals if RECOVERED in arrival.data]


async def everybody(clients: Sequence[RawClient], marker: bytes, times: int) -> None:
    """Wait until each client has got this so many times. ConnectionError when one of them has ended."""
    for client in clients:
        await client.wait_for(lambda client: client.body.count(marker) >= times, within=60)


async def storm(directory: Path, clients: int, restarts: int) -> list[list[float]]:
    """For each restart, how many seconds after upstream listens again each client has it back."""
    now = asyncio.get_running_loop().time
    async with Killable(clients) as upstream:
        with running_proxy(directory, config=example(upstream.url)) as proxy:
            streams = await asyncio.gather(*(a_client(proxy, target) for target in upstream.targets))
            listens_at = []
            for number in range(restarts):
                # A sign of life: without it the waits of one outage go on where those of the last one ended.
                assert (await upstream.say(f"round {number}")).delivered == clients
                await everybody(streams, f'"content":"round {number}"'.encode(), 1)
                upstream.kill()
                await upstream.start()
                listens_at.append(now())
                await everybody(streams, RECOVERED, number + 1)
            assert (await upstream.say("the last")).delivered == clients
            await everybody(streams, b'"content":"the last"', 1)
            _nobody_noticed(proxy, streams, restarts)
            await asyncio.gather(*(client.close() for client in streams))
    seen = [recoveries(client) for client in streams]
    return [[at[number] - listens_at[number] for at in seen] for number in range(restarts)]


def _nobody_noticed(proxy: ProxyProcess, clients: Sequence[RawClient], restarts: int) -> None:
    """No end, no error, every gap told once and every message there once."""
    for client in clients:
        assert client.ending is None
        assert [event.type for event in client.events].count("stream_recovered") == restarts
        assert client.body.count(b'"reason":"upstream_reset"') == restarts
        assert client.body.count(b'"type":"new_message"') == restarts + 1
        assert client.body.count(b"connection_confirmed") == 1 + 1 + restarts  # ours, and each upstream's
    metrics = proxy.metrics()
    closed = [value for (name, _), value in metrics.items() if name == "sse_proxy_streams_closed_total"]
    assert sum(closed) == 0
    reopened = proxy.metric("sse_proxy_upstream_reconnects_total", route="events", result="reopened")
    assert reopened == restarts * len(clients)


def test_upstream_is_killed_again_and_again_and_no_client_sees_an_end_or_comes_back_with_all_others(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        storms = await storm(tmp_path, CLIENTS, RESTARTS)
        crowds = sorted(max(Counter(after // BUCKET for after in each).values()) for each in storms)
        assert crowds[-2] < CLIENTS / 2  # a machine that stands still for a moment makes one crowd itself

    with descriptors(4 * CLIENTS):
        run(story(), within=120)


ASKED = b'{"model":"gpt","stream":true,"messages":[]}'
ANSWER = b'data: {"choices":[{"delta":{"content":"42"}}]}\n\ndata: [DONE]\n\n'
ALWAYS = "reconnect: {when: always, delay: 1ms}\nkeepalive: {interval: 10s}\nstall: off"
EARLY = "early_commit: {after: 1ms, methods: [POST]}"


async def an_answer(proxy: Instance) -> RawClient:
    """An LLM's client that has sent its prompt."""
    client = await proxy.client()
    fields = ("Accept: application/json", "Content-Type: application/json")
    client.request("/events", *fields, method="POST", body=ASKED)
    return client


@pytest.mark.parametrize("more", ["", EARLY], ids=["asked first", "committed early"])
@on_each_loop
async def test_a_finished_answer_to_a_post_is_never_asked_for_again(more: str) -> None:
    script = [GOT_REQUEST, go := asyncio.Event(), stream_head(), chunk(ANSWER), LAST_CHUNK, CLOSE]
    async with RawUpstream(script) as upstream:
        async with Instance(config(upstream, f"{ALWAYS}\n{more}")) as proxy, await an_answer(proxy) as client:
            if more:
                await client.wait_for(b":ok")
            go.set()
            await client.wait_response()
            assert client.body == b":ok\n\n" + ANSWER
            await proxy.until_closed("upstream_end")
        (connection,) = upstream.connections
        (request,) = connection.requests
        assert request.body == ASKED


@pytest.mark.parametrize("more", ["", EARLY], ids=["asked first", "committed early"])
@on_each_loop
async def test_an_answer_to_a_post_that_breaks_off_is_not_asked_for_again(more: str) -> None:
    script = [GOT_REQUEST, go := asyncio.Event(), stream_head(), chunk(ANSWER[:-14]), RESET]
    async with RawUpstream(script) as upstream:
        async with Instance(config(upstream, f"{ALWAYS}\n{more}")) as proxy, await an_answer(proxy) as client:
            if more:
                await client.wait_for(b":ok")
            go.set()
            await client.wait_end()
            assert not client.response.complete  # nothing pretends that this was all
            await proxy.until_closed("upstream_reset")
        assert len(upstream.connections) == 1


@pytest.mark.parametrize("status", ["503 Service Unavailable", "429 Too Many Requests"])
@on_each_loop
async def test_a_post_that_upstream_has_no_time_for_gets_the_real_status_at_once(status: str) -> None:
    async with (
        RawUpstream([GOT_REQUEST, response(status, body=b"later")]) as upstream,
        Instance(config(upstream, ALWAYS)) as proxy,
        await an_answer(proxy) as client,
    ):
        answer = await client.wait_response()
        assert (answer.status, bytes(answer.body)) == (int(status[:3]), b"later")
        assert len(upstream.connections) == 1
