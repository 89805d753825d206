"""The bytes that all streams together may hold, and the stream that ends when they are too many."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sse_keepalive_proxy.live.backlog import Backlog
from sse_keepalive_proxy.stream.messages import CloseReason
from tests.live.stage import POLICY, Stage


@dataclass(eq=False)
class Holding:
    """A stream that holds `buffered` bytes; its client is stuck since `stuck_since`."""

    buffered: int
    stuck_since: float | None
    ended: CloseReason | None = None

    def shed(self, reason: CloseReason) -> None:
        self.ended, self.buffered = reason, 0


def noted(backlog: Backlog, *holders: Holding) -> list[CloseReason | None]:
    for holder in holders:
        backlog.note(holder, holder.buffered)
    return [holder.ended for holder in holders]


def test_nothing_ends_up_to_the_limit() -> None:
    assert noted(Backlog(100), Holding(60, 1.0), Holding(40, 2.0)) == [None, None]


def test_above_the_limit_the_client_that_is_stuck_for_the_longest_time_ends() -> None:
    holders = (Holding(40, 3.0), Holding(30, 1.0), Holding(31, 2.0))
    assert noted(Backlog(100), *holders) == [None, CloseReason.CLIENT_STALLED, None]


def test_as_many_end_as_are_needed() -> None:
    holders = (Holding(1, 1.0), Holding(1, 2.0), Holding(99, 3.0), Holding(50, 4.0))
    assert noted(Backlog(100), *holders) == [CloseReason.CLIENT_STALLED] * 3 + [None]


def test_what_clients_have_taken_since_does_not_count() -> None:
    backlog, slow = Backlog(100), Holding(90, 1.0)
    assert noted(backlog, slow) == [None]
    slow.buffered = 5
    assert noted(backlog, Holding(80, 2.0)) == [None]
    assert slow.ended is None


def test_a_stream_that_has_left_does_not_count() -> None:
    backlog, left = Backlog(100), Holding(90, 1.0)
    noted(backlog, left)
    backlog.note(left, 0)
    assert noted(backlog, Holding(90, 2.0)) == [None]


def test_if_unfinished_events_are_the_larger_part_the_largest_of_them_ends() -> None:
    holders = (Holding(10, 1.0), Holding(40, None), Holding(60, None))
    assert noted(Backlog(100), *holders) == [None, None, CloseReason.EVENT_TOO_LARGE]


def test_one_stream_above_the_limit_ends_itself() -> None:
    assert noted(Backlog(100), Holding(101, 1.0)) == [CloseReason.CLIENT_STALLED]


def test_a_new_limit_counts_from_the_next_bytes_on() -> None:
    backlog, stuck = Backlog(100), Holding(90, 1.0)
    noted(backlog, stuck)
    backlog.limit = 50
    assert noted(backlog, Holding(1, 2.0)) == [None]
    assert stuck.ended is CloseReason.CLIENT_STALLED


# The streams themselves.


def test_a_stream_whose_client_takes_nothing_ends_with_a_reset_when_its_bytes_are_too_many() -> None:
    stage = Stage(replace(POLICY, max_buffer=1 << 20))
    stage.backlog.limit = 500
    stage.client.takes = False
    stage.feed(b"data: %b\n\n" % (b"x" * 400))
    assert stage.stream.life.close_reason is None
    stage.feed(b"data: %b\n\n" % (b"x" * 400))
    stage.clock.advance(0)
    assert stage.closed == {"client_stalled": 1}
    assert stage.client.aborted
    assert not stage.backlog._sizes


def test_a_large_unfinished_event_counts_and_no_longer_when_it_is_whole() -> None:
    stage = Stage(replace(POLICY, max_event=1 << 20))
    stage.backlog.limit = 150_000
    stage.feed(b"data: " + b"x" * 100_000)
    assert stage.backlog._total > 100_000
    stage.feed(b"\n\n")
    stage.feed(b"data: " + b"x" * 120_000)
    assert stage.stream.life.close_reason is None
    stage.feed(b"x" * 40_000)
    stage.clock.advance(0)
    assert stage.closed == {"event_too_large": 1}


def test_a_client_that_has_taken_everything_or_has_left_leaves_no_trace() -> None:
    for way in ("takes", "leaves"):
        stage = Stage()
        stage.client.takes = False
        stage.feed(b"data: 1\n\n")
        assert stage.backlog._total > 0
        stage.take_all() if way == "takes" else stage.client.leave()
        stage.clock.advance(0)
        assert not stage.backlog._sizes
        assert stage.backlog._total == 0
