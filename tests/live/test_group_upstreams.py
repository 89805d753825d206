"""Which of upstream's streams a group reads when there are several, and that nothing is lost between them
(behaviour.md#sharing).
"""

from __future__ import annotations

import random

import pytest

from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import OnRefusal
from tests.live.group_stage import GroupStage, JoinedClient
from tests.live.stage import STALLED_AFTER

# What the old stream has brought and nothing has read yet.


def test_what_the_old_stream_has_brought_comes_before_the_stream_that_takes_its_place() -> None:
    stage = GroupStage()
    a = stage.join("a")
    old = stage.upstream
    old.write(b"data: 1\n\n")
    old.write(b"data: 2\n\ndata: unfin")
    b = stage.join("b", early=b"data: 3\n\n")
    assert old.closed
    assert (a.data, b.data) == (["1", "2", "3"], ["1", "2", "3"])
    assert (a.gaps, b.gaps) == (0, 0)


def test_an_end_of_the_old_stream_that_was_not_read_yet_is_no_loss() -> None:
    stage = GroupStage(reconnects=False)
    a = stage.join("a")
    stage.upstream.write(b"data: 1\n\n")
    stage.upstream.write(b"")
    stage.join("b", early=b"data: 2\n\n")
    assert (a.data, a.ended) == (["1", "2"], None)


def test_a_group_that_ends_by_what_the_old_stream_has_brought_takes_no_other_stream() -> None:
    stage = GroupStage()
    a = stage.join("a")
    stage.upstream.write(b"data: 1\n\ndata: " + b"x" * 1000)
    b = stage.join("b")
    assert a.data == ["1"]
    assert (a.ended, b.ended) == (CloseReason.EVENT_TOO_LARGE, CloseReason.EVENT_TOO_LARGE)
    assert stage.upstream.closed


def test_a_stalled_stream_that_speaks_at_the_last_moment_is_heard() -> None:
    stage = GroupStage()
    a = stage.join("a")
    stage.stall()
    stage.upstream.write(b"data: 1\n\n")
    stage.reopen(early=b"data: 2\n\n")
    assert (a.data, a.ended) == (["1", "2"], None)


# Answers in another order than that of the questions.


def test_a_stream_that_was_asked_for_earlier_and_accepted_later_is_heard_and_closed() -> None:
    stage = GroupStage()
    stage.clock.advance(1.0)
    a = stage.join("a")
    present = stage.upstream
    present.send(b"data: 2\n\ndata: ")
    present.write(b"3\n\n")
    b = stage.join("b", asked_at=0.5, early=b"data: 1\n\ndata: unfin")
    assert stage.upstream.closed
    present.send(b"data: 4\n\n")
    assert a.data == ["2", "1", "3", "4"]
    assert b.data == ["1", "3", "4"]


def test_of_two_streams_the_one_that_upstream_has_not_ended_stays() -> None:
    stage = GroupStage(reconnects=False)
    stage.clock.advance(1.0)
    a = stage.join("a")
    stage.upstream.write(b"data: 1\n\n")
    stage.upstream.write(b"")
    stage.join("b", asked_at=0.5, early=b"data: 2\n\n")
    stage.upstream.send(b"data: 3\n\n")
    assert (a.data, a.ended) == (["1", "2", "3"], None)


# A stalled stream, an attempt to replace it, and a client that comes meanwhile. Upstream has one place.


def stalled() -> tuple[GroupStage, JoinedClient]:
    """A group that asks for another stream, and its client."""
    stage = GroupStage()
    client = stage.join("a")
    stage.stall()
    stage.clock.advance(0.5)
    return stage, client


def earlier(stage: GroupStage) -> float:
    """A time before the group has asked."""
    assert stage.attempts.sent_at is not None
    return stage.attempts.sent_at - 1.0


def test_an_attempt_goes_on_behind_the_answer_to_a_client_that_had_asked_before_it() -> None:
    stage, a = stalled()
    b = stage.join("b", asked_at=earlier(stage), early=b"data: 1\n\n")
    assert stage.attempts.under_way
    stage.upstream.end()  # the place has moved
    assert (a.ended, b.ended) == (None, None)
    stage.reopen(early=b"data: 2\n\n")
    assert (a.data, b.data) == (["1", "2"], ["1", "2"])
    assert a.gaps == 1  # it may have missed something of the stalled stream, and of no other


def test_an_attempt_that_is_answered_first_keeps_the_place_that_it_has_taken() -> None:
    stage, a = stalled()
    stage.reopen()
    place = stage.upstream
    b = stage.join("b", asked_at=earlier(stage), early=b"data: 1\n\n")
    assert stage.upstream.closed
    place.send(b"data: 2\n\n")
    assert (a.data, b.data) == (["1", "2"], ["1", "2"])
    assert a.gaps == 1


def test_a_client_that_asks_after_the_attempt_ends_it_when_its_answer_comes_first() -> None:
    stage, a = stalled()
    b = stage.join("b")
    assert not stage.attempts.under_way
    stage.upstream.send(b"data: 1\n\n")
    assert (a.data, b.data, a.gaps) == (["1"], ["1"], 1)


def test_a_client_that_asks_after_the_attempt_takes_its_place_when_its_answer_comes_later() -> None:
    stage, a = stalled()
    stage.reopen()
    stage.upstream.write(b"data: 1\n\n")
    stage.upstream.write(b"")
    stage.join("b", early=b"data: 2\n\n")
    assert (a.data, a.gaps, a.ended) == (["1", "2"], 1, None)


def test_what_has_come_for_an_attempt_is_delivered_when_a_later_answer_is_handled_before_it() -> None:
    stage, a = stalled()
    stage.upstream.write(b"data: 1\n\n")
    stage.attempts.came = b"data: 2\n\ndata: unfin"
    stage.join("b", early=b"data: 3\n\n")
    assert not stage.attempts.under_way
    assert a.data == ["1", "2", "3"]


def test_the_same_holds_for_an_attempt_to_open_a_lost_stream() -> None:
    stage = GroupStage()
    a = stage.join("a")
    stage.lose()
    stage.clock.advance(0.5)
    stage.attempts.came = b"data: 1\n\n"
    stage.join("b", early=b"data: 2\n\n")
    assert (a.data, a.gaps) == (["1", "2"], 1)


def test_an_attempt_that_fails_behind_the_answer_to_a_client_ends_nothing() -> None:
    stage, a = stalled()
    b = stage.join("b", asked_at=earlier(stage))
    stage.refuse()
    stage.upstream.send(b"data: 1\n\n")
    assert (a.data, b.data) == (["1"], ["1"])
    assert (a.ended, b.ended) == (None, None)


def test_a_request_that_was_not_sent_yet_is_not_made_when_a_client_brings_a_stream() -> None:
    stage, a = stalled()
    asked_at, stage.attempts.sent_at = earlier(stage), None
    stage.join("b", asked_at=asked_at)
    assert not stage.attempts.under_way
    stage.upstream.send(b"data: 1\n\n")
    assert a.data == ["1"]


def test_a_sign_of_life_of_the_old_stream_does_not_end_an_attempt_that_has_the_place() -> None:
    stage, a = stalled()
    stage.upstream.write(b"data: 1\n\n")
    stage.join("b", asked_at=earlier(stage), early=b"data: 2\n\n")
    assert stage.attempts.under_way
    stage.reopen(early=b"data: 3\n\n")
    assert (a.data, a.gaps) == (["1", "2", "3"], 0)


def test_an_attempt_that_is_under_way_is_the_one_that_a_stalled_or_lost_stream_waits_for() -> None:
    for how in ("stalls", "ends", "breaks", "stalls and ends", "ends and stalls"):
        stage, a = stalled()
        b = stage.join("b", asked_at=earlier(stage))
        started = stage.attempts.started
        for step in how.split(" and "):
            match step:
                case "stalls":
                    stage.clock.advance(2 * STALLED_AFTER)
                case "ends":
                    stage.upstream.end()
                case "breaks":
                    stage.upstream.breaks()
                    stage.clock.advance(5.0)
        assert stage.attempts.under_way
        stage.reopen(early=b"data: 1\n\n")
        assert (a.data, b.data) == (["1"], ["1"])
        stage.upstream.send(b"data: 2\n\n")
        assert (a.data, a.ended) == (["1", "2"], None)
        assert stage.attempts.started == started


def test_a_stalled_stream_that_speaks_while_an_earlier_attempt_is_under_way_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.9)  # each wait is almost the longest
    stage, a = stalled()
    stage.join("b", asked_at=earlier(stage))
    stage.clock.advance(STALLED_AFTER + 0.1)  # the wait before another attempt
    stage.upstream.send(b"data: 1\n\n")
    stage.upstream.end()
    assert stage.attempts.under_way
    stage.fail()
    stage.next_attempt()
    stage.reopen(early=b"data: 2\n\n")
    assert (a.data, a.ended) == (["1", "2"], None)


def test_the_last_bytes_of_a_stalled_stream_do_not_end_an_attempt_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.9)  # the attempt is not made at once
    stage, a = stalled()
    stage.upstream.write(b"data: unfin")
    stage.upstream.write(b"")
    stage.join("b", asked_at=stage.clock() - 2 * STALLED_AFTER, early=b"data: 1\n\n")
    assert stage.attempts.under_way
    stage.reopen(early=b"data: 2\n\n")
    assert (a.data, a.ended) == (["1", "2"], None)


def test_a_block_that_an_ended_stream_has_begun_is_not_glued_to_the_stream_of_an_attempt() -> None:
    stage, a = stalled()
    stage.join("b", asked_at=earlier(stage), early=b"data: 1\n\ndata: unfin")
    stage.upstream.end()
    stage.group.ask()
    stage.clock.advance(2 * STALLED_AFTER)
    stage.reopen(early=b"data: 2\n\n")
    assert (a.data, a.ended) == (["1", "2"], None)


def test_a_refusal_while_a_stalled_stream_is_there_makes_room_for_another_credential() -> None:
    stage = GroupStage()
    a, b = stage.join("a"), stage.join("b")
    stage.stall()
    assert stage.attempts.bare == b"b"
    stage.refuse()
    assert (a.ended, b.ended) == (None, None)
    stage.next_attempt()
    assert stage.attempts.bare == b"a"
    stage.reopen(early=b"data: 1\n\n")
    assert (a.data, b.data) == (["1"], ["1"])


# An upstream with ids, which sends again what came after the id in a request.


def with_ids() -> tuple[GroupStage, JoinedClient]:
    """A group whose client has the event 1."""
    stage = GroupStage()
    client = stage.join("a", early=b"id: 1\ndata: 1\n\n")
    return stage, client


def test_a_client_that_asks_for_what_an_attempt_brings_too_brings_nothing_twice() -> None:
    stage, a = with_ids()
    stage.lose()
    stage.reopen(early=b"id: 2\ndata: 2\n\n")
    place = stage.upstream
    b = stage.join("b", early=b"id: 2\ndata: 2\n\n", resumes=True)
    assert stage.upstream.closed
    place.send(b"id: 3\ndata: 3\n\n")
    assert (a.data, b.data) == (["1", "2", "3"], ["3"])


def test_an_attempt_that_brings_the_same_as_a_client_is_not_read_before_it() -> None:
    stage, a = with_ids()
    stage.lose()
    stage.attempts.came = b"id: 2\ndata: 2\n\n"
    stage.join("b", early=b"id: 2\ndata: 2\n\n", resumes=True)
    assert a.data == ["1", "2"]


def test_what_a_stalled_stream_says_last_comes_once_if_the_new_one_repeats_it() -> None:
    stage, a = with_ids()
    stage.stall()
    stage.upstream.write(b"id: 2\ndata: 2\n\n")
    stage.reopen(early=b"id: 2\ndata: 2\n\n")
    assert a.data == ["1", "2"]


def test_a_sign_of_life_ends_an_attempt_that_would_repeat_it() -> None:
    stage, a = with_ids()
    stage.stall()
    stage.attempts.came = b"id: 2\ndata: 2\n\n"
    stage.upstream.send(b"id: 2\ndata: 2\n\n")
    assert not stage.attempts.under_way
    assert a.data == ["1", "2"]


# A refused credential with `on_refusal: keep`.


def test_a_refused_client_that_upstream_accepts_again_stays_when_its_token_expires() -> None:
    stage = GroupStage(on_refusal=OnRefusal.KEEP)
    a, b = stage.join("a", lives=60.0), stage.join("b", lives=60.0)
    stage.lose()
    stage.refuse()
    stage.next_attempt()
    stage.refuse()
    also_b = stage.join("b")
    stage.clock.advance(61.0)
    assert (a.ended, b.ended, also_b.ended) == (CloseReason.UNAUTHORIZED, None, None)


def test_a_client_that_is_accepted_again_ends_for_the_reason_that_it_would_have_ended_for() -> None:
    stage = GroupStage(on_refusal=OnRefusal.KEEP)
    stage.join("a")
    b = stage.join("b", lives=30.0)
    b.stream.leave(stage.clock() + 40.0, CloseReason.MAX_AGE)
    stage.lose()
    stage.refuse()
    stage.join("b")
    stage.clock.advance(39.0)
    assert b.ended is None
    stage.clock.advance(2.0)
    assert b.ended is CloseReason.MAX_AGE


def test_a_refused_client_ends_at_its_expiry_if_upstream_accepts_another_one() -> None:
    stage = GroupStage(on_refusal=OnRefusal.KEEP)
    stage.join("a")
    b = stage.join("b", lives=30.0)
    stage.lose()
    stage.refuse()
    stage.join("c")
    stage.clock.advance(31.0)
    assert b.ended is CloseReason.UNAUTHORIZED
    stage.upstream.send(b"data: 1\n\n")
    assert b.data == []
