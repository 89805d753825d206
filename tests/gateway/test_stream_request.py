"""A request until its stream has begun: the early commit, and who the client is."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import time
from errno import ECONNRESET
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from sse_keepalive_proxy.demo.tokens import Ed25519Tokens
from sse_keepalive_proxy.gateway import credentials
from sse_keepalive_proxy.gateway.identity import Identifier
from sse_keepalive_proxy.observe.registry import Spread
from sse_keepalive_proxy.stream.states import State
from tests.support.http1 import request
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

SILENT = [GOT_REQUEST, stream_head()]
EARLY = "early_commit: {after: 50ms}\n"
ONCE = EARLY + "reconnect: off\n"
NO = response("401 Unauthorized", b"Token verification failed\n")


def closing(client: RawClient) -> list[tuple[str, Any]]:
    """The events that a whole response ended with: their types, and their data."""
    assert client.response.complete
    return [(event.type, json.loads(event.data)) for event in client.events]


def error(status: int, message: str) -> tuple[str, Any]:
    return "proxy_error", {"type": "proxy_error", "status": status, "message": message}


def closed(reason: str) -> tuple[str, Any]:
    return "stream_closing", {"type": "stream_closing", "reason": reason}


# The first byte (behaviour.md#first-byte-with-the-head).


ANSWERED = "upstream answered with status"
INVALID = "upstream's answer is not valid HTTP"
BROKE = "upstream's connection broke"
OTHER_TYPE = "but not with an event stream"
ENCODED = "but encoded its event stream despite `Accept-Encoding: identity`"


@on_each_loop
async def test_ok_leaves_with_the_early_head_and_the_confirm_event_follows_upstreams_2xx() -> None:
    async with (
        RawUpstream(
            [GOT_REQUEST, go := asyncio.Event(), stream_head("X-Mine: 1"), chunk(b"data: 1\n\n")]
        ) as up,
        Instance(config(up, EARLY)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b":ok\n")
        assert client.arrivals[0].data.endswith(b"\r\n\r\n4\r\n:ok\n\r\n")
        head = client.response
        assert head.status == 200
        assert head.header("Content-Type") == "text/event-stream"
        assert head.header("Cache-Control") == "no-cache, no-transform"
        assert head.header("X-Accel-Buffering") == "no"
        assert head.header("X-Mine") is None
        assert client.body == b":ok\n"
        assert proxy.metric("confirms_sent_total", form="event") == 0
        assert [stream.life.state for stream in proxy.server.streams] == [State.CONNECTING]
        go.set()
        await client.wait_for(b"data: 1\n\n")
        assert re.fullmatch(rb":ok\nevent: connection_confirmed\ndata: .+\n\ndata: 1\n\n", client.body)
        assert proxy.metric("confirms_sent_total", form="event") == 1
        assert proxy.opened() == 1
        assert proxy.metric("requests_total", method="GET", code="200") == 1


@on_each_loop
async def test_an_answer_that_comes_sooner_is_no_early_commit() -> None:
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, "early_commit: {after: 1h}")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"connection_confirmed")
        assert client.body.startswith(b"event: connection_confirmed\n")


@on_each_loop
async def test_pings_go_on_while_upstream_has_not_answered() -> None:
    async with (
        RawUpstream([GOT_REQUEST]) as upstream,
        Instance(config(upstream, EARLY + "keepalive: {interval: 50ms}")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(lambda client: client.body.count(b":ping\n") >= 3)
        assert b"connection_confirmed" not in client.body


# Early commit (behaviour.md#early-commit).


@on_each_loop
async def test_a_later_refusal_is_an_event_and_the_same_credential_waits_next_time() -> None:
    slow_no = [GOT_REQUEST, 0.3, NO]
    target = "/events?access_token="
    async with (
        RawUpstream(slow_no, slow_no, slow_no, [GOT_REQUEST, 0.3, stream_head()], slow_no) as upstream,
        Instance(config(upstream, ONCE)) as proxy,
    ):
        async with await proxy.event_source(target + "one") as client:
            await client.wait_response()
            assert client.response.status == 200
            assert client.body.startswith(b":ok\n")
            expected = error(401, "upstream answered with status 401")
            assert closing(client) == [expected, closed("unauthorized")]
            assert b"Token" not in client.body  # what upstream wrote is not ours to repeat
        await proxy.until_closed("unauthorized")
        async with await proxy.event_source(target + "one") as client:  # waits
            await client.wait_response()
            assert (client.response.status, client.body) == (401, b"Token verification failed\n")
        async with await proxy.event_source(target + "another") as client:  # does not
            await client.wait_response()
            assert client.response.status == 200
        async with await proxy.event_source(target + "one") as client:  # waits, and is accepted
            await client.wait_for(b"connection_confirmed")
            assert client.body.startswith(b"event: connection_confirmed")
        async with await proxy.event_source(target + "one") as client:  # which makes up for it
            await client.wait_response()
            assert client.response.status == 200


@on_each_loop
async def test_the_fingerprint_of_a_request_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def counted(**settings: Any) -> Any:
        made.append(blake2b(**settings))
        return made[-1]

    monkeypatch.setattr(credentials, "blake2b", counted)
    async with (
        RawUpstream([GOT_REQUEST, 0.2, stream_head()]) as upstream,
        Instance(config(upstream, ONCE)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"connection_confirmed")
    assert len(made) == 1


@on_each_loop
async def test_without_a_credential_the_clients_address_waits() -> None:
    section = ONCE + "credential: ['query:access_token']"
    before = "trusted_proxies: [127.0.0.0/8]"
    async with (
        RawUpstream([GOT_REQUEST, 0.3, NO]) as upstream,
        Instance(config(upstream, section, before=before)) as proxy,
    ):
        for address, status in (("192.0.2.1", 200), ("192.0.2.1", 401), ("192.0.2.2", 200)):
            headers = (f"X-Forwarded-For: {address}", "Authorization: Bearer does-not-count")
            async with await proxy.event_source("/events", *headers) as client:
                await client.wait_response()
                assert client.response.status == status


@on_each_loop
async def test_a_fast_refusal_is_passed_on_as_such() -> None:
    async with (
        RawUpstream([GOT_REQUEST, NO]) as upstream,
        Instance(config(upstream, "early_commit: {after: 1h}")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        assert (client.response.status, client.body) == (401, b"Token verification failed\n")
        assert proxy.opened() == 0


@on_each_loop
@pytest.mark.parametrize(
    ("steps", "told", "reason"),
    [
        ([response("404 Not Found")], error(404, "upstream answered with status 404"), "upstream_status"),
        ([response("403 No")], error(403, "upstream answered with status 403"), "unauthorized"),
        ([response("503 Busy")], error(503, "upstream answered with status 503"), "upstream_status"),
        ([response("204 No Content")], error(204, f"{ANSWERED} 204, {OTHER_TYPE}"), "upstream_status"),
        ([response("200 OK", b"{}")], error(200, f"{ANSWERED} 200, {OTHER_TYPE}"), "upstream_status"),
        (
            [stream_head("Content-Encoding: gzip")],
            error(200, f"{ANSWERED} 200, {ENCODED}"),
            "upstream_status",
        ),
        ([b"SSH-2.0-x\r\n\r\n"], error(502, f"{INVALID}: it does not begin with HTTP/"), "upstream_refused"),
        ([CLOSE], error(502, "upstream closed the connection before it answered"), "upstream_reset"),
        ([RESET], error(502, f"{BROKE} before it answered: {os.strerror(ECONNRESET)}"), "upstream_reset"),
        ([], error(504, "upstream took too long"), "upstream_refused"),
    ],
)
async def test_any_other_later_answer_is_an_event_with_its_reason(
    steps: list[Step], told: tuple[str, Any], reason: str
) -> None:
    section = ONCE + ("" if steps else "open_timeout: 500ms")
    async with (
        RawUpstream([GOT_REQUEST, 0.2, *steps]) as upstream,
        Instance(config(upstream, section)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        assert closing(client) == [told, closed(reason)]
        await proxy.until_closed(reason)
        await upstream.wait_all_closed()
        await proxy.until(lambda: len(proxy.server.streams) == 0)
        kinds = ("refused", "timeout", "reset", "invalid")
        errors = sum(proxy.metric("upstream_errors_total", kind=kind) for kind in kinds)
        assert errors == (told[1]["status"] in (502, 504))


@on_each_loop
async def test_the_error_is_an_event_for_a_client_of_comments_too_and_the_body_is_cut_behind_it() -> None:
    async with (
        RawUpstream([GOT_REQUEST, 0.2, NO]) as upstream,
        Instance(config(upstream, ONCE)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/events")
        await client.wait_end()
        assert not client.response.complete
        assert client.body.startswith(b":ok\n\nevent: proxy_error\n")
        assert b"stream_closing" not in client.body


# Upstream asked again behind it.


@on_each_loop
async def test_a_short_fault_after_an_early_commit_is_hidden_from_an_event_source() -> None:
    async with (
        RawUpstream([GOT_REQUEST, 0.2, response("503 Busy")], [GOT_REQUEST, RESET], SILENT) as upstream,
        Instance(config(upstream, EARLY + "reconnect: {delay: 10ms}")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"connection_confirmed")
        assert re.fullmatch(rb":ok\nevent: connection_confirmed\n[^\n]+\n\n", client.body)
        assert len(upstream.connections) == 3


@on_each_loop
async def test_with_always_other_clients_are_retried_too_and_no_gap_is_announced_if_no_stream_was_lost() -> (
    None
):
    section = EARLY + "reconnect: {when: always, delay: 10ms}"
    async with (
        RawUpstream([GOT_REQUEST, 0.2, response("503 Busy")], SILENT) as upstream,
        Instance(config(upstream, section)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/events")
        await proxy.until(lambda: [stream.life.state for stream in proxy.server.streams] == [State.WAITING])
        assert client.body == b":ok\n\n"
        assert len(upstream.connections) == 2


@on_each_loop
@pytest.mark.parametrize("how", LEAVING)
async def test_a_client_that_leaves_after_it_cancels_the_opening(how: str) -> None:
    async with (
        RawUpstream([GOT_REQUEST]) as upstream,
        Instance(config(upstream, EARLY)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b":ok")
        client.leave(how)
        await upstream.wait_all_closed()
        await proxy.until_closed("client_gone")
        await proxy.until(lambda: len(proxy.server.streams) == 0)


@on_each_loop
async def test_a_client_that_leaves_before_it_takes_the_opening_with_it() -> None:
    async with (
        RawUpstream([GOT_REQUEST]) as upstream,
        Instance(config(upstream, "early_commit: {after: 1h}")) as proxy,
        await proxy.event_source() as client,
    ):
        await (await upstream.connection()).request()
        client.abort()
        await upstream.wait_all_closed()
        await proxy.until(lambda: len(proxy.server.streams) == 0)
        assert proxy.opened() == 0


@on_each_loop
async def test_a_client_that_leaves_at_any_moment_around_it_leaves_nothing_open() -> None:
    async with (
        RawUpstream([GOT_REQUEST, 0.03, stream_head()], [GOT_REQUEST, 0.03, NO]) as upstream,
        Instance(config(upstream, "early_commit: {after: 15ms}")) as proxy,
    ):
        for step in range(30):
            client = await proxy.event_source(f"/events?access_token={step}")
            await asyncio.sleep(step * 0.002)  # whatever the moment: nothing below depends on it
            client.abort()
            await client.close()
        await upstream.wait_all_closed()
        await proxy.until(lambda: len(proxy.server.streams) == 0)


@on_each_loop
async def test_a_drain_after_it_is_announced() -> None:
    async with (
        RawUpstream([GOT_REQUEST]) as upstream,
        Instance(config(upstream, EARLY)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b":ok")
        now = asyncio.get_running_loop().time()
        proxy.server.streams.drain(Spread(now, now, now))
        await client.wait_response()
        assert closing(client) == [closed("drain")]
        await upstream.wait_all_closed()


# Who is answered early.

POSTS = "early_commit: {after: 50ms, methods: [GET, POST]}\n"


@on_each_loop
async def test_a_body_is_whole_before_the_connection_is_taken_over() -> None:
    async with (
        RawUpstream([GOT_REQUEST, go := asyncio.Event(), stream_head(), LAST_CHUNK]) as upstream,
        Instance(config(upstream, POSTS)) as proxy,
        await proxy.client() as client,
    ):
        whole = request("/events", method="POST", body=b'{"stream":true}')
        client.send(whole[:-5], method="POST")
        connection = await upstream.connection()
        await connection.wait_received(b'{"stream"')
        begun_at = asyncio.get_running_loop().time()
        await proxy.until(lambda: asyncio.get_running_loop().time() > begun_at + 0.2)
        assert client.received == b""
        client.send(whole[-5:])
        await client.wait_for(b":ok\n\n")
        assert (await connection.request()).body == b'{"stream":true}'
        go.set()
        await client.wait_response()
        assert client.body == b":ok\n\n"
        await proxy.until_closed("upstream_end")


@on_each_loop
@pytest.mark.parametrize(
    ("rest", "status"),
    [(b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcNO", 400), (b"Content-Length: 9999\r\n\r\n", 413)],
    ids=["not valid", "too large"],
)
async def test_a_body_that_is_refused_is_no_early_commit(rest: bytes, status: int) -> None:
    before = "limits: {max_request_body: 1KiB}"
    async with (
        RawUpstream() as upstream,
        Instance(config(upstream, POSTS, before=before)) as proxy,
        await proxy.client() as client,
    ):
        client.send(b"POST /events HTTP/1.1\r\nHost: a\r\n" + rest, method="POST")
        await client.wait_response()
        assert client.response.status == status
        await upstream.wait_all_closed()
        assert proxy.opened() == 0


@on_each_loop
async def test_a_chunked_body_that_outgrows_its_limit_past_the_moment_is_refused() -> None:
    before = "limits: {max_request_body: 1KiB}"
    async with (
        RawUpstream([GOT_REQUEST]) as upstream,
        Instance(config(upstream, POSTS, before=before)) as proxy,
        await proxy.client() as client,
    ):
        client.send(b"POST /events HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", method="POST")
        await upstream.connection()
        begun_at = asyncio.get_running_loop().time()
        await proxy.until(lambda: asyncio.get_running_loop().time() > begun_at + 0.1)
        client.send(chunk(b"x" * 2000))
        await client.wait_response()
        assert client.response.status == 413
        await upstream.wait_all_closed()
        assert proxy.opened() == 0


@on_each_loop
async def test_other_methods_wait_for_the_real_status() -> None:
    async with (
        RawUpstream([GOT_REQUEST, 0.3, NO]) as upstream,
        Instance(config(upstream, EARLY)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/events", EVENT_SOURCE, method="POST", body=b"{}")
        await client.wait_response()
        assert client.response.status == 401


@on_each_loop
async def test_a_head_request_can_get_no_body_and_waits_whatever_the_methods() -> None:
    async with (
        RawUpstream([GOT_REQUEST, 0.3, stream_head()]) as upstream,
        Instance(config(upstream, "early_commit: {after: 50ms, methods: [GET, HEAD]}")) as proxy,
        await proxy.client() as client,
    ):
        client.request("/events", EVENT_SOURCE, method="HEAD")
        await client.wait_response()
        assert client.response.status == 200
        assert client.received.endswith(b"\r\n\r\n")
        assert client.invalid is None
        assert proxy.opened() == 0


@on_each_loop
async def test_a_client_of_http_1_0_is_answered_early_without_chunks() -> None:
    async with (
        RawUpstream([GOT_REQUEST, 0.2, stream_head(), chunk(b"data: 1\n\n"), LAST_CHUNK]) as upstream,
        Instance(config(upstream, ONCE)) as proxy,
        await proxy.client() as client,
    ):
        client.send(b"GET /events HTTP/1.0\r\nHost: a\r\n" + EVENT_SOURCE.encode() + b"\r\n\r\n")
        assert await client.wait_end() is Ending.EOF
        assert client.response.header("Transfer-Encoding") is None
        assert re.fullmatch(rb":ok\nevent: connection_confirmed\n[^\n]+\n\ndata: 1\n\n", client.body)


# Who the client is.


def unsigned(**claims: Any) -> str:
    """A token that nobody has signed."""
    parts = [{"alg": "EdDSA"}, claims]
    text = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return f"{text[0]}.{text[1]}.c2ln"


CONFIRM = """\
confirm:
  data:
    {type: hello, id: "{claim.user.id}", name: "{claim.user.name}", tags: "{claim.tags}", no: "{claim.no}"}
"""
BY_UPSTREAM = CONFIRM + "identity: {from: 'query:access_token', verify: upstream}\n"


def hello(client: RawClient) -> Any:
    return json.loads(client.events[0].data)


@on_each_loop
@pytest.mark.parametrize("early", ["", EARLY])
async def test_claims_are_in_the_confirm_with_their_json_types(early: str) -> None:
    token = unsigned(user={"id": 2, "name": 'Zoë "Z" \u2028\n'}, tags=["a", None, 1.5])
    async with (
        RawUpstream([GOT_REQUEST, 0.2 if early else 0, stream_head()]) as upstream,
        Instance(config(upstream, early + BY_UPSTREAM)) as proxy,
        await proxy.event_source(f"/events?access_token={token}") as client,
    ):
        await client.wait_for(b"connection_confirmed")
        expected = {"id": 2, "name": 'Zoë "Z" \u2028\n', "tags": ["a", None, 1.5], "no": None}
        assert hello(client) == {"type": "hello", **expected}
        assert client.body.startswith(b":ok\n") == bool(early)


@on_each_loop
async def test_a_token_that_is_not_believed_gives_null_and_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    section = CONFIRM + "identity: {from: 'query:access_token', verify: upstream, audience: us}\n"
    token = unsigned(user={"id": 2}, aud="others")
    async with RawUpstream(SILENT) as upstream, Instance(config(upstream, section)) as proxy:
        for target in (f"/events?access_token={token}", f"/events?access_token={token}", "/events"):
            async with await proxy.event_source(target) as client:
                await client.wait_for(b"connection_confirmed")
                assert hello(client) == {"type": "hello", "id": None, "name": None, "tags": None, "no": None}
    told = [line for line in caplog.messages if "the proxy rejects" in line]
    assert len(told) == 1
    assert "`aud`" in told[0]
    assert token not in caplog.text


@on_each_loop
async def test_a_signed_token_is_checked_with_the_key(tmp_path: Path) -> None:
    tokens = Ed25519Tokens()
    (tmp_path / "public.pem").write_bytes(tokens.public_key_pem or b"")
    section = CONFIRM + f"identity: {{verify: jwt, public_key_file: '{tmp_path / 'public.pem'}'}}\n"
    async with RawUpstream(SILENT) as upstream, Instance(config(upstream, section)) as proxy:
        for token, user in ((tokens.issue(7), 7), (unsigned(user={"id": 7}), None)):
            async with await proxy.event_source(f"/events?access_token={token}") as client:
                await client.wait_for(b"connection_confirmed")
                assert hello(client)["id"] == user


@on_each_loop
@pytest.mark.parametrize("early", [False, True])
async def test_an_internal_error_during_identification_leaves_nothing_open(
    early: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Identifier, "identify", broken)
    async with (
        RawUpstream([GOT_REQUEST, 0.2, stream_head()]) as upstream,
        Instance(config(upstream, EARLY * early + BY_UPSTREAM)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        if early:
            assert closing(client) == [closed("internal")]
            await proxy.until_closed("internal")
        else:
            assert client.response.status == 500
        await upstream.wait_all_closed()
        await proxy.until(lambda: len(proxy.server.streams) == 0)
        assert "ZeroDivisionError" in caplog.text


@on_each_loop
async def test_a_stream_ends_when_its_token_does_where_that_is_wanted() -> None:
    section = BY_UPSTREAM.replace("verify: upstream", "verify: upstream, close_at_expiry: true")
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, section)) as proxy,
        Instance(config(upstream, BY_UPSTREAM)) as other,
    ):
        target = f"/events?access_token={unsigned(exp=time.time() + 1.5)}"
        async with await proxy.event_source(target) as client, await other.event_source(target) as stays:
            await client.wait_response()
            assert closing(client)[1:] == [closed("unauthorized")]
            await proxy.until_closed("unauthorized")
            assert stays.ending is None


@on_each_loop
@pytest.mark.parametrize("verify", ["upstream", "jwt"])
async def test_a_token_that_had_expired_when_upstream_accepted_it_has_a_minute(
    verify: str, tmp_path: Path
) -> None:
    tokens = Ed25519Tokens()
    (tmp_path / "public.pem").write_bytes(tokens.public_key_pem or b"")
    key = f"public_key_file: '{tmp_path / 'public.pem'}'" if verify == "jwt" else "audience: off"
    section = CONFIRM + f"identity: {{verify: {verify}, {key}, close_at_expiry: true}}\n"
    async with (
        RawUpstream(SILENT) as upstream,
        Instance(config(upstream, section)) as proxy,
        await proxy.event_source(f"/events?access_token={tokens.issue(2, lifetime=-1000)}") as client,
    ):
        await client.wait_for(b"connection_confirmed")
        (stream,) = proxy.server.streams
        leaves_at = stream.life._leave_at
        assert leaves_at is not None
        assert stream.opened_at + 60 <= leaves_at <= asyncio.get_running_loop().time() + 60
        assert len(upstream.connections) == 1


@on_each_loop
async def test_claims_are_released_when_no_confirm_can_follow() -> None:
    section = BY_UPSTREAM.replace("confirm:\n", "confirm:\n  wait: 200ms\n") + "keepalive: {interval: 300ms}"
    async with (
        RawUpstream([*SILENT, chunk(b"data: first\n\n")]) as upstream,
        Instance(config(upstream, section)) as proxy,
        await proxy.event_source(f"/events?access_token={unsigned(sub='2')}") as client,
    ):
        await client.wait_for(b"data: first")
        (stream,) = proxy.server.streams
        await proxy.until(lambda: stream.claims is None)
        assert b"connection_confirmed" not in client.body
