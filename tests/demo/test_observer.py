"""The observer against a scripted upstream: what it counts, and what it says of the end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from sse_keepalive_proxy.demo.observer import Gap, Life, Observer
from sse_keepalive_proxy.http.dialer import Dialer
from sse_keepalive_proxy.net.poller import open_poller
from tests.support.looping import Changes, in_loop
from tests.support.programs import free_port
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


class Seen:
    """An observer and a way to wait for what it sees."""

    def __init__(self) -> None:
        self.changes = Changes()
        self.observer = Observer(Dialer(open_poller()), self.changes.notify)

    async def until_bytes(self, count: int) -> None:
        await self.changes.until(lambda: self.observer.figures().bytes >= count, 20)

    async def until_end(self) -> str | None:
        await self.changes.until(lambda: self.observer.figures().end is not None, 20)
        return self.observer.figures().end


@contextlib.asynccontextmanager
async def observing(*steps: Step) -> AsyncIterator[tuple[Seen, RawUpstream]]:
    script: Sequence[Step] = [GOT_REQUEST, *steps]
    async with RawUpstream(script) as upstream:
        seen = Seen()
        await seen.observer.open(upstream.url, "a.b.c")
        try:
            yield seen, upstream
        finally:
            seen.observer.close()


@in_loop
async def test_it_asks_as_a_browser_does() -> None:
    async with observing(stream_head()) as (_, upstream):
        request = await (await upstream.connection()).request()
        assert (request.method, request.target) == ("GET", "/events?access_token=a.b.c")
        assert request.header("accept") == "text/event-stream"
        assert request.header("host") == upstream.url.removeprefix("http://")


@in_loop
async def test_headers_alone_are_an_open_stream_that_is_silent() -> None:
    async with observing(stream_head()) as (seen, _):
        figures = seen.observer.figures()
        assert figures.life is Life.SILENT
        assert figures.headers_after is not None
        assert (figures.first_byte_after, figures.bytes, figures.end) == (None, 0, None)
        assert figures.silence == figures.longest_silence == figures.age


@in_loop
async def test_events_are_sorted_by_whether_onmessage_receives_them() -> None:
    body = (
        b':ping\n\ndata: {"type":"connection_confirmed"}\n\n'
        b'event: Generic\ndata: {"type":"new_message"}\n\nevent: message\ndata: x\n\n: ping\n\n'
    )
    async with observing(stream_head(), chunk(body)) as (seen, _):
        await seen.until_bytes(len(body))
        figures = seen.observer.figures()
        assert figures.life is Life.ALIVE
        assert (figures.bytes, figures.events, figures.heard, figures.pings) == (len(body), 3, 2, 2)
        assert figures.confirm_after == figures.first_byte_after
        assert figures.message_after is None, "it was named"
        assert [arrival.kind for arrival in figures.arrivals] == ["ping", "heard", "unheard", "heard", "ping"]


@in_loop
async def test_silence_is_measured_from_the_last_byte_and_the_longest_is_kept() -> None:
    go_on = asyncio.Event()
    async with observing(stream_head(), chunk(b":1\n\n"), go_on, chunk(b":2\n\n")) as (seen, _):
        await seen.until_bytes(4)
        first = seen.observer.figures()
        go_on.set()
        await seen.until_bytes(8)
        figures = seen.observer.figures()
        gap = figures.arrivals[1].at - figures.arrivals[0].at
        assert figures.longest_silence >= gap
        assert figures.age - figures.silence >= first.age - first.silence + gap - 0.001


@in_loop
async def test_a_message_for_onmessage_is_timed() -> None:
    async with observing(stream_head(), chunk(b'data: {"type":"new_message"}\n\n')) as (seen, _):
        await seen.until_bytes(1)
        figures = seen.observer.figures()
        assert figures.message_after == figures.arrivals[0].at
        assert figures.messages == 1


@in_loop
async def test_the_notice_of_a_gap_does_not_count_as_an_event_of_upstream() -> None:
    told = b'event: stream_recovered\ndata: {"reason":"upstream_end","gap_ms":87,"resumed":false}\n\n'
    async with observing(stream_head(), chunk(told), chunk(told)) as (seen, _):
        await seen.until_bytes(2 * len(told))
        figures = seen.observer.figures()
        assert (figures.gaps, figures.gap) == (2, Gap("upstream_end", 0.087))
        assert (figures.events, figures.heard, figures.life) == (0, 0, Life.SILENT)
        assert [arrival.kind for arrival in figures.arrivals] == ["gap", "gap"]


@in_loop
async def test_a_gap_of_which_nothing_is_said_counts_as_well() -> None:
    for data in (b"{}", b"[]", b"x", b'{"reason":1,"gap_ms":null}'):
        told = b"event: stream_recovered\ndata: %b\n\n" % data
        async with observing(stream_head(), chunk(told)) as (seen, _):
            await seen.until_bytes(len(told))
            assert (seen.observer.figures().gaps, seen.observer.figures().gap) == (1, Gap("?", 0.0))


@in_loop
async def test_an_end_is_reported_and_the_figures_stop_at_it() -> None:
    async with observing(stream_head(), chunk(b"data: x\n\n"), LAST_CHUNK) as (seen, _):
        assert await seen.until_end() == "closed by upstream after its first event"
        figures = seen.observer.figures()
        assert figures.life is Life.ENDED
        assert seen.observer.figures() == figures
    for body in ((), (chunk(b"data: x\n\ndata: y\n\n"),)):
        async with observing(stream_head(), *body, LAST_CHUNK) as (seen, _):
            assert await seen.until_end() == "closed"


@in_loop
async def test_a_break_is_reported_as_the_end() -> None:
    async with observing(stream_head(), chunk(b":x\n\n"), RESET) as (seen, _):
        assert "broke" in str(await seen.until_end())


@in_loop
async def test_another_status_is_an_end() -> None:
    async with observing(response("401 Unauthorized", b"no"), CLOSE) as (seen, _):
        assert await seen.until_end() == "answered with status 401"
        assert seen.observer.figures().bytes == 0


@in_loop
async def test_a_refused_connection_is_an_end() -> None:
    seen = Seen()
    assert seen.observer.figures().life is Life.CONNECTING
    await seen.observer.open(f"http://127.0.0.1:{free_port()}", "t")
    assert "cannot connect" in str(seen.observer.figures().end)
    seen.observer.close()


@in_loop
async def test_it_knows_the_last_id_and_names_it_when_it_comes_back() -> None:
    async with observing(stream_head(), chunk(b"id: 7\ndata: a\n\n")) as (seen, _):
        await seen.until_bytes(1)
        assert seen.observer.last_id == b"7"
    async with RawUpstream([GOT_REQUEST, stream_head()]) as upstream:
        seen = Seen()
        await seen.observer.open(upstream.url, "a.b.c", b"7")
        request = await (await upstream.connection()).request()
        assert request.header("last-event-id") == "7"
        seen.observer.close()
