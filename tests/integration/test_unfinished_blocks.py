"""Bodies whose blocks do not end, and bodies that are no event stream, though upstream says so."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.instance import Instance, config
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import GOT_REQUEST, LAST_CHUNK, RawUpstream, chunk, stream_head
from tests.support.running import on_each_loop

SILENT = [GOT_REQUEST, stream_head()]
COMMENT = "confirm: {form: comment}\n"
FAST = COMMENT + "keepalive: {interval: 50ms}"


def pings(client: RawClient) -> int:
    return client.body.count(b":ping")


@on_each_loop
async def test_lines_of_data_without_a_blank_line_arrive_with_pings_between_them() -> None:
    steps = [*SILENT, chunk(b"data: 1\r"), more := asyncio.Event(), chunk(b"\ndata: 2\n")]
    end = asyncio.Event()
    async with (
        RawUpstream([*steps, end, chunk(b"\ndata: 3\n\n"), LAST_CHUNK]) as upstream,
        Instance(config(upstream, COMMENT + "reconnect: off\nkeepalive: {interval: 1s}")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"data: 1\r\n:ping\n")
        more.set()
        await client.wait_for(b"data: 2\n:ping\n")
        end.set()
        await client.wait_response()
        assert [event.data for event in client.events] == ["1\n2", "3"]
        inside = client.body[client.body.index(b"data: 1") :]
        assert b":ping\n\ndata: 2" not in inside
        assert proxy.metric("upstream_events_total") == 2


@on_each_loop
@pytest.mark.parametrize("together", [True, False], ids=["with the head", "later"])
@pytest.mark.parametrize(
    "body",
    [
        b"Hello, world",
        b'{"span":0}\n{"span":1}\n',
        b"\x1f\x8b\x08\x00 no plain bytes",
        b"\xef\xbb\xbf<html>",
    ],
    ids=["tokens", "JSON lines", "gzip", "HTML"],
)
async def test_what_does_not_begin_like_an_event_stream_passes_as_it_comes(
    body: bytes, together: bool
) -> None:
    first, later, more = chunk(body[:5]), asyncio.Event(), asyncio.Event()
    begin = [GOT_REQUEST, stream_head() + first] if together else [*SILENT, later, first]
    async with (
        RawUpstream([*begin, more, chunk(body[5:]), LAST_CHUNK]) as upstream,
        Instance(config(upstream, FAST)) as proxy,
        await proxy.event_source() as client,
    ):
        if not together:
            await client.wait_for(b":ok\n")
            later.set()
        await client.wait_for(body[:5])
        before = client.body
        await asyncio.sleep(0.2)  # longer than the interval of pings
        assert client.body == before
        more.set()
        await client.wait_response()
        assert client.body.endswith(body)
        assert not together or client.body == body
        await proxy.until_closed("upstream_end")
        assert proxy.metric("uninspectable_streams_total") == 1
        assert proxy.metric("upstream_eof_without_event_total") == 0


@on_each_loop
@pytest.mark.parametrize("said", [b"", b": waiting\n\n", b"id: 4\n\n"], ids=["nothing", "comments", "an id"])
async def test_an_upstream_that_ends_without_any_event_is_counted(said: bytes) -> None:
    steps = [*SILENT, *([chunk(said)] if said else []), LAST_CHUNK]
    async with (
        RawUpstream(steps) as upstream,
        Instance(config(upstream, "reconnect: off")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        await proxy.until_closed("upstream_end")
        assert proxy.metric("upstream_eof_without_event_total") == 1
