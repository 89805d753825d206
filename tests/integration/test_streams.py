"""How a stream begins: its head, its first bytes, what becomes a stream and what does not, its limits."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.support.instance import EVENT_SOURCE, Instance, config
from tests.support.raw_client import RawClient
from tests.support.raw_upstream import (
    CLOSE,
    GOT_REQUEST,
    LAST_CHUNK,
    RawUpstream,
    chunk,
    response,
    stream_head,
)
from tests.support.running import on_each_loop
from tests.support.sockets import Ending
from tests.support.sse_reference import Event

SILENT = [GOT_REQUEST, stream_head()]
EVENT = b"data: 1\n\n"
JSON_ACCEPT = "Accept: application/json"


def confirmed(client: RawClient) -> dict[str, str]:
    """The data of the confirm event, which has to be the first thing of the stream."""
    first = client.stream.items[0]
    assert isinstance(first, Event)
    assert first.type == "connection_confirmed"
    data: dict[str, str] = json.loads(first.data)
    return data


# The first bytes.


@on_each_loop
async def test_head_and_confirm_of_a_silent_upstream_arrive_together_at_once() -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(lambda client: client.events)
        assert client.response.status == 200
        assert len(client.arrivals) == 1  # one write: no hop can have the head without a body byte
        data = confirmed(client)
        assert data["type"] == "connection_confirmed"
        assert len(data["stream_id"]) == 16
        assert data["timestamp"].endswith("Z")
        assert proxy.metric("confirms_sent_total", form="event") == 1
        assert proxy.metric("time_to_first_byte_seconds_count") == 1
        assert proxy.metric("upstream_time_to_headers_seconds_count") == 1
        assert proxy.metric("streams_active", state="waiting") == 1


@on_each_loop
async def test_auto_confirms_by_a_comment_to_clients_that_are_no_event_source() -> None:
    async with RawUpstream(SILENT) as upstream, Instance(config(upstream)) as proxy:
        for accept, ok in (
            (JSON_ACCEPT, b":ok\n\n"),
            ("Accept: text/event-stream", b":ok\n"),
            ("Accept: text/event-stream, */*", b":ok\n"),
            ("X-Nothing: 1", b":ok\n\n"),
        ):
            async with await proxy.client() as client:
                client.request("/events", accept)
                await client.wait_for(lambda client: client.body)
                assert client.body == ok
        assert proxy.metric("confirms_sent_total", form="comment") == 4
        assert proxy.metric("confirms_sent_total", form="event") == 0


@on_each_loop
async def test_a_post_stream_of_a_language_model_gets_the_comment_and_its_body_through() -> None:
    question = b'{"stream": true}'
    script = [GOT_REQUEST, stream_head(), chunk(b"data: {}\n\ndata: [DONE]\n\n"), LAST_CHUNK]
    async with RawUpstream(script) as upstream, Instance(config(upstream)) as proxy:
        async with await proxy.client() as client:
            client.request("/events", "Accept: text/event-stream", method="POST", body=question)
            await client.wait_response()
            assert client.body == b":ok\ndata: {}\n\ndata: [DONE]\n\n"
        request = await (await upstream.connection()).request()
        assert (request.method, bytes(request.body)) == ("POST", question)


@on_each_loop
@pytest.mark.parametrize(
    ("form", "first"), [("comment", b":ok\n"), ("event", b"event: connection_confirmed\n")]
)
async def test_an_explicit_form_applies_to_all_clients(form: str, first: bytes) -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, f"confirm: {{form: {form}}}")) as proxy,
    ):
        for accept in (EVENT_SOURCE, JSON_ACCEPT):
            async with await proxy.client() as client:
                client.request("/events", accept)
                await client.wait_for(lambda client: client.body)
                assert client.body.startswith(first)


@on_each_loop
async def test_without_confirm_the_head_leaves_at_once_and_the_first_byte_is_upstreams() -> None:
    async with (
        RawUpstream([*SILENT, go := asyncio.Event(), chunk(b": hi\n\n")]) as upstream,
        Instance(config(upstream, "confirm: off")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_head()
        assert client.body == b""
        assert proxy.metric("time_to_first_byte_seconds_count") == 0
        go.set()
        await client.wait_for(b": hi\n\n")
        assert client.body == b": hi\n\n"
        assert proxy.metric("confirms_sent_total", form="event") == 0
        assert proxy.metric("time_to_first_byte_seconds_count") == 1


@on_each_loop
async def test_the_confirm_event_says_what_the_configuration_says() -> None:
    stream = """\
        confirm:
          event: ""
          data: {type: connection_confirmed, where: "{route}", id: "{stream_id}", connected_chats: [1, 2]}
    """
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, stream)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(lambda client: client.events)
        (event,) = client.events
        assert event.type == "message"
        data = json.loads(event.data)
        assert data == {
            "type": "connection_confirmed",
            "where": "events",
            "id": data["id"],
            "connected_chats": [1, 2],
        }


@on_each_loop
@pytest.mark.parametrize("accept", [EVENT_SOURCE, JSON_ACCEPT])
async def test_padding_goes_first_and_means_nothing_to_a_client(accept: str) -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, "confirm: {padding: 2KiB}")) as proxy,
        await proxy.client() as client,
    ):
        client.request("/events", accept)
        await client.wait_for(lambda client: len(client.body) > 2048)
        padding, rest = client.body[:2048], client.body[2048:]
        assert padding.endswith(b" \n" if accept is EVENT_SOURCE else b" \n\n")
        assert set(padding) <= set(b": \n")
        assert rest.startswith(b"event: connection_confirmed\n" if accept is EVENT_SOURCE else b":ok\n\n")


@on_each_loop
async def test_with_wait_the_confirm_event_follows_ok_when_upstream_stays_silent() -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, "confirm: {wait: 100ms}")) as proxy,
    ):
        asked_at = asyncio.get_running_loop().time()
        async with await proxy.event_source() as client:
            await client.wait_for(b":ok\n")
            assert client.body == b":ok\n" or asyncio.get_running_loop().time() - asked_at >= 0.1
            await client.wait_for(lambda client: client.events)
            assert client.body.startswith(b":ok\nevent: connection_confirmed\n")
            assert client.body_arrivals[-1].at - asked_at >= 0.099
            assert proxy.metric("confirms_sent_total", form="event") == 1


@on_each_loop
async def test_with_wait_there_is_no_confirm_event_once_upstream_has_spoken() -> None:
    stream = "confirm: {wait: 100ms}\nkeepalive: {interval: 300ms}"
    async with (
        RawUpstream([*SILENT, chunk(EVENT)]) as upstream,
        Instance(config(upstream, stream)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b":ping")  # far beyond the wait
        assert client.body == b":ok\ndata: 1\n\n:ping\n"


# The head.


@on_each_loop
async def test_the_head_is_upstreams_without_wrong_fields_and_with_fields_against_buffering() -> None:
    head = stream_head(
        "Content-Type: text/event-stream; charset=utf-8",
        "Cache-Control: private, No-Transform",
        "X-Accel-Buffering: yes",
        "ETag: W/1",
        "Set-Cookie: a=1; Path=/",
        "Set-Cookie: b=2",
        "Access-Control-Allow-Origin: https://chat.example",
        "X-Request-Id: r-1",
        "Connection: keep-alive, X-Hop",
        "X-Hop: gone",
        "Keep-Alive: timeout=5",
        status="201 All Right",
    )
    async with (
        RawUpstream([GOT_REQUEST, head]) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.event_source() as client,
    ):
        answer = await client.wait_head()
        assert (answer.status, answer.reason) == (201, "All Right")
        assert answer.headers == [
            (b"Content-Type", b"text/event-stream; charset=utf-8"),
            (b"Set-Cookie", b"a=1; Path=/"),
            (b"Set-Cookie", b"b=2"),
            (b"Access-Control-Allow-Origin", b"https://chat.example"),
            (b"X-Request-Id", b"r-1"),
            (b"Cache-Control", b"private, No-Transform, no-cache"),
            (b"X-Accel-Buffering", b"no"),
            (b"Transfer-Encoding", b"chunked"),
            (b"Connection", b"close"),
        ]


@on_each_loop
async def test_upstream_is_asked_for_an_uncoded_stream_and_everything_else_goes_as_it_came() -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.client() as client,
    ):
        client.request(
            "/events?access_token=t%20t&b", EVENT_SOURCE, "Accept-Encoding: gzip, br", "Last-Event-ID: 7 ä"
        )
        request = await (await upstream.connection()).request()
        assert request.target == "/events?access_token=t%20t&b"
        assert request.header("Accept-Encoding") == "identity"
        assert request.header("Last-Event-ID") == "7 ä"
        assert request.header("Accept") == "text/event-stream"


@on_each_loop
@pytest.mark.parametrize("end", [b"content-length: 18\r\n", b""], ids=["Content-Length", "until the end"])
async def test_an_upstream_without_chunked_coding_streams_too(end: bytes) -> None:
    head = b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n" + end + b"\r\n"
    steps = [GOT_REQUEST, head, EVENT, go := asyncio.Event(), EVENT, CLOSE]
    async with (
        RawUpstream(steps) as upstream,
        Instance(config(upstream, "confirm: {form: comment}")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(EVENT)
        assert client.response.header("Content-Length") is None
        go.set()
        await client.wait_response()
        assert client.body == b":ok\n" + 2 * EVENT
        await proxy.until_closed("upstream_end")


@on_each_loop
async def test_an_http_1_0_client_gets_no_chunked_coding_and_ends_with_the_connection() -> None:
    steps = [*SILENT, chunk(EVENT), go := asyncio.Event(), LAST_CHUNK]
    async with (
        RawUpstream(steps) as upstream,
        Instance(config(upstream, "keepalive: {interval: 100ms}")) as proxy,
        await proxy.client() as client,
    ):
        client.send(b"GET /events HTTP/1.0\r\nHost: x\r\n\r\n")
        await client.wait_for(b":ping")
        assert client.response.header("Transfer-Encoding") is None
        assert client.response.header("Connection") == "close"
        assert client.body.startswith(b":ok\n\ndata: 1\n\n:ping\n\n")
        go.set()
        assert await client.wait_end() is Ending.EOF
        assert not client.body.endswith(LAST_CHUNK)


# What is no stream.


@on_each_loop
@pytest.mark.parametrize(
    "answer",
    [
        response("401 Unauthorized", b"Token verification failed", "content-type: text/plain; charset=utf-8"),
        response("401 Unauthorized", b"data: no\n\n", "content-type: text/event-stream"),
        response("404 Not Found", b"nothing here", "ETag: 1"),
        response("302 Found", b"", "Location: /login"),
        response("200 OK", b"<p>hi", "content-type: text/html", "Cache-Control: max-age=60"),
        response("200 OK", b"{}", "content-type: application/x-text/event-stream"),
        response("200 OK", b"no type"),
    ],
    ids=["401", "401 of that type", "404", "302", "text/html", "another type", "no type"],
)
async def test_whatever_is_no_2xx_event_stream_passes_untouched(answer: bytes) -> None:
    async with (
        RawUpstream([GOT_REQUEST, answer]) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        assert bytes(client.received) == answer
        assert proxy.opened() == 0
        assert proxy.metric("requests_in_flight") == 0
        assert len(proxy.server.streams) == 0


@on_each_loop
async def test_a_204_the_polite_stop_passes_untouched() -> None:
    async with (
        RawUpstream(
            [GOT_REQUEST, b"HTTP/1.1 204 No Content\r\ncontent-type: text/event-stream\r\n\r\n"]
        ) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        assert client.response.status == 204
        assert client.body == b""
        assert proxy.opened() == 0


@on_each_loop
async def test_a_download_on_a_stream_route_is_no_open_stream_while_it_lasts() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\nab"
    async with (
        RawUpstream([GOT_REQUEST, head, go := asyncio.Event(), b"cd"]) as upstream,
        Instance(config(upstream, before="limits: {max_streams: 1}")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"ab")
        assert proxy.metric("streams_active", state="connecting") == 0
        go.set()
        await client.wait_response()
        assert client.body == b"abcd"


@on_each_loop
async def test_a_route_without_stream_leaves_an_event_stream_alone() -> None:
    async with (
        RawUpstream([*SILENT, chunk(b"half"), LAST_CHUNK]) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.event_source("/other") as client,
    ):
        await client.wait_response()
        assert client.body == b"half"
        assert client.response.header("X-Accel-Buffering") is None


@on_each_loop
async def test_an_encoded_stream_passes_without_our_bytes_and_is_counted() -> None:
    coded = b"\x1f\x8b anything"
    async with (
        RawUpstream(
            [GOT_REQUEST, stream_head("Content-Encoding: gzip"), chunk(coded), LAST_CHUNK]
        ) as upstream,
        Instance(config(upstream)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        assert client.body == coded
        assert client.response.header("Content-Encoding") == "gzip"
        assert proxy.metric("uninspectable_streams_total") == 1
        assert proxy.opened() == 0


@on_each_loop
async def test_a_head_request_runs_upstreams_handler_unless_it_is_refused() -> None:
    async with RawUpstream(SILENT) as upstream:
        async with Instance(config(upstream)) as proxy, await proxy.client() as client:
            client.request("/events", method="HEAD")
            await client.wait_response()
            assert client.response.status == 200
            assert client.response.header("Content-Type") == "text/event-stream"
            assert len(upstream.connections) == 1
        async with Instance(config(upstream, "head: refuse")) as proxy, await proxy.client() as client:
            client.request("/events", method="HEAD")
            await client.wait_response()
            assert client.response.status == 405
            assert client.response.header("Allow") == "GET"
            assert len(upstream.connections) == 1


# Limits.


@on_each_loop
async def test_a_stream_too_many_is_refused_and_no_other_suffers() -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, before="limits: {max_streams: 2}")) as proxy,
        await proxy.event_source() as first,
        await proxy.event_source() as second,
        await proxy.event_source() as third,
    ):
        await third.wait_response()
        assert third.response.status == 503
        assert 1 <= int(third.response.header("Retry-After") or "") <= 10
        assert b"limits.max_streams" in third.body
        await first.wait_for(b"connection_confirmed")
        await second.wait_for(b"connection_confirmed")
        assert len(upstream.connections) == 2  # the limit protects upstream too
        assert proxy.metric("streams_rejected_total", reason="max_streams") == 1
        assert proxy.metric("streams_limit") == 2
        assert first.ending is second.ending is None
        await first.close()
        await proxy.until(lambda: len(proxy.server.streams) == 1)
        async with await proxy.event_source() as fourth:
            await fourth.wait_for(b"connection_confirmed")


@on_each_loop
async def test_a_client_has_its_own_limit_by_the_address_a_trusted_hop_gives() -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, before="limits: {max_streams_per_client: 1}")) as proxy,
        await proxy.client() as mine,
        await proxy.client() as mine_again,
        await proxy.client() as other,
    ):
        mine.request("/events", EVENT_SOURCE, "X-Forwarded-For: 203.0.113.7")
        await mine.wait_for(b"connection_confirmed")
        mine_again.request("/events", EVENT_SOURCE, "X-Forwarded-For: 203.0.113.7")
        other.request("/events", EVENT_SOURCE, "X-Forwarded-For: 203.0.113.8")
        await other.wait_for(b"connection_confirmed")
        await mine_again.wait_response()
        assert mine_again.response.status == 503
        assert proxy.metric("streams_rejected_total", reason="max_streams_per_client") == 1
        await mine.close()
        await proxy.until(lambda: len(proxy.server.streams) == 1)
        async with await proxy.client() as late:
            late.request("/events", EVENT_SOURCE, "X-Forwarded-For: 203.0.113.7")
            await late.wait_for(b"connection_confirmed")


@on_each_loop
async def test_hundreds_of_streams_are_all_confirmed_and_leave_nothing_open() -> None:
    count = 300

    async def open_one(proxy: Instance) -> RawClient:
        client = await proxy.event_source()
        await client.wait_for(b"connection_confirmed", within=30)
        return client

    async with RawUpstream(SILENT) as upstream, Instance(config(upstream)) as proxy:
        clients = await asyncio.gather(*(open_one(proxy) for _ in range(count)))
        assert proxy.metric("confirms_sent_total", form="event") == count
        assert proxy.opened() == count
        assert upstream.open_connections == count
        assert len({confirmed(client)["stream_id"] for client in clients}) == count
        await asyncio.gather(*(client.close() for client in clients))
        await upstream.wait_all_closed()
        await proxy.until_closed("client_gone", count)
        assert len(proxy.server.streams) == 0


@on_each_loop
async def test_a_stream_through_a_quick_tunnel_is_counted_and_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with RawUpstream(SILENT) as upstream, Instance(config(upstream)) as proxy:
        for method, host in (
            ("GET", "a-b.trycloudflare.com"),
            ("GET", "A.TryCloudflare.com:443"),
            ("POST", "x.trycloudflare.com"),
            ("GET", "trycloudflare.com.example"),
        ):
            async with await proxy.client() as client:
                client.request("/events", f"Host: {host}", method=method)
                await client.wait_head()
        assert proxy.metric("quick_tunnel_requests_total") == 2
        assert sum("Quick Tunnel" in record.message for record in caplog.records) == 1
