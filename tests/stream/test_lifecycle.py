"""The life of a stream, as transcripts: what happens when, and what is answered."""

from __future__ import annotations

import pytest

from sse_keepalive_proxy.stream.lifecycle import Lifecycle
from sse_keepalive_proxy.stream.messages import (
    Abort,
    Blocked,
    ClientGone,
    Close,
    CloseReason,
    Commit,
    CommitEarly,
    Confirm,
    Event,
    Fault,
    LeaveAt,
    Missed,
    Opened,
    Paused,
    Ping,
    Recovered,
    Release,
    Resumed,
    SilenceEnded,
    Stalled,
    Unblocked,
    UpstreamLost,
)
from sse_keepalive_proxy.stream.policy import SignOfLife, Stall, StallAction
from sse_keepalive_proxy.stream.states import TRANSITIONS, State
from tests.stream.transcript import DATA, NOISE, PIECE, Reopens, Step, Took, play, promise

NOTHING_ON = promise()
PINGS = promise(ping=10)
WATCHED = promise(stall=Stall(after=60))
BOUNDED = promise(stall=Stall(after=60, close_after=120))
BY_NATS = promise(stall=Stall(after=60, sign_of_life=SignOfLife.BRIDGE))
NOTIFIED = promise(ping=10, stall=Stall(after=60, action=StallAction.NOTIFY))

OPEN = (0, Opened())
COMMITTED = (0, Commit(confirm=True))
JUST_COMMITTED = [COMMITTED]


# The beginning.


def test_the_head_and_the_confirm_go_out_the_moment_upstream_answers() -> None:
    assert play(NOTHING_ON, (3, Opened()), until=4).said == [(3, Commit(confirm=True))]


def test_a_confirm_that_waits_follows_when_upstream_has_said_nothing() -> None:
    transcript = play(NOTHING_ON, (3, Opened(confirm_wait=2)), until=100)
    assert transcript.said == [(3, Commit(confirm=False)), (5, Confirm())]


@pytest.mark.parametrize("first", [DATA, NOISE, PIECE])
def test_whatever_upstream_says_during_the_wait_spares_the_confirm(first: Step) -> None:
    transcript = play(NOTHING_ON, (0, Opened(confirm_wait=2)), (1.5, first), until=2.25)
    assert transcript.said == [(0, Commit(confirm=False))]


def test_an_end_during_the_wait_spares_the_confirm() -> None:
    transcript = play(
        NOTHING_ON, (0, Opened(confirm_wait=2)), (1, UpstreamLost(CloseReason.UPSTREAM_END)), until=10
    )
    assert transcript.said == [(0, Commit(confirm=False)), (1, Close(CloseReason.UPSTREAM_END))]


def test_the_confirm_ends_the_clients_silence_as_any_byte_does() -> None:
    transcript = play(PINGS, (0, Opened(confirm_wait=8)), until=20)
    assert transcript.said == [(0, Commit(confirm=False)), (8, Confirm()), (18, Ping(18))]


def test_a_wait_as_long_as_the_interval_gives_the_confirm_and_no_ping_with_it() -> None:
    transcript = play(PINGS, (0, Opened(confirm_wait=10)), until=15)
    assert transcript.said == [(0, Commit(confirm=False)), (10, Confirm())]


def test_before_upstream_has_answered_nothing_is_due() -> None:
    life = Lifecycle(NOTIFIED, 0)
    assert life.next_deadline() is None
    assert life.handle_timer(10_000) == ()
    assert life.state is State.CONNECTING


def test_the_time_before_upstreams_answer_counts_as_no_silence() -> None:
    transcript = play(NOTIFIED, (100, Opened()), until=115)
    assert transcript.said == [(100, Commit(confirm=True)), (110, Ping(10))]
    assert play(WATCHED, (100, Opened()), until=161).said[1:] == [(160, Stalled(60))]


def test_a_stream_is_opened_once() -> None:
    life = Lifecycle(NOTHING_ON, 0)
    life.handle(Opened(), 0)
    with pytest.raises(AssertionError, match="no way from waiting to waiting"):
        life.handle(Opened(), 1)


# Pings (behaviour.md#downstream-silence).


def test_a_silent_client_gets_a_ping_at_every_interval() -> None:
    transcript = play(PINGS, OPEN, until=35)
    assert transcript.said == [COMMITTED, (10, Ping(10)), (20, Ping(20)), (30, Ping(30))]


def test_a_timer_that_fires_early_does_nothing() -> None:
    transcript = play(PINGS, OPEN, until=9)
    transcript.fire(9.999)
    assert transcript.said == JUST_COMMITTED
    assert transcript.life.next_deadline() == 10
    transcript.fire(10)
    assert transcript.said[1:] == [(10, Ping(10))]


def test_a_timer_that_fires_late_gives_one_ping_and_the_next_an_interval_later() -> None:
    transcript = play(PINGS, OPEN, until=1)
    transcript.fire(47)
    assert transcript.said[1:] == [(47, Ping(47))]
    assert transcript.life.next_deadline() == 57


def test_a_busy_stream_gets_no_pings() -> None:
    busy = [(at, DATA) for at in range(9, 1000, 9)]
    assert play(PINGS, OPEN, *busy, until=1000).said == JUST_COMMITTED


def test_a_ping_follows_the_last_byte_and_no_beat_of_its_own() -> None:
    transcript = play(PINGS, OPEN, (9, DATA), (12, DATA), until=33)
    assert transcript.said == [COMMITTED, (22, Ping(10)), (32, Ping(20))]


def test_the_beginning_of_a_block_keeps_no_client_awake() -> None:
    transcript = play(PINGS, OPEN, (3, Reopens()), (4, PIECE), (8, PIECE), until=11)
    assert transcript.said == [COMMITTED, (10, Ping(2))]


# Blocks that stay unfinished (behaviour.md#unfinished-blocks).


def test_a_stream_that_is_about_to_end_keeps_an_unfinished_block_back() -> None:
    drain = CloseReason.DRAIN
    transcript = play(NOTHING_ON, OPEN, (4, PIECE), (4, LeaveAt(4, drain)), until=20)
    assert transcript.said == [COMMITTED, (5, Close(drain))]


def test_a_block_that_stays_unfinished_for_a_second_is_released_and_its_rest_counts_as_written() -> None:
    transcript = play(PINGS, OPEN, (4, PIECE), (4.5, PIECE), (8, PIECE), (12, DATA), until=23)
    assert transcript.said == [COMMITTED, (5, Release()), (22, Ping(10))]


def test_a_second_counts_from_the_beginning_of_each_block() -> None:
    steps = [(4, PIECE), (4.25, DATA), (4.75, PIECE), (5.5, DATA), (5.625, PIECE), (6, DATA)]
    assert play(NOTHING_ON, OPEN, *steps, until=9).said == JUST_COMMITTED


def test_a_block_of_an_upstream_that_may_be_asked_again_is_held() -> None:
    assert play(NOTHING_ON, OPEN, (1, Reopens()), (4, PIECE), until=100).said == JUST_COMMITTED
    until_then = [(4, PIECE), (4.5, Reopens()), (8, Reopens(allowed=False)), (9, PIECE)]
    assert play(NOTHING_ON, OPEN, *until_then, until=100).said == [COMMITTED, (10, Release())]


def test_a_second_does_not_pass_while_we_have_paused_upstream() -> None:
    transcript = play(NOTHING_ON, OPEN, (4, PIECE), (4.5, Paused()), (20, Resumed()), until=30)
    assert transcript.said == [COMMITTED, (20.5, Release())]


def test_a_ping_that_is_due_with_the_release_of_a_block_stands_before_it() -> None:
    transcript = play(PINGS, OPEN, (9, PIECE), until=12)
    assert transcript.said == [COMMITTED, (10, Ping(1)), (10, Release())]


def test_inside_a_block_a_ping_waits_for_a_pause_of_upstream() -> None:
    often = promise(ping=0.25)
    transcript = play(often, OPEN, (0.125, PIECE), (1.25, PIECE), (1.75, PIECE), until=2.875)
    pings = [at for at, command in transcript.said if isinstance(command, Ping)]
    assert pings == [0.25, 0.5, 0.75, 1, 2.75]


def test_the_notice_of_a_stall_does_not_count_as_written_inside_a_block() -> None:
    transcript = play(NOTIFIED, OPEN, (55, PIECE), until=66)
    assert transcript.said[-3:] == [(56, Release()), (60, Stalled(60)), (66, Ping(11))]


def test_without_keepalive_nothing_is_ever_due() -> None:
    transcript = play(NOTHING_ON, OPEN, until=10_000)
    assert transcript.said == JUST_COMMITTED
    assert transcript.life.next_deadline() is None


def test_no_ping_follows_waiting_bytes() -> None:
    transcript = play(PINGS, OPEN, (5, Blocked()), (55, Unblocked()), until=70)
    assert transcript.said == [COMMITTED, (65, Ping(65))]


def test_a_client_that_was_not_blocked_is_not_unblocked() -> None:
    assert play(PINGS, OPEN, (5, Unblocked()), until=11).said == [COMMITTED, (10, Ping(10))]


def test_pings_go_on_while_upstream_is_paused() -> None:
    transcript = play(PINGS, OPEN, (4, Paused()), until=21)
    assert transcript.said == [COMMITTED, (10, Ping(4)), (20, Ping(4))]


# Stalls (behaviour.md#pings-never-pretend).


def test_an_upstream_without_a_sign_of_life_is_stalled_once() -> None:
    transcript = play(WATCHED, OPEN, until=1000)
    assert transcript.said == [COMMITTED, (60, Stalled(60))]
    assert transcript.life.stalled_since == 60
    assert transcript.life.silent_for(1000) == 1000


def test_pings_do_not_hide_a_dead_upstream() -> None:
    policy = promise(ping=10, stall=Stall(after=25, close_after=20))
    assert play(policy, OPEN, until=1045).said == [
        COMMITTED,
        (10, Ping(10)),
        (20, Ping(20)),
        (25, Stalled(25)),
        (30, Ping(30)),
        (40, Ping(40)),
        (45, Close(CloseReason.STALLED)),
        (1045, Abort()),
    ]


def test_a_sign_of_life_starts_the_wait_again() -> None:
    assert play(WATCHED, OPEN, (50, DATA), (100, DATA), until=161).said[-1] == (160, Stalled(60))


def test_bytes_that_are_no_sign_of_life_do_not() -> None:
    noise = [(at, NOISE) for at in range(5, 100, 5)]
    transcript = play(WATCHED, OPEN, *noise, until=100)
    assert transcript.said == [COMMITTED, (60, Stalled(60))]
    assert transcript.life.state is State.STALLED


def test_a_sign_of_life_is_a_recovery_and_the_next_silence_another_stall() -> None:
    transcript = play(WATCHED, OPEN, (70, DATA), (71, DATA), (200, DATA), until=201)
    assert transcript.said == [
        COMMITTED,
        (60, Stalled(60)),
        (70, SilenceEnded(70)),
        (70, Recovered(70)),
        (131, Stalled(60)),
        (200, SilenceEnded(129)),
        (200, Recovered(129)),
    ]
    assert transcript.life.stalled_since is None
    assert transcript.life.state is State.FLOWING


def test_noise_is_not_a_recovery() -> None:
    transcript = play(WATCHED, OPEN, (70, NOISE), until=1000)
    assert transcript.said == [COMMITTED, (60, Stalled(60)), (70, SilenceEnded(70))]
    assert transcript.life.state is State.STALLED


def test_a_stall_that_lasts_ends_the_stream_where_the_policy_says_so() -> None:
    transcript = play(BOUNDED, OPEN, (100, NOISE), until=200)
    assert transcript.said[1:] == [
        (60, Stalled(60)),
        (100, SilenceEnded(100)),
        (180, Close(CloseReason.STALLED)),
    ]


def test_after_a_recovery_the_next_stall_has_the_whole_time_again() -> None:
    transcript = play(BOUNDED, OPEN, (179, DATA), until=358)
    assert transcript.said[-1] == (239, Stalled(60))
    transcript.wait_until(360)
    assert transcript.said[-1] == (359, Close(CloseReason.STALLED))


def test_a_notice_to_the_client_ends_its_silence() -> None:
    policy = promise(ping=10, stall=Stall(after=25, action=StallAction.NOTIFY))
    assert play(policy, OPEN, until=36).said[2:] == [(20, Ping(20)), (25, Stalled(25)), (35, Ping(35))]
    policy = promise(ping=10, stall=Stall(after=25, action=StallAction.OBSERVE))
    assert play(policy, OPEN, until=36).said[2:] == [(20, Ping(20)), (25, Stalled(25)), (30, Ping(30))]


def test_a_notice_takes_the_place_of_the_ping_that_is_due_with_it() -> None:
    assert play(NOTIFIED, OPEN, until=71).said[-3:] == [(50, Ping(50)), (60, Stalled(60)), (70, Ping(70))]


def test_without_stall_upstream_may_be_silent_for_ever() -> None:
    assert play(NOTHING_ON, OPEN, (1, DATA), until=100_000).said == JUST_COMMITTED


# Upstream paused by ourselves (behaviour.md#pings-never-pretend).


def test_upstreams_clocks_stand_still_while_it_is_paused() -> None:
    transcript = play(BOUNDED, OPEN, (50, Paused()), (1050, Resumed()), until=1061)
    assert transcript.said == [COMMITTED, (1060, Stalled(60))]


def test_so_does_the_clock_that_bounds_a_stall() -> None:
    transcript = play(BOUNDED, OPEN, (100, Paused()), (600, Resumed()), until=681)
    assert transcript.said == [COMMITTED, (60, Stalled(60)), (680, Close(CloseReason.STALLED))]


def test_silences_are_reported_without_the_time_of_a_pause() -> None:
    transcript = play(WATCHED, OPEN, (70, Paused()), (170, Resumed()), (180, DATA), until=181)
    assert transcript.said[1:] == [(60, Stalled(60)), (180, SilenceEnded(80)), (180, Recovered(80))]
    transcript = play(PINGS, OPEN, (2, Paused()), (8, Resumed()), until=11)
    assert transcript.said[1:] == [(10, Ping(4))]


def test_what_still_comes_during_a_pause_does_not_set_the_clocks_going() -> None:
    transcript = play(WATCHED, OPEN, (10, DATA), (20, Paused()), (50, NOISE), until=60)
    assert transcript.life.silent_for(60) == 10
    transcript.take(Resumed())
    transcript.wait_until(200)
    assert transcript.said == [COMMITTED, (110, Stalled(60))]


def test_a_sign_of_life_during_a_pause_is_one() -> None:
    transcript = play(WATCHED, OPEN, (70, Paused()), (90, DATA), (100, Resumed()), until=161)
    assert transcript.said[1:] == [
        (60, Stalled(60)),
        (90, SilenceEnded(70)),
        (90, Recovered(70)),
        (160, Stalled(60)),
    ]


def test_a_second_pause_is_the_same_pause_and_a_second_resuming_none() -> None:
    script: list[tuple[float, Step]] = [(10, Paused()), (20, Paused()), (30, Resumed()), (40, Resumed())]
    assert play(WATCHED, OPEN, *script, until=81).said == [COMMITTED, (80, Stalled(60))]


def test_a_pause_from_before_the_beginning_holds() -> None:
    transcript = play(WATCHED, (0, Paused()), (10, Opened()), (20, Resumed()), until=81)
    assert transcript.said == [(10, Commit(confirm=True)), (80, Stalled(60))]


# Silences of upstream, for the histogram.


def test_a_silence_of_an_interval_is_reported_when_it_ends() -> None:
    transcript = play(PINGS, OPEN, (9, DATA), (18, DATA), (28, DATA), (128, PIECE), until=129)
    told = [line for line in transcript.said if isinstance(line[1], SilenceEnded)]
    assert told == [(28, SilenceEnded(10)), (128, SilenceEnded(100))]


def test_a_silence_is_reported_even_before_the_timer_fires() -> None:
    life = Lifecycle(PINGS, 0)
    life.handle(Opened(), 0)
    assert life.received(1, True) == ()
    assert life.received(11, True) == (SilenceEnded(10),)
    assert life.received(24, True) == (SilenceEnded(13),)
    assert life.state is State.FLOWING


def test_without_an_interval_fifteen_seconds_are_a_silence() -> None:
    transcript = play(NOTHING_ON, OPEN, (14, DATA), (28, DATA), (43, DATA), until=44)
    assert transcript.said == [COMMITTED, (43, SilenceEnded(15))]


# States.


def test_the_states_tell_what_operators_see() -> None:
    policy = promise(ping=10, stall=Stall(after=60))
    script: list[tuple[float, Step]] = [
        (5, Opened()),
        (6, PIECE),
        (20, DATA),
        (100, DATA),
        (105, ClientGone()),
    ]
    assert play(policy, *script, until=200).states == [
        (5, State.WAITING),
        (6, State.FLOWING),
        (16, State.IDLE),
        (20, State.FLOWING),
        (30, State.IDLE),
        (80, State.STALLED),
        (100, State.FLOWING),
        (105, State.DRAINING),
    ]


def test_a_stream_stalls_from_any_state_that_it_is_open_in() -> None:
    stalled = promise(ping=10, stall=Stall(after=60))
    assert play(stalled, OPEN, until=61).states[1:] == [(60, State.STALLED)]
    assert play(stalled, OPEN, (1, DATA), until=62).states[2:] == [(11, State.IDLE), (61, State.STALLED)]
    noise = [(at, NOISE) for at in range(5, 70, 5)]
    assert play(stalled, OPEN, *noise, until=62).states[1:] == [(5, State.FLOWING), (60, State.STALLED)]
    as_long_as_the_interval = promise(ping=10, stall=Stall(after=10))
    assert play(as_long_as_the_interval, OPEN, (1, DATA), until=12).states[2:] == [(11, State.STALLED)]


def test_a_paused_upstream_does_not_turn_idle() -> None:
    transcript = play(PINGS, OPEN, (1, DATA), (2, Paused()), (100, Resumed()), until=110)
    assert transcript.states[1:] == [(1, State.FLOWING), (109, State.IDLE)]


def test_the_table_of_transitions_names_every_state_and_leads_all_of_them_to_the_end() -> None:
    assert set(TRANSITIONS) == set(State)
    for state, ways in TRANSITIONS.items():
        assert (State.DRAINING in ways) is (state is not State.DRAINING)
    reached = {State.CONNECTING}
    for _ in State:
        reached |= {target for state in reached for target in TRANSITIONS[state]}
    assert reached == set(State)


# Clients that take nothing.

LIMITED = promise(ping=10, write_timeout=40)
STALLED_CLIENT = Close(CloseReason.CLIENT_STALLED)


def test_a_client_that_takes_nothing_is_closed_after_the_write_timeout() -> None:
    assert play(LIMITED, OPEN, (5, Blocked()), until=60).said == [COMMITTED, (45, STALLED_CLIENT)]


def test_bytes_accepted_before_the_block_are_not_progress() -> None:
    script: list[tuple[float, Step]] = [(1, Took(500)), (5, Blocked(taken=500))]
    assert play(LIMITED, OPEN, *script, until=60).said == [COMMITTED, (45, STALLED_CLIENT)]


def test_a_client_that_takes_a_byte_now_and_then_is_slow_and_not_stalled() -> None:
    slow = [(at, Took()) for at in range(34, 1000, 30)]
    assert play(LIMITED, OPEN, (5, Blocked()), *slow, until=1000).said == JUST_COMMITTED


@pytest.mark.parametrize("last", [5, 6, 14.9, 15, 20, 44])
def test_a_client_that_stops_taking_is_found_a_quarter_of_the_limit_later_at_most(last: float) -> None:
    transcript = play(LIMITED, OPEN, (5, Blocked()), (last, Took()), until=120)
    (closed_at, close) = transcript.said[1]
    assert close == STALLED_CLIENT
    assert last + 40 <= closed_at <= last + 50


def test_unblocking_ends_the_write_timeout_and_blocking_again_restarts_it() -> None:
    script: list[tuple[float, Step]] = [(5, Blocked()), (44, Unblocked()), (45, Blocked())]
    assert play(LIMITED, OPEN, *script, until=100).said == [COMMITTED, (85, STALLED_CLIENT)]


def test_being_blocked_twice_is_being_blocked_once() -> None:
    script: list[tuple[float, Step]] = [(5, Blocked()), (40, Blocked())]
    assert play(LIMITED, OPEN, *script, until=60).said == [COMMITTED, (45, STALLED_CLIENT)]


def test_upstreams_bytes_do_not_help_a_client_that_takes_nothing() -> None:
    data = [(at, DATA) for at in range(6, 60)]
    assert play(LIMITED, OPEN, (5, Blocked()), *data, until=60).said == [COMMITTED, (45, STALLED_CLIENT)]


# The end (behaviour.md#one-close-reason).

ENDS: list[tuple[Event, CloseReason]] = [
    (ClientGone(), CloseReason.CLIENT_GONE),
    (UpstreamLost(CloseReason.UPSTREAM_END), CloseReason.UPSTREAM_END),
    (UpstreamLost(CloseReason.UPSTREAM_RESET), CloseReason.UPSTREAM_RESET),
    *((Fault(reason), reason) for reason in CloseReason),
]


@pytest.mark.parametrize(("event", "reason"), ENDS)
@pytest.mark.parametrize("opened", [True, False])
def test_every_end_has_its_reason(event: Event, reason: CloseReason, opened: bool) -> None:
    transcript = play(PINGS, *([OPEN] if opened else []), (5, event), until=6)
    assert transcript.said[opened:] == [(5, Close(reason))]
    assert transcript.life.close_reason is reason
    assert transcript.life.state is State.DRAINING


@pytest.mark.parametrize("first", ENDS)
def test_the_first_reason_is_the_only_one(first: tuple[Event, CloseReason]) -> None:
    event, reason = first
    policy = promise(ping=10, stall=Stall(after=20, close_after=20))
    later: list[tuple[float, Step]] = [(6, other) for other, _ in ENDS]
    later += [
        (7, DATA),
        (7, LeaveAt(8, CloseReason.DRAIN)),
        (8, Paused()),
        (9, Resumed()),
        (10, Opened()),
        (11, Unblocked()),
    ]
    transcript = play(policy, OPEN, (5, event), *later, until=500)
    assert transcript.said == [COMMITTED, (5, Close(reason))]
    assert transcript.life.close_reason is reason


def test_a_client_that_does_not_take_the_end_is_cut_after_the_write_timeout() -> None:
    transcript = play(LIMITED, OPEN, (5, Blocked()), (7, UpstreamLost(CloseReason.UPSTREAM_END)), until=1000)
    assert transcript.said[1:] == [(7, Close(CloseReason.UPSTREAM_END)), (47, Abort())]
    assert transcript.life.next_deadline() is None
    transcript.fire(2000)
    assert transcript.said[-1] == (47, Abort())


def test_a_client_may_take_the_end_slowly() -> None:
    slow = [(at, Took()) for at in range(10, 500, 30)]
    transcript = play(
        LIMITED, OPEN, (5, Blocked()), (7, UpstreamLost(CloseReason.UPSTREAM_END)), *slow, until=500
    )
    assert transcript.said[1:] == [(7, Close(CloseReason.UPSTREAM_END))]


def test_an_end_that_blocks_gives_its_client_the_whole_write_timeout() -> None:
    script: list[tuple[float, Step]] = [
        (1, Took(9)),
        (7, UpstreamLost(CloseReason.UPSTREAM_END)),
        (7, Blocked(taken=9)),
    ]
    assert play(LIMITED, OPEN, *script, until=100).said[2:] == [(47, Abort())]


def test_a_drain_ends_a_stream_at_its_moment_and_keeps_it_alive_until_then() -> None:
    transcript = play(PINGS, OPEN, (5, LeaveAt(25, CloseReason.DRAIN)), until=50)
    assert transcript.said[1:] == [(10, Ping(10)), (20, Ping(20)), (25, Close(CloseReason.DRAIN))]


def test_a_drain_that_should_have_been_is_now() -> None:
    transcript = play(PINGS, OPEN, (5, LeaveAt(1, CloseReason.DRAIN)), until=5)
    assert transcript.said[1:] == [(5, Close(CloseReason.DRAIN))]


def test_a_drain_ends_a_stream_that_upstream_has_not_answered_yet() -> None:
    transcript = play(PINGS, (5, LeaveAt(25, CloseReason.DRAIN)), until=50)
    assert transcript.said == [(25, Close(CloseReason.DRAIN))]


def test_a_drain_that_is_due_with_everything_else_is_all_that_happens() -> None:
    policy = promise(ping=10, stall=Stall(after=10, action=StallAction.NOTIFY))
    transcript = play(policy, (0, Opened(confirm_wait=10)), (5, LeaveAt(10, CloseReason.DRAIN)), until=10)
    assert transcript.said[1:] == [(10, Close(CloseReason.DRAIN))]


@pytest.mark.parametrize("wait", [0, 5])
def test_a_stream_that_was_confirmed_early_is_not_confirmed_again(wait: float) -> None:
    early = (5, CommitEarly(confirm=True))
    transcript = play(NOTHING_ON, early, (6, Opened(confirm_wait=wait)), until=14)
    assert transcript.said == [(5, Commit(confirm=True))]


# Messages of NATS.


def test_a_quiet_chat_is_no_stall_if_nats_had_nothing_for_it() -> None:
    assert play(BY_NATS, OPEN, until=10_000).said == JUST_COMMITTED


def test_a_message_that_upstream_has_not_delivered_makes_its_long_silence_a_stall() -> None:
    assert play(BY_NATS, OPEN, (500, Missed()), until=10_000).said == [COMMITTED, (500, Stalled(500))]


def test_after_a_missed_message_upstream_has_the_rest_of_the_time_for_a_sign_of_life() -> None:
    assert play(BY_NATS, OPEN, (20, Missed()), until=100).said == [COMMITTED, (60, Stalled(60))]
    delivered = play(BY_NATS, OPEN, (20, Missed()), (50, DATA), until=10_000)
    assert not any(isinstance(command, Stalled) for _, command in delivered.said)


def test_a_pause_does_not_make_upstream_forget_a_missed_message() -> None:
    paused = play(BY_NATS, OPEN, (20, Missed()), (30, Paused()), (90, Resumed()), until=200)
    assert (120, Stalled(60)) in paused.said
