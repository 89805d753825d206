"""Streams that upstream is lost to, as transcripts: what happens when, and what is answered.

Half of every ceiling is drawn: the waits are 1, 2, 4, 8 and 8 seconds.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from sse_keepalive_proxy.stream.lifecycle import Lifecycle
from sse_keepalive_proxy.stream.messages import (
    Abandon,
    Abort,
    Announce,
    Blocked,
    ClientGone,
    Close,
    CloseReason,
    Command,
    Commit,
    CommitEarly,
    Confirm,
    Fault,
    Hasten,
    LeaveAt,
    NotOpened,
    Opened,
    Paused,
    Ping,
    Recovered,
    Reopen,
    Resumed,
    SilenceEnded,
    Stalled,
    Unblocked,
    UpstreamLost,
)
from sse_keepalive_proxy.stream.policy import Reconnect, Stall, StallAction, StreamPolicy
from sse_keepalive_proxy.stream.states import State
from tests.stream.transcript import DATA, NOISE, PIECE, Reopens, Step, Transcript, play, promise

RECONNECT = Reconnect(delay=2, max_delay=16, give_up_after=100)
LASTING = promise(reconnect=RECONNECT)
PINGED = promise(ping=10, reconnect=RECONNECT)
REPLACED = Stall(after=60, action=StallAction.RECONNECT)

END, RESET = CloseReason.UPSTREAM_END, CloseReason.UPSTREAM_RESET
REFUSED, STATUS = CloseReason.UPSTREAM_REFUSED, CloseReason.UPSTREAM_STATUS
LOST = UpstreamLost(END)
AGAIN = NotOpened(REFUSED, again=True)
REOPENED = Opened(resumed=True)

OPEN: list[tuple[float, Step]] = [(0, Reopens()), (0, Opened())]
COMMITTED = (0, Commit(confirm=True))
EARLY: list[tuple[float, Step]] = [(0, Reopens()), (5, CommitEarly())]
COMMITTED_EARLY = (5, Commit(confirm=False))


def told(transcript: Transcript, *kinds: type[Command]) -> list[tuple[float, Command]]:
    return [line for line in transcript.said if isinstance(line[1], kinds)]


# Lost and found.


@pytest.mark.parametrize("reason", [END, RESET])
@pytest.mark.parametrize("resumed", [True, False])
def test_a_lost_upstream_is_opened_again_and_the_gap_is_announced(reason: CloseReason, resumed: bool) -> None:
    transcript = play(
        LASTING,
        *OPEN,
        (5, DATA),
        (8, UpstreamLost(reason)),
        (11, Opened(resumed=resumed)),
        (12, DATA),
        until=1000,
    )
    assert transcript.said == [COMMITTED, (9, Reopen()), (11, Announce(reason, 3, resumed))]
    assert transcript.states[1:] == [
        (5, State.FLOWING),
        (8, State.RECONNECTING),
        (11, State.WAITING),
        (12, State.FLOWING),
        (27, State.IDLE),
    ]


@pytest.mark.parametrize("reason", [END, RESET])
@pytest.mark.parametrize(
    ("policy", "may"), [(LASTING, Reopens(allowed=False)), (promise(), Reopens())], ids=["stream", "policy"]
)
def test_where_it_may_not_be_asked_again_the_stream_ends_as_upstream_did(
    policy: StreamPolicy, may: Reopens, reason: CloseReason
) -> None:
    transcript = play(policy, (0, may), (0, Opened()), (8, UpstreamLost(reason)), until=1000)
    assert transcript.said == [COMMITTED, (8, Close(reason))]


def test_whether_it_may_is_decided_when_it_is_lost() -> None:
    learns: list[tuple[float, Step]] = [(0, Opened()), (5, Reopens()), (8, LOST)]
    assert play(LASTING, *learns, until=10).said[1:] == [(9, Reopen())]
    forgets: list[tuple[float, Step]] = [*OPEN, (5, Reopens(allowed=False)), (8, LOST)]
    assert play(LASTING, *forgets, until=10).said[1:] == [(8, Close(END))]


@pytest.mark.parametrize("reason", [REFUSED, RESET, STATUS])
def test_an_attempt_that_fails_is_followed_by_the_next_one(reason: CloseReason) -> None:
    failed = NotOpened(reason, again=True)
    script: list[tuple[float, Step]] = [(8, LOST), (10, failed), (14, failed), (18, failed), (27, REOPENED)]
    assert play(LASTING, *OPEN, *script, until=1000).said[1:] == [
        (9, Reopen()),
        (12, Reopen()),
        (18, Reopen()),
        (26, Reopen()),
        (27, Announce(END, 19, resumed=True)),
    ]


BACK = Hasten(within=2)  # for another stream; half of it is drawn


def test_an_upstream_that_is_back_is_asked_soon() -> None:
    script: list[tuple[float, Step]] = [(8, LOST), (10, AGAIN), (14, AGAIN), (18, AGAIN), (19, BACK)]
    transcript = play(LASTING, *OPEN, *script, (21, REOPENED), until=1000)
    assert transcript.said[4:] == [(20, Reopen()), (21, Announce(END, 13, resumed=True))]


def test_no_attempt_is_later_because_upstream_is_back() -> None:
    script: list[tuple[float, Step]] = [(8, LOST), (8.25, BACK), (8.5, BACK)]
    assert play(LASTING, *OPEN, *script, until=1000).said[1] == (9, Reopen())


def test_an_upstream_that_is_back_is_asked_no_earlier_than_it_demands() -> None:
    script: list[tuple[float, Step]] = [(8, UpstreamLost(END, at_least=20)), (10, BACK)]
    assert play(LASTING, *OPEN, *script, until=1000).said[1] == (29, Reopen())
    waits_more: list[tuple[float, Step]] = [(10, NotOpened(STATUS, again=True, at_least=10)), (11, BACK)]
    assert play(LASTING, *OPEN, (8, LOST), *waits_more, until=1000).said[2] == (21, Reopen())


@pytest.mark.parametrize(
    "script",
    [[(0, Reopens())], OPEN, [*OPEN, (3, LOST), (5, Opened())], EARLY],
    ids=["not answered", "open", "open again", "answered early"],
)
def test_a_stream_that_waits_for_no_attempt_is_not_hastened(script: list[tuple[float, Step]]) -> None:
    assert play(LASTING, *script, (9, BACK), until=20).said == play(LASTING, *script, until=20).said


def test_during_an_attempt_there_is_no_other_one() -> None:
    assert play(LASTING, *OPEN, (8, LOST), (10, BACK), until=100).said[1:] == [(9, Reopen())]


def test_one_attempt_at_a_time() -> None:
    assert play(LASTING, *OPEN, (8, LOST), until=100).said[1:] == [(9, Reopen())]


@pytest.mark.parametrize("reason", [CloseReason.UNAUTHORIZED, STATUS])
def test_an_answer_that_cannot_be_tried_again_ends_the_stream(reason: CloseReason) -> None:
    transcript = play(LASTING, *OPEN, (8, LOST), (10, NotOpened(reason, again=False)), until=1000)
    assert transcript.said[1:] == [(9, Reopen()), (10, Close(reason))]


def test_what_upstream_demands_is_waited_for_and_comes_on_top() -> None:
    script: list[tuple[float, Step]] = [
        (8, UpstreamLost(END, at_least=3)),
        (13, NotOpened(STATUS, again=True, at_least=20)),
        (36, AGAIN),
    ]
    assert play(LASTING, *OPEN, *script, until=41).said[1:] == [
        (12, Reopen()),
        (35, Reopen()),
        (40, Reopen()),
    ]


def test_a_wait_may_be_0() -> None:
    transcript = play(LASTING, *OPEN, (8, LOST), (9, AGAIN), until=10, draw=lambda: 0.0)
    assert transcript.said[1:] == [(8, Reopen()), (9, Reopen())]


def test_an_event_stream_that_was_opened_cannot_be_opened_again_unless_it_was_lost() -> None:
    transcript = play(LASTING, *OPEN, (8, LOST), (10, REOPENED), until=11)
    with pytest.raises(AssertionError, match="no way from waiting to waiting"):
        transcript.take(REOPENED)


# Pings, confirm, the client (behaviour.md#downstream-silence, behaviour.md#first-byte-with-the-head).


def test_pings_go_on_while_upstream_is_away() -> None:
    transcript = play(PINGED, *OPEN, (5, DATA), (8, LOST), (30, AGAIN), (47, REOPENED), until=60)
    assert transcript.said[1:] == [
        (9, Reopen()),
        (15, Ping(10)),
        (25, Ping(20)),
        (32, Reopen()),
        (35, Ping(30)),
        (45, Ping(40)),
        (47, Announce(END, 39, resumed=True)),
        (57, Ping(52)),
    ]


def test_a_gap_without_a_notice_does_not_end_the_silence() -> None:
    transcript = play(PINGED, *OPEN, (8, LOST), until=9)
    transcript.now = 9.5
    transcript.life.handle(REOPENED, 9.5)  # whatever is written for it, it is not the lifecycle that knows
    transcript.wait_until(10)
    assert transcript.said[-1] == (10, Ping(10))


def test_a_confirm_that_waits_is_not_put_off_by_an_outage() -> None:
    script: list[tuple[float, Step]] = [(0, Reopens()), (0, Opened(confirm_wait=5)), (2, LOST)]
    assert play(LASTING, *script, until=100).said == [
        (0, Commit(confirm=False)),
        (3, Reopen()),
        (5, Confirm()),
    ]


@pytest.mark.parametrize("first", [DATA, NOISE, PIECE])
def test_a_reconnected_upstream_that_sends_during_the_wait_replaces_the_confirm(first: Step) -> None:
    script: list[tuple[float, Step]] = [
        (0, Reopens()),
        (0, Opened(confirm_wait=5)),
        (2, LOST),
        (3, REOPENED),
        (4, first),
    ]
    assert play(LASTING, *script, until=10).said[1:] == [(3, Reopen()), (3, Announce(END, 1, resumed=True))]


def test_the_confirm_waits_for_the_first_upstream_only() -> None:
    transcript = play(LASTING, *OPEN, (8, LOST), (9, Opened(confirm_wait=5)), until=100)
    assert told(transcript, Confirm) == []


def test_no_ping_follows_waiting_bytes_during_an_outage_either() -> None:
    script: list[tuple[float, Step]] = [(5, Blocked()), (8, LOST), (30, Unblocked())]
    transcript = play(PINGED, *OPEN, *script, until=45)
    assert transcript.said[1:] == [(9, Reopen()), (40, Ping(40))]


def test_a_client_that_takes_nothing_is_closed_during_an_outage_as_well() -> None:
    policy = promise(reconnect=RECONNECT, write_timeout=40)
    transcript = play(policy, *OPEN, (5, Blocked()), (8, LOST), until=60)
    assert transcript.said[1:] == [(9, Reopen()), (45, Close(CloseReason.CLIENT_STALLED))]


@pytest.mark.parametrize("at", [8.5, 20])
@pytest.mark.parametrize(
    ("event", "reason"),
    [(ClientGone(), CloseReason.CLIENT_GONE), (Fault(CloseReason.INTERNAL), CloseReason.INTERNAL)],
)
def test_an_outage_outlives_no_client(event: ClientGone | Fault, reason: CloseReason, at: float) -> None:
    transcript = play(LASTING, *OPEN, (8, LOST), (at, event), (30, AGAIN), (31, REOPENED), until=5000)
    assert told(transcript, Close, Abort) == [(at, Close(reason)), (at + 1000, Abort())]
    assert len(told(transcript, Reopen)) == (at > 9)
    assert transcript.life.next_deadline() is None


# Giving up.


def test_an_upstream_that_never_answers_is_given_up() -> None:
    transcript = play(PINGED, *OPEN, (8, LOST), until=5000)
    assert transcript.said[-2:] == [(108, Close(CloseReason.GIVE_UP)), (1108, Abort())]


def test_an_upstream_that_always_fails_is_given_up_when_no_attempt_is_left() -> None:
    transcript = play(LASTING, *OPEN, (8, LOST), until=9)
    while transcript.life.close_reason is None:
        transcript.take(AGAIN)
        transcript.wait_until(transcript.now + 8)
    (closed_at, close) = told(transcript, Close)[-1]
    assert close == Close(CloseReason.GIVE_UP)
    assert 100 < closed_at <= 108
    attempts = [at for at, _ in told(transcript, Reopen)]
    assert max(attempts) < 108
    assert [after - before for before, after in pairwise(attempts)] == [2, 10, 12, *[8] * 9]


def test_a_demand_that_reaches_past_giving_up_is_not_waited_for() -> None:
    script: list[tuple[float, Step]] = [(8, LOST), (10, NotOpened(STATUS, again=True, at_least=98))]
    assert play(LASTING, *OPEN, *script, until=50).said[-1] == (10, Close(CloseReason.GIVE_UP))
    transcript = play(LASTING, *OPEN, (8, UpstreamLost(END, at_least=1e15)), until=50)
    assert transcript.said[1:] == [(8, Close(CloseReason.GIVE_UP))]


def test_every_loss_has_its_whole_time_before_it_is_given_up() -> None:
    script: list[tuple[float, Step]] = [(8, LOST), (100, REOPENED), (101, LOST)]
    transcript = play(LASTING, *OPEN, *script, until=250)
    assert transcript.said[-1] == (201, Close(CloseReason.GIVE_UP))


# Waits start over after a sign of life, and after nothing else.


def reopened_after(*between: Step, times: int, stall: Stall | None = None) -> list[float]:
    """The waits of a stream that is lost a second after every opening, and what it is sent in between."""
    transcript = play(promise(stall=stall, reconnect=RECONNECT), *OPEN, until=0)
    waits = []
    for _ in range(times):
        for step in between:
            transcript.wait_until(transcript.now + 0.5)
            transcript.take(step)
        transcript.wait_until(transcript.now + 0.5)
        transcript.take(LOST)
        transcript.take(Resumed())  # the client has caught up
        lost_at = transcript.now
        transcript.wait_until(lost_at + 8)
        assert transcript.said[-1][1] == Reopen()
        waits.append(transcript.said[-1][0] - lost_at)
        transcript.take(REOPENED)
    return waits


def test_neither_headers_nor_reconnects_reset_the_waits() -> None:
    assert reopened_after(times=7) == [1, 2, 4, 8, 8, 8, 8]


@pytest.mark.parametrize("step", [NOISE, PIECE, Paused()])
def test_bytes_that_are_no_sign_of_life_do_not_reset_the_waits(step: Step) -> None:
    assert reopened_after(step, times=6) == [1, 2, 4, 8, 8, 8]


def test_time_and_a_pause_do_not_reset_the_waits() -> None:
    assert reopened_after(Paused(), Resumed(), times=6) == [1, 2, 4, 8, 8, 8]
    assert reopened_after(*[Resumed()] * 40, times=6) == [1, 2, 4, 8, 8, 8]


@pytest.mark.parametrize("script", [[DATA], [NOISE, DATA], [DATA, PIECE], [Paused(), DATA]])
def test_a_sign_of_life_does(script: list[Step]) -> None:
    assert reopened_after(*script, times=4) == [1, 1, 1, 1]


def test_two_streams_that_evict_each_other_come_to_do_so_seldom() -> None:
    """A server with one place per user: whoever is let in ends the stream of the other."""
    one, other = (play(LASTING, *OPEN, until=0) for _ in range(2))
    other.take(LOST)
    evictions: list[float] = []
    while len(evictions) < 20:
        asks_at = {id(stream): stream.life.next_deadline() for stream in (one, other)}
        away = other if other.life.state is State.RECONNECTING else one
        here = one if away is other else other
        at = asks_at[id(away)]
        assert at is not None
        away.wait_until(at)
        assert away.said[-1] == (at, Reopen())
        away.take(REOPENED)
        here.wait_until(at)
        here.take(LOST)
        evictions.append(at)
    assert [after - before for before, after in pairwise(evictions)] == [1, 2, 2, 4, 4, *[8] * 14]


# An early commit.


def test_a_client_that_waits_no_longer_gets_its_head_and_then_pings() -> None:
    transcript = play(PINGED, *EARLY, until=26)
    assert transcript.said == [COMMITTED_EARLY, (15, Ping(15)), (25, Ping(25))]
    assert transcript.states == [(5, State.CONNECTING)]


def test_the_confirm_follows_upstreams_answer() -> None:
    transcript = play(LASTING, *EARLY, (30, Opened()), until=100)
    assert transcript.said == [COMMITTED_EARLY, (30, Confirm())]
    transcript = play(LASTING, *EARLY, (30, Opened(confirm_wait=2)), until=100)
    assert transcript.said == [COMMITTED_EARLY, (32, Confirm())]
    transcript = play(LASTING, *EARLY, (30, Opened(confirm_wait=2)), (31, DATA), until=100)
    assert told(transcript, Confirm) == []


def test_the_time_before_upstreams_answer_counts_as_no_silence_after_an_early_commit_either() -> None:
    policy = promise(stall=Stall(after=60), reconnect=RECONNECT)
    transcript = play(policy, *EARLY, (200, Opened()), until=261)
    assert transcript.said == [COMMITTED_EARLY, (200, Confirm()), (260, Stalled(60))]


@pytest.mark.parametrize("reason", [REFUSED, RESET, STATUS, CloseReason.UNAUTHORIZED])
@pytest.mark.parametrize("may", [True, False])
def test_any_other_answer_ends_the_stream(reason: CloseReason, may: bool) -> None:
    failed = NotOpened(reason, again=not may)  # the answer is final, or the stream is
    transcript = play(LASTING, (0, Reopens(allowed=may)), (5, CommitEarly()), (6, failed), until=100)
    assert transcript.said == [COMMITTED_EARLY, (6, Close(reason))]


def test_after_an_early_commit_a_fault_is_tried_again_without_a_notice() -> None:
    transcript = play(PINGED, *EARLY, (8, AGAIN), (10, AGAIN), (13, Opened()), until=24)
    assert transcript.said == [
        COMMITTED_EARLY,
        (9, Reopen()),
        (12, Reopen()),
        (13, Confirm()),
        (23, Ping(23)),
    ]
    assert transcript.states[1:] == [(8, State.RECONNECTING), (13, State.WAITING)]


def test_the_next_loss_is_announced_and_its_waits_go_on_growing() -> None:
    transcript = play(LASTING, *EARLY, (8, AGAIN), (10, Opened()), (20, LOST), (23, REOPENED), until=24)
    assert transcript.said[1:] == [
        (9, Reopen()),
        (10, Confirm()),
        (22, Reopen()),
        (23, Announce(END, 3, resumed=True)),
    ]


def test_after_an_early_commit_upstream_is_given_up_too() -> None:
    transcript = play(LASTING, *EARLY, (8, AGAIN), until=200)
    assert transcript.said[1:] == [(9, Reopen()), (108, Close(CloseReason.GIVE_UP))]


def test_while_its_first_answer_is_awaited_nothing_gives_upstream_up() -> None:
    transcript = play(promise(stall=Stall(after=60, close_after=60), reconnect=RECONNECT), *EARLY, until=5000)
    assert transcript.said == [COMMITTED_EARLY]
    assert transcript.life.next_deadline() is None


# Stalls and outages (behaviour.md#pings-never-pretend).

WATCHED = promise(stall=Stall(after=60), reconnect=RECONNECT)


def test_a_reconnect_is_not_a_sign_of_life() -> None:
    script: list[tuple[float, Step]] = [(10, DATA), (20, LOST), (30, REOPENED), (65, NOISE)]
    transcript = play(WATCHED, *OPEN, *script, until=1000)
    assert told(transcript, Stalled) == [(70, Stalled(60))]
    assert transcript.life.state is State.STALLED


def test_an_upstream_may_stall_while_it_is_away_and_is_stalled_when_it_is_back() -> None:
    script: list[tuple[float, Step]] = [(20, LOST), (80, REOPENED), (90, NOISE), (95, DATA)]
    transcript = play(WATCHED, *OPEN, *script, until=96)
    assert transcript.said[1:] == [
        (21, Reopen()),
        (60, Stalled(60)),
        (80, Announce(END, 60, resumed=True)),
        (90, SilenceEnded(90)),
        (95, Recovered(95)),
    ]
    assert transcript.states[1:] == [
        (20, State.RECONNECTING),
        (80, State.STALLED),
        (95, State.FLOWING),
    ]


def test_a_stalled_upstream_that_ends_stays_the_same_stall() -> None:
    transcript = play(WATCHED, *OPEN, (70, LOST), (80, REOPENED), (200, LOST), (210, REOPENED), until=1000)
    assert told(transcript, Stalled, Recovered) == [(60, Stalled(60))]
    assert transcript.life.stalled_since == 60


@pytest.mark.parametrize("back_at", [None, 80])
def test_the_bound_of_a_stall_holds_across_outages(back_at: float | None) -> None:
    policy = promise(stall=Stall(after=60, close_after=30), reconnect=RECONNECT)
    back: list[tuple[float, Step]] = [] if back_at is None else [(back_at, REOPENED)]
    transcript = play(policy, *OPEN, (70, LOST), *back, until=1000)
    assert transcript.said[-1] == (90, Close(CloseReason.STALLED))


def test_a_notice_of_a_stall_during_an_outage_ends_the_clients_silence() -> None:
    policy = promise(ping=10, stall=Stall(after=25, action=StallAction.NOTIFY), reconnect=RECONNECT)
    transcript = play(policy, *OPEN, (18, LOST), until=36)
    assert transcript.said[2:] == [(19, Reopen()), (20, Ping(20)), (25, Stalled(25)), (35, Ping(35))]


def test_a_lost_upstream_is_not_asked_again_before_the_client_has_caught_up() -> None:
    script: list[tuple[float, Step]] = [(10, Paused()), (50, LOST), (60, Resumed()), (65, REOPENED)]
    transcript = play(WATCHED, *OPEN, *script, until=115)
    assert transcript.said[1:] == [
        (61, Reopen()),
        (65, Announce(END, 15, resumed=True)),
        (110, Stalled(60)),
    ]


def test_while_the_client_catches_up_a_lost_upstream_is_not_given_up() -> None:
    slow: list[tuple[float, Step]] = [(10, Paused()), (50, LOST), (1000, Resumed())]
    assert play(LASTING, *OPEN, *slow, until=1001).said[-1] == (1001, Reopen())


def test_an_upstream_that_is_away_cannot_be_paused() -> None:
    transcript = play(LASTING, *OPEN, (50, LOST), (50.5, Paused()), until=60)
    assert transcript.said[-1] == (51, Reopen())


# A stalled upstream is replaced (stall.action: reconnect): it stays until another is accepted
# (behaviour.md#a-reopening-kills-no-living-stream).

REPLACING = promise(stall=REPLACED, reconnect=RECONNECT)
REFUSED_FOR_GOOD = NotOpened(CloseReason.UNAUTHORIZED, again=False)


def test_a_stalled_upstream_stays_until_another_is_accepted() -> None:
    transcript = play(REPLACING, *OPEN, (5, DATA), (70, REOPENED), (71, DATA), until=72)
    assert transcript.said[1:] == [
        (65, Stalled(60)),
        (66, Reopen()),
        (70, Announce(CloseReason.STALLED, 5, resumed=True)),
        (71, SilenceEnded(66)),
        (71, Recovered(66)),
    ]
    assert transcript.states[1:] == [
        (5, State.FLOWING),
        (20, State.IDLE),
        (65, State.STALLED),
        (71, State.FLOWING),
    ]


def test_each_upstream_has_its_time_to_show_life_and_the_waits_grow() -> None:
    script: list[tuple[float, Step]] = [(61, REOPENED), (123, REOPENED), (187, REOPENED)]
    transcript = play(REPLACING, *OPEN, *script, until=255)
    assert told(transcript, Reopen) == [(61, Reopen()), (123, Reopen()), (187, Reopen()), (255, Reopen())]
    assert told(transcript, Stalled, Recovered) == [(60, Stalled(60))]
    assert transcript.life.stalled_since == 60


@pytest.mark.parametrize("failed", [AGAIN, NotOpened(STATUS, again=True)])
def test_an_attempt_that_fails_keeps_the_old_stream_and_is_made_again(failed: NotOpened) -> None:
    script: list[tuple[float, Step]] = [(62, failed), (67, failed), (2000, failed)]
    transcript = play(REPLACING, *OPEN, *script, until=3000)
    assert transcript.said[1:] == [
        (60, Stalled(60)),
        (61, Reopen()),
        (64, Reopen()),
        (71, Reopen()),
        (2008, Reopen()),
    ]
    assert transcript.life.state is State.STALLED


def test_a_refusal_keeps_the_old_stream_for_the_time_of_a_stall_before_the_next_attempt() -> None:
    later = NotOpened(STATUS, again=False, at_least=90)
    script: list[tuple[float, Step]] = [(61, REFUSED_FOR_GOOD), (130, later)]
    transcript = play(REPLACING, *OPEN, *script, until=300)
    assert transcript.said[1:] == [
        (60, Stalled(60)),
        (61, Reopen()),
        (123, Reopen()),
        (224, Reopen()),
    ]


@pytest.mark.parametrize("failures", [0, 3])
def test_no_time_gives_up_a_stalled_upstream_that_is_still_there(failures: int) -> None:
    transcript = play(REPLACING, *OPEN, until=61)
    for _ in range(failures):
        transcript.take(AGAIN)
        transcript.wait_until(transcript.now + 8)
    transcript.wait_until(5000)
    assert told(transcript, Close) == []


@pytest.mark.parametrize("at", [60.5, 62])
def test_a_sign_of_life_of_the_old_stream_ends_the_attempt(at: float) -> None:
    script: list[tuple[float, Step]] = [(60.25, NOISE), (at, DATA)]
    transcript = play(REPLACING, *OPEN, *script, until=at + 59)
    asked = [] if at < 61 else [(61, Reopen())]
    assert transcript.said[3:] == [*asked, (at, Recovered(at)), (at, Abandon())]
    assert transcript.life.state is State.IDLE


def test_bytes_of_a_block_of_the_old_stream_end_the_attempt_and_put_off_the_next_one() -> None:
    script: list[tuple[float, Step]] = [(62, PIECE), (100, PIECE), (125, DATA)]
    transcript = play(REPLACING, *OPEN, *script, until=126)
    assert told(transcript, Reopen, Abandon, Recovered) == [
        (61, Reopen()),
        (62, Abandon()),
        (125, Recovered(125)),
    ]
    assert told(play(REPLACING, *OPEN, *script[:2], until=170), Reopen)[1:] == [(162, Reopen())]


def test_a_block_that_was_begun_before_the_stall_puts_off_the_attempt_until_it_ends() -> None:
    script: list[tuple[float, Step]] = [(59, PIECE), (100, NOISE)]
    transcript = play(REPLACING, *OPEN, *script, until=102)
    assert told(transcript, Reopen) == [(101, Reopen())]


def test_the_next_stall_begins_as_the_first_one() -> None:
    script: list[tuple[float, Step]] = [(62, DATA), (124, REOPENED)]
    transcript = play(REPLACING, *OPEN, *script, until=125)
    assert told(transcript, Stalled, Reopen, Announce) == [
        (60, Stalled(60)),
        (61, Reopen()),
        (122, Stalled(60)),
        (123, Reopen()),
        (124, Announce(CloseReason.STALLED, 2, resumed=True)),
    ]


def test_if_the_old_stream_ends_during_the_attempt_the_attempt_goes_on_as_a_reconnect() -> None:
    transcript = play(REPLACING, *OPEN, (62, LOST), (70, REOPENED), until=71)
    assert transcript.said[2:] == [(61, Reopen()), (70, Announce(CloseReason.STALLED, 10, resumed=True))]
    assert transcript.states[1:] == [
        (60, State.STALLED),
        (62, State.RECONNECTING),
        (70, State.STALLED),
    ]


def test_if_it_ends_between_two_attempts_it_is_lost_like_any_other() -> None:
    transcript = play(REPLACING, *OPEN, (62, AGAIN), (63, LOST), (70, REOPENED), until=71)
    assert transcript.said[2:] == [
        (61, Reopen()),
        (67, Reopen()),
        (70, Announce(END, 7, resumed=True)),
    ]


def test_without_the_old_stream_a_refusal_is_the_end_and_time_gives_up() -> None:
    transcript = play(REPLACING, *OPEN, (62, LOST), (70, REFUSED_FOR_GOOD), until=71)
    assert transcript.said[-1] == (70, Close(CloseReason.UNAUTHORIZED))
    transcript = play(REPLACING, *OPEN, (62, LOST), until=1000)
    assert transcript.said[-1] == (162, Close(CloseReason.GIVE_UP))


def test_what_upstream_wants_is_waited_for_before_it_is_replaced_by_another() -> None:
    transcript = play(REPLACING, (0, Reopens(retry=700)), (0, Opened()), until=1000)
    assert transcript.said[1:] == [(60, Stalled(60)), (761, Reopen())]


def test_the_bound_of_a_stall_ends_it_however_often_it_was_replaced() -> None:
    stall = Stall(after=60, action=StallAction.RECONNECT, close_after=100)
    policy = promise(stall=stall, reconnect=RECONNECT)
    transcript = play(policy, *OPEN, (61, REOPENED), (123, REOPENED), until=1000)
    assert transcript.said[-1] == (160, Close(CloseReason.STALLED))


def test_where_it_may_not_be_asked_again_a_stalled_upstream_is_not_replaced() -> None:
    transcript = play(REPLACING, (0, Opened()), until=1000)
    assert transcript.said[1:] == [(60, Stalled(60))]
    transcript.take(Reopens())
    transcript.take(NOISE)
    transcript.wait_until(1001)
    assert transcript.said[2:] == [(1000, SilenceEnded(1000)), (1001, Reopen())]
    transcript.take(AGAIN)
    transcript.take(Reopens(allowed=False))
    transcript.wait_until(2000)
    assert told(transcript, Reopen) == [(1001, Reopen())]


def test_an_attempt_ends_when_upstream_may_not_be_asked_again_any_more() -> None:
    script: list[tuple[float, Step]] = [(62, Reopens(allowed=False)), (62, NOISE)]
    assert play(REPLACING, *OPEN, *script, until=100).said[-1] == (62, Abandon())


def test_a_paused_upstream_is_not_replaced() -> None:
    script: list[tuple[float, Step]] = [(61, REOPENED), (81, Paused()), (181, Resumed())]
    transcript = play(REPLACING, *OPEN, *script, until=223)
    assert told(transcript, Reopen, Abandon) == [(61, Reopen()), (223, Reopen())]


def test_an_attempt_ends_with_a_pause_because_what_the_old_stream_sends_is_not_read() -> None:
    script: list[tuple[float, Step]] = [(62, Paused()), (90, Resumed())]
    transcript = play(REPLACING, *OPEN, *script, until=100)
    assert transcript.said[2:] == [(61, Reopen()), (62, Abandon()), (92, Reopen())]


# Leaving.


@pytest.mark.parametrize(
    "reason",
    [CloseReason.DRAIN, CloseReason.MAX_AGE, CloseReason.ROUTE_REMOVED, CloseReason.UNAUTHORIZED],
)
def test_a_stream_leaves_during_an_outage_as_at_any_time(reason: CloseReason) -> None:
    for lost_at in (19.5, 15):  # asked again not yet, or already
        transcript = play(LASTING, *OPEN, (1, LeaveAt(20, reason)), (lost_at, LOST), until=30)
        assert transcript.said[-1] == (20, Close(reason))


def test_the_first_moment_to_leave_is_the_one_that_counts() -> None:
    age, drain = LeaveAt(50, CloseReason.MAX_AGE), LeaveAt(30, CloseReason.DRAIN)
    for first, second in ((age, drain), (drain, age)):
        transcript = play(LASTING, *OPEN, (1, first), (2, second), until=60)
        assert transcript.said[1:] == [(30, Close(CloseReason.DRAIN))]
    same = LeaveAt(50, CloseReason.DRAIN)
    assert play(LASTING, *OPEN, (1, age), (2, same), until=60).said[1:] == [(50, Close(CloseReason.MAX_AGE))]


def test_a_stream_that_is_to_leave_in_the_middle_of_a_block_waits_for_its_end() -> None:
    leave = LeaveAt(20, CloseReason.DRAIN)
    transcript = play(LASTING, *OPEN, (1, leave), (19, PIECE), (20.5, DATA), until=30)
    (closed_at, close) = transcript.said[-1]
    assert close == Close(CloseReason.DRAIN)
    assert 20.5 <= closed_at <= 20.75


def test_it_waits_a_second_and_no_longer() -> None:
    leave = LeaveAt(20, CloseReason.DRAIN)
    pieces = [(19 + at / 8, PIECE) for at in range(30)]
    transcript = play(LASTING, *OPEN, (1, leave), *pieces, until=30)
    assert told(transcript, Close) == [(21, Close(CloseReason.DRAIN))]


def test_while_it_waits_another_reason_to_leave_changes_nothing() -> None:
    script: list[tuple[float, Step]] = [(1, LeaveAt(20, CloseReason.MAX_AGE)), (19, PIECE)]
    script += [(20 + at / 100, LeaveAt(0, CloseReason.DRAIN)) for at in range(90)]
    transcript = play(LASTING, *OPEN, *script, until=30)
    assert told(transcript, Close) == [(21, Close(CloseReason.MAX_AGE))]


def test_an_unfinished_block_of_a_lost_upstream_does_not_delay_the_end() -> None:
    script: list[tuple[float, Step]] = [(1, LeaveAt(20, CloseReason.DRAIN)), (15, PIECE), (19, LOST)]
    assert play(LASTING, *OPEN, *script, until=30).said[-1] == (20, Close(CloseReason.DRAIN))


def test_pings_go_on_while_the_end_of_a_block_is_awaited() -> None:
    script: list[tuple[float, Step]] = [(1, LeaveAt(9.5, CloseReason.DRAIN)), (5, PIECE)]
    assert play(PINGED, *OPEN, *script, until=20).said[1:] == [
        (10, Ping(5)),
        (10.5, Close(CloseReason.DRAIN)),
    ]


def test_other_ends_wait_for_no_block() -> None:
    script: list[tuple[float, Step]] = [(5, PIECE), (8, Fault(CloseReason.EVENT_TOO_LARGE))]
    assert play(LASTING, *OPEN, *script, until=20).said[1:] == [(8, Close(CloseReason.EVENT_TOO_LARGE))]


# The way of every byte.


def test_bytes_that_change_no_state_return_none() -> None:
    life = Lifecycle(LASTING, 0)
    life.handle(Opened(), 0)
    assert life.received(1, True) == ()  # the first ones: now it flows
    assert life.received(2, True) is None
    assert life.received(3, False) is None
    assert (life.upstream_at, life.alive_at) == (3, 2)
    assert life.received(18, True) == (SilenceEnded(15),)
    assert life.received(19, True) is None


def test_the_first_bytes_of_another_upstream_change_its_state() -> None:
    life = play(LASTING, *OPEN, (1, DATA), (2, LOST), (4, REOPENED), until=4).life
    assert life.received(5, True) == ()
    assert life.state is State.FLOWING
    assert life.received(6, True) is None
