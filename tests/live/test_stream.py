"""What becomes of a stream: pings in time, bounds, one end and one reason for it."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sse_keepalive_proxy.live import stream_log
from sse_keepalive_proxy.live.signs_of_life import Inspection
from sse_keepalive_proxy.stream.families import LateError
from sse_keepalive_proxy.stream.late_error import late_error
from sse_keepalive_proxy.stream.messages import CloseReason, NotOpened
from sse_keepalive_proxy.stream.policy import (
    Confirm,
    ConfirmForm,
    Family,
    Keepalive,
    Reconnect,
    ReconnectWhen,
    Stall,
    StallAction,
    StreamPolicy,
    Terminator,
)
from sse_keepalive_proxy.stream.states import State
from tests.live.stage import (
    HEAD,
    INTERVAL,
    POLICY,
    STALLED_AFTER,
    Attempts,
    Moment,
    Stage,
    check_bytes,
    check_end,
    check_meaning,
    is_ours,
    stories,
    streams,
    tell,
)
from tests.support import sse_reference
from tests.support.http1 import LAST_CHUNK
from tests.wire.bodies import BOM, chunkings
from tests.wire.test_framing import first_too_large

# Time.


@settings(deadline=None)
@given(stories(), st.sampled_from([0.0, INTERVAL + 2]), st.sampled_from(list(StallAction)))
def test_a_stream_that_can_be_written_is_never_silent_past_its_interval_and_a_ping_is_never_early(
    moments: list[Moment], wait: float, action: StallAction
) -> None:
    stall = Stall(STALLED_AFTER, action=action)
    stage = Stage(replace(POLICY, confirm=Confirm(event="our_confirm", wait=wait), stall=stall))
    tell(stage, [moment for moment in moments if moment is not None])
    stage.clock.advance(3 * INTERVAL)
    written = [stage.client.writes[0].at, *(write.at for write in stage.pieces()), stage.clock()]
    body = b"\n"
    for (before, after), piece in zip(itertools.pairwise(written), [b"", *stage.pieces()], strict=True):
        body += getattr(piece, "data", b"")
        assert after - before <= INTERVAL or body[-1] not in b"\r\n"  # nothing fits into a line
    for before, piece in itertools.pairwise(stage.pieces()):
        if b":our ping" in piece.data:
            assert piece.at - before.at == INTERVAL


def test_no_ping_is_written_after_waiting_bytes_and_one_follows_an_interval_after_they_left() -> None:
    stage = Stage()
    stage.client.takes = False
    stage.feed(b"data: 1\n\n")
    stage.clock.advance(10 * INTERVAL)
    assert stage.stream.pings == 0
    stage.take(1)
    stage.clock.advance(10 * INTERVAL)
    assert stage.stream.pings == 0
    stage.take_all()
    stage.clock.advance(INTERVAL - 0.1)
    assert stage.stream.pings == 0
    stage.clock.advance(0.1)
    assert stage.stream.pings == 1


# Bounds.


@settings(deadline=None)
@given(chunkings(streams), st.integers(8, 40), st.booleans())
def test_an_event_too_large_ends_the_stream_after_the_blocks_before_it(
    chunks: list[bytes], limit: int, chunked: bool
) -> None:
    stage = Stage(replace(POLICY, max_event=limit), chunked=chunked)
    for chunk in chunks:
        stage.feed(chunk)
        assert stage.stream.flow._framer.pending <= limit
    stage.clock.advance(0)
    before = first_too_large(stage.fed.removeprefix(BOM), limit)
    assert stage.closed == ({} if before is None else {"event_too_large": 1})
    if before is None:
        return
    assert b"".join(piece.data for piece in stage.pieces() if not is_ours(piece.data)) == before
    assert sse_reference.parse(b"\n" + stage.body()).events[-1].type == "stream_closing"
    assert stage.upstream.closed
    assert stage.client.lost


def test_past_max_buffer_upstream_waits_until_the_client_has_taken_everything() -> None:
    stage = Stage(replace(POLICY, max_buffer=1000))
    stage.client.takes = False
    block = b"data: " + b"x" * 92 + b"\n\n"
    for number in range(100):
        stage.feed(block)
        assert stage.upstream.paused == (number >= 9)
        assert len(stage.client.waiting) <= 1000 + len(b"64\r\n" + block + b"\r\n")
    stage.take(len(stage.client.waiting) - 1)
    assert stage.upstream.paused
    stage.take(1)
    assert stage.stream.flow.events == 100  # the rest came in one read, and is too much at once
    assert stage.upstream.paused
    stage.take_all()
    assert not stage.upstream.paused
    assert stage.client.taken == b"".join(write.data for write in stage.client.writes)
    check_bytes(stage)


def test_upstreams_silence_does_not_count_while_we_have_paused_it() -> None:
    stage = Stage(replace(POLICY, max_buffer=10, stall=Stall(STALLED_AFTER)))
    stage.client.takes = False
    stage.clock.advance(STALLED_AFTER - 1)
    stage.feed(b"data: more than ten bytes\n\n")
    stage.clock.advance(100 * STALLED_AFTER)
    assert stage.stream.stalls == 0
    stage.take_all()
    stage.clock.advance(STALLED_AFTER - 0.1)
    assert stage.stream.stalls == 0
    stage.clock.advance(0.1)
    assert stage.stream.stalls == 1


def test_bytes_of_an_earlier_answer_that_still_wait_hold_pings_back() -> None:
    stage = Stage(waiting=b"the end of another answer")
    stage.clock.advance(2 * INTERVAL)
    assert stage.stream.pings == 0
    stage.take_all()
    stage.clock.advance(INTERVAL)
    assert stage.stream.pings == 1


def test_a_client_that_takes_nothing_is_cut_off_within_a_quarter_of_its_time() -> None:
    stage = Stage(replace(POLICY, write_timeout=8.0))
    stage.client.takes = False
    stage.feed(b"data: 1\n\n")
    stage.clock.advance(7.9)
    assert stage.closed == {}
    stage.clock.advance(2.1)
    assert stage.closed == {"client_stalled": 1}
    assert stage.client.aborted
    check_end(stage)


def test_a_client_that_takes_a_byte_now_and_then_is_slow_and_lives() -> None:
    stage = Stage(replace(POLICY, write_timeout=8.0))
    stage.client.takes = False
    stage.feed(b"data: " + b"x" * 50 + b"\n\n")
    while stage.client.waiting:
        stage.clock.advance(7.9)
        stage.take(1)
    assert stage.closed == {}
    check_bytes(stage)


# Ends.

ENDINGS = {
    "upstream_end": lambda stage: stage.end("upstream ends"),
    "upstream_reset": lambda stage: stage.end("upstream breaks"),
    "client_gone": lambda stage: stage.end("the client leaves"),
    "drain": lambda stage: stage.stream.cut(),
    "stalled": lambda stage: stage.clock.advance(2 * STALLED_AFTER),
    "event_too_large": lambda stage: stage.feed(b"data:" + b"x" * 1000),
}


@pytest.mark.parametrize("takes", [True, False], ids=["the client takes all", "its last bytes wait"])
@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(ENDINGS, 2)))
def test_the_first_reason_to_end_is_the_only_one(first: str, second: str, takes: bool) -> None:
    stall = Stall(STALLED_AFTER, close_after=STALLED_AFTER)
    stage = Stage(replace(POLICY, max_event=999, stall=stall))
    stage.client.takes = takes
    ENDINGS[first](stage)
    assert stage.stream.life.close_reason == first
    ENDINGS[second](stage)
    stage.take_all()
    stage.clock.advance(0)
    assert stage.closed == {first: 1}
    check_end(stage)


def test_no_ping_stands_in_a_block_for_a_client_that_splits_at_blank_lines() -> None:
    keepalive = Keepalive(INTERVAL, terminator=Terminator.BLANK)
    stage = Stage(replace(POLICY, keepalive=keepalive), form=None)
    stage.feed(b'data: {"a":1}\n')
    stage.clock.advance(3 * INTERVAL)
    assert stage.body() == b'data: {"a":1}\n'
    stage.feed(b"\n")
    stage.clock.advance(INTERVAL)
    assert stage.body() == b'data: {"a":1}\n\n:ping\n\n'


@pytest.mark.parametrize(
    ("family", "tail"),
    [
        (Family.OPENAI, b"data: [DONE]\n"),
        (Family.OPENAI, b"data: [DONE]"),
        (Family.ANTHROPIC, b"event: message_stop\ndata: {}"),
    ],
)
def test_a_last_event_without_its_blank_line_is_known_when_it_has_been_forwarded(
    family: Family, tail: bytes
) -> None:
    stage = Stage(form=None, family=family)
    stage.feed(b"data: 1\n\n" + tail)
    stage.clock.advance(1.5)
    assert stage.stream.life.finished_at == stage.clock() - 0.5
    stage.feed(b"\n\ndata: more\n\n")
    assert stage.stream.life.finished_at is None  # it was not the last one


@pytest.mark.parametrize("tail", [b"data: [DONE]\n", b"data: half", b"id: 4\n", b"event"])
def test_an_unfinished_block_is_forwarded_when_the_stream_ends_with_it(tail: bytes) -> None:
    stage = Stage(form=None)
    stage.feed(b"data: 1\n\n" + tail)
    assert stage.body() == b"data: 1\n\n"
    stage.end("upstream ends")
    assert stage.body() == b"data: 1\n\n" + tail
    assert stage.stream.flow.events == 1 + tail.startswith(b"data:")
    check_end(stage)


def test_an_unfinished_block_that_a_fault_has_cut_is_dropped() -> None:
    stage = Stage(form=None)
    stage.feed(b"data: 1\n\ndata: half")
    stage.end("upstream breaks")
    assert stage.body() == b"data: 1\n\n"
    check_end(stage)


def test_the_last_bytes_are_kept_for_a_client_that_takes_them_slowly() -> None:
    stage = Stage(replace(POLICY, write_timeout=8.0))
    stage.client.takes = False
    stage.feed(b"data: 1\n\n")
    stage.lose("upstream ends")
    while stage.client.waiting:
        stage.clock.advance(7.9)
        stage.take(1)
    stage.clock.advance(0)
    assert stage.client.taken.endswith(b"data: 1\n\n\r\n" + LAST_CHUNK)
    assert stage.closed == {"upstream_end": 1}
    assert not stage.client.aborted
    check_end(stage)


def test_last_bytes_that_the_client_does_not_take_are_dropped_in_time_and_the_reason_stays() -> None:
    stage = Stage(replace(POLICY, write_timeout=8.0))
    stage.client.takes = False
    stage.feed(b"data: 1\n\n")
    stage.lose("upstream ends")
    stage.clock.advance(7.9)
    assert len(stage.streams) == 1
    stage.clock.advance(2.1)
    assert stage.client.aborted
    assert stage.closed == {"upstream_end": 1}
    check_end(stage)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, "client_gone"),
        (ConnectionResetError("reset"), "client_gone"),
        (TimeoutError(110, "Connection timed out"), "client_stalled"),
    ],
)
def test_what_the_kernel_says_of_a_lost_client_tells_one_that_left_from_one_that_vanished(
    error: Exception | None, reason: str
) -> None:
    stage = Stage()
    stage.client.leave(error)
    stage.clock.advance(0)
    assert stage.closed == {reason: 1}
    assert stage.upstream.closed
    check_end(stage)


def test_a_half_close_is_leaving() -> None:
    stage = Stage()
    assert stage.stream.down is not None
    assert not stage.stream.down.eof_received()  # asyncio closes the transport then
    assert stage.upstream.closed
    stage.clock.advance(0)
    assert stage.closed == {"client_gone": 1}


def test_a_client_that_left_while_upstream_was_asked_is_opened_and_closed_and_not_confirmed() -> None:
    stage = Stage(gone=True)
    assert stage.closed == {"client_gone": 1}
    assert stage.client.writes == []
    assert len(stage.streams) == 0
    value = stage.metrics.registry.get_sample_value
    assert value("sse_proxy_streams_opened_total", {"route": "events", "family": "browser"}) == 1
    assert value("sse_proxy_confirm_failures_total", {"route": "events"}) == 1
    assert value("sse_proxy_confirms_sent_total", {"route": "events", "form": "event"}) == 0


@pytest.mark.parametrize("form", [ConfirmForm.EVENT, ConfirmForm.COMMENT])
def test_while_the_confirm_waits_a_comment_is_the_first_byte(form: ConfirmForm) -> None:
    stage = Stage(replace(POLICY, confirm=Confirm(event="our_confirm", wait=5.0)), form=form)
    assert stage.body() == b":ok\n\n"
    stage.clock.advance(5.0)
    assert (b"event: our_confirm\n" in stage.body()) == (form is ConfirmForm.EVENT)


@pytest.mark.parametrize("form", [ConfirmForm.EVENT, ConfirmForm.COMMENT])
def test_what_a_token_claims_is_in_the_first_bytes_only_where_they_are_the_event(form: ConfirmForm) -> None:
    confirm = Confirm(event="our_confirm", data={"sub": "{claim.sub}"})
    stage = Stage(replace(POLICY, confirm=confirm), form=form, claims={"sub": "me"})
    event = b'event: our_confirm\ndata: {"sub":"me"}\n\n'
    assert stage.body() == (event if form is ConfirmForm.EVENT else b":ok\n\n")
    assert stage.stream.claims is None


@pytest.mark.parametrize("form", [ConfirmForm.EVENT, ConfirmForm.COMMENT, None])
@pytest.mark.parametrize("chunked", [True, False])
def test_what_upstream_sends_with_its_head_leaves_in_one_piece_with_head_and_confirm(
    form: ConfirmForm | None, chunked: bool
) -> None:
    stage = Stage(form=form, chunked=chunked, early=b"data: early\n\ndata: half")
    assert len(stage.client.writes) == 1
    assert stage.client.taken.startswith(HEAD)
    assert is_ours(stage.body().removesuffix(b"data: early\n\n")) == (form is not None)
    stage.feed(b" of it\n\n")
    assert len(stage.client.writes) == 2
    assert stage.body().endswith(b"data: early\n\ndata: half of it\n\n")


@pytest.mark.parametrize("form", [ConfirmForm.EVENT, ConfirmForm.COMMENT, None])
def test_an_internal_error_ends_this_stream_between_two_blocks(
    form: ConfirmForm | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage(replace(POLICY, unname=frozenset({"Generic"})), form=form)
    stage.feed(b"data: 1\n\ndata: half")

    def broken(*_: object) -> tuple[bytes, bool]:
        raise ZeroDivisionError

    monkeypatch.setattr(Inspection, "look", broken)
    stage.feed(b" of it\n\n")
    stage.clock.advance(0)
    assert stage.upstream.closed
    assert b"data: half" not in stage.body()
    check_end(stage)
    assert stage.closed == {"internal": 1}
    assert "ZeroDivisionError" in caplog.text


def test_an_internal_error_in_a_timer_ends_the_stream_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage()

    def broken(*_: object, **__: object) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(type(stage.route.frames), "ping", broken)
    stage.clock.advance(INTERVAL)
    stage.clock.advance(0)
    check_end(stage)
    assert stage.closed == {"internal": 1}
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(("events", "counted"), [(0, 0), (1, 1), (2, 0)])
def test_an_upstream_that_ends_after_its_first_event_is_counted(events: int, counted: int) -> None:
    stage = Stage()
    stage.feed(b": a comment is no event\n\n" + b"data: 1\n\n" * events)
    stage.end("upstream ends")
    value = stage.metrics.registry.get_sample_value
    assert value("sse_proxy_upstream_eof_after_first_event_total", {"route": "events"}) == counted


# Leaving.

DRAINED = late_error(LateError.PROXY_ERROR, CloseReason.DRAIN, None)


def test_a_stream_that_is_to_leave_waits_for_the_end_of_a_block_that_upstream_has_begun() -> None:
    stage = Stage(form=None)
    stage.feed(b"data: 1\n\ndata: ha")
    stage.stream.leave(stage.clock(), CloseReason.DRAIN)
    stage.clock.advance(0.5)
    stage.feed(b"lf\n\n")
    stage.clock.advance(0.1)
    assert stage.body() == b"data: 1\n\ndata: half\n\n" + DRAINED
    assert stage.closed == {"drain": 1}
    check_end(stage)


def test_it_does_not_wait_for_ever() -> None:
    stage = Stage(form=None)
    stage.feed(b"data: 1\n\ndata: ha")
    stage.stream.leave(stage.clock(), CloseReason.DRAIN)
    stage.clock.advance(1.5)
    assert stage.body() == b"data: 1\n\n" + DRAINED
    assert stage.closed == {"drain": 1}
    check_end(stage)


@pytest.mark.parametrize(("drawn", "lives"), [(0.0, 1000.0), (0.5, 900.0), (1.0, 800.0)])
def test_a_streams_greatest_age_is_shortened_by_up_to_a_fifth_as_drawn(
    drawn: float, lives: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "random", lambda: drawn)
    stage = Stage(replace(POLICY, max_age=1000.0))
    stage.clock.advance(lives - 0.1)
    assert stage.closed == {}
    stage.clock.advance(0.2)
    assert stage.closed == {"max_age": 1}
    check_end(stage)


# Upstream, lost and found.

AGAIN = Reconnect(when=ReconnectWhen.ALWAYS, delay=1.0, max_delay=8.0, give_up_after=60.0)
PATIENT = replace(AGAIN, give_up_after=1e6)
FAILED = NotOpened(CloseReason.UPSTREAM_STATUS, again=True)


def reopenable(policy: StreamPolicy = POLICY, again: Reconnect = AGAIN, **how: Any) -> Stage:
    policy = replace(policy, reconnect=again)
    always = again.when is ReconnectWhen.ALWAYS
    return Stage(policy, attempts=Attempts(policy, how.pop("known", b""), always=always), **how)


def events(stage: Stage) -> list[str]:
    return [event.type for event in sse_reference.parse(stage.body()).events]


@pytest.mark.parametrize(
    ("known", "sent", "goes_on"),
    [
        (b"", b"data: 1\n\n", False),
        (b"", b"id: 7\ndata: 1\n\n", True),
        (b"", b"id: 7\n\n", True),
        (b"", b"id: 7\ndata: unfinished", False),
        (b"", b"id: 7\ndata: 1\n\nid\ndata: 2\n\n", False),
        (b"5", b"data: 1\n\n", True),
        (b"5", b"id\ndata: 1\n\n", False),
        (b"", b"id: a\x00b\ndata: 1\n\n", False),
        (b"", b"id: 7\nid: a\x00b\ndata: 1\n\n", True),
        (b"", b"id: a\x1bb\ndata: 1\n\n", False),
        (b"", b"id: %b\ndata: 1\n\n" % (b"x" * 4096), True),
        (b"", b"id: %b\ndata: 1\n\n" % (b"x" * 4097), False),
        (b"x" * 4097, b"data: 1\n\n", False),
    ],
)
def test_resumable_is_a_stream_whose_newest_id_can_be_sent(known: bytes, sent: bytes, goes_on: bool) -> None:
    stage = reopenable(again=replace(AGAIN, when=ReconnectWhen.RESUMABLE), known=known)
    stage.feed(sent)
    stage.lose("upstream ends")
    stage.clock.advance(0)
    assert stage.closed == ({} if goes_on else {"upstream_end": 1})
    assert (stage.stream.life.state is State.RECONNECTING) == goes_on
    check_end(stage)


def test_a_stream_without_upstream_still_gets_its_pings() -> None:
    stage = reopenable(again=PATIENT)
    stage.lose()
    assert stage.ask()
    stage.clock.advance(10 * INTERVAL)
    assert stage.stream.pings == 10


@pytest.mark.parametrize("drawn", [0.0, 0.5, 0.999])
def test_the_wait_before_an_attempt_doubles_as_drawn_until_upstream_shows_life(
    drawn: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "random", lambda: drawn)
    stage = reopenable(again=PATIENT)
    waits = []

    def lost_for() -> None:
        lost_at = stage.clock()
        while stage.attempts is not None and not stage.attempts.under_way:
            stage.clock.advance(0.05)
        waits.append(stage.clock() - lost_at)

    for _ in range(5):
        stage.lose()
        lost_for()
        stage.fail(FAILED)
        lost_for()
        stage.reopen(b": a comment is no sign of life\n\n")
    stage.feed(b"data: alive\n\n")
    stage.lose()
    lost_for()
    for wait, ceiling in zip(waits, [1, 2, 4, *7 * [8], 1], strict=True):
        assert wait == pytest.approx(ceiling * drawn, abs=0.11)


def test_upstreams_own_retry_is_waited_for_before_the_drawn_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.5)
    stage = reopenable()
    stage.feed(b"retry: 20000\n\n")
    stage.lose()
    assert stage.attempts is not None
    stage.clock.advance(20.4)
    assert not stage.attempts.under_way
    stage.clock.advance(0.2)
    assert stage.attempts.under_way


def test_a_retry_that_upstream_never_finished_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.5)
    stage = reopenable()
    stage.feed(b"retry: 20000\n")
    stage.lose()
    stage.clock.advance(0.6)
    assert stage.attempts is not None
    assert stage.attempts.under_way


def test_it_is_given_up_after_its_time_also_while_an_answer_is_awaited() -> None:
    stage = reopenable()
    stage.lose()
    assert stage.ask()
    stage.clock.advance(60)
    assert stage.closed == {"give_up": 1}
    assert stage.attempts is not None
    assert not stage.attempts.under_way
    check_end(stage)


def test_a_demanded_wait_longer_than_the_time_left_ends_the_stream_at_once() -> None:
    stage = reopenable()
    stage.lose()
    assert stage.ask()
    stage.fail(replace(FAILED, at_least=3600.0))
    stage.clock.advance(0)
    assert stage.closed == {"give_up": 1}
    check_end(stage)


def test_an_answer_that_ends_it_all_is_the_reason_and_the_attempt_is_counted_as_the_end() -> None:
    stage = reopenable()
    stage.lose()
    assert stage.ask()
    stage.fail(NotOpened(CloseReason.UPSTREAM_STATUS, again=False))
    stage.clock.advance(0)
    assert stage.closed == {"upstream_status": 1}
    value = stage.metrics.registry.get_sample_value
    assert value("sse_proxy_upstream_reconnects_total", {"route": "events", "result": "ended"}) == 1
    assert b"proxy_error" not in stage.body()  # that is for a client that has had no answer
    check_end(stage)


@pytest.mark.parametrize("asked", [True, False], ids=["while it is asked", "before it is asked"])
def test_a_client_that_leaves_while_upstream_is_lost_ends_the_attempts(
    asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.9)  # the attempt is not made at once
    stage = reopenable()
    stage.lose()
    if asked:
        assert stage.ask()
    stage.client.leave()
    stage.clock.advance(60)
    assert stage.closed == {"client_gone": 1}
    assert stage.attempts is not None
    assert not stage.attempts.under_way
    assert stage.attempts.started == asked
    check_end(stage)


def test_upstream_is_paused_again_when_it_is_back_for_a_client_that_still_takes_nothing() -> None:
    stage = reopenable(again=PATIENT)
    stage.client.takes = False
    stage.feed(b"data: 1\n\n")
    stage.lose()
    assert stage.ask()
    stage.reopen(b"data: " + b"x" * 100 + b"\n\n")
    assert stage.upstream.paused
    stage.feed(b"data: 3\n\n")
    stage.take_all()
    assert not stage.upstream.paused
    check_meaning(stage)


def test_upstream_stays_paused_where_the_news_of_the_gap_alone_is_more_than_a_client_takes() -> None:
    stage = reopenable(replace(POLICY, max_buffer=10), again=PATIENT)
    stage.lose()
    assert stage.ask()
    stage.client.takes = False
    stage.reopen(b"data: early\n\n")
    assert stage.upstream.paused
    stage.take_all()
    assert not stage.upstream.paused
    check_meaning(stage)


def test_an_upstream_lost_while_it_was_paused_does_not_leave_the_next_one_paused() -> None:
    stage = reopenable(again=PATIENT)
    stage.client.takes = False
    stage.feed(b"data: " + b"x" * 100 + b"\n\n")
    assert stage.upstream.paused
    stage.lose()
    stage.take_all()
    assert stage.ask()
    stage.reopen()
    assert not stage.upstream.paused
    stage.feed(b"data: 2\n\n")
    assert stage.body().endswith(b"data: 2\n\n")


# A stalled upstream is replaced (behaviour.md#a-reopening-kills-no-living-stream).


def stalled(body: bytes = b"data: 1\n\ndata: ha") -> Stage:
    """A stage whose upstream has stalled after `body`, and is asked for another stream."""
    stall = Stall(STALLED_AFTER, ignore_types=frozenset({"beat"}), action=StallAction.RECONNECT)
    stage = reopenable(replace(POLICY, stall=stall), again=PATIENT, form=None)
    stage.feed(body)
    stage.clock.advance(STALLED_AFTER)
    assert stage.ask()
    return stage


def test_a_stalled_upstream_stays_until_another_is_accepted_and_the_stall_goes_on() -> None:
    stage = stalled()
    first = stage.upstream
    assert not first.closed
    stage.feed(b'lf\n\ndata: {"type":"beat"}\n\ndata: {"type":"beat"}\n')
    assert stage.body().endswith(b'data: half\n\ndata: {"type":"beat"}\n\n')  # a second of them is unfinished
    assert stage.attempts is not None
    assert not stage.attempts.under_way  # `half` was a sign of life
    stage.clock.advance(STALLED_AFTER)
    assert stage.ask()
    stage.reopen()
    assert first.closed
    assert stage.stream.life.state is State.STALLED
    assert b":stream_recovered reason=stalled " in stage.body()
    stage.feed(b"data: 2\n\n")
    assert stage.stream.life.state is State.FLOWING
    assert (stage.stream.stalls, stage.stream.reconnects) == (2, 1)
    value = stage.metrics.registry.get_sample_value
    assert value("sse_proxy_upstream_stall_recoveries_total", {"route": "events"}) == 2
    check_meaning(stage)


@pytest.mark.parametrize("again", [True, False])
def test_an_attempt_that_fails_keeps_the_stalled_upstream_and_is_told_to_nobody(again: bool) -> None:
    stage = stalled()
    before = stage.body()
    stage.fail(NotOpened(CloseReason.UNAUTHORIZED, again=again))
    assert stage.body() == before
    assert stage.closed == {}
    value = stage.metrics.registry.get_sample_value
    labels = {"route": "events", "result": "failed"}
    assert value("sse_proxy_upstream_reconnects_total", labels) == 1
    assert stage.ask()
    stage.fail(FAILED)
    stage.feed(b"lf\n\ndata: 2\n\n")
    assert stage.body().endswith(b"data: half\n\ndata: 2\n\n")
    assert stage.stream.life.state is State.FLOWING
    check_meaning(stage)


@pytest.mark.parametrize("how", ["upstream breaks", "expiry"])
def test_a_refused_replacement_is_not_told_as_the_cause_of_a_later_end(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(stream_log, "log_line", lambda text, fields: lines.append(fields))
    stage = stalled(b"data: 1\n\n")
    stage.fail(NotOpened(CloseReason.UNAUTHORIZED, again=False))
    if how == "expiry":
        stage.stream.leave(stage.clock(), CloseReason.UNAUTHORIZED)
    else:
        stage.stream.life.reopens = False
        stage.lose()
    stage.clock.advance(0)
    assert stage.closed == {"unauthorized" if how == "expiry" else "upstream_reset": 1}
    assert b"503" not in stage.body()
    assert lines[-1]["reason"] in stage.closed
    assert "refusal" not in lines[-1]


def test_a_stalled_upstream_that_begins_an_event_during_the_attempt_is_kept() -> None:
    stage = stalled(b"data: 1\n\n")
    assert stage.attempts is not None
    stage.feed(b": a com")
    assert stage.attempts.under_way
    stage.feed(b"ment\ndata: half")
    assert not stage.attempts.under_way
    stage.clock.advance(STALLED_AFTER / 2)
    assert not stage.attempts.under_way
    stage.feed(b" and half\n\n")
    assert stage.body().endswith(b"data: half and half\n\n")
    assert stage.stream.reconnects == 0


def test_a_large_event_that_comes_slowly_is_no_stall() -> None:
    stall = Stall(STALLED_AFTER, action=StallAction.RECONNECT, close_after=STALLED_AFTER)
    stage = reopenable(replace(POLICY, stall=stall), again=PATIENT, form=None)
    stage.feed(b"data: ")
    for _ in range(10):
        stage.feed(b"x" * 100_000)
        stage.clock.advance(STALLED_AFTER / 2)
    stage.feed(b"\n\n")
    assert stage.attempts is not None
    assert (stage.stream.stalls, stage.attempts.started, stage.closed) == (0, 0, {})
    check_meaning(stage)
    stage.feed(b"data: ")  # few bytes may be all that ever comes
    for _ in range(3):
        stage.feed(b"x")
        stage.clock.advance(STALLED_AFTER / 2)
    assert stage.stream.stalls == 1


def test_a_server_with_one_place_ends_the_old_stream_for_the_new_one_and_that_is_no_loss() -> None:
    stage = stalled(b"data: 1\n\n")
    stage.lose("upstream ends")
    assert stage.stream.life.state is State.RECONNECTING
    assert stage.attempts is not None
    assert stage.attempts.started == 1
    stage.reopen(b"data: 2\n\n")
    assert b":stream_recovered reason=stalled " in stage.body()
    value = stage.metrics.registry.get_sample_value
    assert value("sse_proxy_upstream_eof_after_first_event_total", {"route": "events"}) == 0
    check_meaning(stage)


def test_an_upstream_that_ends_again_after_one_event_is_counted_each_time() -> None:
    stage = reopenable(again=PATIENT)
    for _ in range(2):
        stage.feed(b"data: 1\n\n")
        stage.lose("upstream ends")
        assert stage.ask()
        stage.reopen()
    stage.lose("upstream ends")
    value = stage.metrics.registry.get_sample_value
    assert value("sse_proxy_upstream_eof_after_first_event_total", {"route": "events"}) == 2


def test_a_drain_while_upstream_is_lost_ends_the_stream_and_says_so() -> None:
    stage = reopenable()
    stage.lose()
    assert stage.ask()
    stage.stream.leave(stage.clock(), CloseReason.DRAIN)
    stage.clock.advance(0)
    assert stage.closed == {"drain": 1}
    assert events(stage) == ["our_confirm", "stream_closing"]
    check_end(stage)


def test_the_confirm_that_waits_for_upstream_to_speak_first_comes_though_upstream_is_lost() -> None:
    stage = reopenable(replace(POLICY, confirm=Confirm(event="our_confirm", wait=5.0)), again=PATIENT)
    stage.lose()
    stage.clock.advance(5)
    assert events(stage) == ["our_confirm"]
