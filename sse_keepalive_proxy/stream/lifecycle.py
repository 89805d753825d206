"""The life of one stream, from the request to the last byte.

The rules, each a law of `docs/reference/behaviour.md`:

- Three clocks that never stand for one another: `written_at` (a byte left for the client),
  `upstream_at` (upstream sent anything) with `alive_at` (upstream gave a sign of life that the
  policy counts), and `blocked_since` (bytes wait for the client).
- Downstream silence makes a ping. Upstream silence makes a stall. A ping never moves an upstream
  clock, so it cannot hide a dead upstream.
- While we have paused upstream ourselves its clocks stand still.
- The first reason to close is the only one.

The lifecycle holds no bytes, no socket and no timer. It is told what happened and when, and answers
with what is to be done; `next_deadline` says when it wants to be asked again. Deadlines are lazy:
moving `written_at` or `alive_at` re-arms nothing, the timer that fires too early finds out.
Times are seconds on one monotonic clock, handed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sse_keepalive_proxy.stream.policy import StreamPolicy

__all__ = [
    "TRANSITIONS",
    "Abort",
    "Blocked",
    "ClientGone",
    "Close",
    "CloseReason",
    "Command",
    "Commit",
    "Confirm",
    "DrainAt",
    "Event",
    "Fault",
    "Lifecycle",
    "Opened",
    "Paused",
    "Ping",
    "Recovered",
    "Resumed",
    "SilenceEnded",
    "Stalled",
    "State",
    "Unblocked",
    "UpstreamEnded",
]

_QUIET = 15.0
"""Seconds of upstream silence that count as idle where no keepalive interval says so."""


class State(StrEnum):
    """What operators see of a stream; the values are the labels of `streams_active`."""

    CONNECTING = "connecting"  # asked upstream, no answer yet
    WAITING = "waiting"  # upstream answered, and has sent nothing
    FLOWING = "flowing"  # upstream sent something within the last interval
    IDLE = "idle"  # it did not: normal
    STALLED = "stalled"  # no sign of life for `stall.after`
    DRAINING = "draining"  # ended; the last bytes are on their way to the client


class CloseReason(StrEnum):
    """Why a stream ended: one word for label, log, page and docs."""

    CLIENT_GONE = "client_gone"
    UPSTREAM_END = "upstream_end"
    UPSTREAM_RESET = "upstream_reset"
    STALLED = "stalled"
    CLIENT_STALLED = "client_stalled"
    EVENT_TOO_LARGE = "event_too_large"
    DRAIN = "drain"
    INTERNAL = "internal"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.CONNECTING: frozenset({State.WAITING, State.DRAINING}),
    State.WAITING: frozenset({State.FLOWING, State.STALLED, State.DRAINING}),
    State.FLOWING: frozenset({State.IDLE, State.STALLED, State.DRAINING}),
    State.IDLE: frozenset({State.FLOWING, State.STALLED, State.DRAINING}),
    State.STALLED: frozenset({State.FLOWING, State.DRAINING}),
    State.DRAINING: frozenset(),
}
"""Every change of state there is. The diagram in the docs is drawn from this table."""


# What happened. Upstream's blocks come through `Lifecycle.received`, on the way of every byte.


@dataclass(frozen=True, slots=True)
class Opened:
    """Upstream answered 2xx with an event stream: the client's response can begin. The confirm event,
    where there is one, gives upstream `confirm_wait` seconds to speak first.
    """

    confirm_wait: float = 0.0


@dataclass(frozen=True, slots=True)
class UpstreamEnded:
    """Upstream's body is over, or broke off: `reset`."""

    reset: bool = False


@dataclass(frozen=True, slots=True)
class ClientGone:
    """The client's connection is lost, or half-closed."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """The client's socket takes no more: bytes wait."""


@dataclass(frozen=True, slots=True)
class Unblocked:
    """Everything that waited has left."""


@dataclass(frozen=True, slots=True)
class Paused:
    """We stopped reading upstream."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """We read upstream again."""


@dataclass(frozen=True, slots=True)
class DrainAt:
    """The server ends; this stream is to be closed at `at`."""

    at: float


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that only `reason` can follow."""

    reason: CloseReason


Event = Opened | UpstreamEnded | ClientGone | Blocked | Unblocked | Paused | Resumed | DrainAt | Fault


# What is to be done.


@dataclass(frozen=True, slots=True)
class Commit:
    """Write the response head, and with it the first body byte: the confirm, or `:ok` before it."""

    confirm: bool


@dataclass(frozen=True, slots=True)
class Confirm:
    """Write the confirm event: upstream let its `wait` pass."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Write a ping. `idle_for`: seconds since upstream's last byte."""

    idle_for: float


@dataclass(frozen=True, slots=True)
class Stalled:
    """Upstream has given no sign of life for `silent_for` seconds. Count it, tell who wants to know."""

    silent_for: float


@dataclass(frozen=True, slots=True)
class Recovered:
    """A stalled upstream lives again, after `silent_for` seconds."""

    silent_for: float


@dataclass(frozen=True, slots=True)
class SilenceEnded:
    """Upstream sent something after `seconds`, a silence of at least one interval."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Close:
    """End the client's stream at this block boundary and let upstream go."""

    reason: CloseReason


@dataclass(frozen=True, slots=True)
class Abort:
    """The end itself was not taken in time: drop the client's connection."""


Command = Commit | Confirm | Ping | Stalled | Recovered | SilenceEnded | Close | Abort

_NOTHING: tuple[Command, ...] = ()


class Lifecycle:
    """One stream's states, clocks and deadlines. See the module for the rules."""

    __slots__ = (
        "_blocked_since",
        "_checked_at",
        "_close_at",
        "_confirm_at",
        "_drain_at",
        "_paused_at",
        "_policy",
        "_taken",
        "alive_at",
        "close_reason",
        "stalled_since",
        "state",
        "upstream_at",
        "written_at",
    )

    def __init__(self, policy: StreamPolicy, now: float) -> None:
        self._policy = policy
        self.state = State.CONNECTING
        self.written_at = self.upstream_at = self.alive_at = now
        self.stalled_since: float | None = None
        self.close_reason: CloseReason | None = None
        self._confirm_at: float | None = None
        self._drain_at: float | None = None
        self._close_at: float | None = None
        self._blocked_since: float | None = None
        self._checked_at = now
        self._taken = 0
        self._paused_at: float | None = None

    @property
    def blocked(self) -> bool:
        """Whether bytes wait for the client."""
        return self._blocked_since is not None

    def silent_for(self, now: float) -> float:
        """Seconds since upstream's last sign of life, not counting what we were paused."""
        return (self._paused_at or now) - self.alive_at

    # The way of every byte.

    def received(self, now: float, alive: bool) -> tuple[Command, ...]:
        """Upstream sent something; `alive` when it is a sign of life in the policy's sense."""
        silence = now - self.upstream_at
        self.upstream_at = now
        if self.state is State.FLOWING:
            if alive:
                self.alive_at = now
            return _NOTHING
        return self._woken(now, alive, silence)

    def _woken(self, now: float, alive: bool, silence: float) -> tuple[Command, ...]:
        self._confirm_at = None
        commands: list[Command] = []
        if silence >= self._quiet:
            commands.append(SilenceEnded(silence))
        if alive:
            if self.stalled_since is not None:
                commands.append(Recovered(now - self.alive_at))
                self.stalled_since = None
            self.alive_at = now
        if self.stalled_since is None:
            self._enter(State.FLOWING)
        return tuple(commands)

    # Control.

    def handle(self, event: Event, now: float) -> tuple[Command, ...]:
        """Take one event; return what is to be done, in order."""
        match event:
            case ClientGone():
                return self._close(CloseReason.CLIENT_GONE, now)
            case Blocked():
                self._blocked_since = self._checked_at = now
            case Unblocked():
                self._blocked_since = None
                self.written_at = now
            case _ if self.state is State.DRAINING:
                pass
            case Opened(confirm_wait=wait):
                return self._opened(wait, now)
            case UpstreamEnded(reset=reset):
                return self._close(CloseReason.UPSTREAM_RESET if reset else CloseReason.UPSTREAM_END, now)
            case Paused():
                self._paused_at = now
            case Resumed():
                self._resumed(now)
            case DrainAt(at=at):
                self._drain_at = max(at, now)
            case Fault(reason=reason):
                return self._close(reason, now)
        return _NOTHING

    def _opened(self, wait: float, now: float) -> tuple[Command, ...]:
        self._enter(State.WAITING)
        self.written_at = self.upstream_at = self.alive_at = now
        if wait:
            self._confirm_at = now + wait
        return (Commit(confirm=not wait),)

    def _resumed(self, now: float) -> None:
        if self._paused_at is None:
            return
        stood_still = now - self._paused_at
        self._paused_at = None
        self.alive_at += stood_still
        self.upstream_at += stood_still
        if self.stalled_since is not None:
            self.stalled_since += stood_still

    def _close(self, reason: CloseReason, now: float) -> tuple[Command, ...]:
        if self.close_reason is not None:
            return _NOTHING
        self.close_reason = reason
        self._enter(State.DRAINING)
        self._close_at = now + self._policy.write_timeout
        return (Close(reason),)

    def _enter(self, state: State) -> None:
        if state is not self.state:
            if state not in TRANSITIONS[self.state]:
                raise AssertionError(f"no way from {self.state} to {state}")
            self.state = state

    # Time.

    @property
    def _quiet(self) -> float:
        keepalive = self._policy.keepalive
        return keepalive.interval if keepalive else _QUIET

    def next_deadline(self) -> float | None:
        """When `handle_timer` wants to be called; None when nothing is waited for."""
        return min(self._deadlines(), default=None)

    def _deadlines(self) -> list[float]:
        policy = self._policy
        if self.state is State.DRAINING:
            return [self._close_at] if self._close_at is not None else []
        due = [at for at in (self._confirm_at, self._drain_at) if at is not None]
        if self.state is State.CONNECTING:
            return due
        if self._blocked_since is not None:
            # Progress is looked for four times within the limit, so a stalled client is found in time.
            due.append(
                min(self._blocked_since + policy.write_timeout, self._checked_at + policy.write_timeout / 4)
            )
        elif policy.keepalive:
            due.append(self.written_at + policy.keepalive.interval)
        if self._paused_at is None:
            if self.state is State.FLOWING:
                due.append(self.upstream_at + self._quiet)
            if (stalls_at := self._stalls_at()) is not None:
                due.append(stalls_at)
        return due

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
            if self._close_at is not None and now >= self._close_at:
                self._close_at = None
                return (Abort(),)
            return _NOTHING
        if self._drain_at is not None and now >= self._drain_at:
            return self._close(CloseReason.DRAIN, now)
        if self._write_timed_out(now, taken):
            return self._close(CloseReason.CLIENT_STALLED, now)
        if self.state is State.CONNECTING:
            return _NOTHING
        commands: list[Command] = []
        if self._paused_at is None and self._upstream_due(now, commands):
            return tuple(commands)
        self._downstream_due(now, commands)
        return tuple(commands)

    def _write_timed_out(self, now: float, taken: int) -> bool:
        if self._blocked_since is None:
            return False
        self._checked_at = now
        if taken > self._taken:
            self._taken = taken
            self._blocked_since = now
        return now >= self._blocked_since + self._policy.write_timeout

    def _upstream_due(self, now: float, commands: list[Command]) -> bool:
        """What upstream's silence asks for; true when the stream ends for it."""
        if self.state is State.FLOWING and now >= self.upstream_at + self._quiet:
            self._enter(State.IDLE)
        stalls_at = self._stalls_at()
        if stalls_at is None or now < stalls_at:
            return False
        if self.stalled_since is not None:
            commands.extend(self._close(CloseReason.STALLED, now))
            return True
        self.stalled_since = now
        self._enter(State.STALLED)
        commands.append(Stalled(now - self.alive_at))
        return False

    def _downstream_due(self, now: float, commands: list[Command]) -> None:
        """What the client's silence asks for: never behind bytes that still wait (law 3)."""
        if self._confirm_at is not None and now >= self._confirm_at:
            self._confirm_at = None
            self.written_at = now
            commands.append(Confirm())
        keepalive = self._policy.keepalive
        if keepalive and self._blocked_since is None and now >= self.written_at + keepalive.interval:
            self.written_at = now
            commands.append(Ping(now - self.upstream_at))
