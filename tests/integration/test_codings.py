"""Content codings of event streams: words that are none, codings that are decoded, and others, which pass."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import re
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.instance import Instance, config
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import (
    CLOSE,
    GOT_REQUEST,
    LAST_CHUNK,
    RawUpstream,
    Script,
    Step,
    chunk,
    stream_head,
)
from tests.support.running import on_each_loop, soon
from tests.wire.test_codings import ENCODERS, EVENTS, flushed

COMMENT = "confirm: {form: comment}\n"
PINGS = COMMENT + "keepalive: {interval: 200ms}\nreconnect: off\n"


@contextlib.asynccontextmanager
async def played(
    section: str, *scripts: Script, **how: Any
) -> AsyncIterator[tuple[RawUpstream, Instance, RawClient]]:
    """An upstream, the proxy with this stream section, and a browser that has asked for the stream."""
    async with (
        RawUpstream(*scripts) as upstream,
        Instance(config(upstream, section)) as proxy,
        await proxy.event_source(**how) as client,
    ):
        yield upstream, proxy, client


def of_upstream(client: RawClient) -> bytes:
    """The body that the client has, without the proxy's own comments."""
    return re.sub(rb"^:(?:ok|ping)\n\n?", b"", bytes(client.body), flags=re.MULTILINE)


@pytest.mark.parametrize(
    "value", ["none", "None", "utf-8", "UTF-8", "", "identity", "identity, identity", " none ", "8bit", ","]
)
@on_each_loop
async def test_a_word_that_is_no_coding_is_none_and_is_not_passed_on(value: str) -> None:
    steps: list[Step] = [GOT_REQUEST, stream_head(f"Content-Encoding: {value}"), chunk(b"data: 1\n\n")]
    async with played(PINGS, steps) as (_, proxy, client):
        await client.wait_for(b":ping")
        assert of_upstream(client) == b"data: 1\n\n"
        assert client.response.header("content-encoding") is None
        assert proxy.metric("uninspectable_streams_total") == 0


@pytest.mark.parametrize("name", ENCODERS)
@on_each_loop
async def test_a_coded_stream_is_decoded_and_each_event_leaves_with_its_flush(name: str) -> None:
    go_on = [asyncio.Event() for _ in EVENTS]
    coding = "x-gzip" if name == "gzip" else ENCODERS[name][0].decode()
    steps: list[Step] = [GOT_REQUEST, stream_head(f"Content-Encoding: identity, {coding}")]
    for event, coded in zip(go_on, flushed(name, EVENTS), strict=True):
        steps += [event, chunk(coded)]
    async with played(PINGS + "decode: on", [*steps, LAST_CHUNK]) as (upstream, proxy, client):
        await client.wait_for(b":ping")
        assert client.response.header("content-encoding") is None
        assert (await (await upstream.connection()).request()).header("accept-encoding") == "identity"
        for number, event in enumerate(go_on, start=1):
            event.set()
            so_far = b"".join(EVENTS[:number])
            await client.wait_for(lambda client, so_far=so_far: len(of_upstream(client)) >= len(so_far))
            assert of_upstream(client) == so_far
        await client.wait_end()
        assert client.response.complete
        assert proxy.metric("uninspectable_streams_total") == 0
        assert proxy.metric("upstream_events_total") == 40 * len(EVENTS)


@pytest.mark.parametrize(
    ("coding", "decode"), [("gzip", "off"), ("gzip, br", "on"), ("compress", "on"), ("gzip, gzip", "on")]
)
@on_each_loop
async def test_other_codings_pass_unchanged_and_are_counted(coding: str, decode: str) -> None:
    coded = b"".join(flushed("gzip", EVENTS))
    steps = [GOT_REQUEST, stream_head(f"Content-Encoding: {coding}"), chunk(coded), LAST_CHUNK]
    async with played(f"decode: {decode}", steps) as (_, proxy, client):
        await client.wait_response()
        assert (client.body, client.response.header("content-encoding")) == (coded, coding)
        assert proxy.metric("uninspectable_streams_total") == 1


@on_each_loop
async def test_the_answer_to_head_keeps_its_coding() -> None:
    async with (
        RawUpstream([GOT_REQUEST, stream_head("Content-Encoding: gzip")]) as upstream,
        Instance(config(upstream, "decode: on")) as proxy,
        await proxy.client() as client,
    ):
        client.request("/events", method="HEAD")
        await client.wait_response()
        assert client.response.header("content-encoding") == "gzip"


@on_each_loop
async def test_a_broken_coding_is_a_reset_after_the_events_before_it() -> None:
    go_on = asyncio.Event()
    steps: list[Step] = [
        GOT_REQUEST,
        stream_head("Content-Encoding: gzip"),
        chunk(flushed("gzip", EVENTS)[0]),
    ]
    async with played(PINGS + "decode: on", [*steps, go_on, chunk(b"\xff" * 99)]) as (
        upstream,
        proxy,
        client,
    ):
        await client.wait_for(lambda client: client.body.count(b"data: 0") == 40)
        go_on.set()
        await client.wait_end()
        assert not client.response.complete
        await proxy.until_closed("upstream_reset")
        assert proxy.metric("upstream_errors_total", kind="reset") == 1
        await upstream.wait_all_closed()


@pytest.mark.parametrize("chunked", [True, False])
@on_each_loop
async def test_a_stream_that_ends_without_the_end_of_its_coding_ends_with_its_last_event(
    chunked: bool,
) -> None:
    coded = b"".join(flushed("gzip", EVENTS))
    body: list[Step] = [chunk(coded), LAST_CHUNK] if chunked else [coded, CLOSE]
    steps = [GOT_REQUEST, stream_head("Content-Encoding: gzip", chunked=chunked), *body]
    async with played(PINGS + "decode: on", steps) as (_, _, client):
        await client.wait_end()
        assert client.response.complete
        assert of_upstream(client) == b"".join(EVENTS)


@on_each_loop
async def test_a_stream_that_is_opened_again_is_decoded_again() -> None:
    def coded(event: bytes) -> list[Step]:
        packer = zlib.compressobj(wbits=31)
        data = packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH)
        return [GOT_REQUEST, stream_head("Content-Encoding: gzip"), chunk(data)]

    scripts = [[*coded(b"id: 1\ndata: 1\n\n"), LAST_CHUNK], coded(b"id: 2\ndata: 2\n\n")]
    section = COMMENT + "decode: on\nreconnect: {delay: 10ms}"
    async with played(section, *scripts) as (upstream, _, client):
        await client.wait_for(b"data: 2")
        assert (await (await upstream.connection(1)).request()).header("last-event-id") == "1"


@on_each_loop
async def test_a_bomb_waits_for_a_client_that_does_not_read_and_then_arrives_whole() -> None:
    event = b"data: " + b"0" * 1000 + b"\n\n"
    coded = gzip.compress(event * 20_000)
    assert len(coded) < 100_000
    steps = [GOT_REQUEST, stream_head("Content-Encoding: gzip"), chunk(coded), LAST_CHUNK]
    section = COMMENT + "decode: on\nmax_buffer: 64KiB\nreconnect: off"
    async with played(section, steps, receive_buffer=4096) as (_, proxy, client):
        await client.wait_head()
        client.pause()
        (stream,) = proxy.proxy._process.streams
        await soon(lambda: stream.down is not None and stream.down.waiting > 64 * 1024)
        assert stream.down is not None
        assert stream.down.waiting < 512 * 1024
        client.resume()
        await client.wait_end(within=20)
        assert of_upstream(client) == event * 20_000
