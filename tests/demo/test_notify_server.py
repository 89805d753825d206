"""The stand-in over a raw socket: every route of notify-server (facts.md#notify-server-http)."""

import asyncio
import contextlib
import gzip
import json
import os
import signal
import sys
import urllib.parse
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from sse_keepalive_proxy.demo import frames
from sse_keepalive_proxy.demo.hub import Mode
from sse_keepalive_proxy.demo.knobs import Gzip, Knobs
from sse_keepalive_proxy.demo.notify_server import NotifyServer
from sse_keepalive_proxy.demo.tokens import TokenRefused, new_tokens
from tests.support.http1 import LAST_CHUNK, Response, chunk
from tests.support.looping import in_loop
from tests.support.programs import free_port, running
from tests.support.raw_client import RawClient
from tests.support.sockets import Ending

AT = 1750992346_782538123
QUIET = Knobs(ping_interval=None, heartbeat_interval=None)
NEW = {
    "event_type": "new_message",
    "chat_id": 2,
    "sender_id": 3,
    "sender_name": "Three",
    "content": "hi",
    "files": [],
    "timestamp": "2025-06-27T02:45:46Z",
    "message_id": 210,
    "workspace_id": 2,
}
OFFLINE = {"event_type": "status_changed", "user_id": 2, "status": "offline"}
RECEIVED = {
    "MessageReceived": {
        "message": {
            "id": "210",
            "chat_id": 2,
            "sender_id": 3,
            "content": "hi",
            "files": [],
            "timestamp": 1750852000,
        },
        "chat_id": 2,
        "recipients": [2, 3, 4],
    }
}
NEW_FRAME = (
    b'data: {"event":"Generic","chat_id":2,"content":"hi","sender_id":3,'
    b'"timestamp":"2025-06-27T02:45:46.782538123Z","type":"new_message"}\nevent: Generic\n\n'
)
RECEIVED_FRAME = (
    b'data: {"event":"Generic","chat_id":2,"message":{"chat_id":2,"content":"hi","files":[],"id":"210",'
    b'"sender_id":3,"timestamp":1750852000},"realtime_source":"fechatter_server",'
    b'"timestamp":"2025-06-27T02:45:46.782538123Z","type":"new_message"}\nevent: Generic\n\n'
)


@contextlib.asynccontextmanager
async def serving(mode: str, knobs: Knobs = QUIET, **options: Any) -> AsyncIterator[NotifyServer]:
    server = NotifyServer(mode, knobs=knobs, wall_ns=lambda: AT, **options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def streaming(server: NotifyServer, user_id: int = 2, *headers: str) -> AsyncIterator[RawClient]:
    """A client whose stream is open."""
    async with await RawClient.connect(server.url) as client:
        before = server.hub.opened_total
        client.request(f"/events?access_token={server.token(user_id)}", *headers)
        await client.wait_head()
        assert server.hub.opened_total == before + 1
        yield client


async def ask(
    server: NotifyServer, target: str, *headers: str, method: str = "GET", body: bytes = b""
) -> Response:
    async with await RawClient.connect(server.url) as client:
        client.request(target, *headers, method=method, body=body)
        return await client.wait_response()


def types(client: RawClient) -> list[str]:
    return [json.loads(event.data)["type"] for event in client.events]


# The table: what happens on connect.


@in_loop
async def test_silent_sends_its_headers_at_once_and_not_one_byte_more() -> None:
    async with serving("silent", Knobs()) as server, streaming(server) as client:
        head, _, rest = bytes(client.received).partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        assert lines[:4] == [
            b"HTTP/1.1 200 OK",
            b"content-type: text/event-stream",
            b"cache-control: no-cache",
            b"transfer-encoding: chunked",
        ]
        assert lines[4].startswith(b"date: ")
        assert len(lines) == 5
        assert rest == b""
        assert server.state()["streams"][0]["since_event"] is None


@pytest.mark.parametrize("mode", ["fixed", "healthy"])
@in_loop
async def test_fixed_and_healthy_send_a_confirm_frame_and_a_heartbeat_at_once(mode: str) -> None:
    async with (
        serving(mode, Knobs(), chats={2: [2, 3], 5: [2], 6: [3]}) as server,
        streaming(server) as client,
    ):
        await client.wait_for(b'"type":"heartbeat"')
        stream = server.hub.streams[0]
        assert client.body == frames.connection_confirmed(
            AT, user_id=2, connection_id=stream.id, connected_chats=2
        ) + frames.heartbeat(AT, user_id=2, heartbeat_id=1)


@in_loop
async def test_each_frame_is_one_chunk() -> None:
    async with serving("silent") as server, streaming(server) as client:
        server.publish("fechatter.message.new", NEW)
        await client.wait_response()
        assert client.received.partition(b"\r\n\r\n")[2] == chunk(NEW_FRAME) + LAST_CHUNK


@in_loop
async def test_heartbeats_go_on_and_are_counted() -> None:
    knobs = Knobs(ping_interval=None, heartbeat_interval=0.01)
    async with serving("fixed", knobs) as server, streaming(server) as client:
        await client.wait_for(b'"heartbeat_id":3,')
        assert types(client)[:4] == ["connection_confirmed", "heartbeat", "heartbeat", "heartbeat"]


@pytest.mark.parametrize("mode", ["silent", "fixed", "healthy"])
@in_loop
async def test_a_ping_comes_when_there_was_no_event_for_the_interval(mode: str) -> None:
    knobs = Knobs(ping_interval=0.01, heartbeat_interval=None)
    async with serving(mode, knobs) as server, streaming(server) as client:
        await client.wait_for(lambda client: len(client.stream.comments) >= 3)
        assert set(client.stream.comments) == {" ping"}
        assert b": ping\n\n" in client.body


@in_loop
async def test_events_put_the_ping_off() -> None:
    knobs = Knobs(ping_interval=0.1, heartbeat_interval=0.005)
    async with serving("healthy", knobs) as server, streaming(server) as client:
        await client.wait_for(b'"heartbeat_id":40,')
        assert client.stream.comments == []


# The table: after the first delivered event.


@in_loop
async def test_silent_ends_cleanly_after_the_first_delivered_event() -> None:
    async with serving("silent") as server, streaming(server) as client:
        outcome = server.publish("fechatter.message.new", NEW)
        assert (outcome.delivered, outcome.lost, outcome.dropped) == (1, 1, False)
        assert (await client.wait_response()).complete
        assert client.body == NEW_FRAME
        assert client.ending is None  # the response ended, the connection did not
        await server.wait_open(0)
        assert server.publish("fechatter.message.new", NEW).delivered == 0


@in_loop
async def test_after_its_end_the_connection_takes_the_next_request() -> None:
    async with serving("silent") as server, await RawClient.connect(server.url) as client:
        for _ in range(3):
            client.request(f"/events?access_token={server.token()}")
            await server.wait_open(1)
            assert server.publish("fechatter.message.new", NEW).delivered == 1
            await server.wait_open(0)
            assert (await client.wait_response()).header("connection") is None
        await client.wait_for(lambda client: [each.complete for each in client.responses] == [True] * 3)
        assert [response.body for response in client.responses] == [NEW_FRAME] * 3
        assert client.ending is None


@in_loop
async def test_fixed_is_a_zombie_from_the_confirm_frame_on() -> None:
    async with serving("fixed", Knobs(ping_interval=None)) as server, streaming(server) as client:
        assert server.publish("fechatter.realtime.chat.2", RECEIVED).delivered == 0
        assert server.publish("fechatter.message.new", NEW).delivered == 0
        server.set_knobs(heartbeat_interval=0.01)
        await client.wait_for(b'"heartbeat_id":4,')
        assert set(types(client)) == {"connection_confirmed", "heartbeat"}
        assert server.state()["streams"][0]["registered"] is False
        assert server.state()["open"] == {"2": 1}


@in_loop
async def test_healthy_goes_on_delivering() -> None:
    async with serving("healthy") as server, streaming(server) as client:
        for number in range(5):
            message = {**NEW, "message_id": number}
            assert server.publish("fechatter.message.new", message).delivered == 1
        await client.wait_for(lambda client: client.body.count(NEW_FRAME) == 5)


# The table: a second connection of the same user.


@in_loop
async def test_silent_ends_the_first_connection_when_a_second_one_comes() -> None:
    async with serving("silent") as server, streaming(server) as first, streaming(server) as second:
        assert (await first.wait_response()).body == b""
        await server.wait_open(1)
        server.publish("fechatter.message.new", NEW)
        assert (await second.wait_response()).body == NEW_FRAME


@in_loop
async def test_fixed_keeps_the_first_connection_open_when_a_second_one_comes() -> None:
    async with serving("fixed") as server, streaming(server) as first, streaming(server) as second:
        server.set_knobs(heartbeat_interval=0.01)
        for client in (first, second):
            await client.wait_for(b'"heartbeat_id":3,')
        assert server.state()["open"] == {"2": 2}


@in_loop
async def test_healthy_serves_all_streams_of_a_user() -> None:
    async with serving("healthy") as server, streaming(server) as first, streaming(server) as second:
        assert server.publish("fechatter.message.new", NEW).delivered == 2
        await first.wait_for(NEW_FRAME)
        await second.wait_for(NEW_FRAME)


@in_loop
async def test_users_do_not_disturb_each_other() -> None:
    async with serving("silent") as server, streaming(server, 2) as two, streaming(server, 4) as four:
        assert server.publish("fechatter.message.new", NEW).delivered == 2
        assert (await two.wait_response()).body == NEW_FRAME
        assert (await four.wait_response()).body == NEW_FRAME


# The table: NATS.


@in_loop
async def test_silent_drops_realtime_messages_and_counts_them() -> None:
    async with serving("silent") as server, streaming(server) as client:
        for payload in (RECEIVED, {"TypingStarted": {"chat_id": 2, "user_id": 3, "user_name": "x"}}):
            assert server.publish("fechatter.realtime.chat.2", payload).dropped
        assert (server.state()["dropped"], server.state()["delivered"]) == (2, 0)
        assert client.body == b""


@in_loop
async def test_the_silent_build_never_sends_a_message_to_its_sender() -> None:
    async with serving("silent") as server, streaming(server, 3) as sender, streaming(server, 2) as member:
        server.publish("fechatter.message.new", NEW)
        await member.wait_response()
        assert sender.body == b""
        assert server.state()["open"].get("3") == 1


@in_loop
async def test_message_received_goes_to_the_sender_too() -> None:
    async with serving("healthy") as server, streaming(server, 3) as sender:
        assert server.publish("fechatter.realtime.chat.2", RECEIVED).delivered == 1
        await sender.wait_for(RECEIVED_FRAME)


@in_loop
async def test_fixed_delivers_only_what_came_before_the_head_in_front_of_the_confirm_frame() -> None:
    async with (
        serving("fixed", Knobs(header_delay=0.2)) as server,
        await RawClient.connect(server.url) as client,
    ):
        client.request(f"/events?access_token={server.token()}")
        await server.wait_open(1)
        assert server.publish("fechatter.realtime.chat.2", RECEIVED).delivered == 1
        await client.wait_for(b'"type":"heartbeat"')
        assert client.body.startswith(RECEIVED_FRAME)
        assert types(client) == ["new_message", "connection_confirmed", "heartbeat"]


@pytest.mark.parametrize("mode", ["silent", "fixed"])
@pytest.mark.parametrize(
    ("subject", "payload"),
    [
        (
            "fechatter.realtime.chat.2.read",
            {"MessageRead": {"message_id": 210, "chat_id": 2, "reader_id": 3}},
        ),
        ("fechatter.realtime.chat.2.typing", {"TypingStarted": {"chat_id": 2, "user_id": 3}}),
        ("fechatter.realtime.user.3.presence", {"UserPresence": {"user_id": 3, "status": "online"}}),
        ("fechatter.chat.created", {"chat_id": 2}),
    ],
)
@in_loop
async def test_both_builds_drop_the_other_messages(mode: str, subject: str, payload: dict[str, Any]) -> None:
    async with serving(mode) as server, streaming(server) as client:
        assert server.publish(subject, payload).dropped
        server.close_streams()
        await client.wait_response()
        assert types(client) == (["connection_confirmed"] if mode == "fixed" else [])


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        ({"MessageRead": {"message_id": 210, "chat_id": 2, "reader_id": 3, "read_at": "x"}}, "message_read"),
        ({"TypingStarted": {"chat_id": 2, "user_id": 3, "user_name": "x"}}, "typing_started"),
        ({"TypingStopped": {"chat_id": 2, "user_id": 3}}, "typing_stopped"),
        ({"UserPresence": {"user_id": 3, "status": "online", "last_seen": None}}, "user_presence"),
    ],
)
@in_loop
async def test_healthy_passes_them_on_to_the_other_members(payload: dict[str, Any], kind: str) -> None:
    async with serving("healthy") as server, streaming(server, 2) as member, streaming(server, 3) as author:
        assert server.publish("fechatter.realtime.chat.2.x", payload).delivered == 1
        await member.wait_for(f'"type":"{kind}"'.encode())
        await author.wait_for(b"connection_confirmed")
        assert types(author) == ["connection_confirmed"]


@in_loop
async def test_healthy_delivers_a_message_once_though_it_is_published_twice_and_an_edit_again() -> None:
    async with serving("healthy") as server, streaming(server, 2), streaming(server, 3):
        assert server.publish("fechatter.message.new", NEW).delivered == 1  # user 2
        assert server.publish("fechatter.realtime.chat.2", RECEIVED).delivered == 1  # the sender
        assert server.publish("fechatter.realtime.chat.2", RECEIVED).delivered == 0
        edit = json.loads(json.dumps(RECEIVED))
        edit["MessageReceived"]["message"]["content"] = "edited"
        assert server.publish("fechatter.realtime.chat.2", edit).delivered == 2


@pytest.mark.parametrize(
    ("subject", "payload"),
    [
        ("fechatter.message.new", {}),
        ("fechatter.message.new", {**NEW, "chat_id": "x"}),
        ("fechatter.message.new", []),
        ("fechatter.realtime.chat.2", {}),
        ("fechatter.realtime.chat.2", {"MessageReceived": {"message": 1}}),
        ("fechatter.realtime.chat.2", {"Unknown": {}}),
    ],
)
@pytest.mark.parametrize("mode", ["silent", "fixed", "healthy"])
@in_loop
async def test_a_message_that_makes_no_sense_is_dropped(mode: str, subject: str, payload: Any) -> None:
    async with serving(mode) as server:
        assert server.publish(subject, payload).dropped


# The HTTP surface.


@in_loop
async def test_head_runs_the_handler_and_steals_the_slot() -> None:
    async with serving("silent") as server, streaming(server) as first:
        async with await RawClient.connect(server.url) as client:
            client.request(f"/events?access_token={server.token()}", method="HEAD")
            answer = await client.wait_response()
        assert (answer.status, answer.header("content-type"), bytes(answer.body)) == (
            200,
            "text/event-stream",
            b"",
        )
        assert (await first.wait_response()).body == b""
        await server.wait_open(0)
        assert server.state()["opened_total"] == 2


@in_loop
async def test_after_head_the_first_stream_of_fixed_is_a_zombie() -> None:
    async with serving("fixed") as server, streaming(server):
        await ask(server, f"/events?access_token={server.token()}", method="HEAD")
        assert server.publish("fechatter.message.new", NEW).delivered == 0
        assert server.state()["open"] == {"2": 1}


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "POST"])
@in_loop
async def test_without_a_token_the_answer_is_401_in_plain_text_whatever_the_method(method: str) -> None:
    async with serving("silent") as server:
        answer = await ask(server, "/events", "Origin: http://x", method=method)
        assert answer.status == 401
        assert answer.header_names == ["content-type", "content-length", "date"]
        assert answer.header("content-type") == "text/plain; charset=utf-8"
        assert answer.body == (
            b"Failed to parse access_token from query: "
            b"Failed to deserialize query string: missing field `access_token`"
        )


@in_loop
async def test_an_expired_token_is_refused_in_notify_servers_words() -> None:
    async with serving("silent") as server:
        answer = await ask(server, f"/events?access_token={server.token(lifetime=-3600)}")
        assert answer.status == 401
        assert answer.body == b'Token verification failed: ValidationError("ExpiredSignature")'
        assert server.state()["opened_total"] == 0


@in_loop
async def test_a_token_in_a_header_is_not_looked_at_for_the_stream() -> None:
    async with serving("silent") as server:
        assert (await ask(server, "/events", f"Authorization: Bearer {server.token()}")).status == 401


@in_loop
async def test_a_token_given_twice_or_malformed_is_refused() -> None:
    async with serving("silent") as server:
        token = server.token()
        twice = await ask(server, f"/events?access_token={token}&access_token={token}")
        assert twice.status == 401
        assert b"duplicate field" in twice.body
        short = urllib.parse.quote("é" * 20)
        assert (await ask(server, f"/events?access_token={short}")).status == 401
        assert (await ask(server, "/events?access_token=%FF%FE")).status == 401


@pytest.mark.parametrize(("mode", "least"), [("silent", 240.0), ("fixed", -60.0), ("healthy", -60.0)])
@in_loop
async def test_the_silent_build_refuses_a_token_with_less_than_four_minutes_left(
    mode: str, least: float
) -> None:
    async with serving(mode) as server:
        answer = await ask(server, f"/events?access_token={server.token(lifetime=least - 10)}")
        assert (answer.status, bytes(answer.body)) == (
            401,
            b'Token verification failed: ValidationError("ExpiredSignature")',
        )
        async with await RawClient.connect(server.url) as client:
            client.request(f"/events?access_token={server.token(lifetime=least + 10)}")
            await client.wait_head()
            assert client.response.status == 200


@in_loop
async def test_a_stream_outlives_its_token() -> None:
    seconds = [0.0]
    tokens = new_tokens(lambda: seconds[0])
    async with serving("healthy", tokens=tokens) as server, streaming(server) as client:
        seconds[0] = 3600.0
        assert server.publish("fechatter.message.new", NEW).delivered == 1
        await client.wait_for(NEW_FRAME)
        with pytest.raises(TokenRefused):
            tokens.verify(tokens.issue(2, lifetime=-61))


@in_loop
async def test_other_methods_with_a_token_are_405() -> None:
    async with serving("silent") as server:
        for method in ("OPTIONS", "POST"):
            answer = await ask(server, f"/events?access_token={server.token()}", method=method)
            assert (answer.status, answer.header("allow")) == (405, "GET,HEAD")


@in_loop
async def test_last_event_id_is_ignored_and_there_is_no_cors_no_id_and_no_retry() -> None:
    asked = ("Origin: http://page", "Last-Event-ID: 7")
    async with serving("healthy", Knobs()) as server, streaming(server, 2, *asked) as client:
        server.publish("fechatter.message.new", NEW)
        await client.wait_for(NEW_FRAME)
        await client.wait_for(b'"type":"heartbeat"')
        names = ["content-type", "cache-control", "transfer-encoding", "date"]
        assert client.response.header_names == names
        assert client.stream.last_event_id == ""
        assert client.stream.reconnection_time is None


@in_loop
async def test_an_http_1_0_client_gets_the_stream_until_the_connection_ends() -> None:
    async with serving("silent") as server, await RawClient.connect(server.url) as client:
        client.send(f"GET /events?access_token={server.token()} HTTP/1.0\r\n\r\n".encode())
        await client.wait_head()
        server.publish("fechatter.message.new", NEW)
        assert await client.wait_end() is Ending.EOF
        assert client.body == NEW_FRAME
        assert client.response.header("transfer-encoding") is None


@in_loop
async def test_online_users_is_a_json_array_behind_bearer() -> None:
    async with serving("silent") as server, streaming(server, 3), streaming(server, 9):
        refused = await ask(server, "/online-users?chat_id=2")
        assert refused.status == 401
        bearer = f"Authorization: Bearer {server.token(2)}"
        answer = await ask(server, "/online-users?chat_id=2&workspace_id=2", bearer)
        assert (answer.status, answer.header("content-type")) == (200, "application/json")
        assert [user["user_id"] for user in json.loads(answer.body)] == [3]
        assert (await ask(server, "/online-users?chat_id=77", bearer)).status == 401
        assert [
            user["user_id"] for user in json.loads((await ask(server, "/online-users", bearer)).body)
        ] == [3]


@in_loop
async def test_sse_health_is_json_behind_bearer() -> None:
    async with serving("silent") as server, streaming(server, 3):
        bad = await ask(server, "/sse/health", "Authorization: Bearer x")
        assert (bad.status, bytes(bad.body)) == (
            401,
            b'Token verification failed: ValidationError("InvalidToken")',
        )
        answer = await ask(server, "/sse/health", f"Authorization: Bearer {server.token()}")
        assert json.loads(answer.body)["connected_users"] == 1


@in_loop
async def test_the_static_routes_are_healthy_whatever_happens() -> None:
    async with serving("silent", Knobs(status=500, refuse=True)) as server:
        for path in ("/", "/health", "/ready", "/live"):
            answer = await ask(server, path)
            assert (answer.status, json.loads(answer.body)["status"]) == (200, "healthy")
            assert answer.header("server") is None


@in_loop
async def test_what_is_not_there_is_an_empty_404() -> None:
    async with serving("silent") as server:
        answer = await ask(server, "/nowhere")
        assert (answer.status, bytes(answer.body)) == (404, b"")
        assert (await ask(server, "/health", method="POST")).status == 405


# A client's departure.


@pytest.mark.parametrize("leave", ["close", "abort", "half_close"])
@in_loop
async def test_a_departed_clients_slot_is_free(leave: str) -> None:
    async with serving("silent") as server, streaming(server) as client:
        if leave == "close":
            await client.close()
        elif leave == "abort":
            client.abort()
        else:
            client.half_close()
        await server.wait_open(0)
        assert server.publish("fechatter.message.new", NEW).lost == 2
        assert server.state()["closed_total"] == 1


@in_loop
async def test_a_client_that_leaves_before_the_headers_has_taken_the_slot() -> None:
    async with serving("silent") as server, streaming(server) as first:
        server.set_knobs(header_delay=3600)
        async with await RawClient.connect(server.url) as client:
            client.request(f"/events?access_token={server.token()}")
            assert (await first.wait_response()).body == b""
            await server.wait_open(1)
        await server.wait_open(0)
        assert server.publish("fechatter.message.new", NEW).lost == 2


# Knobs.


@in_loop
async def test_headers_can_be_late() -> None:
    async with serving("silent", Knobs(header_delay=0.02)) as server:
        started = asyncio.get_running_loop().time()
        async with streaming(server) as client:
            assert client.arrivals[0].at - started >= 0.02


@in_loop
async def test_the_stream_route_can_answer_with_another_status() -> None:
    async with serving("silent", Knobs(status=503)) as server:
        assert (await ask(server, f"/events?access_token={server.token()}")).status == 503
        assert server.state()["opened_total"] == 0


@in_loop
async def test_connections_can_be_reset_before_the_headers() -> None:
    async with serving("silent", Knobs(refuse=True)) as server, await RawClient.connect(server.url) as client:
        client.request("/events")
        assert await client.wait_end() is Ending.RESET
        assert client.received == b""


@in_loop
async def test_all_streams_can_be_reset_or_closed_over_http() -> None:
    async with serving("fixed") as server:
        async with streaming(server, 2) as two, streaming(server, 3) as three:
            answer = await ask(server, "/demo/knobs", method="POST", body=b'{"action":"reset_streams"}')
            assert answer.status == 200
            assert await two.wait_end() is Ending.RESET
            assert await three.wait_end() is Ending.RESET
        async with streaming(server) as client:
            await ask(server, "/demo/knobs", method="POST", body=b'{"action":"close_streams"}')
            assert (await client.wait_response()).complete
            assert client.ending is None


@in_loop
async def test_knobs_are_set_while_streams_are_open() -> None:
    async with serving("silent") as server, streaming(server) as client:
        answer = await ask(server, "/demo/knobs", method="POST", body=b'{"ping_interval":0.01}')
        assert json.loads(answer.body)["ping_interval"] == 0.01
        await client.wait_for(b": ping\n\n")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[1]",
        b'{"pong":1}',
        b'{"ping_interval":0}',
        b'{"ping_interval":true}',
        b'{"header_delay":-1}',
        b'{"status":99}',
        b'{"refuse":"yes"}',
        b'{"gzip":"maybe"}',
        b'{"action":"explode"}',
    ],
)
@in_loop
async def test_a_knob_that_makes_no_sense_is_400_and_changes_nothing(body: bytes) -> None:
    async with serving("silent") as server:
        assert (await ask(server, "/demo/knobs", method="POST", body=body)).status == 400
        assert server.knobs == QUIET


@pytest.mark.parametrize(
    ("setting", "accept", "encoded"),
    [
        (Gzip.OFF, "gzip", False),
        (Gzip.NEGOTIATED, "gzip, br", True),
        (Gzip.NEGOTIATED, "identity", False),
        (Gzip.ALWAYS, "identity", True),
    ],
)
@in_loop
async def test_the_stream_can_be_compressed(setting: Gzip, accept: str, encoded: bool) -> None:
    knobs = Knobs(ping_interval=None, heartbeat_interval=None, gzip=setting)
    async with (
        serving("healthy", knobs) as server,
        streaming(server, 2, f"Accept-Encoding: {accept}") as client,
    ):
        server.publish("fechatter.message.new", NEW)
        assert client.response.header("content-encoding") == ("gzip" if encoded else None)

        def decoded(client: RawClient) -> bytes:
            return zlib.decompressobj(wbits=31).decompress(client.body) if encoded else client.body

        await client.wait_for(lambda client: NEW_FRAME in decoded(client))
        server.close_streams()
        await client.wait_response()
        assert NEW_FRAME in (gzip.decompress(client.body) if encoded else client.body)


# The stand-in's own routes.


@in_loop
async def test_messages_come_in_and_the_state_is_read_over_http() -> None:
    async with serving("silent") as server, streaming(server) as client:
        body = json.dumps({"subject": "fechatter.message.new", "payload": NEW}).encode()
        answer = await ask(server, "/demo/publish", method="POST", body=body)
        assert json.loads(answer.body) == {"delivered": 1, "lost": 1, "dropped": False}
        assert (await client.wait_response()).body == NEW_FRAME
        body = json.dumps({"subject": "fechatter.realtime.chat.2", "payload": RECEIVED}).encode()
        await ask(server, "/demo/publish", method="POST", body=body)
        await server.wait_open(0)
        state = json.loads((await ask(server, "/demo/state")).body)
        assert state["knobs"]["gzip"] == "off"
        del state["knobs"]
        assert state == {
            "mode": "silent",
            "frozen": False,
            "open": {},
            "delivered": 1,
            "lost": 1,
            "dropped": 1,
            "written": 1,
            "written_messages": 1,
            "opened_total": 1,
            "closed_total": 1,
            "streams": [],
        }
        assert (await ask(server, "/demo/publish", method="POST", body=b"{}")).status == 400


@in_loop
async def test_the_state_tells_the_silence_of_each_stream() -> None:
    async with serving("silent") as server, streaming(server):
        (stream,) = json.loads((await ask(server, "/demo/state")).body)["streams"]
        assert set(stream) == {
            "id", "user_id", "registered", "answered", "age", "silence", "since_event", "events",
        }  # fmt: skip
        assert 0 <= stream["silence"] <= stream["age"] < 5


@in_loop
async def test_tokens_are_handed_out() -> None:
    async with serving("silent") as server:
        answer = json.loads((await ask(server, "/demo/token?user_id=7")).body)
        assert answer["user_id"] == 7
        assert server.tokens.verify(answer["access_token"])["user"]["id"] == 7
        expired = json.loads((await ask(server, "/demo/token?lifetime=-100")).body)["access_token"]
        assert (await ask(server, f"/events?access_token={expired}")).status == 401
        assert (await ask(server, "/demo/token?user_id=x")).status == 400


@in_loop
async def test_a_page_is_served_when_there_is_one() -> None:
    async def page(_: web.Request) -> web.StreamResponse:
        return web.Response(text="<p>é</p>", content_type="text/html")

    async with serving("silent", pages={"/demo/": page}) as server:
        answer = await ask(server, "/demo/")
        assert answer.header("content-type") == "text/html; charset=utf-8"
        assert answer.body == "<p>é</p>".encode()
    async with serving("silent") as server:
        assert (await ask(server, "/demo/")).status == 404


@in_loop
async def test_a_new_member_of_a_chat_is_a_new_user_and_receives_its_messages() -> None:
    async with serving("silent", chats={2: (2, 3), 9: (7,)}) as server:
        assert [server.hub.join(2), server.hub.join(2), server.hub.join(5)] == [8, 9, 10]
        async with streaming(server, 9) as client:
            assert server.publish("fechatter.message.new", NEW).delivered == 1
            await client.wait_for(b'"new_message"')


@in_loop
async def test_stopping_breaks_every_connection_at_once() -> None:
    server = NotifyServer(Mode.SILENT, knobs=Knobs(header_delay=0))
    await server.start()
    async with streaming(server) as client:
        await server.stop()
        await client.wait_end()
    with pytest.raises(ConnectionRefusedError):
        await RawClient.connect(server.url)


@in_loop
async def test_two_hundred_streams_are_served() -> None:
    async with serving("healthy", chats={2: range(1000)}) as server, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(streaming(server, user)) for user in range(200)]
        assert server.publish("fechatter.message.new", {**NEW, "sender_id": 999}).delivered == 200
        await asyncio.gather(*(client.wait_for(b'"new_message"') for client in clients))


def test_as_a_process_it_says_where_it_is_and_ends_on_sigterm(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "sse_keepalive_proxy.demo.notify_server", "--port", str(port)]
    command += ["--mode", "fixed", "--knobs", '{"ping_interval": 1}']
    with running(command, port=port, log_file=tmp_path / "log") as program:
        while not program.log.endswith("\n"):
            os.sched_yield()
        ready = json.loads(program.log)
        assert (ready["url"], ready["mode"]) == (f"http://127.0.0.1:{port}", "fixed")

        @in_loop
        async def hold_a_stream_open() -> None:
            async with await RawClient.connect(ready["url"]) as client:
                client.request(f"/events?access_token={ready['token']}")
                await client.wait_for(b'"connection_confirmed"')
                program.process.send_signal(signal.SIGTERM)
                await client.wait_end()

        hold_a_stream_open()
        assert program.process.wait(30) == 0
        assert program.log.count("\n") == 1


# The freeze (facts.md#notify-server-freeze).


async def frozen(server: NotifyServer) -> bool:
    """Whether the server accepts a connection and answers nothing."""
    async with await RawClient.connect(server.url) as client:
        client.request("/health")
        try:
            await client.wait_response(within=0.3)
        except TimeoutError:
            return True
        return False


async def answers(server: NotifyServer) -> bool:
    """Whether the server is not frozen. A slow machine has time to answer."""
    return (await ask(server, "/health")).status == 200


@in_loop
@pytest.mark.parametrize("header_delay", [0.0, 5.0])
async def test_a_client_that_has_left_and_one_message_for_it_freeze_the_silent_build(
    header_delay: float,
) -> None:
    async with serving("silent", Knobs(ping_interval=0.05)) as server, streaming(server, 3) as other:
        server.set_knobs(header_delay=header_delay)
        async with await RawClient.connect(server.url) as client:
            client.request(f"/events?access_token={server.token()}")
            await (server.wait_open(2) if header_delay else client.wait_head())
        await server.wait_open(1)
        assert await answers(server)
        assert server.publish("fechatter.message.new", NEW).delivered == 0
        assert server.state()["frozen"]
        assert await frozen(server)
        pings = len(other.stream.comments)
        async with await RawClient.connect(server.url) as late:
            late.request(f"/events?access_token={server.token(4)}")
            with pytest.raises(TimeoutError):
                await late.wait_head(within=0.3)
        assert len(other.stream.comments) <= pings + 1
        assert other.events == []


@in_loop
@pytest.mark.parametrize("saved_by", ["another stream", "NATS", "the next event", "a restart", "the knob"])
async def test_the_freeze_does_not_come(saved_by: str) -> None:
    async with serving("silent") as server:
        async with streaming(server) as client:
            if saved_by == "the next event":
                server.publish("fechatter.message.new", NEW)
                await client.wait_response()
        await server.wait_open(0)
        match saved_by:
            case "another stream":
                async with streaming(server):
                    server.publish("fechatter.message.new", NEW)
            case "NATS":
                server.publish("fechatter.user.status", OFFLINE)
            case "a restart":
                await server.stop()
                await server.start(port=server.port)
            case "the knob":
                server.set_knobs(freezes=False)
            case _:
                pass
        server.publish("fechatter.message.new", NEW)
        assert await answers(server)


@in_loop
async def test_a_user_who_is_set_offline_on_nats_is_unregistered_and_the_stream_ends() -> None:
    async with serving("silent") as server, streaming(server) as client:
        server.publish("fechatter.user.status", OFFLINE)
        assert (await client.wait_response()).complete
        assert server.publish("fechatter.message.new", NEW).delivered == 0
        assert not server.hub.frozen


# The abort (facts.md#notify-server-abort).

LONG = "十七个汉字就足以让这个服务器中止了吗"  # 54 bytes


async def aborted(server: NotifyServer, *clients: RawClient) -> None:
    """Nothing accepts any more, and no response was ended with a last chunk."""
    for client in clients:
        await client.wait_end()
        assert not client.response.complete
        assert LAST_CHUNK not in client.received
    with pytest.raises(ConnectionRefusedError):
        await RawClient.connect(server.url)


@in_loop
async def test_a_long_message_in_chinese_aborts_the_fixed_build_and_it_can_be_started_again() -> None:
    received = json.loads(json.dumps(RECEIVED))
    received["MessageReceived"]["message"]["content"] = LONG
    async with serving("fixed") as server:
        async with streaming(server, 2) as two, streaming(server, 3) as three:
            assert server.publish("fechatter.realtime.chat.2", received).dropped
            await aborted(server, two, three)
        await server.stop()
        await server.start(port=server.port)
        async with streaming(server) as client:
            await client.wait_for(b"connection_confirmed")


@pytest.mark.parametrize("mode", ["silent", "fixed"])
@in_loop
async def test_a_refused_token_with_a_character_across_byte_fifty_aborts(mode: str) -> None:
    async with serving(mode) as server, streaming(server) as client:
        async with await RawClient.connect(server.url) as attacker:
            attacker.request(f"/events?access_token={urllib.parse.quote('x' + 'é' * 60)}")
            await attacker.wait_end()
            assert attacker.received == b""
        await aborted(server, client)


def test_as_a_process_it_ends_with_sigabrt_and_takes_its_streams_with_it(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "sse_keepalive_proxy.demo.notify_server", "--port", str(port)]
    with running([*command, "--mode", "fixed"], port=port, log_file=tmp_path / "log") as program:

        @in_loop
        async def a_long_message() -> None:
            url = f"http://127.0.0.1:{port}"
            async with await RawClient.connect(url) as client, await RawClient.connect(url) as nats:
                client.request("/demo/token")
                token = json.loads((await client.wait_response()).body)["access_token"]
                client.request(f"/events?access_token={token}")
                await client.wait_for(b"connection_confirmed")
                received = json.loads(json.dumps(RECEIVED))
                received["MessageReceived"]["message"]["content"] = LONG
                body = json.dumps({"subject": "fechatter.realtime.chat.2", "payload": received}).encode()
                nats.request("/demo/publish", method="POST", body=body)
                await client.wait_end()
                assert not client.response.complete

        a_long_message()
        assert program.process.wait(30) == -signal.SIGABRT  # a core dump takes its time


# The openings (facts.md#notify-server-herd).


@in_loop
async def test_openings_take_turns_and_a_healthy_server_has_no_database() -> None:
    clock = asyncio.get_running_loop().time
    for mode, turns in (("silent", 8), ("fixed", 8), ("healthy", 0)):
        async with contextlib.AsyncExitStack() as stack:
            server = await stack.enter_async_context(serving(mode, Knobs(opening_cost=0.02)))
            clients = [await stack.enter_async_context(await RawClient.connect(server.url)) for _ in range(8)]
            began_at = clock()
            for user, client in enumerate(clients):
                client.request(f"/events?access_token={server.token(user)}")
            for client in clients:
                await client.wait_head()
            assert clock() - began_at >= turns * 0.02 - 0.001


@in_loop
async def test_a_refused_token_costs_no_turn() -> None:
    async with serving("silent", Knobs(opening_cost=3600.0)) as server:
        assert (await ask(server, "/events?access_token=x")).status == 401
