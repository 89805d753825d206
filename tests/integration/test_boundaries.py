"""Where two things happen at once: a drain and an upload, a departure and a pause, an answer and a body."""

from __future__ import annotations

import asyncio
import socket

import pytest

from sse_keepalive_proxy.http import connection, frontend
from sse_keepalive_proxy.stream import lifecycle
from sse_keepalive_proxy.stream.states import State
from tests.integration.test_websocket import SWITCH, UPGRADE
from tests.support.http1 import request
from tests.support.instance import EVENT_SOURCE, Instance, config
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import (
    GOT_REQUEST,
    HOLD,
    LAST_CHUNK,
    RawUpstream,
    UpstreamConnection,
    chunk,
    response,
    stream_head,
)
from tests.support.running import Running, on_each_loop, plain, soon

SILENT = [GOT_REQUEST, stream_head(), HOLD]
HALF = b"POST /events HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345"


# A drain.


@on_each_loop
async def test_an_upload_that_is_under_way_when_a_drain_begins_is_answered() -> None:
    async with RawUpstream([GOT_REQUEST, response(body=b"ok")]) as upstream:
        proxy = Running(plain(upstream.url, rest="drain: {timeout: 20s, spread: 1s}"))
        await proxy.server.start()
        async with await proxy.client() as client:
            client.send(HALF, method="POST")
            asked = await upstream.connection()
            await asked.wait_received(b"12345")
            draining = asyncio.get_running_loop().create_task(proxy.server.drain(asyncio.Event()))
            await soon(lambda: proxy.server.phase == "draining")
            client.send(b"67890")
            assert (await client.wait_response()).body == b"ok"
            assert (await asked.request()).body == b"1234567890"
            await client.wait_end()
            await draining  # and nothing holds it to its timeout


@on_each_loop
async def test_a_stream_that_registers_after_a_drain_has_begun_gets_the_end_too() -> None:
    async with RawUpstream([GOT_REQUEST, go := asyncio.Event(), stream_head(), HOLD]) as upstream:
        proxy = Instance(config(upstream, before="drain: {timeout: 20s, spread: 10ms}"))
        await proxy.server.start()
        async with await proxy.client() as client:
            await soon(lambda: proxy.proxy.frontend.connections)
            (served,) = proxy.proxy.frontend.connections
            client.request("/events", EVENT_SOURCE)
            while not served.answering:  # noqa: ASYNC110 (in the very turn in which it is read)
                await asyncio.sleep(0)
            assert len(proxy.server.streams) == 0  # its request is read, its handler has not run
            draining = asyncio.get_running_loop().create_task(proxy.server.drain(asyncio.Event()))
            go.set()
            await client.wait_for(b'"reason":"drain"')
            await client.wait_end()
            await draining


# A departure.


def reads(served: connection.Connection) -> bool:
    """Whether anything is read from a client; true as well when it is not served any more."""
    return served.transport is None or served.transport.is_reading()


@on_each_loop
async def test_a_client_that_leaves_while_its_body_waits_for_upstream_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "_LOOK_AT_PEER", 0.05)

    async def deaf(asked: UpstreamConnection) -> None:
        asked.transport.pause_reading()
        await asked.wait_closed(within=60)

    async with (
        RawUpstream(deaf) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n", method="POST")
        client.send(b"x" * 20_000_000)
        await soon(lambda: any(not reads(served) for served in proxy.proxy.frontend.connections))
        client.abort()
        await soon(lambda: not proxy.upstream_connections)
        (await upstream.connection()).transport.resume_reading()


@on_each_loop
async def test_a_client_that_leaves_after_a_full_pipeline_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "_LOOK_AT_PEER", 0.05)
    async with (
        RawUpstream([GOT_REQUEST, HOLD]) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.client() as client,
    ):
        client.send(request("/events", EVENT_SOURCE) * 60)
        await upstream.connection()
        await soon(lambda: any(not reads(served) for served in proxy.proxy.frontend.connections))
        client.abort()
        await soon(lambda: not proxy.upstream_connections and not len(proxy.server.streams))


# An answer before the request is whole.


@on_each_loop
async def test_a_stream_whose_request_stays_unfinished_gives_its_place_back() -> None:
    async def early(asked: UpstreamConnection) -> None:
        await asked.wait_received(b"12345")
        await asked.send(stream_head() + chunk(b"data: 1\n\n") + LAST_CHUNK)
        asked.close()

    async with (
        RawUpstream(early) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.client() as client,
    ):
        client.send(HALF, method="POST")
        assert (await client.wait_response()).status == 200
        await client.wait_end()
        assert client.body.endswith(b"data: 1\n\n")
        await proxy.until(lambda: len(proxy.server.streams) == 0)
        assert proxy.metric("requests_total", method="POST", code="200") == 1


# Room.


@on_each_loop
async def test_every_client_has_a_descriptor_for_its_upstream_in_reserve() -> None:
    async with RawUpstream([GOT_REQUEST, response(body=b"ok")]) as upstream:
        proxy = Running(plain(upstream.url))
        proxy.server._descriptors = 6
        async with proxy:
            clients = [await proxy.client() for _ in range(3)]
            await soon(lambda: len(proxy.proxy.frontend.connections) == 3)
            async with await proxy.client() as fourth:
                assert (await fourth.wait_response()).status == 503
            for client in clients:
                client.request("/a")
            for client in clients:
                assert (await client.wait_response()).status == 200
                await client.close()


@on_each_loop
async def test_an_upgraded_connection_counts_on_both_sides_until_it_is_gone() -> None:
    async with (
        RawUpstream([GOT_REQUEST, SWITCH, HOLD]) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/ws", *UPGRADE)
        await client.wait_head()
        assert proxy.upstream_connections == 1
        await client.close()
        await soon(lambda: not proxy.upstream_connections)


# A fault of ours, and limits of the kernel.


@on_each_loop
async def test_a_fault_after_the_take_over_ends_that_stream_as_internal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = socket.socket.setsockopt

    def broken(sock: socket.socket, level: int, option: int, value: int) -> None:
        if option == socket.TCP_USER_TIMEOUT:
            raise RuntimeError("planned")
        right(sock, level, option, value)

    async with RawUpstream(SILENT) as upstream, Instance(config(upstream)) as proxy:
        monkeypatch.setattr(socket.socket, "setsockopt", broken)
        async with await proxy.event_source() as client:
            await client.wait_end()
            await proxy.until_closed("internal")
            await upstream.wait_all_closed()
            await proxy.until(lambda: len(proxy.server.streams) == 0)
            assert client.received == b""
    assert "please report this" in caplog.text


@on_each_loop
async def test_a_write_timeout_longer_than_the_kernel_can_hold_is_no_fault() -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, "write_timeout: 600h")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"connection_confirmed")


# What is no body, and what is no request.


@on_each_loop
async def test_a_trailer_without_an_end_breaks_the_stream_instead_of_filling_memory() -> None:
    async def endless(asked: UpstreamConnection) -> None:
        await asked.next_request()
        await asked.send(stream_head() + chunk(b"data: 1\n\n") + b"0\r\nX: ")
        while True:
            await asked.send(b"a" * 65536)
            await asyncio.sleep(0)

    async with (
        RawUpstream(endless) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"data: 1")
        await client.wait_end()
        await proxy.until_closed("upstream_reset")
        assert proxy.metric("upstream_errors_total", kind="invalid") == 1


@on_each_loop
@pytest.mark.parametrize("target", ["/events", "/other"])
async def test_an_event_stream_is_in_no_request_duration_encoded_or_untreated(target: str) -> None:
    steps = [GOT_REQUEST, stream_head("Content-Encoding: gzip"), chunk(b"x"), LAST_CHUNK]
    async with (
        RawUpstream(steps) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.event_source(target) as client,
    ):
        await client.wait_response()
        await proxy.until(lambda: proxy.idle)
        route = "events" if target == "/events" else "rest"
        assert proxy.metric("requests_total", route=route, method="GET", code="200") == 1
        assert proxy.metric("request_duration_seconds_count", route=route) == 0


@on_each_loop
@pytest.mark.parametrize("reason", [b"O\x00K", b"\x1b[2J", b"O\x7fK"], ids=["NUL", "escape", "DEL"])
async def test_a_reason_phrase_with_a_control_character_does_not_pass(reason: bytes) -> None:
    answer = b"HTTP/1.1 200 %b\r\ncontent-length: 2\r\n\r\nok" % reason
    async with (
        RawUpstream([GOT_REQUEST, answer]) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/a")
        answer = await client.wait_response()
        assert (answer.status, bytes(answer.body)) == (200, b"ok")
        line = answer.raw_head.partition(b"\r\n")[0]
        assert not [byte for byte in line if byte < 0x20 or byte == 0x7F]


@on_each_loop
async def test_what_has_no_body_announces_none() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\ncontent-length: 3\r\nlink: </a>\r\n\r\n"
    answer = b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n"
    async with (
        RawUpstream([GOT_REQUEST, early + answer]) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/a")
        assert (await client.wait_response()).status == 204
        assert client.response.header("content-length") is None
        assert [one.header("content-length") for one in client.informational] == [None]
        assert [one.header("link") for one in client.informational] == ["</a>"]


@on_each_loop
async def test_without_keepalive_and_stall_a_quiet_stream_still_counts_as_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lifecycle, "_QUIET", 0.2)
    steps = [GOT_REQUEST, stream_head(), go := asyncio.Event(), chunk(b"data: 1\n\n"), HOLD]
    async with (
        RawUpstream(steps) as upstream,
        Instance(config(upstream, "keepalive: off\nstall: off")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"connection_confirmed")
        go.set()
        await client.wait_for(b"data: 1")
        await proxy.until(lambda: [stream.life.state for stream in proxy.server.streams] == [State.IDLE])


@on_each_loop
async def test_a_client_that_does_not_read_a_plain_answer_is_disconnected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frontend, "SEND_TIMEOUT", 0.5)

    async def plenty(asked: UpstreamConnection) -> None:
        await asked.next_request()
        await asked.send(response(body=b"x" * 30_000_000))

    async with RawUpstream(plenty) as upstream, Running(plain(upstream.url)) as proxy:
        client: RawClient = await proxy.client(receive_buffer=4096)
        client.request("/a")
        client.pause()
        await (await upstream.connection()).wait_closed()
        await soon(lambda: not proxy.upstream_connections)
        client.resume()
        await client.close()
