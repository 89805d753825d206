"""What is cut looks cut, and what is whole looks whole: to HTTP/1.1, to HTTP/1.0, at every end of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from sse_keepalive_proxy.stream.messages import CloseReason
from tests.support.http1 import request
from tests.support.instance import Instance, config
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import (
    CLOSE,
    GOT_REQUEST,
    HOLD,
    LAST_CHUNK,
    RESET,
    RawUpstream,
    Step,
    UpstreamConnection,
    chunk,
    response,
    stream_head,
)
from tests.support.running import on_each_loop
from tests.support.sockets import Ending

pytestmark = pytest.mark.usefixtures("on_both")
EVENT = b"data: 1\n\n"
BEGUN = [GOT_REQUEST, stream_head(), chunk(EVENT)]
TOO_LARGE = chunk(b"data: " + b"x" * 5000)
VERSIONS = pytest.mark.parametrize("version", ["1.1", "1.0"])


async def asking(proxy: Instance, version: str) -> RawClient:
    """A client that is no EventSource, and has the first event."""
    client = await proxy.client()
    body = b'{"stream":true}'
    asked = request("/events", "Content-Type: application/json", method="POST", body=body)
    client.send(asked.replace(b"HTTP/1.1", b"HTTP/" + version.encode(), 1))
    await client.wait_for(EVENT)
    return client


async def sees_a_cut(client: RawClient, version: str) -> None:
    """The body has no last chunk or, where it has no chunked coding, the connection was reset."""
    ending = await client.wait_end()
    if version == "1.0":
        assert ending is Ending.RESET
    else:
        assert not client.response.complete
    assert EVENT in client.body


@dataclass(frozen=True, slots=True)
class Case:
    """How one reason is brought about: what upstream does behind its first event, and lines of the route. The
    test itself ends the streams that nothing else ends.
    """

    steps: Sequence[Step] = (HOLD,)
    stream: str = ""


OURS = {
    CloseReason.EVENT_TOO_LARGE: Case((TOO_LARGE,), "max_event: 1KiB"),
    CloseReason.STALLED: Case(stream="stall: {after: 50ms, close_after: 50ms}"),
    CloseReason.MAX_AGE: Case(stream="max_age: 200ms"),
    CloseReason.DRAIN: Case(),
    CloseReason.ROUTE_REMOVED: Case(),
    CloseReason.UNAUTHORIZED: Case(),
}


@on_each_loop
@VERSIONS
@pytest.mark.parametrize("reason", list(OURS))
async def test_an_end_of_our_own_cuts_a_body_that_has_no_stream_closing(
    reason: CloseReason, version: str
) -> None:
    case = OURS[reason]
    async with (
        RawUpstream([*BEGUN, *case.steps]) as upstream,
        Instance(config(upstream, case.stream)) as proxy,
        await asking(proxy, version) as client,
    ):
        if case == Case():
            for stream in proxy.server.streams:
                stream.leave(asyncio.get_running_loop().time(), reason)
        await sees_a_cut(client, version)
        assert b"stream_closing" not in client.body
        await proxy.until_closed(reason)


@on_each_loop
@VERSIONS
@pytest.mark.parametrize("how", [CLOSE, RESET], ids=["no last chunk", "reset"])
async def test_a_cut_of_upstream_is_a_cut(how: Step, version: str) -> None:
    async with (
        RawUpstream([*BEGUN, how]) as upstream,
        Instance(config(upstream)) as proxy,
        await asking(proxy, version) as client,
    ):
        await sees_a_cut(client, version)
        await proxy.until_closed("upstream_reset")


@on_each_loop
@VERSIONS
async def test_a_whole_answer_of_upstream_is_whole(version: str) -> None:
    async with (
        RawUpstream([*BEGUN, LAST_CHUNK]) as upstream,
        Instance(config(upstream)) as proxy,
        await asking(proxy, version) as client,
    ):
        assert await client.wait_end() is Ending.EOF
        assert client.response.complete


@on_each_loop
async def test_a_reset_destroys_nothing_that_a_slow_client_of_http_1_0_has_not_read_yet() -> None:
    event = b"data: " + b"x" * 8000 + b"\n\n"
    async with (
        RawUpstream([*BEGUN, *[chunk(event)] * 12, go := asyncio.Event(), RESET]) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.client(receive_buffer=8192) as client,
    ):
        client.send(b"POST /events HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}")
        await client.wait_for(EVENT)
        client.pause()
        await proxy.until(lambda: proxy.metric("upstream_events_total") == 13)
        go.set()
        await proxy.until_closed("upstream_reset")
        client.resume()
        assert await client.wait_end() is Ending.RESET
        assert event * 12 + b"event: error\n" in client.body  # and our own last word
        assert client.body.endswith(b"\n\n")


@on_each_loop
async def test_an_endless_plain_answer_of_http_1_0_is_reset_at_the_end_of_a_drain() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with (
        RawUpstream([GOT_REQUEST, head, chunk(b"a part")]) as upstream,
        Instance(config(upstream, before="drain: {timeout: 200ms, spread: 100ms}")) as proxy,
        await proxy.client() as client,
    ):
        client.send(b"GET /plain HTTP/1.0\r\n\r\n")
        await client.wait_for(b"a part")
        await proxy.server.drain(asyncio.Event())
        assert await client.wait_end() is Ending.RESET


async def forgets(connection: UpstreamConnection) -> None:
    """A server that forgets its last chunk where it is asked to close, and only there."""
    asked = await connection.next_request()
    closes = asked.header("connection") == "close"
    await connection.send(stream_head() + chunk(EVENT) + (b"" if closes else LAST_CHUNK))
    if closes:
        await connection.close()


@on_each_loop
@pytest.mark.parametrize("target", ["/events", "/plain"])
async def test_a_server_that_frames_its_body_by_connection_close_is_not_asked_to_close(target: str) -> None:
    async with (
        RawUpstream(forgets) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.client() as client,
    ):
        client.request(target, "Connection: close")
        await client.wait_response()
        assert client.body.endswith(EVENT)


@on_each_loop
async def test_upstreams_connection_is_closed_after_the_answer_though_upstream_would_keep_it() -> None:
    async with (
        RawUpstream([GOT_REQUEST, response(body=b"whole"), HOLD]) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/plain")
        await client.wait_response()
        await (await upstream.connection()).wait_closed()
