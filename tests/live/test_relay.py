"""The way of a byte: what the client reads, whatever upstream sends and whenever the proxy speaks."""

from __future__ import annotations

import gc
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import (
    ConfirmForm,
    Keepalive,
    KeepaliveForm,
    Reconnect,
    ReconnectWhen,
    SignOfLife,
    Stall,
    StallAction,
    StreamPolicy,
    Terminator,
)
from tests.live.stage import (
    INTERVAL,
    OUR_TYPES,
    POLICY,
    STALLED_AFTER,
    Attempts,
    Moment,
    Stage,
    check_bytes,
    check_end,
    check_meaning,
    is_ours,
    policies,
    stories,
    tell,
)
from tests.support import sse_reference
from tests.support.http1 import LAST_CHUNK
from tests.wire.bodies import BOM, chunkings

ALWAYS = Reconnect(when=ReconnectWhen.ALWAYS, give_up_after=1e6)


def reopenable(policy: StreamPolicy = POLICY, **how: Any) -> Stage:
    policy = replace(
        policy, reconnect=policy.reconnect and replace(ALWAYS, announce=policy.reconnect.announce)
    )
    return Stage(policy, attempts=Attempts(policy, b"", always=True), **how)


@settings(deadline=None)
@given(
    policies,
    st.sampled_from([ConfirmForm.EVENT, ConfirmForm.COMMENT]),
    st.booleans(),
    stories(),
    st.sampled_from(["upstream ends", "upstream breaks", "drain", "the client leaves", "it lives on"]),
)
def test_whatever_happens_the_client_reads_upstreams_events_in_order_and_ours_between_them(
    policy: StreamPolicy, form: ConfirmForm, chunked: bool, moments: list[Moment], end: str
) -> None:
    stage = Stage(policy, form=form, chunked=chunked)
    tell(stage, moments)
    if end != "the client leaves":
        stage.take_all()
    stage.end(end)
    check_bytes(stage)
    check_meaning(stage)
    check_end(stage)


@settings(deadline=None)
@given(chunkings(), st.sampled_from([0.0, 0.5, 1.5]))
@example([b"d", b"ata: 1\r", b"\n\r", b"\n"], 1.5)
@example([b"d", b"ogs"], 1.5)
def test_a_client_gets_the_bytes_that_came_whatever_they_are_and_however_they_are_cut(
    chunks: list[bytes], pause: float
) -> None:
    stage = Stage(replace(POLICY, keepalive=None), form=None)
    for chunk in filter(None, chunks):
        stage.feed(chunk)
        stage.clock.advance(pause)
    stage.end("upstream ends")
    body = b"".join(chunks)
    assert stage.body() == (b"" if body == BOM else body)
    check_end(stage)


# No event stream.


@pytest.mark.parametrize("form", [ConfirmForm.EVENT, ConfirmForm.COMMENT, None])
def test_bytes_with_the_head_that_begin_no_event_stream_spare_the_confirm(form: ConfirmForm | None) -> None:
    stage = Stage(form=form, early=b'{"error":1}')
    assert stage.body() == b'{"error":1}'
    value = stage.metrics.registry.get_sample_value
    assert value("sse_proxy_uninspectable_streams_total", {"route": "events"}) == 1
    assert not any(
        value("sse_proxy_confirms_sent_total", {"route": "events", "form": form}) for form in ConfirmForm
    )


@pytest.mark.parametrize("end", ["upstream ends", "upstream breaks", "drain"])
def test_nothing_of_the_proxy_stands_in_a_body_that_is_no_event_stream(end: str) -> None:
    stall = Stall(STALLED_AFTER, action=StallAction.NOTIFY)
    stage = reopenable(replace(POLICY, stall=stall))
    confirm = stage.body()
    for token in (b"Hel", b"lo\n\n", b"data: no\n"):
        stage.feed(token)
        stage.clock.advance(2 * STALLED_AFTER)
    stage.end(end)
    assert stage.body() == confirm + b"Hello\n\ndata: no\n"
    assert (stage.stream.pings, stage.stream.flow.events) == (0, 0)
    assert stage.stream.life.close_reason is not None
    assert stage.client.writes[-1].data.endswith(LAST_CHUNK) == (end == "upstream ends")


# One frame of ours, at every place there is.

EVERY_ENDING = [
    b"data: 1\n\ndata: 2\n\n",
    b"data: 1\r\n\r\n: note\r\n\r\ndata: 2\r\n\r\n",
    b"data: 1\r\rdata: 2\rdata: 3\r\r",
    b"id: 4\rdata: 1\r\ndata: 2\n\r\n\ndata: 3\r\n\r",
    BOM + b"event: a\ndata: 1\n\n" + BOM + b"data: not heard\n\n",
]


def closing(stage: Stage) -> None:
    stage.stream.leave(stage.clock(), CloseReason.DRAIN)
    stage.clock.advance(1.5)  # a block that upstream has not finished has a second for it


INJECTIONS = {
    "a ping with a blank line": (POLICY, lambda stage: stage.clock.advance(INTERVAL)),
    "a ping with one newline": (
        replace(POLICY, keepalive=Keepalive(INTERVAL, text="our ping", terminator=Terminator.NEWLINE)),
        lambda stage: stage.clock.advance(INTERVAL),
    ),
    "a ping as an event": (
        replace(POLICY, keepalive=Keepalive(INTERVAL, KeepaliveForm.EVENT, "our ping", event="our_ping")),
        lambda stage: stage.clock.advance(INTERVAL),
    ),
    "the notice of a stall": (
        replace(POLICY, keepalive=None, stall=Stall(STALLED_AFTER, action=StallAction.NOTIFY)),
        lambda stage: stage.clock.advance(STALLED_AFTER),
    ),
    "the closing": (POLICY, closing),
}


@pytest.mark.parametrize("what", INJECTIONS)
@pytest.mark.parametrize("body", EVERY_ENDING)
def test_a_frame_of_the_proxy_fits_between_any_two_bytes_of_upstream(what: str, body: bytes) -> None:
    policy, inject = INJECTIONS[what]
    for at in range(len(body) + 1):
        stage = reopenable(policy)
        stage.feed(body[:at])
        before = len(stage.pieces())
        inject(stage)
        assert is_ours(stage.pieces()[before].data)
        stage.feed(body[at:])
        check_bytes(stage)
        check_meaning(stage)
        check_end(stage)


@pytest.mark.parametrize("what", INJECTIONS)
@pytest.mark.parametrize("body", EVERY_ENDING)
def test_a_frame_of_the_proxy_disturbs_no_block_that_is_forwarded_as_it_comes(what: str, body: bytes) -> None:
    policy, inject = INJECTIONS[what]
    for at in range(len(body) + 1):
        stage = Stage(policy)
        stage.feed(body[:at])
        inject(stage)
        stage.feed(body[at:])
        check_bytes(stage)
        check_meaning(stage)
        check_end(stage)


@pytest.mark.parametrize("form", [ConfirmForm.EVENT, ConfirmForm.COMMENT])
@pytest.mark.parametrize("body", EVERY_ENDING)
def test_pings_fit_between_all_bytes_of_upstream_at_once(body: bytes, form: ConfirmForm) -> None:
    stage = reopenable(form=form)
    for at in range(len(body)):
        stage.feed(body[at : at + 1])
        stage.clock.advance(2 * INTERVAL)
    assert stage.stream.pings == 2 * len(body)
    check_bytes(stage)
    check_meaning(stage)


@pytest.mark.parametrize("body", EVERY_ENDING)
def test_pings_fit_between_all_lines_of_blocks_that_are_forwarded_as_they_come(body: bytes) -> None:
    stage = Stage()
    for at in range(len(body)):
        stage.feed(body[at : at + 1])
        stage.clock.advance(2 * INTERVAL)
    lines = sum(body[at] in b"\r\n" for at in range(len(body)))
    mark = 3 if body.startswith(BOM) else 0  # nothing is forwarded of it
    assert stage.stream.pings == 2 * (lines + mark)
    check_bytes(stage)
    check_meaning(stage)


def test_the_lf_that_a_ping_needs_after_a_cr_replaces_upstreams() -> None:
    stage = Stage(form=None)
    stage.feed(b"data: 1\r\n\r")
    stage.clock.advance(2 * INTERVAL)
    stage.feed(b"\n")
    stage.clock.advance(INTERVAL)
    stage.feed(b"data: 2\r\r")
    stage.feed(b"\ndata: 3\r\n\r\n")
    ping = b":our ping\n\n"
    assert stage.body() == b"data: 1\r\n\r\n" + 3 * ping + b"data: 2\r\r\ndata: 3\r\n\r\n"


def test_an_lf_of_upstream_that_was_given_already_is_no_empty_chunk_which_would_be_the_end() -> None:
    stage = Stage(form=None)
    stage.feed(b"data: 1\r\r")
    stage.clock.advance(INTERVAL)
    writes = len(stage.client.writes)
    stage.feed(b"\n")
    assert len(stage.client.writes) == writes


# Comments.


def test_heartbeats_that_end_in_one_newline_leave_at_once_count_and_are_signs_of_life() -> None:
    stall = Stall(STALLED_AFTER, SignOfLife.COMMENTS, ignore_events=frozenset({"add"}))
    stage = Stage(replace(POLICY, keepalive=None, stall=stall, max_event=20), form=None)
    stage.feed(b"data: 1\n\n")
    for _ in range(5):
        stage.clock.advance(STALLED_AFTER - 1)
        stage.feed(b": ping\n")
    assert stage.body() == b"data: 1\n\n" + 5 * b": ping\n"
    stage.feed(b"event: add\ndata: 2\n\n")
    assert stage.body().endswith(b": ping\nevent: add\ndata: 2\n\n")
    assert (stage.stream.flow.events, stage.stream.flow.comments, stage.stream.stalls) == (2, 5, 0)


def test_a_frame_of_the_proxy_fits_between_a_comment_and_the_event_behind_it() -> None:
    stage = Stage(form=None)
    stage.feed(b": ping\r")
    stage.clock.advance(INTERVAL)
    stage.feed(b"\nid: 4\ndata: 1\n\n")
    assert stage.body() == b": ping\r\n:our ping\n\nid: 4\ndata: 1\n\n"


# Rewriting.


@settings(deadline=None)
@given(stories(), st.sampled_from(["upstream ends", "it lives on"]))
@example(
    [b"data: 1\r\r", INTERVAL, b"\nevent: add\r\ndata: 2\r\n\r", INTERVAL, b"\nevent: add\rdata: 3\r\r"], ""
)
@example([b": note\revent: add\n\ndata: 1\n\n"], "")
@example([b": 10\r\n"], "")
@example([b"data: 1\nevent: add\n", INTERVAL, b"\n"], "")
def test_unnamed_events_lose_their_name_and_nothing_else(moments: list[Moment], end: str) -> None:
    stage = Stage(replace(POLICY, unname=frozenset({"Generic", "add"})))
    in_parts = False  # such a block keeps its name (behaviour.md#unfinished-blocks)
    for moment in moments:
        tell(stage, [moment])
        in_parts = in_parts or stage.stream.flow.in_part
    stage.take_all()
    stage.end(end)
    sent = sse_reference.parse(b"\n" + stage.fed.removeprefix(BOM))
    unnamed = [
        replace(event, type="message") if event.type in ("Generic", "add") else event for event in sent.events
    ]
    got = sse_reference.parse(b"\n" + stage.body())
    theirs = [event for event in got.events if event.type not in OUR_TYPES]
    assert theirs == unnamed or in_parts
    for event, as_sent, without_name in zip(theirs, sent.events, unnamed, strict=True):
        assert event in (as_sent, without_name)
    assert got.last_event_id == sent.last_event_id


# Another upstream.


def reopened(stage: Stage, early: bytes = b"") -> None:
    stage.lose()
    assert stage.ask()
    stage.reopen(early)


def gaps(stage: Stage) -> int:
    """How many gaps the client was told of."""
    got = sse_reference.parse(b"\n" + stage.body())
    told = sum(event.type == "stream_recovered" for event in got.events)
    return told + sum(text.startswith("stream_recovered ") for text in got.comments)


@settings(deadline=None)
@given(
    policies,
    st.sampled_from([ConfirmForm.EVENT, ConfirmForm.COMMENT]),
    st.booleans(),
    st.lists(
        st.tuples(
            st.sampled_from([b"", BOM, b"\n", b"\r", b"data: early\r\r", b"id: 9\ndata: x\n\nda"]),
            stories(),
            st.sampled_from(["upstream ends", "breaks"]),
        ),
        min_size=2,
        max_size=4,
    ),
)
def test_a_client_reads_the_whole_blocks_of_every_upstream_and_each_gap(
    policy: StreamPolicy, form: ConfirmForm, chunked: bool, lives: list[tuple[bytes, list[Moment], str]]
) -> None:
    stage = reopenable(policy, form=form, chunked=chunked)
    reopenings = 0
    for early, moments, how in lives:
        tell(stage, moments)
        if stage.upstream.paused:  # its end is behind its bytes
            stage.take_all()
        if stage.stream.life.close_reason is not None:
            break
        stage.lose(how)
        if not stage.ask():
            break
        stage.reopen(early)
        reopenings += 1
    stage.settle()
    check_meaning(stage)
    check_end(stage)
    assert gaps(stage) == stage.stream.reconnects == reopenings


def test_half_an_event_is_thrown_away_and_never_glued_to_another_upstreams_bytes() -> None:
    stage = reopenable(form=None)
    stage.feed(b"data: 1\n\ndata: ha")
    reopened(stage)
    stage.feed(b"lf\ndata: 2\n\n")
    blocks = re.fullmatch(rb"data: 1\n\n:stream_recovered [^\n]+\n\nlf\ndata: 2\n\n", stage.body())
    assert blocks, stage.body()


@pytest.mark.parametrize("announce", [True, False])
def test_the_lf_of_another_upstream_ends_no_line_of_the_one_before(announce: bool) -> None:
    stage = reopenable(replace(POLICY, reconnect=Reconnect(announce=announce)), form=None)
    stage.feed(b"data: 1\r\r")
    reopened(stage)
    stage.feed(b"\ndata: 2\n\n")
    told = rb":stream_recovered [^\n]+\n\n" if announce else b""
    assert re.fullmatch(rb"data: 1\r\r\n" + told + rb"\ndata: 2\n\n", stage.body()), stage.body()


def test_a_cr_that_a_ping_has_completed_gets_no_second_lf_at_the_loss() -> None:
    stage = reopenable(replace(POLICY, reconnect=Reconnect(announce=False)), form=None)
    stage.feed(b"data: 1\r\r")
    stage.clock.advance(INTERVAL)
    reopened(stage)
    stage.feed(b"\ndata: 2\n\n")  # its own, and not the one that a ping has taken the place of
    assert stage.body() == b"data: 1\r\r\n:our ping\n\n\ndata: 2\n\n"


@pytest.mark.parametrize("form", [ConfirmForm.EVENT, None])
def test_a_mark_is_dropped_where_something_stands_before_it(form: ConfirmForm | None) -> None:
    stage = reopenable(replace(POLICY, reconnect=Reconnect(announce=False)), form=form)
    confirm = stage.body()
    stage.feed(BOM[:2])
    stage.feed(BOM[2:] + b"data: 1\n\n" + BOM[:2])
    reopened(stage, early=BOM[:1])
    stage.feed(BOM[1:] + b"data: 2\n\n")
    assert stage.body() == (confirm or BOM) + b"data: 1\n\ndata: 2\n\n"
    assert stage.stream.flow.events == 2


def test_a_mark_is_dropped_if_a_ping_has_come_before_its_end() -> None:
    stage = Stage(form=None)
    stage.feed(BOM[:2])
    stage.clock.advance(INTERVAL)
    stage.feed(BOM[2:] + b"data: 1\n\n")
    assert stage.body() == b":our ping\n\ndata: 1\n\n"


@pytest.mark.parametrize("early", [b"data: 2\n\n", b"data: 2\n", b"d"])
def test_bytes_with_the_head_of_a_new_upstream_come_after_the_announcement_of_the_gap(early: bytes) -> None:
    stage = reopenable(form=None)
    stage.feed(b"data: 1\n\n")
    reopened(stage, early)
    stage.feed(b"data: 2\n\n".removeprefix(early))
    blocks = re.fullmatch(rb"data: 1\n\n:stream_recovered [^\n]+\n\ndata: 2\n\n", stage.body())
    assert blocks, stage.body()


def test_a_block_as_large_as_allowed_may_come_from_each_upstream() -> None:
    stage = reopenable(replace(POLICY, max_event=20))
    stage.feed(b"data: 12345678901")
    reopened(stage)
    stage.feed(b"data: 12345678901\n\n")
    assert stage.closed == {}


def test_when_its_client_is_gone_a_relay_holds_no_stream_and_its_upstream_is_heard_no_more() -> None:
    """Each holds the other until then, and Python would need its collector to free the two."""
    stage = Stage()
    relay = stage.stream.flow
    assert stage.stream in gc.get_referents(relay)
    stage.client.leave()
    stage.clock.advance(0)
    assert stage.closed == {CloseReason.CLIENT_GONE: 1}
    assert stage.stream not in gc.get_referents(relay)
    relay.data(b"data: late\n\n")
    relay.end()
    assert stage.closed == {CloseReason.CLIENT_GONE: 1}
    assert b"late" not in stage.client.taken


# Pings that are events.

EVENT_PINGS = replace(POLICY, keepalive=Keepalive(INTERVAL, KeepaliveForm.EVENT, event="our_ping"))


@pytest.mark.parametrize("form", [ConfirmForm.EVENT, ConfirmForm.COMMENT, None])
def test_comments_of_upstream_do_not_put_off_a_ping_that_is_an_event(form: ConfirmForm | None) -> None:
    stage = Stage(EVENT_PINGS, form=form)
    for _ in range(40):
        stage.clock.advance(INTERVAL / 4)
        stage.feed(b": upstream is alive\n\n")
    assert stage.stream.pings == 10


def test_a_ping_inside_a_block_is_counted_as_the_comment_that_it_is() -> None:
    stage = Stage(EVENT_PINGS)
    stage.feed(b"data: 1\n\ndata: unfinished\n")
    stage.clock.advance(3 * INTERVAL)
    stage.feed(b"\n")
    stage.clock.advance(2 * INTERVAL)
    sent = {KeepaliveForm.COMMENT: stage.body().count(b":ping\n"), KeepaliveForm.EVENT: 2}
    assert stage.stream.route.metrics.pings_sent == sent
    assert stage.stream.pings == sum(sent.values()) == 4


def test_events_of_upstream_put_it_off_also_together_with_comments() -> None:
    stage = Stage(EVENT_PINGS)
    for _ in range(40):
        stage.clock.advance(INTERVAL / 4)
        stage.feed(b"data: 1\n\n: and a comment\n\n")
    assert stage.stream.pings == 0


def test_comments_of_upstream_put_off_a_ping_that_is_a_comment() -> None:
    stage = Stage()
    for _ in range(40):
        stage.clock.advance(INTERVAL / 4)
        stage.feed(b": upstream is alive\n\n")
    assert stage.stream.pings == 0


def test_a_notice_that_is_a_comment_does_not_put_off_a_ping_that_is_an_event() -> None:
    stage = reopenable(EVENT_PINGS, form=None)
    for _ in range(8):
        stage.clock.advance(INTERVAL / 2)
        reopened(stage)
    assert b":stream_recovered" in stage.body()
    assert stage.stream.pings >= 4


def test_the_notice_of_a_stall_that_is_a_comment_does_not_either() -> None:
    stall = Stall(after=INTERVAL * 0.6, action=StallAction.NOTIFY)
    stage = Stage(replace(EVENT_PINGS, stall=stall), form=None)
    stage.feed(b"data: 1\n\n")
    stage.clock.advance(INTERVAL)
    assert b":stalled" in stage.body()
    assert stage.stream.pings == 1


def test_a_released_comment_does_not_either() -> None:
    stage = Stage(EVENT_PINGS, form=None)
    stage.feed(b"data: 1\n\n")
    began = stage.clock()
    stage.clock.advance(INTERVAL * 0.5)
    stage.feed(b"event: a\n: and no data yet")
    stage.feed(b"\n")
    stage.clock.advance(INTERVAL * 0.4)
    assert b"no data yet" in stage.body()
    assert stage.stream.life.written_at == began
