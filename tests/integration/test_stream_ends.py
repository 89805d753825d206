"""How a stream ends: each reason, what the client sees of it, and that upstream is let go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from sse_keepalive_proxy.demo.knobs import Knobs
from sse_keepalive_proxy.demo.notify_server import NotifyServer
from sse_keepalive_proxy.live.signs_of_life import Inspection
from sse_keepalive_proxy.stream.messages import CloseReason
from tests.support.http1 import joined, request
from tests.support.instance import EVENT_SOURCE, Instance, config
from tests.support.raw_client import LEAVING, RawClient
from tests.support.raw_upstream import (
    CLOSE,
    GOT_REQUEST,
    LAST_CHUNK,
    RESET,
    RawUpstream,
    Step,
    chunk,
    response,
    stream_head,
)
from tests.support.running import on_each_loop
from tests.support.sockets import Ending

pytestmark = pytest.mark.usefixtures("on_both")
SILENT = [GOT_REQUEST, stream_head()]
EVENT = b"data: 1\n\n"
COMMENT = "confirm: {form: comment}\n"


def reason_told(client: RawClient) -> str | None:
    """The reason in `stream_closing`; it has to be the last event of a whole response."""
    assert client.response.complete
    closing = [event for event in client.events if event.type == "stream_closing"]
    if not closing:
        return None
    assert client.events[-1:] == closing
    data: dict[str, str] = json.loads(closing[0].data)
    assert data["type"] == "stream_closing"
    assert 1000 <= (client.stream.reconnection_time or 0) <= 5000
    return data["reason"]


# Every reason.


async def until_confirmed(proxy: Instance) -> RawClient:
    client = await proxy.event_source()
    await client.wait_for(b"connection_confirmed")
    return client


async def the_client_goes(proxy: Instance, client: RawClient) -> None:
    await client.close()


async def the_proxy_drains(proxy: Instance, client: RawClient) -> None:
    for stream in proxy.server.streams:
        stream.leave(asyncio.get_running_loop().time(), CloseReason.DRAIN)


async def the_client_sleeps(proxy: Instance, client: RawClient) -> None:
    client.pause()


async def nothing(proxy: Instance, client: RawClient) -> None:
    """The script or the clock does it."""


async def the_route_goes(proxy: Instance, client: RawClient) -> None:
    for stream in proxy.server.streams:
        stream.leave(asyncio.get_running_loop().time(), CloseReason.ROUTE_REMOVED)


MUCH = chunk(b"data: %b\n\n" % (b"x" * 60_000))
LOST = [*SILENT, chunk(b"id: 7\ndata: 1\n\n"), RESET]
AGAIN = "reconnect: {delay: 1ms}"
GIVES_UP = "reconnect: {delay: 1ms, give_up_after: 100ms}"


@dataclass(frozen=True, slots=True)
class Case:
    """How one reason is brought about: the steps behind the head, what the next connection is answered,
    what is done to the stream, and lines of its section. `early`: upstream answers only after it has begun.
    """

    steps: tuple[Step, ...] = ()
    then: tuple[Step, ...] = (*SILENT, EVENT)
    provoke: Callable[[Instance, RawClient], Awaitable[None]] = nothing
    stream: str = ""
    early: bool = False


PROVOKED = {
    CloseReason.CLIENT_GONE: Case(provoke=the_client_goes),
    CloseReason.UPSTREAM_END: Case((LAST_CHUNK,)),
    CloseReason.UPSTREAM_RESET: Case((RESET,)),
    CloseReason.UPSTREAM_REFUSED: Case((b"SSH-2.0-x\r\n\r\n",), stream="reconnect: off", early=True),
    CloseReason.UPSTREAM_STATUS: Case((*LOST[2:],), (GOT_REQUEST, response("404 Not Found")), stream=AGAIN),
    CloseReason.STALLED: Case(stream="stall: {after: 100ms, close_after: 100ms}"),
    CloseReason.GIVE_UP: Case((*LOST[2:],), (GOT_REQUEST, response("503 No")), stream=GIVES_UP),
    CloseReason.CLIENT_STALLED: Case((MUCH,) * 300, provoke=the_client_sleeps),
    CloseReason.EVENT_TOO_LARGE: Case((chunk(b"data: " + b"x" * 70_000),)),
    CloseReason.MAX_AGE: Case(stream="max_age: 300ms"),
    CloseReason.DRAIN: Case(provoke=the_proxy_drains),
    CloseReason.ROUTE_REMOVED: Case(provoke=the_route_goes),
    CloseReason.UNAUTHORIZED: Case((*LOST[2:],), (GOT_REQUEST, response("401 No")), stream=AGAIN),
    CloseReason.INTERNAL: Case((chunk(b"data: a fault\n\n"),)),
}
NOT_OURS = {
    CloseReason.CLIENT_GONE,
    CloseReason.CLIENT_STALLED,
    CloseReason.UPSTREAM_END,
    CloseReason.UPSTREAM_RESET,
}


@on_each_loop
@pytest.mark.parametrize("reason", list(CloseReason))
async def test_every_reason_ends_a_stream_alone_and_upstream_with_it(
    reason: CloseReason, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Inspection.look

    def faulty(inspection: Inspection, blocks: bytes, alive: bool) -> tuple[bytes, bool]:
        if b"a fault" in blocks:
            raise ZeroDivisionError
        return look(inspection, blocks, alive)

    monkeypatch.setattr(Inspection, "look", faulty)
    case, go = PROVOKED[reason], asyncio.Event()
    stream = ["rewrite: {unname: [x]}", "max_event: 64KiB", "max_buffer: 64KiB", "write_timeout: 300ms"]
    stream += ["early_commit: {after: 1ms}"] * case.early + [case.stream]
    begins = [GOT_REQUEST, go] if case.early else [*SILENT, go]
    async with (
        RawUpstream([*begins, *case.steps], case.then) as upstream,
        Instance(config(upstream, "\n".join(stream))) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b":ok" if case.early else b"connection_confirmed")
        go.set()
        await case.provoke(proxy, client)
        await proxy.until_closed(reason)
        await upstream.wait_all_closed()
        await proxy.until(lambda: len(proxy.server.streams) == 0)
        opened, lived = proxy.opened(), proxy.metric("stream_duration_seconds_count")
        assert opened == lived == 1
        if reason not in (CloseReason.CLIENT_GONE, CloseReason.CLIENT_STALLED):
            await client.wait_end()
            assert client.response.complete == (reason is not CloseReason.UPSTREAM_RESET)
        if reason in NOT_OURS:
            assert b"stream_closing" not in client.received
        else:
            assert reason_told(client) == reason


@on_each_loop
async def test_an_internal_error_ends_one_stream_and_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def faulty(inspection: Inspection, blocks: bytes, alive: bool) -> tuple[bytes, bool]:
        if b"a fault" in blocks:
            raise ZeroDivisionError
        return blocks, alive

    monkeypatch.setattr(Inspection, "look", faulty)
    scripts = [
        [*SILENT, chunk(EVENT), go := asyncio.Event(), chunk(b"data: a fault\n\n")],
        [*SILENT, go, chunk(EVENT)],
    ]
    async with (
        RawUpstream(*scripts) as upstream,
        Instance(config(upstream, COMMENT + "rewrite: {unname: [x]}")) as proxy,
        await proxy.event_source() as first,
    ):
        await first.wait_for(EVENT)
        async with await proxy.event_source() as second:
            await second.wait_for(b":ok")
            go.set()
            await second.wait_for(EVENT)
            await first.wait_end()
            assert not first.response.complete
            assert first.body == b":ok\n" + EVENT
            assert second.ending is None
            await proxy.until_closed("internal")
            assert "ZeroDivisionError" in caplog.text


@on_each_loop
async def test_the_end_is_a_cut_where_the_confirm_was_a_comment() -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, COMMENT)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b":ok")
        await the_proxy_drains(proxy, client)
        await client.wait_end()
        assert not client.response.complete
        assert client.body == b":ok\n"
        await proxy.until_closed("drain")


# Large events.


@on_each_loop
async def test_an_event_too_large_leaves_the_events_before_it_and_says_why() -> None:
    blocks = b"".join(b"data: %d\n\n" % number for number in range(50))
    async with (
        RawUpstream([*SILENT, chunk(blocks + b"data: " + b"x" * 2000 + b"\n\n")]) as upstream,
        Instance(config(upstream, "max_event: 1KiB")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        assert reason_told(client) == "event_too_large"
        assert [event.data for event in client.events[1:-1]] == [str(number) for number in range(50)]
        assert b"xxx" not in client.body
        await upstream.wait_all_closed()
        await proxy.until_closed("event_too_large")


@on_each_loop
async def test_an_event_of_exactly_max_event_passes_and_one_of_a_byte_more_does_not() -> None:
    exact = b"data: " + b"x" * (1024 - 8) + b"\n\n"
    async with (
        RawUpstream(
            [*SILENT, *(chunk(exact[at : at + 100]) for at in range(0, 1024, 100)), LAST_CHUNK]
        ) as up,
        Instance(config(up, COMMENT + "max_event: 1KiB")) as proxy,
        Instance(config(up, COMMENT + "max_event: 1023B")) as tighter,
        await proxy.event_source() as client,
        await tighter.event_source() as refused,
    ):
        await client.wait_response()
        assert client.body == b":ok\n" + exact
        await proxy.until_closed("upstream_end")
        await refused.wait_end()
        assert not refused.response.complete
        assert refused.body == b":ok\n"
        await tighter.until_closed("event_too_large")


@on_each_loop
async def test_a_line_of_four_mebibytes_in_pieces_of_sixteen_bytes_passes_with_the_defaults() -> None:
    line = b"data: " + bytes(range(65, 91)) * 161_400
    pieces = joined(line[at : at + 16] for at in range(0, len(line), 16))
    async with (
        RawUpstream([*SILENT, pieces, chunk(b"\n\n"), LAST_CHUNK]) as upstream,
        Instance(config(upstream, COMMENT + "max_buffer: 64KiB")) as proxy,
        await proxy.event_source() as client,
    ):
        assert len(line) > 4 << 20
        await client.wait_response(within=20)
        assert client.body == b":ok\n" + line + b"\n\n"
        assert proxy.metric("upstream_events_total") == 1


# Upstream ends.


@on_each_loop
@pytest.mark.parametrize(
    "end",
    [[RESET], [CLOSE], [b"5\r\nhal", CLOSE], [b"no chunk\r\n"]],
    ids=["RST", "closed without a last chunk", "closed in a chunk", "no valid chunk"],
)
async def test_a_broken_upstream_cuts_the_client_after_all_whole_blocks(end: list[Step]) -> None:
    async with (
        RawUpstream([*SILENT, chunk(EVENT + b"data: half"), go := asyncio.Event(), *end]) as upstream,
        Instance(config(upstream, COMMENT)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(EVENT)
        go.set()
        assert await client.wait_end() is Ending.EOF
        assert not client.response.complete
        assert client.body == b":ok\n" + EVENT
        await proxy.until_closed("upstream_reset")
        kind = "invalid" if end == [b"no chunk\r\n"] else "reset"
        assert proxy.metric("upstream_errors_total", kind=kind) == 1


@on_each_loop
@pytest.mark.parametrize("how", ["last chunk", "Content-Length", "connection"])
async def test_the_tail_reaches_a_client_that_reads_slowly_after_upstream_has_closed(how: str) -> None:
    body = b"".join(b"data: %06d %b\n\n" % (number, b"x" * 1000) for number in range(3000))
    coded = [joined(body[at : at + 60_000] for at in range(0, len(body), 60_000)), LAST_CHUNK]
    head, rest = {
        "last chunk": (stream_head(), coded),
        "Content-Length": (stream_head(f"content-length: {len(body)}", chunked=False), [body]),
        "connection": (stream_head(chunked=False), [body]),
    }[how]
    async with (
        RawUpstream([GOT_REQUEST, head, *rest, CLOSE]) as upstream,
        Instance(config(upstream, COMMENT + "max_buffer: 64KiB")) as proxy,
        await proxy.event_source(receive_buffer=8192) as client,
    ):
        client.pause()
        await (await upstream.connection()).request()
        await proxy.until(lambda: proxy.metric("upstream_events_total") > 100)
        client.resume()
        await client.wait_response(within=20)
        assert client.body == b":ok\n" + body
        await proxy.until_closed("upstream_end")


@on_each_loop
async def test_open_streams_outlive_a_deaf_upstream_and_new_ones_work_once_it_listens_again() -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, "reconnect: {first_within: off}")) as proxy,
        await until_confirmed(proxy) as client,
    ):
        upstream.refuse()
        async with await proxy.event_source() as refused:
            await refused.wait_response()
            assert refused.response.status == 502
            assert refused.body == b'route "events": upstream cannot be reached\n'
        assert client.ending is None
        await upstream.start()
        async with await until_confirmed(proxy) as again:
            assert again.ending is None
        assert proxy.metric("upstream_errors_total", kind="refused") == 1


@on_each_loop
async def test_a_restart_of_upstream_breaks_its_streams_and_the_next_request_works() -> None:
    async with RawUpstream(SILENT) as upstream, Instance(config(upstream)) as proxy:
        async with await until_confirmed(proxy) as client:
            upstream.refuse()
            (await upstream.connection()).reset()
            await client.wait_end()
            assert not client.response.complete
            await upstream.start()
        async with await until_confirmed(proxy):
            await proxy.until_closed("upstream_reset")


# Before the head.


@on_each_loop
async def test_an_upstream_without_a_head_by_open_timeout_is_a_504() -> None:
    async with (
        RawUpstream([GOT_REQUEST]) as upstream,
        Instance(config(upstream, "open_timeout: 150ms\nreconnect: off")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        assert client.response.status == 504
        assert client.body == b'route "events": upstream took too long\n'
        await upstream.wait_all_closed()
        assert proxy.metric("upstream_errors_total", kind="timeout") == 1
        assert proxy.opened() == 0
        assert len(proxy.server.streams) == 0
        assert proxy.closed() == {}


@on_each_loop
async def test_open_timeout_is_no_limit_for_a_stream_that_has_begun() -> None:
    server = NotifyServer("silent", knobs=Knobs(header_delay=0.01))
    await server.start()
    stream = COMMENT + "open_timeout: 700ms\nkeepalive: {interval: 400ms}"
    try:
        async with (
            Instance(config(server.url, stream)) as proxy,
            await proxy.event_source(f"/events?access_token={server.token()}") as client,
        ):
            await client.wait_for(lambda client: client.body.count(b":ping") >= 2)
            assert client.ending is None
    finally:
        await server.stop()


@on_each_loop
@pytest.mark.parametrize("how", ["close", "reset"])  # one that half-closes gets its answer
async def test_a_client_that_leaves_before_the_head_takes_upstream_with_it(how: str) -> None:
    async with (
        RawUpstream([GOT_REQUEST]) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.event_source() as client,
    ):
        connection = await upstream.connection()
        await connection.request()
        assert proxy.metric("streams_active", state="connecting") == 1
        client.leave(how)
        await connection.wait_closed()
        await proxy.until(lambda: proxy.metric("requests_total", method="GET", code="499") == 1)
        assert proxy.opened() == 0
        assert proxy.closed() == {}
        assert len(proxy.server.streams) == 0


@on_each_loop
@pytest.mark.parametrize("how", LEAVING)
async def test_a_client_that_leaves_a_stream_takes_upstream_with_it(how: str) -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream)) as proxy,
        await until_confirmed(proxy) as client,
    ):
        connection = await upstream.connection()
        client.leave(how)
        await connection.wait_closed()
        await proxy.until_closed("client_gone")
        await proxy.until(lambda: len(proxy.server.streams) == 0)


@on_each_loop
async def test_a_client_that_leaves_at_any_moment_leaves_nothing_open() -> None:
    async with (
        RawUpstream([GOT_REQUEST, 0.02, stream_head(), 0.02, chunk(EVENT)]) as upstream,
        Instance(config(upstream)) as proxy,
    ):
        for step in range(30):
            client = await proxy.event_source()
            await asyncio.sleep(step * 0.002)
            if step == 29:
                await client.wait_for(EVENT)  # also on a machine on which none has come before
            client.abort()
            await client.close()
        await upstream.wait_all_closed()
        await proxy.until(lambda: len(proxy.server.streams) == 0)
        opened = proxy.opened()
        assert proxy.closed() == {"client_gone": opened}
        assert 0 < opened < 30


# What a client says behind its request.


@on_each_loop
async def test_bytes_after_the_request_are_ignored_however_many() -> None:
    async with (
        RawUpstream([*SILENT, go := asyncio.Event(), chunk(EVENT), LAST_CHUNK]) as upstream,
        Instance(config(upstream, COMMENT)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b":ok")
        client.send(b"\0anything\r\n\r\n" * 100_000)
        await proxy.until(lambda: client.transport.get_write_buffer_size() == 0)
        client.request("/events?second")
        go.set()
        await client.wait_response()
        assert client.body == b":ok\n" + EVENT
        await client.wait_end()
        assert len(client.responses) == 1
        assert len(upstream.connections) == 1


@on_each_loop
async def test_a_second_request_sent_along_is_never_answered_and_reaches_no_upstream() -> None:
    async with (
        RawUpstream([*SILENT, chunk(EVENT), LAST_CHUNK]) as upstream,
        Instance(config(upstream, COMMENT)) as proxy,
        await proxy.client() as client,
    ):
        client.send(request("/events", EVENT_SOURCE) + request("/other"))
        await client.wait_end()
        assert client.response.complete
        assert client.body == b":ok\n" + EVENT
        assert len(client.responses) == 1
        assert [len(connection.requests) for connection in upstream.connections] == [1]
