"""What holds of a stream whatever happens to it, in any order, with timers early, punctual and late."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sse_keepalive_proxy.stream.lifecycle import Lifecycle
from sse_keepalive_proxy.stream.messages import (
    Abort,
    Blocked,
    ClientGone,
    Close,
    CloseReason,
    Command,
    Commit,
    Confirm,
    Fault,
    LeaveAt,
    Opened,
    Paused,
    Ping,
    Recovered,
    Resumed,
    SilenceEnded,
    Stalled,
    Unblocked,
    UpstreamEnded,
)
from sse_keepalive_proxy.stream.policy import Keepalive, Stall, StallAction, StreamPolicy
from sse_keepalive_proxy.stream.states import TRANSITIONS, State
from tests.stream.transcript import DATA, NOISE, PIECE, Sent, Step, Took, Transcript, play


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
    UpstreamEnded(),
    UpstreamEnded(reset=True),
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


def reachable(start: State) -> set[State]:
    """The states that one turn may end in: it may go two steps, from flowing over idle to stalled."""
    near = {start, *TRANSITIONS[start]}
    return near | {target for state in near for target in TRANSITIONS[state]}


@dataclass(slots=True)
class Witness:
    """Goes along with a stream, keeps its own clocks the plain way, and holds every answer against them.

    `lag`: how late every timer fires. Silences grow by what passes while upstream is not paused.
    """

    policy: StreamPolicy
    lag: float
    transcript: Transcript = field(init=False)
    written_at: float | None = None
    blocked: bool = False
    paused: bool = False
    opened_at: float | None = None
    lifeless: float = 0.0  # upstream's silence, in signs of life
    byteless: float = 0.0  # upstream's silence, in bytes
    stalled_for: float | None = None
    moved_at: float = 0.0
    closed: bool = False
    aborted: bool = False

    def __post_init__(self) -> None:
        self.transcript = Transcript(Lifecycle(self.policy, 0.0), 0.0)

    @property
    def life(self) -> Lifecycle:
        return self.transcript.life

    def play(self, script: Script) -> None:
        """Play it, and what the end of the stream brings."""
        for delay, step in script:
            self.pass_time(self.transcript.now + delay)
            self.take(step)
        assert self.closed
        self.pass_time(self.transcript.now + 2 * self.policy.write_timeout)
        assert self.aborted
        assert self.life.next_deadline() is None

    def pass_time(self, until: float) -> None:
        """The timer fires whenever it is due, `lag` late."""
        fired, began = 0, self.transcript.now
        while (due := self.life.next_deadline()) is not None:
            at = max(due + self.lag, self.transcript.now)
            if at > until:
                break
            self.go_to(at)
            self.turn(lambda at=at: self.transcript.fire(at))
            fired += 1
            later = self.life.next_deadline()
            assert later is None or later > at, "a timer that has fired moves on"
        self.go_to(until)
        shortest = min(self.policy.write_timeout / 4, self.interval or 4)
        assert fired <= 8 + 2 * (until - began) / shortest, "no deadline spins"

    @property
    def interval(self) -> float | None:
        return self.policy.keepalive.interval if self.policy.keepalive else None

    def go_to(self, now: float) -> None:
        """Time passes with nothing happening: nothing may be overdue at its end."""
        passed = now - self.transcript.now
        self.transcript.now = now
        if not self.paused:
            self.lifeless += passed
            self.byteless += passed
            if self.stalled_for is not None:
                self.stalled_for += passed
        limit = 1.25 * self.policy.write_timeout + 2 * self.lag
        if self.closed:
            assert self.aborted or now - self.moved_at <= limit
            return
        if self.opened_at is None:
            return
        if self.blocked:
            assert now - max(self.moved_at, self.opened_at) <= limit
        elif self.interval is not None:
            assert self.written_at is not None
            assert now - self.written_at <= self.interval + self.lag, "never silent longer than the interval"
        if (stall := self.policy.stall) and not self.paused:
            assert self.stalled_for is not None or self.lifeless <= stall.after + self.lag
            if self.stalled_for is not None and stall.close_after is not None:
                assert self.stalled_for <= stall.close_after + self.lag

    def turn(self, act: Callable[[], None]) -> None:
        """One call of the lifecycle: look at what it answered and what became of its state."""
        state, heard = self.life.state, len(self.transcript.said)
        act()
        assert self.life.state in reachable(state)
        for _, command in self.transcript.said[heard:]:
            assert not self.closed or isinstance(command, Abort), "after the end there is nothing but the cut"
            self.hear(command, self.transcript.now)
        assert self.closed is (self.life.close_reason is not None) is (self.life.state is State.DRAINING)
        assert self.life.blocked is self.blocked
        assert (self.life.stalled_since is not None) is (self.stalled_for is not None)

    def take(self, step: Step | DrainIn | Early) -> None:
        """Keep the witness's own books of a step, then let the stream have it."""
        now = self.transcript.now
        match step:
            case Early():
                due, state = self.life.next_deadline(), self.life.state
                if due is None or due > now:
                    assert self.life.handle_timer(now, self.transcript.taken) == ()
                    assert self.life.state is state
                return
            case DrainIn(seconds=seconds):
                step = LeaveAt(now + seconds, CloseReason.DRAIN)
            case Took():
                self.moved_at = now
            case Blocked() if not self.blocked:
                step = Blocked(self.transcript.taken)
                self.blocked, self.moved_at = True, now
            case Unblocked() if self.blocked:
                self.blocked, self.moved_at, self.written_at = False, now, now
            case Opened() if not self.closed:
                self.opened_at, self.lifeless, self.byteless = now, 0.0, 0.0
            case Paused() if not self.closed:
                self.paused = True
            case Resumed() if not self.closed:
                self.paused = False
            case _:
                pass
        final_step = step
        self.turn(lambda: self.transcript.take(final_step))
        if isinstance(step, Sent) and not self.closed:
            self.byteless = 0.0
            self.lifeless = 0.0 if step.alive else self.lifeless
            self.written_at = now if step.whole else self.written_at

    def hear(self, command: Command, now: float) -> None:
        """Hold one answer against the books."""
        stall, limit = self.policy.stall, self.policy.write_timeout
        match command:
            case Commit() | Confirm():
                self.written_at = now
            case Ping(idle_for=idle_for):
                assert not self.blocked
                assert idle_for == self.byteless
                assert self.written_at is not None
                assert self.interval is not None
                assert now - self.written_at >= self.interval, "never earlier"
                self.written_at = now
            case Stalled(silent_for=silent_for):
                assert stall is not None
                assert silent_for == self.lifeless >= stall.after
                assert self.stalled_for is None
                self.stalled_for = 0.0
                if stall.action is StallAction.NOTIFY:
                    self.written_at = now
            case Recovered(silent_for=silent_for):
                assert silent_for == self.lifeless
                assert self.stalled_for is not None
                self.stalled_for = None
            case SilenceEnded(seconds=seconds):
                assert seconds == self.byteless >= (self.interval or 15)
            case Close(reason=reason):
                assert self.life.close_reason is reason
                if reason is CloseReason.STALLED:
                    assert stall is not None
                    assert stall.close_after is not None
                    assert self.stalled_for is not None
                    assert self.stalled_for >= stall.close_after
                elif reason is CloseReason.CLIENT_STALLED:
                    assert self.blocked
                    assert now - self.moved_at >= limit
                self.closed, self.moved_at = True, now
            case Abort():
                assert not self.aborted
                assert now - self.moved_at >= limit
                self.aborted = True


@settings(max_examples=600, deadline=None)
@given(policies, scripts, st.sampled_from([0, 0, 0, 0.25, 3]))
@example(StreamPolicy(), [(0, Opened()), (0, Paused()), (40, NOISE), (40, Resumed()), (40, ClientGone())], 0)
@example(
    StreamPolicy(), [(0, Blocked()), (0, Paused()), (5, Opened()), (9, Unblocked()), (9, ClientGone())], 0
)
def test_a_stream_keeps_its_promises_in_any_order_of_events(
    policy: StreamPolicy, script: Script, lag: float
) -> None:
    Witness(policy, lag).play(script)


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
def test_pings_change_nothing_of_what_is_told_about_upstream(stall: Stall, script: Script) -> None:
    # Fifteen seconds are a silence of upstream's in both.
    pinged = StreamPolicy(keepalive=Keepalive(interval=15), stall=stall)
    silent = StreamPolicy(keepalive=None, stall=stall)
    assert fate(pinged, script) == fate(silent, script)


def test_the_scripts_lead_to_every_answer_and_every_state() -> None:
    """The properties above are only worth what their scripts reach."""
    heard: set[type[Command]] = set()
    states: set[State] = set()

    @settings(max_examples=400, deadline=None, derandomize=True, database=None)
    @given(policies, scripts)
    def look(policy: StreamPolicy, script: Script) -> None:
        witness = Witness(policy, 0)
        witness.play(script)
        heard.update(type(command) for _, command in witness.transcript.said)
        states.update(state for _, state in witness.transcript.states)

    look()
    assert heard == {Abort, Close, Commit, Confirm, Ping, Recovered, SilenceEnded, Stalled}
    assert states == set(State)
