"""The life of one stream, from the request to the last byte.

The rules, each a law of `docs/reference/behaviour.md`:

- Three clocks that never stand for one another: `written_at` (a byte left for the client),
  `upstream_at` (upstream sent anything) with `alive_at` (upstream gave a sign of life that the
  policy counts), and `moved_at` (the client took some of the bytes that wait for it).
- Downstream silence makes a ping. Upstream silence makes a stall. A ping never moves an upstream
  clock, so it cannot hide a dead upstream.
- While we have paused upstream ourselves its clocks stand still.
- The first reason to close is the only one. After it the client may still take what waits, as long as
  it does take something.

The lifecycle holds no bytes, no socket and no timer. It is told what happened and when, and answers
with what is to be done; `next_deadline` says when it wants to be asked again. Deadlines are lazy:
moving `written_at` or `alive_at` re-arms nothing, the timer that fires too early finds out.
Times are seconds on one monotonic clock, handed in.
"""

from __future__ import annotations

from sse_keepalive_proxy.stream.messages import (
    Abort,
    Blocked,
    ClientGone,
    Close,
    CloseReason,
    Command,
    Commit,
    Confirm,
    Event,
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
from sse_keepalive_proxy.stream.policy import StallAction, StreamPolicy
from sse_keepalive_proxy.stream.states import TRANSITIONS, State

__all__ = ["Lifecycle"]

_QUIET = 15.0
"""Seconds of upstream silence that count as idle where no keepalive interval says so."""


_NOTHING: tuple[Command, ...] = ()


class Lifecycle:
    """One stream's states, clocks and deadlines. See the module for the rules."""

    __slots__ = (
        "_aborted",
        "_checked_at",
        "_confirm_at",
        "_leave_at",
        "_leave_reason",
        "_moved_at",
        "_paused_at",
        "_policy",
        "_quiet",
        "_taken",
        "alive_at",
        "blocked",
        "close_reason",
        "stalled_since",
        "state",
        "upstream_at",
        "written_at",
    )

    def __init__(self, policy: StreamPolicy, now: float) -> None:
        self._policy = policy
        self._quiet = policy.keepalive.interval if policy.keepalive else _QUIET
        self.state = State.CONNECTING
        self.written_at = self.upstream_at = self.alive_at = now
        self.stalled_since: float | None = None
        self.close_reason: CloseReason | None = None
        self.blocked = False  # whether bytes wait for the client
        self._moved_at = self._checked_at = now
        self._taken = 0
        self._confirm_at: float | None = None
        self._leave_at: float | None = None
        self._leave_reason = CloseReason.DRAIN
        self._paused_at: float | None = None
        self._aborted = False

    def silent_for(self, now: float) -> float:
        """Seconds since upstream's last sign of life, not counting what we were paused."""
        return self._upstream_time(now) - self.alive_at

    def _upstream_time(self, now: float) -> float:
        """Upstream's clock: it stands still while we have paused it, also for what comes all the same."""
        return now if self._paused_at is None else self._paused_at

    # The way of every byte.

    def received(self, now: float, alive: bool) -> tuple[Command, ...]:
        """Upstream sent something; `alive` when it is a sign of life in the policy's sense."""
        if self.state is State.FLOWING and self._paused_at is None and now - self.upstream_at < self._quiet:
            self.upstream_at = now
            if alive:
                self.alive_at = now
            return _NOTHING
        return self._woken(now, alive)

    def _woken(self, now: float, alive: bool) -> tuple[Command, ...]:
        """The same where the state may change or a silence ends."""
        if self.state is State.DRAINING:
            return _NOTHING
        self._confirm_at = None
        commands: list[Command] = []
        upstream_now = self._upstream_time(now)
        silence = upstream_now - self.upstream_at
        if silence >= self._quiet:
            commands.append(SilenceEnded(silence))
        if alive:
            if self.stalled_since is not None:
                commands.append(Recovered(upstream_now - self.alive_at))
                self.stalled_since = None
            self.alive_at = upstream_now
        self.upstream_at = upstream_now
        if self.stalled_since is None and self.state is not State.FLOWING:
            self._enter(State.FLOWING)
        return tuple(commands)

    # Control.

    def handle(self, event: Event, now: float) -> tuple[Command, ...]:
        """Take one event; return what is to be done, in order."""
        match event:
            case ClientGone():
                return self._close(CloseReason.CLIENT_GONE, now)
            case Blocked(taken=taken):
                self._blocked(now, taken)
            case Unblocked():
                self._unblocked(now)
            case _ if self.state is State.DRAINING:
                pass
            case Opened(confirm_wait=wait):
                return self._opened(wait, now)
            case UpstreamEnded(reset=reset):
                return self._close(CloseReason.UPSTREAM_RESET if reset else CloseReason.UPSTREAM_END, now)
            case Paused():
                self._paused_at = now if self._paused_at is None else self._paused_at
            case Resumed():
                self._resumed(now)
            case LeaveAt(at=at, reason=reason):
                self._leave(max(at, now), reason)
            case Fault(reason=reason):
                return self._close(reason, now)
        return _NOTHING

    def _opened(self, wait: float, now: float) -> tuple[Command, ...]:
        self._enter(State.WAITING)
        self.written_at = now
        self.upstream_at = self.alive_at = self._upstream_time(now)
        if wait:
            self._confirm_at = now + wait
        return (Commit(confirm=not wait),)

    def _leave(self, at: float, reason: CloseReason) -> None:
        if self._leave_at is None or at < self._leave_at:
            self._leave_at, self._leave_reason = at, reason

    def _blocked(self, now: float, taken: int) -> None:
        if not self.blocked:
            self.blocked = True
            self._moved_at = self._checked_at = now
            self._taken = max(self._taken, taken)

    def _unblocked(self, now: float) -> None:
        if self.blocked:
            self.blocked = False
            self.written_at = self._moved_at = now

    def _resumed(self, now: float) -> None:
        if self._paused_at is None:
            return
        stood_still = now - self._paused_at
        self._paused_at = None
        self.upstream_at += stood_still
        self.alive_at += stood_still
        if self.stalled_since is not None:
            self.stalled_since += stood_still

    def _close(self, reason: CloseReason, now: float) -> tuple[Command, ...]:
        if self.close_reason is not None:
            return _NOTHING
        self.close_reason = reason
        self._enter(State.DRAINING)
        self._moved_at = self._checked_at = now
        return (Close(reason),)

    def _enter(self, state: State) -> None:
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"no way from {self.state} to {state}")
        self.state = state

    # Time.

    def next_deadline(self) -> float | None:
        """When `handle_timer` wants to be called; None when nothing is waited for."""
        return min(self._deadlines(), default=None)

    def _deadlines(self) -> list[float]:
        if self.state is State.DRAINING:
            return [] if self._aborted else [self._looks_at_client()]
        due = [at for at in (self._confirm_at, self._leave_at) if at is not None]
        if self.state is State.CONNECTING:
            return due
        if self.blocked:
            due.append(self._looks_at_client())
        elif keepalive := self._policy.keepalive:
            due.append(self.written_at + keepalive.interval)
        if self._paused_at is None:
            if self.state is State.FLOWING:
                due.append(self.upstream_at + self._quiet)
            if (stalls_at := self._stalls_at()) is not None:
                due.append(stalls_at)
        return due

    def _looks_at_client(self) -> float:
        """When to see whether the client has taken something: four times within the limit, so that one
        that has not is found at the latest a quarter after it.
        """
        limit = self._policy.write_timeout
        return min(self._moved_at + limit, self._checked_at + limit / 4)

    def _stalls_at(self) -> float | None:
        """When upstream counts as stalled or, once it does, when the stream ends for it."""
        stall = self._policy.stall
        if stall is None:
            return None
        if self.stalled_since is None:
            return self.alive_at + stall.after
        return None if stall.close_after is None else self.stalled_since + stall.close_after

    def handle_timer(self, now: float, taken: int = 0) -> tuple[Command, ...]:
        """Do what is due at `now`. `taken`: how many bytes the client has taken in all, read by the
        caller while the stream is blocked; a client that takes any is slow, not stalled.
        """
        if self.state is State.DRAINING:
            if self._aborted or not self._write_timed_out(now, taken):
                return _NOTHING
            self._aborted = True
            return (Abort(),)
        if self._leave_at is not None and now >= self._leave_at:
            return self._close(self._leave_reason, now)
        if self.state is State.CONNECTING:
            return _NOTHING
        if self.blocked and self._write_timed_out(now, taken):
            return self._close(CloseReason.CLIENT_STALLED, now)
        commands: list[Command] = []
        if self._paused_at is None and self._upstream_due(now, commands):
            return tuple(commands)
        self._downstream_due(now, commands)
        return tuple(commands)

    def _write_timed_out(self, now: float, taken: int) -> bool:
        self._checked_at = now
        if taken > self._taken:
            self._taken = taken
            self._moved_at = now
        return now >= self._moved_at + self._policy.write_timeout

    def _upstream_due(self, now: float, commands: list[Command]) -> bool:
        """What upstream's silence asks for; true when the stream ends for it."""
        if self.state is State.FLOWING and now >= self.upstream_at + self._quiet:
            self._enter(State.IDLE)
        stall, stalls_at = self._policy.stall, self._stalls_at()
        if stall is None or stalls_at is None or now < stalls_at:
            return False
        if self.stalled_since is not None:
            commands.extend(self._close(CloseReason.STALLED, now))
            return True
        self.stalled_since = now
        self._enter(State.STALLED)
        commands.append(Stalled(now - self.alive_at))
        if stall.action is StallAction.NOTIFY:
            self.written_at = now  # the notice ends downstream's silence: no ping right behind it
        return False

    def _downstream_due(self, now: float, commands: list[Command]) -> None:
        """What the client's silence asks for: no ping behind bytes that still wait (law 3)."""
        if self._confirm_at is not None and now >= self._confirm_at:
            self._confirm_at = None
            self.written_at = now
            commands.append(Confirm())
        keepalive = self._policy.keepalive
        if keepalive and not self.blocked and now >= self.written_at + keepalive.interval:
            self.written_at = now
            commands.append(Ping(self._upstream_time(now) - self.upstream_at))
