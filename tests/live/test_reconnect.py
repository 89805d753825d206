"""Upstream asked again behind a live client: what it is sent, what the client sees, who closes what."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any, cast

import pytest

from sse_keepalive_proxy.errors import (
    UpstreamError,
    UpstreamInvalid,
    UpstreamRefused,
    UpstreamReset,
    UpstreamTimeout,
)
from sse_keepalive_proxy.http.attempts import Answer, Target
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.live.reconnect import Reconnection, no_answer, no_stream
from sse_keepalive_proxy.stream.messages import CloseReason, NotOpened
from sse_keepalive_proxy.stream.policy import Reconnect
from sse_keepalive_proxy.stream.states import State
from tests.http.test_response import STREAM, head
from tests.live.stage import UpstreamSide
from tests.support.http1 import joined
from tests.support.instance import Instance, config
from tests.support.looping import in_loop
from tests.support.raw_client import LEAVING, RawClient
from tests.support.raw_upstream import (
    CLOSE,
    GOT_REQUEST,
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

SILENT = [GOT_REQUEST, stream_head()]
EVENT = b"id: 7\ndata: 1\n\n"
FAST = "reconnect: {delay: 10ms, max_delay: 20ms}\n"
ALWAYS = "reconnect: {when: always, delay: 10ms, max_delay: 20ms}\n"
RECOVERED = rb"event: stream_recovered\ndata: [^\n]+\n\n"


def behind_confirm(client: RawClient) -> bytes:
    """The body without the confirm event."""
    return client.body.partition(b"\n\n")[2]


async def heads(upstream: RawUpstream, count: int) -> list[bytes]:
    """The requests of that many connections, as they came."""
    await (await upstream.connection(count - 1)).request()
    return [bytes(connection.received) for connection in upstream.connections]


def ids(head: bytes) -> list[bytes]:
    """The ids in a request head."""
    return [line[15:] for line in head.split(b"\r\n") if line.lower().startswith(b"last-event-id: ")]


# What upstream is sent.


@on_each_loop
async def test_upstream_is_sent_the_same_head_again_with_the_newest_id_in_it() -> None:
    lives: list[list[Step]] = [
        [*SILENT, chunk(b"data: no id of its own\n\n"), CLOSE],
        [*SILENT, chunk(b"id: 7\ndata: 1\n\nid: 8\ndata: half"), RESET],
        [*SILENT, chunk(b"id: \xc3\xa9 \xf0\x9f\x98\x80\ndata: 2\n\n"), LAST_CHUNK],
        [*SILENT, chunk(b"id\ndata: 3\n\n"), LAST_CHUNK],
        SILENT,
    ]
    headers = ["lAST-eVENT-iD: its own", "Authorization: Bearer t", "Cookie: a=1; b=2", "X-Odd:  two  words "]
    async with (
        RawUpstream(*lives) as upstream,
        Instance(config(upstream, ALWAYS)) as proxy,
        await proxy.event_source("/events?access_token=t&a=%41", *headers) as client,
    ):
        sent = await heads(upstream, 5)
        assert b"lAST-eVENT-iD: its own\r\n" in sent[0]  # verbatim
        own = [b"its own"]
        assert [ids(head) for head in sent] == [own, own, [b"7"], ["é 😀".encode()], []]
        without = {re.sub(rb"(?i)last-event-id: [^\r]*\r\n", b"", head) for head in sent}
        assert len(without) == 1
        assert client.ending is None


@on_each_loop
@pytest.mark.parametrize("unsendable", [b"a\x00b", b"a\x01b", b"a\x7fb", b"x" * 4097])
async def test_an_id_that_no_header_can_hold_is_not_sent(unsendable: bytes) -> None:
    body = b"data: 1\nid: %b\n\n" % unsendable
    async with (
        RawUpstream([*SILENT, chunk(body), RESET], SILENT) as upstream,
        Instance(config(upstream, ALWAYS)) as proxy,
        await proxy.event_source() as client,
    ):
        sent = await heads(upstream, 2)
        assert sent[0] == sent[1]
        await client.wait_for(b"stream_recovered")
        assert not json.loads(client.events[-1].data)["resumed"]


@on_each_loop
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_with_a_body_is_never_sent_twice(method: str) -> None:
    async with (
        RawUpstream([*SILENT, chunk(EVENT), LAST_CHUNK], SILENT) as upstream,
        Instance(config(upstream, ALWAYS)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/events", "Accept: text/event-stream", method=method, body=b"{}")
        await client.wait_response()
        await proxy.until_closed("upstream_end")
        assert len(upstream.connections) == 1


CURSOR = "/events?topic=%41&lastEventId=5&x=&last%5Fevent_id"


@on_each_loop
async def test_a_cursor_in_the_query_is_renewed_after_an_event_and_otherwise_repeated() -> None:
    lives: list[list[Step]] = [
        [*SILENT, RESET],
        [*SILENT, chunk(b":comment\n\n"), RESET],
        [*SILENT, chunk(b"id: a+b &=%\xc3\xa9\ndata: 1\n\n"), LAST_CHUNK],
        SILENT,
    ]
    async with (
        RawUpstream(*lives) as upstream,
        Instance(config(upstream, ALWAYS)) as proxy,
        await proxy.event_source(CURSOR) as client,
    ):
        sent = await heads(upstream, 4)
        assert sent[0] == sent[1] == sent[2]
        assert sent[0].startswith(b"GET %b HTTP/1.1\r\n" % CURSOR.encode())
        new = b"a%2Bb%20%26%3D%25%C3%A9"
        assert sent[3].startswith(
            b"GET /events?topic=%%41&lastEventId=%b&x=&last%%5Fevent_id=%b HTTP/1.1\r\n" % (new, new)
        )
        assert ids(sent[3]) == ["a+b &=%é".encode()]
        assert client.ending is None


@on_each_loop
@pytest.mark.parametrize(
    ("target", "body"),
    [
        (CURSOR, b"data: no id\n\n"),
        (CURSOR, b"id: 7\ndata: 1\n\nid:\ndata: 2\n\n"),
        ("/events?cursor=5", b"id: 7\ndata: its form is unknown\n\n"),
        ("/events?lastEventId=5&cursor=5", b"id: 7\ndata: 1\n\n"),
    ],
)
async def test_a_cursor_that_cannot_be_renewed_is_not_sent_again_after_an_event(
    target: str, body: bytes
) -> None:
    async with (
        RawUpstream([*SILENT, chunk(body), LAST_CHUNK], SILENT) as upstream,
        Instance(config(upstream, ALWAYS)) as proxy,
        await proxy.event_source(target) as client,
    ):
        await client.wait_end()
        await proxy.until_closed("upstream_end")
        assert len(upstream.connections) == 1


@on_each_loop
async def test_a_route_can_say_that_cursor_carries_an_event_id() -> None:
    async with (
        RawUpstream([*SILENT, chunk(EVENT), LAST_CHUNK], SILENT) as upstream,
        Instance(config(upstream, "reconnect: {delay: 10ms, cursors: [cursor]}")) as proxy,
        await proxy.event_source("/events?lastEventId=5&cursor=5") as client,
    ):
        sent = await heads(upstream, 2)
        assert sent[1].startswith(b"GET /events?lastEventId=5&cursor=7 HTTP/1.1\r\n")
        assert client.ending is None


# What the client sees.


@on_each_loop
@pytest.mark.parametrize(
    ("end", "reason"),
    [([LAST_CHUNK], "upstream_end"), ([RESET], "upstream_reset"), ([b"3\r\nda", CLOSE], "upstream_reset")],
    ids=["end", "reset", "broken off"],
)
async def test_the_gap_is_announced_and_the_stream_continues(end: list[Step], reason: str) -> None:
    lives = [
        [*SILENT, chunk(EVENT + b"data: ha"), go := asyncio.Event(), *end],
        [*SILENT, chunk(b"lf\n\n" + EVENT)],
    ]
    async with (
        RawUpstream(*lives) as upstream,
        Instance(config(upstream, FAST)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(EVENT)
        go.set()
        await client.wait_for(b"lf\n\n" + EVENT)
        assert re.fullmatch(EVENT + RECOVERED + b"lf\n\n" + EVENT, behind_confirm(client))
        told = json.loads(client.events[2].data)
        assert told == {"reason": reason, "gap_ms": told["gap_ms"], "resumed": True}
        assert told["gap_ms"] >= 0
        assert client.events[2].last_event_id == "7"
        assert proxy.metric("upstream_reconnects_total", result="reopened") == 1
        assert proxy.metric("upstream_reconnects_total", result="failed") == 0
        assert [stream.reconnects for stream in proxy.server.streams] == [1]
        assert proxy.closed() == {}
        assert proxy.opened() == proxy.metric("confirms_sent_total", form="event") == 1
        await upstream.wait_connections(1)


@on_each_loop
async def test_other_clients_get_the_gap_as_a_comment() -> None:
    async with (
        RawUpstream([*SILENT, chunk(EVENT), RESET], SILENT) as upstream,
        Instance(config(upstream, ALWAYS)) as proxy,
        await proxy.client() as client,
    ):
        client.request("/events")
        await client.wait_for(b"stream_recovered")
        # One newline, by facts.md#comment-terminators.
        told = rb":stream_recovered reason=upstream_reset gap_ms=\d+ resumed=true\n"
        assert re.fullmatch(rb":ok\n\n" + EVENT + told, client.body)


@on_each_loop
async def test_a_gap_is_not_announced_where_that_is_off() -> None:
    section = "reconnect: {delay: 10ms, announce: false}"
    async with (
        RawUpstream([*SILENT, chunk(EVENT), RESET], [*SILENT, chunk(b"data: 2\n\n")]) as upstream,
        Instance(config(upstream, section)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"data: 2\n\n")
        assert behind_confirm(client) == EVENT + b"data: 2\n\n"


@on_each_loop
async def test_what_comes_in_one_piece_with_the_new_head_is_not_lost() -> None:
    async with (
        RawUpstream(
            [*SILENT, chunk(EVENT), RESET], [GOT_REQUEST, stream_head() + chunk(b"data: 2\n\n")]
        ) as up,
        Instance(config(up, FAST)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"data: 2\n\n")
        assert re.fullmatch(EVENT + RECOVERED + b"data: 2\n\n", behind_confirm(client))


@on_each_loop
async def test_an_upstream_that_comes_back_only_to_end_is_asked_on_and_on() -> None:
    once = [GOT_REQUEST, stream_head() + chunk(b"data: 2\n\n") + LAST_CHUNK]
    async with (
        RawUpstream([*SILENT, chunk(EVENT), RESET], once, once, once, SILENT) as upstream,
        Instance(config(upstream, FAST)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(lambda client: client.body.count(b"stream_recovered\n") == 4)
        shape = EVENT + (RECOVERED + b"data: 2\n\n") * 3 + RECOVERED
        assert re.fullmatch(shape, behind_confirm(client))
        assert proxy.metric("upstream_reconnects_total", result="reopened") == 4
        assert proxy.metric("upstream_eof_after_first_event_total") == 3


@on_each_loop
async def test_faults_of_an_attempt_are_tried_again_while_pings_go_on() -> None:
    lives = [[*SILENT, chunk(EVENT), RESET], [GOT_REQUEST, RESET], [GOT_REQUEST, response("502 Bad")]]
    section = FAST + "open_timeout: 700ms\nkeepalive: {interval: 50ms}"
    async with (
        RawUpstream(*lives, [GOT_REQUEST], SILENT) as upstream,  # the last but one never answers
        Instance(config(upstream, section)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"stream_recovered")
        before = client.body.partition(b"event: stream_recovered")[0]
        assert before.count(b":ping\n") >= 2
        assert proxy.metric("upstream_reconnects_total", result="failed") == 3
        assert proxy.metric("upstream_reconnects_total", result="reopened") == 1
        assert proxy.metric("upstream_errors_total", kind="reset") == 2  # the loss, and an attempt
        assert proxy.metric("upstream_errors_total", kind="timeout") == 1
        await upstream.wait_connections(1)


@on_each_loop
async def test_an_upstream_that_went_away_is_found_where_it_comes_back() -> None:
    async with (
        RawUpstream([*SILENT, chunk(EVENT)]) as upstream,
        Instance(config(upstream, FAST)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(EVENT)
        upstream.refuse()
        (await upstream.connection()).reset()
        await proxy.until(lambda: proxy.metric("upstream_reconnects_total", result="failed") >= 3)
        assert proxy.metric("streams_active", state="reconnecting") == 1
        assert client.ending is None
        await upstream.start()
        await client.wait_for(b"stream_recovered")
        assert proxy.metric("streams_active", state="reconnecting") == 0


# A stalled upstream is replaced (behaviour.md#a-reopening-kills-no-living-stream).

REPLACED = FAST + "stall: {after: 300ms, sign_of_life: events, action: reconnect}"


@on_each_loop
async def test_a_refusal_does_not_end_a_quiet_stream_that_lives() -> None:
    speak = asyncio.Event()
    refusal = [GOT_REQUEST, response("401 Unauthorized", b"expired")]
    async with (
        RawUpstream([*SILENT, chunk(EVENT), speak, chunk(b"data: 2\n\n")], refusal, refusal) as upstream,
        Instance(config(upstream, REPLACED)) as proxy,
        await proxy.event_source() as client,
    ):
        await proxy.until(lambda: proxy.metric("upstream_reconnects_total", result="failed") >= 2)
        assert behind_confirm(client) == EVENT
        assert proxy.metric("upstream_stalled_streams") == 1
        speak.set()
        await client.wait_for(b"data: 2\n\n")
        assert behind_confirm(client) == EVENT + b"data: 2\n\n"
        assert proxy.closed() == {}


@on_each_loop
async def test_the_old_stream_is_closed_once_the_new_one_is_accepted() -> None:
    async with (
        RawUpstream(
            [*SILENT, chunk(EVENT + b"data: ha")], [GOT_REQUEST, go := asyncio.Event(), stream_head()]
        ) as up,
        Instance(config(up, REPLACED)) as proxy,
        await proxy.event_source() as client,
    ):
        old, new = await up.connection(), await up.connection(1)
        await new.request()
        assert not old.lost
        go.set()
        await client.wait_for(b"stream_recovered")
        await old.wait_closed()
        assert re.fullmatch(EVENT + RECOVERED, behind_confirm(client))
        assert json.loads(client.events[-1].data)["reason"] == "stalled"
        await up.wait_connections(1)


@on_each_loop
async def test_an_attempt_that_a_sign_of_life_ends_is_closed() -> None:
    speak = asyncio.Event()
    async with (
        RawUpstream([*SILENT, chunk(EVENT), speak, chunk(b"data: 2\n\n")], [GOT_REQUEST]) as upstream,
        Instance(config(upstream, REPLACED)) as proxy,
        await proxy.event_source() as client,
    ):
        attempt = await upstream.connection(1)
        await attempt.request()
        speak.set()
        await attempt.wait_closed()
        await client.wait_for(b"data: 2\n\n")
        assert behind_confirm(client) == EVENT + b"data: 2\n\n"
        assert client.ending is None


@in_loop
async def test_an_answer_in_the_moment_of_a_cancellation_is_closed() -> None:
    attempts = Reconnection(cast(Target, None), Reconnect(), b"GET / HTTP/1.1\r\n", always=True)
    upstream = UpstreamSide()
    attempt = asyncio.get_running_loop().create_future()
    attempts.await_answer(cast(Any, attempt), cast(Any, None))
    attempt.set_result(Answer(upstream.exchange, head(200, STREAM)))
    assert attempts.busy
    assert attempts.cancel()
    assert not attempts.cancel()
    await asyncio.sleep(0)
    assert upstream.closed


@in_loop
@pytest.mark.parametrize("status", [200, 401])
@pytest.mark.parametrize("handled", ["done", "arrived", "failed", "cancelled"])
async def test_what_an_attempt_has_brought_can_be_read_before_it_is_cancelled(
    handled: str, status: int
) -> None:
    attempts = Reconnection(cast(Target, None), Reconnect(), b"GET / HTTP/1.1\r\n", always=True)
    assert not attempts.is_answered
    assert attempts.read_out() == b""
    upstream, attempt = (
        UpstreamSide(b"data: 1\n\n", status=status),
        asyncio.get_running_loop().create_future(),
    )
    attempts.await_answer(cast(Any, attempt), cast(Any, None))
    attempts._sent(upstream.exchange)
    match handled:
        case "done":
            attempt.set_result(Answer(upstream.exchange, await upstream.exchange.response(None)))
        case "failed":
            attempt.set_exception(UpstreamReset("it broke"))
        case "cancelled":
            attempt.cancel()
    is_stream = status == 200 and handled in ("done", "arrived")
    assert attempts.is_answered == is_stream
    assert attempts.read_out() == (b"data: 1\n\n" if is_stream else b"")
    assert attempts.cancel()


# Slow clients.


@on_each_loop
async def test_a_client_that_reads_slowly_loses_nothing_to_a_reopening() -> None:
    body = b"".join(b"id: %d\ndata: %b\n\n" % (number, b"x" * 1000) for number in range(6000))
    newer = body.replace(b"id: ", b"id: 1")

    def life(body: bytes) -> list[Step]:
        pieces = joined(body[at : at + 60_000] for at in range(0, len(body), 60_000))
        return [*SILENT, pieces, LAST_CHUNK]

    section = FAST + "confirm: {form: comment}\nmax_buffer: 64KiB"
    async with (
        RawUpstream(life(body), life(newer), SILENT) as upstream,
        Instance(config(upstream, section)) as proxy,
        await proxy.event_source(receive_buffer=16_384) as client,
    ):
        await client.wait_head()
        client.pause()
        await proxy.until(lambda: [stream._paused for stream in proxy.server.streams] == [True])  # type: ignore[attr-defined]
        client.resume()
        await upstream.connection(2, within=20)
        await client.wait_for(lambda client: b"stream_recovered" in client.received[-100:], within=20)
        gap = rb":stream_recovered reason=upstream_end gap_ms=\d+ resumed=true\n"
        assert re.sub(gap, b"", client.body) == b":ok\n" + body + newer


# Leaving.


@on_each_loop
@pytest.mark.parametrize("how", LEAVING)
async def test_a_client_that_leaves_while_upstream_is_asked_takes_the_attempt_with_it(how: str) -> None:
    async with (
        RawUpstream([*SILENT, chunk(EVENT), RESET], [GOT_REQUEST]) as upstream,
        Instance(config(upstream, FAST)) as proxy,
        await proxy.event_source() as client,
    ):
        attempt = await upstream.connection(1)
        await attempt.request()
        client.leave(how)
        await attempt.wait_closed()
        await proxy.until_closed("client_gone")
        await proxy.until(lambda: len(proxy.server.streams) == 0)


@on_each_loop
async def test_a_client_that_leaves_between_attempts_is_not_asked_for_any_more() -> None:
    async with (
        RawUpstream([*SILENT, chunk(EVENT), RESET]) as upstream,
        Instance(config(upstream, "reconnect: {delay: 1h, max_delay: 1h, give_up_after: 10h}")) as proxy,
        await proxy.event_source() as client,
    ):
        await proxy.until(lambda: [one.life.state for one in proxy.server.streams] == [State.RECONNECTING])
        await client.close()
        await proxy.until_closed("client_gone")
        assert len(upstream.connections) == 1


@on_each_loop
async def test_an_attempt_that_outlasts_give_up_after_ends_with_the_stream() -> None:
    async with (
        RawUpstream([*SILENT, chunk(EVENT), RESET], [GOT_REQUEST]) as upstream,
        Instance(config(upstream, "reconnect: {delay: 10ms, give_up_after: 600ms}")) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        assert json.loads(client.events[-1].data)["reason"] == "give_up"
        await upstream.wait_all_closed()
        await proxy.until_closed("give_up")
        assert proxy.metric("upstream_reconnects_total", result="ended") == 1


@on_each_loop
async def test_an_encoded_stream_that_comes_when_asked_again_is_counted() -> None:
    lives: list[list[Step]] = [
        [*SILENT, chunk(EVENT), LAST_CHUNK],
        [GOT_REQUEST, stream_head("Content-Encoding: gzip")],
    ]
    async with (
        RawUpstream(*lives) as upstream,
        Instance(config(upstream, FAST)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        await proxy.until_closed("upstream_status")
        assert proxy.metric("uninspectable_streams_total") == 1


@on_each_loop
async def test_an_outage_is_logged_once_and_again_if_its_cause_changes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    busy: list[Step] = [GOT_REQUEST, response("503 Busy")]
    lives = [
        [*SILENT, chunk(EVENT), LAST_CHUNK],
        busy,
        busy,
        [GOT_REQUEST, response("429 Many")],
        busy,
        SILENT,
    ]
    async with (
        RawUpstream(*lives) as upstream,
        Instance(config(upstream, FAST)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(b"stream_recovered")
        told = [record.getMessage() for record in caplog.records if "gives no stream" in record.getMessage()]
        assert [text[-3:] for text in told] == ["503", "429", "503"]
        assert proxy.metric("upstream_reconnects_total", result="failed") == 4


@on_each_loop
async def test_a_client_that_leaves_at_any_moment_of_a_reconnection_leaves_nothing_open() -> None:
    async def script(connection: UpstreamConnection) -> None:
        await connection.play([*SILENT, chunk(EVENT), 0.005, RESET])

    async with RawUpstream(script) as upstream, Instance(config(upstream, FAST)) as proxy:
        for step in range(30):
            client = await proxy.event_source()
            await client.wait_for(EVENT)
            await asyncio.sleep(step * 0.002)  # whatever the moment: nothing below depends on it
            client.abort()
            await client.close()
        await upstream.wait_all_closed()
        await proxy.until(lambda: len(proxy.server.streams) == 0)
        assert proxy.closed() == {"client_gone": 30}


@on_each_loop
async def test_an_internal_error_in_an_attempt_ends_that_stream_as_internal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    async with (
        RawUpstream([*SILENT, chunk(EVENT), go := asyncio.Event(), RESET]) as upstream,
        Instance(config(upstream, FAST)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_for(EVENT)
        monkeypatch.setattr("sse_keepalive_proxy.live.reconnect.Attempt.make", broken)
        go.set()
        await client.wait_response()
        await proxy.until_closed("internal")
        assert "ZeroDivisionError" in caplog.text


# What an answer means.


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        (head(200, STREAM), None),
        (head(200, STREAM, (b"Content-Encoding", b"identity")), None),
        (head(200, STREAM, (b"Content-Encoding", b"gzip")), NotOpened(CloseReason.UPSTREAM_STATUS, False, 2)),
        (head(204), NotOpened(CloseReason.UPSTREAM_STATUS, False, 2)),
        (head(301), NotOpened(CloseReason.UPSTREAM_STATUS, False, 2)),
        (head(401), NotOpened(CloseReason.UNAUTHORIZED, False, 2)),
        (head(403), NotOpened(CloseReason.UNAUTHORIZED, False, 2)),
        (head(404), NotOpened(CloseReason.UPSTREAM_STATUS, False, 2)),
        (head(409), NotOpened(CloseReason.UPSTREAM_STATUS, True, 2)),
        (head(503), NotOpened(CloseReason.UPSTREAM_STATUS, True, 2)),
        (head(503, (b"Retry-After", b"1")), NotOpened(CloseReason.UPSTREAM_STATUS, True, 2)),
        (head(503, (b"Retry-After", b"7")), NotOpened(CloseReason.UPSTREAM_STATUS, True, 7)),
    ],
)
def test_an_answer_after_the_response_has_begun_has_the_right_meaning(
    answer: ResponseHead, meaning: NotOpened | None
) -> None:
    assert no_stream(answer, Reconnect(), 2.0, opened=True) == meaning


def test_a_conflict_is_retried_only_if_upstream_had_opened_the_stream_before() -> None:
    final = NotOpened(CloseReason.UPSTREAM_STATUS, again=False)
    assert no_stream(head(409), Reconnect(), 0.0, opened=False) == final
    retried = NotOpened(CloseReason.UPSTREAM_STATUS, again=True)
    assert no_stream(head(503), Reconnect(), 0.0, opened=False) == retried


def test_without_a_policy_no_answer_is_asked_for_again() -> None:
    assert no_stream(head(503), None, 0.0, opened=True) == NotOpened(CloseReason.UPSTREAM_STATUS, again=False)


def test_every_fault_is_retried_and_a_broken_answer_differs_from_none() -> None:
    faults: Sequence[tuple[UpstreamError, CloseReason]] = [
        (UpstreamReset("x"), CloseReason.UPSTREAM_RESET),
        (UpstreamRefused("x", "text"), CloseReason.UPSTREAM_REFUSED),
        (UpstreamTimeout("x"), CloseReason.UPSTREAM_REFUSED),
        (UpstreamInvalid("x"), CloseReason.UPSTREAM_REFUSED),
    ]
    for error, reason in faults:
        assert no_answer(error, 3.0) == NotOpened(reason, again=True, at_least=3.0)


# Never in a circle.


def asked_after(known: bytes, *, always: bool = False, policy: Reconnect | None = None) -> Reconnection:
    """A stream that upstream was asked to go on with after the event `known`."""
    policy = policy or Reconnect()
    return Reconnection(cast(Target, None), policy, b"GET / HTTP/1.1\r\n", known, always=always)


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize(
    ("sent", "more"),
    [
        (b"id: 7\ndata: 1\n\n", False),
        (b"id: 6\ndata: 1\n\nid: 7\ndata: 2\n\ndata: 3\n\n", False),
        (b"id: 7\ndata: 1\n\nid: 8\ndata: 2\n\n", True),
        (b"data: without an id\n\n", True),
    ],
)
def test_an_upstream_that_repeats_the_last_id_has_no_more(sent: bytes, more: bool, always: bool) -> None:
    reconnection = asked_after(b"7", always=always)
    reconnection.read(sent)
    assert reconnection.may_have_more(sent.count(b"data"), 5.0) is more


def test_a_first_stream_that_ends_with_an_id_may_have_more() -> None:
    reconnection = asked_after(b"")
    reconnection.read(b"id: 7\ndata: 1\n\n")
    assert reconnection.may_have_more(1, 0.1)


def test_an_upstream_that_ends_at_once_ten_times_in_a_row_has_no_more() -> None:
    reconnection = asked_after(b"7")
    assert all(reconnection.may_have_more(0, 0.5) for _ in range(9))
    assert not reconnection.may_have_more(0, 0.5)


@pytest.mark.parametrize(("events", "lived"), [(1, 0.1), (0, 1.0)])
def test_an_event_or_a_longer_life_begins_the_count_again(events: int, lived: float) -> None:
    reconnection = asked_after(b"7")
    for _ in range(3):
        assert all(reconnection.may_have_more(0, 0.5) for _ in range(9))
        assert reconnection.may_have_more(events, lived)


def test_with_always_a_stream_that_ends_at_once_is_opened_for_ever() -> None:
    reconnection = asked_after(b"7", always=True)
    assert all(reconnection.may_have_more(0, 0.0) for _ in range(100))


def test_a_client_that_reads_to_the_end_has_no_more_after_a_clean_end() -> None:
    reconnection = asked_after(b"", policy=Reconnect(after_end=False))
    reconnection.read(b"id: 7\ndata: 1\n\n")
    assert reconnection.allowed
    assert not reconnection.may_have_more(1, 5.0)


@on_each_loop
async def test_a_finished_stream_that_upstream_repeats_is_repeated_once_and_then_ends() -> None:
    finished = [*SILENT, chunk(b"id: 6\ndata: 1\n\nid: 7\ndata: 2\n\n"), LAST_CHUNK]
    async with (
        RawUpstream(finished) as upstream,
        Instance(config(upstream, FAST)) as proxy,
        await proxy.event_source() as client,
    ):
        await client.wait_response()
        assert [event.data for event in client.events if event.type == "message"] == ["1", "2", "1", "2"]
        assert len(upstream.connections) == 2
        await proxy.until_closed("upstream_end")
