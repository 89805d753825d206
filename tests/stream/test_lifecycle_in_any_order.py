"""What holds of a stream whatever happens to it, in any order, with timers early, punctual and late."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import cycle
from typing import ClassVar, get_args

from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sse_keepalive_proxy.stream.messages import (
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
    Event,
    Fault,
    Hasten,
    LeaveAt,
    NotOpened,
    Opened,
    Paused,
    Ping,
    Recovered,
    Release,
    Reopen,
    Resumed,
    SilenceEnded,
    Stalled,
    Unblocked,
    UpstreamLost,
)
from sse_keepalive_proxy.stream.policy import Keepalive, Reconnect, Stall, StallAction, StreamPolicy
from sse_keepalive_proxy.stream.states import State
from tests.stream.transcript import DATA, NOISE, PIECE, Reopens, Step, Took, play
from tests.stream.witness import Upstream, Witness


@dataclass(frozen=True, slots=True)
class DrainIn:
    """`LeaveAt`, so many seconds from now."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Early:
    """The timer fires though nothing is due."""


Script = list[tuple[float, Step | DrainIn | Early]]
"""Steps, each with the seconds since the one before. All times are multiples of a quarter: sums are exact."""

delays = st.sampled_from([0, 0.25, 1, 4, 5, 9.75, 10, 14.75, 15, 30, 61, 150])
ENDS: list[Step] = [
    ClientGone(),
    UpstreamLost(CloseReason.UPSTREAM_END),
    UpstreamLost(CloseReason.UPSTREAM_RESET),
    Fault(CloseReason.INTERNAL),
    Fault(CloseReason.EVENT_TOO_LARGE),
]
_CONTROL: list[Step | Early] = [Blocked(), Unblocked(), Paused(), Resumed(), Took(), Early()]
_early = st.sampled_from([*_CONTROL, *_CONTROL, DrainIn(20), *ENDS])
_common = st.sampled_from([DATA, DATA, DATA, NOISE, PIECE, Took(3), *_CONTROL])
_rare = st.sampled_from([*map(DrainIn, (-5, 0, 20, 300)), *ENDS])
_any = st.integers(0, 19).flatmap(lambda number: _rare if number == 19 else _common)
_steps = st.tuples(delays, _any)

scripts: st.SearchStrategy[Script] = st.builds(
    lambda before, opening, after, last: [*before, opening, *after, last],
    st.lists(st.tuples(delays, _early), max_size=1),
    st.tuples(delays, st.builds(Opened, st.sampled_from([0, 0.25, 5, 20]))),
    st.lists(_steps, max_size=8) | st.lists(_steps, min_size=8, max_size=25),
    st.tuples(st.sampled_from([0, 200]), st.sampled_from(ENDS)),
)
"""Something may happen before upstream answers; then anything, some of it after the end; then the end."""

REFUSALS = [
    CloseReason.UPSTREAM_REFUSED,
    CloseReason.UPSTREAM_RESET,
    CloseReason.UPSTREAM_STATUS,
    CloseReason.UNAUTHORIZED,
]
LOSSES = [CloseReason.UPSTREAM_END, CloseReason.UPSTREAM_RESET]
DEPARTURES = [
    CloseReason.MAX_AGE,
    CloseReason.DRAIN,
    CloseReason.ROUTE_REMOVED,
    CloseReason.UNAUTHORIZED,
]
mostly = st.sampled_from([*[True] * 12, False])
minimums = st.sampled_from([0, 0, 0, 0.25, 5, 90])
lags = st.sampled_from([0, 0, 0, 0.25, 3])

stalls = st.builds(
    Stall,
    after=st.sampled_from([4, 15, 60]),
    action=st.sampled_from(StallAction),
    close_after=st.sampled_from([None, 5, 100]),
)
policies = st.builds(
    StreamPolicy,
    keepalive=st.sampled_from([None, 5, 15, 40]).map(
        lambda interval: None if interval is None else Keepalive(interval=interval)
    ),
    stall=st.none() | stalls,
    write_timeout=st.sampled_from([4, 30, 100]),
)
reconnects = st.builds(
    Reconnect,
    delay=st.sampled_from([0.25, 1, 8]),
    max_delay=st.sampled_from([8, 15]),
    give_up_after=st.sampled_from([4, 60, 300]),
)
reopening_policies = st.builds(
    replace,
    policies,
    write_timeout=st.sampled_from([30, 100]),
    stall=st.none()
    | stalls
    | st.builds(Stall, after=st.sampled_from([4, 15]), action=st.just(StallAction.RECONNECT)),
    reconnect=st.sampled_from([None, Reconnect()]) | reconnects | reconnects,
)
short_delays = st.sampled_from([0, 0.25, 1, 4, 5, 9.75, 10, 15, 30])


def play_out(witness: Witness, script: Script) -> None:
    """Play a script, and what the end of the stream brings."""
    for delay, step in script:
        witness.pass_time(witness.now + delay)
        match step:
            case Early():
                witness.fire_early()
            case DrainIn(seconds=seconds):
                witness.take(LeaveAt(witness.now + seconds, CloseReason.DRAIN))
            case _:
                witness.take(step)
    assert witness.closed
    witness.pass_time(witness.now + 2 * witness.policy.write_timeout)
    assert witness.aborted
    assert witness.life.next_deadline() is None


@settings(max_examples=600, deadline=None)
@given(policies, scripts, lags)
@example(StreamPolicy(), [(0, Opened()), (0, Paused()), (40, NOISE), (40, Resumed()), (40, ClientGone())], 0)
@example(
    StreamPolicy(), [(0, Blocked()), (0, Paused()), (5, Opened()), (9, Unblocked()), (9, ClientGone())], 0
)
def test_a_stream_keeps_its_promises_in_any_order_of_events(
    policy: StreamPolicy, script: Script, lag: float
) -> None:
    play_out(Witness(policy, lag), script)


def fate(policy: StreamPolicy, script: Script) -> list[tuple[float, Command]]:
    """What a stream tells of upstream and of its end, with times: everything but pings."""
    now = 0.0
    steps: list[tuple[float, Step]] = []
    for delay, step in script:
        now += delay
        if isinstance(step, DrainIn):
            steps.append((now, LeaveAt(now + step.seconds, CloseReason.DRAIN)))
        elif not isinstance(step, Early):
            steps.append((now, step))
    said = play(policy, *steps, until=now + 500).said
    return [line for line in said if not isinstance(line[1], Ping)]


@settings(max_examples=300, deadline=None)
@given(stalls, scripts)
def test_pings_do_not_change_the_reports_about_upstream(stall: Stall, script: Script) -> None:
    # Fifteen seconds are a silence of upstream's in both.
    pinged = StreamPolicy(keepalive=Keepalive(interval=15), stall=stall)
    silent = StreamPolicy(keepalive=None, stall=stall)
    assert fate(pinged, script) == fate(silent, script)


class LifeOfAStream(RuleBasedStateMachine):
    """A stream behind which upstream is lost and found, at random moments. Time passes before every step."""

    heard: ClassVar[set[type[Command]]] = set()
    states: ClassVar[set[State]] = set()
    ends: ClassVar[set[CloseReason]] = set()

    @initialize(
        policy=reopening_policies,
        lag=lags,
        draws=st.lists(st.sampled_from([0, 0.25, 0.5, 0.9375]), min_size=1, max_size=6),
        first=st.sampled_from(
            [None, CommitEarly(), CommitEarly(confirm=True), Opened(), Opened(confirm_wait=5)]
        ),
    )
    def request(self, policy: StreamPolicy, lag: float, draws: list[float], first: Event | None) -> None:
        self.witness = Witness(policy, lag, cycle(draws).__next__)
        if policy.reconnect is not None:
            self.witness.take(Reopens())
        if first is not None:
            self.witness.take(first)

    def step(self, delay: float, step: Step) -> None:
        """The timer may end the stream first, or change how it stands with upstream: then the moment for the
        step has passed.
        """
        witness = self.witness
        before = (witness.closed, witness.upstream, witness.beside)
        witness.pass_time(witness.now + delay)
        if before == (witness.closed, witness.upstream, witness.beside):
            witness.take(step)

    def is_committed(self) -> bool:
        return self.witness.committed_at is not None and not self.witness.closed

    def is_open(self) -> bool:
        return self.witness.upstream is Upstream.OPEN and not self.witness.closed

    def is_away(self) -> bool:
        """Whether upstream has no stream, or is to replace a stalled one."""
        witness = self.witness
        return (witness.upstream is not Upstream.OPEN or witness.beside is not None) and not witness.closed

    def upstream_says(self, delay: float, answer: Step) -> None:
        """Upstream says something, once it is asked."""
        witness = self.witness
        to_be_asked = Upstream.LOST in (witness.upstream, witness.beside) and witness.life.reopens
        if to_be_asked and witness.outage is not None and not witness.paused:
            witness.pass_time(max(witness.now, witness.outage.not_after + witness.lag))
        if Upstream.ASKED in (witness.upstream, witness.beside):
            self.step(delay, answer)

    # Upstream.

    @precondition(lambda self: self.is_away() and not self.is_committed())
    @rule(delay=short_delays)
    def commit_early(self, delay: float) -> None:
        self.step(delay, CommitEarly())

    @precondition(is_away)
    @rule(delay=short_delays, wait=st.sampled_from([0, 0, 0.25, 5]), resumed=st.booleans())
    def answer(self, delay: float, wait: float, resumed: bool) -> None:
        self.upstream_says(delay, Opened(wait, resumed))

    @precondition(lambda self: self.is_away() and self.is_committed())
    @rule(delay=short_delays, reason=st.sampled_from(REFUSALS), again=mostly, at_least=minimums)
    def refuse(self, delay: float, reason: CloseReason, again: bool, at_least: float) -> None:
        self.upstream_says(delay, NotOpened(reason, again, at_least))

    @precondition(is_away)
    @rule(delay=short_delays, within=st.sampled_from([0, 0.5, 2]))
    def hasten(self, delay: float, within: float) -> None:
        self.step(delay, Hasten(within))

    @precondition(is_open)
    @rule(delay=short_delays, reason=st.sampled_from(LOSSES), at_least=minimums)
    def lose(self, delay: float, reason: CloseReason, at_least: float) -> None:
        self.step(delay, UpstreamLost(reason, at_least))

    @precondition(is_open)
    @rule(delay=short_delays, sent=st.sampled_from([DATA, DATA, NOISE, PIECE]))
    def send(self, delay: float, sent: Step) -> None:
        self.step(delay, sent)

    @precondition(lambda self: not self.witness.closed and self.witness.policy.reconnect is not None)
    @rule(allowed=mostly, retry=minimums)
    def learn(self, allowed: bool, retry: float) -> None:
        if not self.witness.out:  # an id comes with blocks
            self.step(0, Reopens(allowed, retry))

    @precondition(is_open)
    @rule(delay=short_delays)
    def pause_or_resume(self, delay: float) -> None:
        self.step(delay, Resumed() if self.witness.paused else Paused())

    # The client, and ourselves.

    @rule(delay=short_delays)
    def block_or_unblock(self, delay: float) -> None:
        self.step(delay, Unblocked() if self.witness.blocked else Blocked())

    @rule(delay=short_delays)
    def take_some(self, delay: float) -> None:
        self.step(delay, Took())

    @rule(delay=short_delays)
    def wait(self, delay: float) -> None:
        self.witness.pass_time(self.witness.now + delay)
        self.witness.fire_early()

    @precondition(lambda self: self.witness.now > 60)
    @rule(seconds=st.sampled_from([-5, 0, 4, 30, 300, 300, 1000]), reason=st.sampled_from(DEPARTURES))
    def leave(self, seconds: float, reason: CloseReason) -> None:
        self.witness.take(LeaveAt(self.witness.now + seconds, reason))

    def teardown(self) -> None:
        witness = self.witness
        witness.take(ClientGone())
        assert witness.closed
        witness.pass_time(witness.now + 2 * witness.policy.write_timeout)
        assert witness.aborted
        assert witness.life.next_deadline() is None
        self.heard.update(type(command) for _, command in witness.transcript.said)
        self.states.update(state for _, state in witness.transcript.states)
        self.ends.update(
            command.reason for _, command in witness.transcript.said if isinstance(command, Close)
        )


TestLifeOfAStream = LifeOfAStream.TestCase
TestLifeOfAStream.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)


def test_an_attempt_that_was_forbidden_for_a_moment_is_made_in_time_afterwards() -> None:
    life = LifeOfAStream()
    stall = Stall(after=4, action=StallAction.RECONNECT)
    policy = StreamPolicy(keepalive=None, stall=stall, write_timeout=30, reconnect=Reconnect())
    life.request(policy=policy, lag=0, draws=[0.5], first=Opened())
    life.block_or_unblock(delay=0)
    life.pause_or_resume(delay=0)
    life.pause_or_resume(delay=0)
    life.learn(allowed=False, retry=0)
    life.block_or_unblock(delay=4)
    life.learn(allowed=True, retry=0.25)
    life.block_or_unblock(delay=0)
    life.learn(allowed=False, retry=0)
    life.learn(allowed=True, retry=0)
    life.answer(delay=0, resumed=False, wait=0)
    said = [line for line in life.witness.transcript.said if isinstance(line[1], Reopen | Announce)]
    assert said == [(4.375, Reopen()), (4.5, Announce(CloseReason.STALLED, 0.5, resumed=False))]
    life.teardown()


def test_scripts_and_machine_lead_to_every_answer_every_state_and_every_end() -> None:
    """The properties above are only worth what they reach."""
    heard: set[type[Command]] = set()

    @settings(max_examples=200, deadline=None, derandomize=True, database=None)
    @given(policies, scripts)
    def look(policy: StreamPolicy, script: Script) -> None:
        witness = Witness(policy, 0)
        play_out(witness, script)
        heard.update(type(command) for _, command in witness.transcript.said)

    look()
    assert heard == {Abort, Close, Commit, Confirm, Ping, Recovered, Release, SilenceEnded, Stalled}

    class Seen(LifeOfAStream):
        heard, states, ends = set(), set(), set()

    always_the_same = settings(
        max_examples=500, stateful_step_count=40, deadline=None, derandomize=True, database=None
    )
    run_state_machine_as_test(Seen, settings=always_the_same)
    assert Seen.heard == set(get_args(Command))
    assert Seen.states == set(State)
    for some in (REFUSALS, LOSSES, DEPARTURES):
        assert Seen.ends.intersection(some)
    ours = {CloseReason.STALLED, CloseReason.GIVE_UP, CloseReason.CLIENT_STALLED}
    assert Seen.ends >= ours | {CloseReason.CLIENT_GONE}
