"""The first opening: what is tried again before a client has a status, and what passes at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import cast

import pytest

from sse_keepalive_proxy.errors import UpstreamRefused
from sse_keepalive_proxy.gateway import attempts
from sse_keepalive_proxy.gateway.attempts import first_answer
from sse_keepalive_proxy.http import openings
from sse_keepalive_proxy.http.attempts import Answer, Attempt
from sse_keepalive_proxy.http.openings import Openings
from sse_keepalive_proxy.observe.registry import Spread
from sse_keepalive_proxy.stream.policy import Reconnect
from tests.support.http1 import request
from tests.support.instance import EVENT_SOURCE, Instance, config
from tests.support.raw_upstream import (
    GOT_REQUEST,
    RESET,
    RawUpstream,
    Step,
    UpstreamConnection,
    response,
    stream_head,
)
from tests.support.running import on_each_loop

SILENT = [GOT_REQUEST, stream_head()]
FAST = "reconnect: {delay: 10ms, max_delay: 20ms}\n"
BUSY = response("503 Busy", b"come again\n")


def now() -> float:
    return asyncio.get_running_loop().time()


# What is tried again.


@on_each_loop
async def test_an_event_source_outlasts_an_upstream_that_is_not_up_yet() -> None:
    async with RawUpstream(SILENT) as upstream, Instance(config(upstream, FAST)) as proxy:
        upstream.refuse()
        async with await proxy.event_source() as client:
            await proxy.until(lambda: proxy.metric("upstream_errors_total", kind="refused") >= 2)
            assert client.received == b""
            await upstream.start()
            await client.wait_for(b"connection_confirmed")
            assert client.response.status == 200
        assert len(upstream.connections) == 1
        assert proxy.opened() == 1


FAULTS: dict[str, list[Step]] = {
    "503": [GOT_REQUEST, BUSY],
    "502 with a body that never ends": [GOT_REQUEST, b"HTTP/1.1 502 Bad\r\ncontent-length: 9\r\n\r\nx"],
    "reset before the head": [GOT_REQUEST, RESET],
    "reset in the head": [GOT_REQUEST, b"HTTP/1.1 200 OK\r\ncontent-ty", RESET],
    "not HTTP": [GOT_REQUEST, b"SSH-2.0-x\r\n\r\n"],
    "no head in time": [GOT_REQUEST],
}


@on_each_loop
@pytest.mark.parametrize("fault", FAULTS)
async def test_an_event_source_never_hears_of_a_fault_that_passes(fault: str) -> None:
    section = FAST + "open_timeout: 500ms" if fault == "no head in time" else FAST
    async with (
        RawUpstream(FAULTS[fault], FAULTS[fault], SILENT) as upstream,
        Instance(config(upstream, section)) as proxy,
        await proxy.event_source("/events?access_token=t", "Last-Event-ID: 5") as client,
    ):
        await client.wait_for(b"connection_confirmed")
        assert client.response.status == 200
        assert len(upstream.connections) == 3
        assert len({bytes(connection.received) for connection in upstream.connections}) == 1
        await upstream.wait_connections(1)
        assert proxy.metric("requests_total", method="GET", code="200") == 1


@on_each_loop
async def test_a_retry_after_within_the_window_is_a_minimum() -> None:
    asked_at = []

    async def script(connection: UpstreamConnection) -> None:
        await connection.next_request()
        asked_at.append(now())
        again = response("429 Too Many", b"", "Retry-After: 1")
        await connection.send(stream_head() if len(asked_at) == 2 else again)

    async with (
        RawUpstream(script) as upstream,
        Instance(config(upstream, FAST)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"connection_confirmed")
        first, second = asked_at
        assert second - first >= 0.999


@on_each_loop
@pytest.mark.parametrize("demanded", [(), ("Retry-After: 1",)])
async def test_an_upstream_that_is_back_for_another_client_is_asked_soon(
    monkeypatch: pytest.MonkeyPatch, demanded: tuple[str, ...]
) -> None:
    monkeypatch.setattr(attempts, "_LONGEST_FIRST_WAIT", 1e6)
    monkeypatch.setattr(openings, "_WITHIN", 0.2)
    asked_at = []

    async def script(connection: UpstreamConnection) -> None:
        asked_at.append(now())
        await connection.next_request()
        busy = len(asked_at) == 1
        await connection.send(response("503 Busy", b"", *demanded) if busy else stream_head())

    async with (
        RawUpstream(script) as upstream,
        Instance(config(upstream, "reconnect: {delay: 12h, max_delay: 12h, first_within: 24h}")) as proxy,
        await proxy.event_source() as waits,
    ):
        await (await upstream.connection(0)).wait_closed()
        async with await proxy.event_source() as another:
            await another.wait_for(b"connection_confirmed")
            await waits.wait_for(b"connection_confirmed")
            first, _, second = asked_at
            assert second - first >= len(demanded) * 0.999


# What counts in the end.


@on_each_loop
async def test_a_retry_after_beyond_the_window_passes_at_once_with_its_body() -> None:
    async with (
        RawUpstream([GOT_REQUEST, response("503 Busy", b"later\n", "Retry-After: 9")]) as upstream,
        Instance(config(upstream, FAST)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        assert (client.response.status, client.body) == (503, b"later\n")
        assert client.response.header("Retry-After") == "9"
        assert len(upstream.connections) == 1
        assert proxy.metric("requests_total", method="GET", code="503") == 1


@on_each_loop
async def test_a_conflict_passes_at_once_because_no_stream_of_this_client_was_lost() -> None:
    async with (
        RawUpstream([GOT_REQUEST, response("409 Conflict", b"taken\n")]) as upstream,
        Instance(config(upstream, FAST)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        assert (client.response.status, client.body) == (409, b"taken\n")
        assert len(upstream.connections) == 1


@on_each_loop
async def test_after_the_window_the_last_real_answer_counts_with_its_body() -> None:
    async def script(connection: UpstreamConnection) -> None:
        await connection.next_request()
        await connection.send(response("503 Busy", b"%d" % len(upstream.connections), "X-Mine: 1"))

    section = "reconnect: {delay: 10ms, max_delay: 20ms, first_within: 600ms}"
    async with (
        RawUpstream(script) as upstream,
        Instance(config(upstream, section)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        assert client.response.status == 503
        assert client.response.header("X-Mine") == "1"
        assert int(client.body) == len(upstream.connections) > 1
        await upstream.wait_all_closed()
        assert proxy.metric("requests_total", method="GET", code="503") == 1
        assert proxy.opened() == 0


@on_each_loop
async def test_after_the_window_the_last_error_is_a_502_and_every_attempt_was_counted() -> None:
    section = "reconnect: {delay: 10ms, max_delay: 20ms, first_within: 600ms}"
    async with RawUpstream(SILENT) as upstream, Instance(config(upstream, section)) as proxy:
        upstream.refuse()
        async with await proxy.event_source() as client:
            await client.wait_response()
            assert client.response.status == 502
            assert client.body == b'route "events": upstream cannot be reached\n'
        assert proxy.metric("upstream_errors_total", kind="refused") > 1
        assert proxy.metric("requests_total", method="GET", code="502") == 1


@on_each_loop
async def test_a_drain_ends_the_tries_with_the_real_status() -> None:
    async with (
        RawUpstream([GOT_REQUEST, BUSY]) as upstream,
        Instance(config(upstream, "reconnect: {delay: 10ms, max_delay: 20ms, first_within: 1h}")) as proxy,
        await proxy.event_source() as client,
    ):
        await upstream.connection(2)
        assert client.received == b""
        proxy.server.streams.drain(Spread(now(), now() + 60, now() + 60))
        await client.wait_response()
        assert (client.response.status, client.body) == (503, b"come again\n")


@on_each_loop
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("when", ["between two attempts", "while upstream is asked"])
async def test_a_client_that_leaves_meanwhile_ends_the_tries_and_leaves_nothing_open(
    how: str, when: str
) -> None:
    waits = when == "between two attempts"
    section = f"reconnect: {{delay: {'1h' if waits else '1ms'}, max_delay: 1h, first_within: 10h}}"
    scripts = [[GOT_REQUEST, BUSY], [GOT_REQUEST]]
    async with RawUpstream(*scripts) as upstream, Instance(config(upstream, section)) as proxy:
        client = await proxy.event_source()
        await (await upstream.connection(0 if waits else 1)).request()
        if waits:
            await upstream.wait_all_closed()
        {"close": client.transport.close, "reset": client.abort}[how]()
        await proxy.until(lambda: len(proxy.server.streams) == 0)
        await upstream.wait_all_closed()
        assert proxy.metric("requests_total", method="GET", code="499") == 1
        assert len(upstream.connections) <= 2
        await client.close()


# What passes at once.


@on_each_loop
@pytest.mark.parametrize(
    "status", ["204 No Content", "301 Moved", "400 Bad", "401 No", "403 No", "404 Not Found", "501 No"]
)
async def test_a_status_that_is_no_passing_fault_passes_at_once(status: str) -> None:
    async with (
        RawUpstream([GOT_REQUEST, response(status, b"" if "204" in status else b"why")]) as upstream,
        Instance(config(upstream, FAST)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        assert client.response.status == int(status[:3])
        assert client.body == (b"" if "204" in status else b"why")
        assert len(upstream.connections) == 1


@on_each_loop
@pytest.mark.parametrize(
    "data",
    [
        request("/events", "Accept: */*"),
        request("/events", "Accept: text/event-stream, */*"),
        request("/events", EVENT_SOURCE, method="POST", body=b"{}"),
        request("/events", EVENT_SOURCE, body=b"{}"),
        request("/other", EVENT_SOURCE),
    ],
    ids=["any type", "several types", "POST", "a body", "no stream route"],
)
async def test_others_than_an_event_source_get_the_real_status_at_once(data: bytes) -> None:
    async with (
        RawUpstream([GOT_REQUEST, BUSY], SILENT) as upstream,
        Instance(config(upstream, "reconnect: {when: always, delay: 10ms}")) as proxy,
        await proxy.client() as client,
    ):
        client.send(data, method="GET")
        await client.wait_response()
        assert (client.response.status, client.body) == (503, b"come again\n")
        assert len(upstream.connections) == 1


@on_each_loop
@pytest.mark.parametrize("section", ["reconnect: off", "reconnect: {first_within: off}"])
async def test_where_it_is_off_an_event_source_gets_it_at_once_too(section: str) -> None:
    async with (
        RawUpstream([GOT_REQUEST, BUSY], SILENT) as upstream,
        Instance(config(upstream, section)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        assert client.response.status == 503
        assert len(upstream.connections) == 1


@on_each_loop
async def test_statuses_are_the_configurations_to_say() -> None:
    section = "reconnect: {delay: 10ms, on_status: [404]}"
    async with (
        RawUpstream([GOT_REQUEST, response("404 Not Yet")], [GOT_REQUEST, BUSY]) as upstream,
        Instance(config(upstream, section)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        assert client.response.status == 503
        assert len(upstream.connections) == 2


class Refusing:
    """An upstream that refuses every attempt, `hook` being called first; and what it was asked, when.
    `began_at` and `over_at`: when `asked` did.
    """

    def __init__(self) -> None:
        self.hook: Callable[[], None] = lambda: None
        self.given: list[float | None] = []
        self.at: list[float] = []
        self.began_at = self.over_at = 0.0
        self.told: list[str] = []
        self.openings = Openings(64)

    async def make(self, within: float | None = None) -> Answer:
        self.hook()
        self.given.append(within)
        self.at.append(now())
        raise UpstreamRefused(f"attempt {len(self.given)}", "")

    async def asked(self, policy: Reconnect, leaving: asyncio.Event | None = None) -> str:
        """Ask until the end of the window; the error that counts."""
        leaving = leaving or asyncio.Event()
        self.began_at = now()
        with pytest.raises(UpstreamRefused) as last:
            await first_answer(
                cast(Attempt, self),
                policy,
                failed=lambda cause: self.told.append(str(cause)),
                leaving=leaving,
                openings=self.openings,
            )
        self.over_at = now()
        return str(last.value)


@on_each_loop
async def test_a_later_attempt_has_no_longer_for_its_connection_than_the_window_is_open() -> None:
    upstream = Refusing()
    error = await upstream.asked(Reconnect(first_within=0.6, delay=0.01, max_delay=0.02))
    first, *later = upstream.given
    assert first is None
    assert len(later) > 1
    assert all(within == 1.0 for within in later)  # but never so little that it could not be answered
    assert upstream.told == [f"attempt {number}" for number in range(1, len(upstream.given))]
    assert error == f"attempt {len(upstream.given)}"


@on_each_loop
async def test_the_window_is_used_to_its_end_whatever_waits_are_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for drawn in (0.0, 0.5, 0.999):
        monkeypatch.setattr(random, "random", lambda drawn=drawn: drawn)
        upstream = Refusing()
        await upstream.asked(Reconnect(first_within=0.4, delay=60.0 if drawn else 0.01, max_delay=60.0))
        assert upstream.over_at - upstream.began_at >= 0.3
        assert len(upstream.at) > 1
        if drawn:
            assert upstream.at[-1] - upstream.began_at >= 0.3
            assert len(upstream.at) <= 5  # and with no burst at its end


@on_each_loop
async def test_a_drain_ends_the_wait_with_one_last_attempt() -> None:
    leaving = asyncio.Event()
    upstream = Refusing()

    def told_to_end() -> None:
        asyncio.get_running_loop().call_soon(leaving.set)

    upstream.hook = told_to_end
    error = await upstream.asked(Reconnect(first_within=3600.0, delay=3600.0, max_delay=3600.0), leaving)
    assert error == "attempt 2"
