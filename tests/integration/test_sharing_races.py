"""Answers and events of several streams of upstream that the proxy finds at once: nothing is lost, and the
stream stays that has the only place (behaviour.md#sharing).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.integration.test_sharing import ASKED, SHARE, TAB, data_of, group
from tests.support.instance import Instance
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import (
    GOT_REQUEST,
    HOLD,
    LAST_CHUNK,
    Script,
    chunk,
    stream_head,
)
from tests.support.running import on_each_loop, soon

UNANSWERED: Script = [GOT_REQUEST, HOLD]
HEAD = stream_head("Vary: *")
_ONE_TURN = 128
"""The most sockets that the proxy reads in one turn of its loop."""


class Crowd:
    """Connections to the proxy that keep it busy for one turn."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets

    def stirs(self) -> None:
        """What comes to the proxy after this call is read one turn later than what came before it."""
        for each in self._sockets:
            each.send(b"G")


@contextlib.asynccontextmanager
async def crowd(proxy: Instance) -> AsyncIterator[Crowd]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(_ONE_TURN)]
        for each in sockets:
            each.connect(("127.0.0.1", proxy.port))
        before = len(proxy.proxy.frontend.connections)
        await soon(lambda: len(proxy.proxy.frontend.connections) >= before + _ONE_TURN)
        yield Crowd(sockets)


async def heard(data: list[str], *clients: RawClient) -> None:
    for client in clients:
        await client.wait_for(lambda client: len(data_of(client)) >= len(data))
        assert data_of(client) == data


@on_each_loop
async def test_events_that_wait_in_the_old_stream_come_before_the_new_one_takes_its_place() -> None:
    async with (
        group(ASKED, UNANSWERED, tabs=1) as (upstream, proxy, [one]),
        await proxy.event_source(TAB) as two,
        crowd(proxy) as others,
    ):
        old, new = await upstream.connection(), await upstream.connection(1)
        await new.request()
        new.put(HEAD)
        others.stirs()
        old.put(chunk(b"data: 1\n\n") + chunk(b"data: 2\n\n"))
        await soon(lambda: old.ending is not None)
        new.put(chunk(b"data: 3\n\n"))
        await heard(["1", "2", "3"], one, two)
        assert proxy.metric("upstream_reconnects_total", result="reopened") == 0


STALLS = SHARE + (
    "reconnect: {when: always, delay: 10ms}\nstall: {after: 200ms, sign_of_life: events, action: reconnect}\n"
)


@on_each_loop
@pytest.mark.parametrize("handled", ["joiner, attempt", "attempt, joiner", "at once"])
@pytest.mark.parametrize("asked_last", ["joiner", "attempt"])
async def test_of_two_answers_for_a_stalled_stream_the_one_that_was_asked_for_last_stays(
    asked_last: str, handled: str
) -> None:
    # The server has one place for each user, and has ended both streams before the last one.
    async with AsyncExitStack() as stack:
        upstream, proxy, [one] = await stack.enter_async_context(
            group(ASKED, UNANSWERED, UNANSWERED, stream=STALLS, tabs=1)
        )
        others = await stack.enter_async_context(crowd(proxy))
        old = await upstream.connection()
        if asked_last == "joiner":
            await (await upstream.connection(1)).request()
        two = await stack.enter_async_context(await proxy.event_source(TAB))
        first, last = await upstream.connection(1), await upstream.connection(2)
        await last.request()
        attempt, joiner = (first, last) if asked_last == "joiner" else (last, first)
        earlier, later = (joiner, attempt) if handled == "joiner, attempt" else (attempt, joiner)
        earlier.put(HEAD)
        if handled != "at once":
            others.stirs()
        later.put(HEAD)
        others.stirs()
        old.put(chunk(b"data: 1\n\n") + LAST_CHUNK)
        first.put(chunk(b"data: 2\n\n") + LAST_CHUNK)
        last.put(chunk(b"data: 3\n\n"))
        await one.wait_for(lambda one: len(data_of(one)) == 3)
        last.put(chunk(b"data: 4\n\n"))
        for client in (one, two):
            await client.wait_for(b"data: 4")
        assert sorted(data_of(one)) == ["1", "2", "3", "4"]
        # One for `one`, one for `two`, and one for the stall: on a slow machine there may be another stall.
        assert len(upstream.connections) <= 2 + proxy.metric("upstream_stalls_total")
