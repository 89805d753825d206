"""Goes along with a stream, keeps books of its own the plain way, and holds every answer against them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

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
    Confirm,
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
from sse_keepalive_proxy.stream.policy import Reconnect, StallAction, StreamPolicy
from sse_keepalive_proxy.stream.states import State
from tests.stream.transcript import Reopens, Sent, Step, Took, Transcript

__all__ = ["Upstream", "Witness"]

MID_BLOCK = 1.0
"""Seconds that a stream which is to leave waits for the end of a block."""

LOOK = 1 / 16


class Upstream(Enum):
    """How it stands with upstream."""

    ASKED = auto()
    OPEN = auto()
    LOST = auto()  # and not asked yet


@dataclass(slots=True)
class Outage:
    """Upstream is lost: what the policy allows."""

    policy: Reconnect
    ceiling: float
    reason: CloseReason = CloseReason.UPSTREAM_END
    began_at: float = 0.0
    lost_at: float = 0.0  # later than `began_at` where an attempt to replace a stalled upstream went before
    not_before: float = 0.0
    not_after: float = 0.0
    lived: bool = False  # upstream gave a sign of life since
    held: float = 0.0  # seconds of it that upstream was paused

    @property
    def gives_up_at(self) -> float:
        return self.lost_at + self.policy.give_up_after + self.held

    def begin(self, reason: CloseReason, at_least: float, now: float) -> None:
        if self.lived:
            self.ceiling = self.policy.delay
        self.lived, self.reason, self.began_at, self.lost_at, self.held = False, reason, now, now, 0.0
        self.wait(at_least, now)

    def wait(self, at_least: float, now: float) -> None:
        self.not_before = now + at_least
        self.not_after = self.not_before + self.ceiling
        self.ceiling = min(2 * self.ceiling, self.policy.max_delay)

    def hasten(self, within: float, now: float) -> None:
        self.not_after = min(self.not_after, max(self.not_before, now) + within)

    def hold(self, seconds: float) -> None:
        self.held += seconds
        self.not_before += seconds
        self.not_after += seconds


@dataclass(slots=True)
class Witness:
    """`lag`: how late every timer fires. Silences grow by what passes while upstream is not paused. `draw` is
    the lifecycle's. All times are multiples of a power of two: sums are exact.
    """

    policy: StreamPolicy
    lag: float
    draw: Callable[[], float] = lambda: 0.5
    transcript: Transcript = field(init=False)
    upstream: Upstream = Upstream.ASKED
    outage: Outage | None = None
    out: bool = False  # the outage is now, and not one of before
    beside: Upstream | None = None  # how it stands with the stream that is to replace a stalled one
    committed_at: float | None = None
    confirmed: bool = False  # with an early commit
    opened: bool = False  # upstream has answered once at least
    spoke: bool = False  # upstream has sent something since it answered
    open_for: float = 0.0
    watched_since: float | None = None  # since when upstream may count as stalled
    replaceable_since: float | None = None  # since when a stalled upstream may be given up for another
    confirm_at: float | None = None
    written_at: float = 0.0
    blocked: bool = False
    paused: bool = False
    lifeless: float = 0.0  # upstream's silence, in signs of life
    byteless: float = 0.0  # upstream's silence, in bytes
    stalled_for: float | None = None
    block_for: float | None = None  # how long a block is unfinished and held
    speaks_for: float | None = None  # how long ago the latest bytes of the unfinished block came
    timed: bool = False  # and since then upstream was not to be asked again
    moved_at: float = 0.0
    leave: LeaveAt | None = None
    told: set[CloseReason] = field(default_factory=set)  # what the step under way may end the stream for
    closed: bool = False
    aborted: bool = False

    def __post_init__(self) -> None:
        self.transcript = Transcript(Lifecycle(self.policy, 0.0, self.draw), 0.0)

    @property
    def life(self) -> Lifecycle:
        return self.transcript.life

    @property
    def now(self) -> float:
        return self.transcript.now

    @property
    def interval(self) -> float | None:
        return self.policy.keepalive.interval if self.policy.keepalive else None

    @property
    def quiet(self) -> float:
        return self.interval or 15

    # Time.

    def pass_time(self, until: float) -> None:
        """The timer fires whenever it is due, `lag` late."""
        fired, began = 0, self.now
        while (due := self.life.next_deadline()) is not None:
            at = max(due + self.lag, self.now)
            if at > until:
                break
            self.go_to(at)
            self.turn(lambda at=at: self.transcript.fire(at))
            self.state_is_that_of_the_books()
            fired += 1
            later = self.life.next_deadline()
            assert later is None or later > at, "a timer that has fired moves on"
        self.go_to(until)
        shortest = min(self.policy.write_timeout / 4, self.interval or 4)
        assert fired <= 32 + 2 * (until - began) / shortest, "no deadline spins"

    def fire_early(self) -> None:
        """The timer fires though nothing is due: nothing happens."""
        due, state = self.life.next_deadline(), self.life.state
        if due is None or due > self.now:
            early = self.life.handle_timer(
                self.now, self.transcript.taken, unfinished=self.transcript.unfinished
            )
            assert early == ()
            assert self.life.state is state

    def go_to(self, now: float) -> None:
        """Time passes with nothing happening: nothing may be overdue at its end."""
        passed = now - self.now
        self.transcript.now = now
        if not self.paused:
            self.lifeless += passed
            self.byteless += passed
            self.open_for += passed
            if self.stalled_for is not None:
                self.stalled_for += passed
            if self.block_for is not None:
                self.block_for += passed
            if self.speaks_for is not None:
                self.speaks_for += passed
        elif self.out and self.outage is not None:
            self.outage.hold(passed)
        if self.closed:
            assert self.aborted or now - self.moved_at <= self.longest_unmoved
            return
        if self.leave is not None:
            assert now - self.leave.at <= MID_BLOCK + LOOK + 2 * self.lag, "nobody stays who is to leave"
        if self.committed_at is None:
            return
        assert self.confirm_at is None or now <= self.confirm_at + self.lag
        if self.blocked:
            assert now - max(self.moved_at, self.committed_at) <= self.longest_unmoved
        elif self.interval is not None:
            assert now - self.written_at <= self.interval + self.lag, "never silent longer than the interval"
        if not self.paused:
            self.nothing_of_upstream_is_overdue(now)

    @property
    def longest_unmoved(self) -> float:
        return 1.25 * self.policy.write_timeout + 2 * self.lag

    def nothing_of_upstream_is_overdue(self, now: float) -> None:
        stall, outage = self.policy.stall, self.outage
        leaving = self.leave is not None and now >= self.leave.at  # its last frames need a block boundary
        if self.block_for is not None and self.timed and not leaving:
            assert self.block_for <= MID_BLOCK + self.lag, "nothing is withheld for an end that does not come"
        if stall and self.watched_since is not None:
            if self.stalled_for is None:
                since = min(self.lifeless - stall.after, now - self.watched_since)
                assert since <= self.lag, "a stall is found"
            elif stall.close_after is not None:
                assert self.stalled_for <= stall.close_after + self.lag
            if self.replaceable_since is not None and self.beside is None:
                spoke_for = self.open_for if self.speaks_for is None else min(self.open_for, self.speaks_for)
                since = min(spoke_for - stall.after, now - self.replaceable_since)
                assert since <= self.lag, "a stalled upstream is replaced"
        if self.beside is Upstream.LOST and self.life.reopens and outage is not None:
            assert now <= outage.not_after + self.lag
        if self.out and outage is not None:
            assert now <= outage.gives_up_at + self.lag, "nobody waits for ever"
            assert self.upstream is Upstream.ASKED or now <= outage.not_after + self.lag

    # What happens.

    def turn(self, act: Callable[[], None]) -> tuple[Command, ...]:
        """One call of the lifecycle: look at what it answered."""
        already, replacing = len(self.transcript.said), self.life._replacing
        act()
        if self.life._replacing and not replacing:
            self.begin_to_replace()
        heard = tuple(command for _, command in self.transcript.said[already:])
        for command in heard:
            assert not self.closed or isinstance(command, Abort), "after the end there is nothing but the cut"
            self.hear(command, self.now)
        self.told.clear()
        return heard

    def state_is_that_of_the_books(self) -> None:
        state, stall = self.life.state, self.policy.stall
        assert self.closed is (self.life.close_reason is not None)
        assert self.life.blocked is self.blocked
        assert (self.life.stalled_since is not None) is (self.stalled_for is not None)
        if self.closed:
            assert state is State.DRAINING
        elif self.upstream is not Upstream.OPEN:
            assert state is (State.RECONNECTING if self.out else State.CONNECTING)
        elif self.stalled_for is not None:
            assert state is State.STALLED
        elif not self.spoke:
            assert state is State.WAITING
        elif state is State.IDLE:
            assert self.byteless >= self.quiet
        else:
            assert state is State.FLOWING
            assert self.paused or self.byteless <= self.quiet + self.lag
        assert self.closed or self.life._replacing is (self.beside is not None)
        if not self.closed and state is not State.CONNECTING and self.watched_since is None:
            self.watched_since = self.now
        again = self.policy.reconnect
        replaceable = stall is not None and stall.action is StallAction.RECONNECT and self.life.reopens
        replaceable = replaceable and again is not None
        if not (replaceable and state is State.STALLED and not self.paused):
            self.replaceable_since = None
        elif self.replaceable_since is None:
            self.replaceable_since = self.now

    def take(self, step: Step) -> None:
        """Keep the books of a step, then let the stream have it."""
        now, again, committed, closed = self.now, self.opened, self.committed_at is not None, self.closed
        match step:
            case Opened() if not self.closed:
                assert self.upstream is not Upstream.OPEN or self.beside is Upstream.ASKED
                self.beside = self.block_for = self.speaks_for = None
                self.upstream, self.opened, self.spoke, self.open_for = Upstream.OPEN, True, False, 0.0
                if self.outage is None:
                    self.lifeless = self.byteless = 0.0
                if not again and not self.confirmed and (committed or step.confirm_wait):
                    self.confirm_at = now + step.confirm_wait
                self.out = False
            case UpstreamLost(reason=reason, at_least=at_least) if not self.closed:
                self.lose(reason, at_least)
            case NotOpened() if not self.closed:
                self.not_opened(step)
            case LeaveAt(at=at, reason=reason) if not self.closed:
                if self.leave is None or max(at, now) < self.leave.at:
                    self.leave = LeaveAt(max(at, now), reason)
            case Fault(reason=reason):
                self.told.add(reason)
            case ClientGone():
                self.told.add(CloseReason.CLIENT_GONE)
            case Sent() if not self.closed:
                self.confirm_at, self.spoke = None, True
                if self.speaks_for is not None and step.whole:
                    self.replaceable_since = None  # from now on
                self.speaks_for = None if step.whole or self.life.in_block else 0.0
            case Reopens(allowed=allowed):
                self.timed = self.timed and not allowed
            case Hasten(within=within) if self.out and self.outage is not None and not self.paused:
                if self.upstream is Upstream.LOST:
                    self.outage.hasten(within, now)
            case Paused() if not self.closed and not self.out:
                self.paused = True
            case Resumed() if not self.closed:
                self.paused = False
            case _:
                step = self.clients_side(step)
        in_block = self.life.in_block
        if self.beside is not None and self.outage is not None and not self.life.reopens:
            self.outage.not_after = max(self.outage.not_after, now)  # the attempt had to wait until now
        heard = self.turn(lambda: self.transcript.take(step))
        if isinstance(step, Opened) and not closed:
            assert heard == (self.news_of_another(step) if again else self.first_words(step, committed))
        if isinstance(step, Sent) and not self.closed:
            self.byteless = 0.0
            if step.alive and self.outage is not None:
                self.outage.lived |= self.lifeless > 0  # two signs at one moment are one
            self.lifeless = 0.0 if step.alive else self.lifeless
            self.written_at = now if step.whole or in_block else self.written_at
            if step.whole or in_block:
                self.block_for = None
            elif self.block_for is None:
                self.block_for, self.timed = 0.0, not self.life.reopens
        self.state_is_that_of_the_books()

    def clients_side(self, step: Step) -> Step:
        match step:
            case Blocked() if not self.blocked:
                self.blocked, self.moved_at = True, self.now
                return Blocked(self.transcript.taken)
            case Unblocked() if self.blocked:
                self.blocked, self.moved_at, self.written_at = False, self.now, self.now
            case Took():
                self.moved_at = self.now
            case _:
                pass
        return step

    def lose(self, reason: CloseReason, at_least: float) -> None:
        beside, self.beside = self.beside, None
        if not self.life.reopens or self.policy.reconnect is None:
            self.told.add(reason)
            return
        self.out, self.upstream, self.block_for, self.speaks_for = True, Upstream.LOST, None, None
        if beside is Upstream.ASKED and self.outage is not None:
            self.upstream, self.outage.lost_at, self.outage.held = Upstream.ASKED, self.now, 0.0
            return
        self.begin_outage(self.policy.reconnect, reason, at_least)

    def begin_outage(self, policy: Reconnect, reason: CloseReason, at_least: float) -> None:
        if self.outage is None:
            self.outage = Outage(policy, policy.delay)
        self.outage.begin(reason, at_least, self.now)

    def begin_to_replace(self) -> None:
        """Upstream's stream is stalled, and is to be replaced while it stays."""
        stall, again = self.policy.stall, self.policy.reconnect
        assert stall is not None
        assert again is not None
        assert stall.action is StallAction.RECONNECT
        assert self.life.reopens
        assert self.upstream is Upstream.OPEN
        assert self.lifeless >= stall.after
        assert not self.paused
        assert self.speaks_for is None or self.speaks_for >= stall.after, "who speaks is not replaced"
        assert self.open_for >= stall.after, "each upstream has its time to show life"
        self.beside = Upstream.LOST
        self.begin_outage(again, CloseReason.STALLED, self.life.retry)

    def not_opened(self, failed: NotOpened) -> None:
        if self.beside is Upstream.ASKED and self.outage is not None and self.policy.stall is not None:
            self.beside = Upstream.LOST
            patience = 0.0 if failed.again else self.policy.stall.after
            self.outage.wait(max(failed.at_least, patience), self.now)
        elif not failed.again:
            self.told.add(failed.reason)
        elif self.out and self.outage is not None:
            self.upstream = Upstream.LOST
            self.outage.wait(failed.at_least, self.now)
        else:
            self.lose(failed.reason, failed.at_least)

    def news_of_another(self, step: Opened) -> tuple[Command, ...]:
        """A gap is never hidden."""
        assert self.outage is not None
        return (Announce(self.outage.reason, self.now - self.outage.began_at, step.resumed),)

    # What is answered.

    def first_words(self, opening: Opened, committed: bool) -> tuple[Command, ...]:
        """What follows upstream's first answer at once."""
        if not committed:
            return (Commit(confirm=not opening.confirm_wait),)
        return () if self.confirmed or opening.confirm_wait else (Confirm(),)

    def hear(self, command: Command, now: float) -> None:
        """Hold one answer against the books."""
        match command:
            case Commit():
                assert self.committed_at is None, "a status is sent once"
                self.confirmed = command.confirm and not self.opened
                self.committed_at = self.written_at = now
            case Confirm():
                assert self.committed_at is not None
                assert self.confirm_at is not None, "one confirm, where none was spared"
                assert now >= self.confirm_at
                self.confirm_at, self.written_at = None, now
            case Ping(idle_for=idle_for):
                assert self.committed_at is not None
                assert not self.blocked
                assert idle_for == self.byteless
                assert self.interval is not None
                assert now - self.written_at >= self.interval, "never earlier"
                self.written_at = now
            case Announce():
                self.written_at = now
            case Release():
                assert not self.paused
                assert not self.life.reopens
                assert self.block_for is not None
                assert self.block_for >= MID_BLOCK, "not before a second has passed"
                self.block_for, self.written_at = None, now
            case SilenceEnded(seconds=seconds):
                assert seconds == self.byteless >= self.quiet
            case Stalled() | Recovered():
                self.hear_of_a_stall(command, now)
            case Reopen():
                self.hear_of_an_attempt(now)
            case Abandon():
                assert self.beside is not None
                spoke = self.stalled_for is None or self.speaks_for == 0
                assert self.paused or spoke or not self.life.reopens
                self.beside = None
            case Close(reason=reason):
                assert self.life.close_reason is reason
                self.end_is_justified(reason, now)
                self.closed, self.moved_at = True, now
            case Abort():
                assert self.closed
                assert not self.aborted
                assert now - self.moved_at >= self.policy.write_timeout
                self.aborted = True

    def hear_of_a_stall(self, command: Stalled | Recovered, now: float) -> None:
        stall = self.policy.stall
        assert stall is not None
        assert command.silent_for == self.lifeless
        if isinstance(command, Recovered):
            assert self.stalled_for is not None
            self.stalled_for = None
            return
        assert self.lifeless >= stall.after
        assert not self.paused
        assert self.stalled_for is None, "a stall is counted once"
        self.stalled_for = 0.0
        if stall.action is StallAction.NOTIFY and not self.life.in_block:
            self.written_at = now

    def hear_of_an_attempt(self, now: float) -> None:
        assert self.life.reopens
        assert self.committed_at is not None
        assert self.outage is not None
        assert self.outage.not_before <= now <= self.outage.not_after + self.lag
        if self.beside is not None:
            assert self.beside is Upstream.LOST, "one attempt at a time"
            assert self.upstream is Upstream.OPEN
            assert not self.paused
            self.beside = Upstream.ASKED
            return
        assert self.upstream is Upstream.LOST, "one attempt at a time"
        assert now < self.outage.gives_up_at
        self.upstream = Upstream.ASKED

    def end_is_justified(self, reason: CloseReason, now: float) -> None:
        if reason in self.told:
            return
        if reason is CloseReason.STALLED:
            assert self.policy.stall is not None
            assert self.policy.stall.close_after is not None
            assert self.stalled_for is not None
            assert self.stalled_for >= self.policy.stall.close_after
        elif reason is CloseReason.CLIENT_STALLED:
            assert self.blocked
            assert now - self.moved_at >= self.policy.write_timeout
        elif reason is CloseReason.GIVE_UP:
            assert self.out
            assert self.outage is not None
            last = now if self.upstream is Upstream.ASKED else max(now, self.outage.not_after)
            assert last >= self.outage.gives_up_at
        else:
            assert self.leave is not None
            assert self.leave.reason is reason
            least = MID_BLOCK if self.transcript.unfinished else 0.0
            assert now >= self.leave.at + least, "not in the middle of a block"
