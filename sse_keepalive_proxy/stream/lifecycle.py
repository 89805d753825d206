"""The life of one stream, from the request to the last byte.

It follows the rules of `docs/reference/behaviour.md`:

- There are three clocks: `written_at` (a byte was sent to the client), `upstream_at` (upstream sent
  anything) with `alive_at` (upstream gave a sign of life), and `moved_at` (the client took waiting bytes).
- Downstream silence causes a ping. Upstream silence causes a stall. A ping or a reconnect moves no
  upstream clock, so it cannot hide a dead upstream (behaviour.md#pings-never-pretend).
- After the last event of its protocol, upstream is finished: no ping follows, and it cannot stall.
- With `sign_of_life: bridge`, only silence after a message that upstream has not delivered is a stall.
- The upstream clocks stop while the proxy has paused upstream.
- A block that stays unfinished for a second is forwarded as far as it has come, unless upstream may be opened
  again (behaviour.md#unfinished-blocks).
- A lost upstream is opened again if `reopens` allows it. The waits grow until upstream gives a sign of life.
- A stalled upstream that is to be replaced keeps its stream until a new one is accepted. Only then is the old
  one closed; a sign of life or bytes of a block from it end the attempt
  (behaviour.md#a-reopening-kills-no-living-stream).
- A stream has one close reason, the first. After it the client has `write_timeout` to accept waiting bytes.

The lifecycle holds no bytes, no socket and no timer. It takes events with their times and returns commands.
`next_deadline` says when to call `handle_timer`. Deadlines are lazy: moving `written_at` or `alive_at` does
not set the timer again; a timer that fires too early computes the next deadline. Times are in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Final

from sse_keepalive_proxy.stream import messages
from sse_keepalive_proxy.stream.backoff import Outage
from sse_keepalive_proxy.stream.messages import CloseReason, Command
from sse_keepalive_proxy.stream.policy import (
    KeepaliveForm,
    Reconnect,
    SignOfLife,
    Stall,
    StallAction,
    StreamPolicy,
)
from sse_keepalive_proxy.stream.states import TRANSITIONS, State

__all__ = ["Lifecycle"]

_QUIET = 15.0
"""Seconds of upstream silence until `idle`, if keepalive is off."""

_UNFINISHED, _LOOK = 1.0, 1 / 16  # seconds: the longest wait for the end of a block, and between two looks
_NOTHING: tuple[Command, ...] = ()
_FLOWING: Final = State.FLOWING  # a member lookup in the enum is slow


class Lifecycle:
    """The states, clocks and deadlines of one stream. The module docstring has the rules.

    `in_block`: a part of a block was forwarded, so only a ping may follow, and only after a pause of
    upstream. `shared`: upstream's stream is that of a group, whose own lifecycle looks after it. `reopens`:
    whether a lost upstream may be opened again. `retry`: the seconds that upstream demands before that.
    `draw` returns uniform random numbers from 0 to 1.
    """

    __slots__ = (
        "_aborted", "_block_at", "_checked_at", "_committed", "_confirmed", "_draw", "_held_since",
        "_kept_until", "_leave_at", "_leave_by", "_leave_reason", "_missed_at", "_moved_at", "_outage",
        "_paused_at", "_policy", "_quiet", "_replacing", "_taken", "alive_at", "blocked", "close_reason",
        "confirm_at", "finished_at", "in_block", "opened_at", "reopens", "retry", "shared", "stalled_since",
        "state", "upstream_at", "written_at",
    )  # fmt: skip

    def __init__(self, policy: StreamPolicy, now: float, draw: Callable[[], float] = lambda: 0.5) -> None:
        self._policy = policy
        self._draw = draw
        self._quiet = policy.keepalive.interval if policy.keepalive else _QUIET
        self.state = State.CONNECTING
        self.reopens, self.retry = False, 0.0
        self.written_at = self.upstream_at = self.alive_at = now
        self.stalled_since: float | None = None
        self.close_reason: CloseReason | None = None
        self.blocked = False  # whether bytes wait for the client
        self._committed = self._confirmed = self._aborted = False
        self._moved_at, self._checked_at, self._taken = now, now, 0
        self.opened_at: float | None = None  # upstream's latest answer with a stream
        self.confirm_at: float | None = None
        self._held_since: float | None = None
        self._block_at: float | None = None  # the latest bytes of an unfinished block
        self.in_block = False
        self._leave_at: float | None = None
        self._leave_by: float | None = None  # the end comes then, even inside a block
        self._leave_reason = CloseReason.DRAIN
        self.finished_at: float | None = None  # upstream's last event; its end should follow
        self._missed_at: float | None = None  # the latest message of NATS that upstream has not delivered
        self._paused_at: float | None = None
        self._outage: Outage | None = None
        self._kept_until: float | None = None
        self.shared = False
        self._replacing = False  # upstream is asked for a new stream while its stalled one is kept

    @property
    def stuck_since(self) -> float | None:
        """The time of the client's last known progress while bytes wait for it, or None."""
        return self._moved_at if self.blocked else None

    def silent_for(self, now: float) -> float:
        """Return the seconds since upstream's last sign of life, without pauses."""
        return self._upstream_time(now) - self.alive_at

    def _upstream_time(self, now: float) -> float:
        """Return the time of the upstream clock, which stops during a pause, even if bytes arrive."""
        return now if self._paused_at is None else self._paused_at

    # Called for every read.

    def received(self, now: float, alive: bool) -> tuple[Command, ...] | None:
        """Note bytes from upstream; `alive`: a sign of life. None if no state and no deadline changed."""
        if self.state is _FLOWING and self._paused_at is None and now - self.upstream_at < self._quiet:
            self.upstream_at = now
            if alive:
                self.alive_at = now
            return None
        return self._woken(now, alive)

    def _woken(self, now: float, alive: bool) -> tuple[Command, ...]:
        """Do the same when the state may change or a silence ends."""
        if self.state is State.DRAINING:
            return _NOTHING
        self.confirm_at = self._block_at = None
        commands: list[Command] = []
        upstream_now = self._upstream_time(now)
        silence = upstream_now - self.upstream_at
        if silence >= self._quiet and not self.shared:
            commands.append(messages.SilenceEnded(silence))
        if alive:
            if self.stalled_since is not None:
                commands.append(messages.Recovered(upstream_now - self.alive_at))
                self.stalled_since = None
            self.alive_at = upstream_now
        if alive or not self.reopens:
            commands += self._keep()
        self.upstream_at = upstream_now
        if self.stalled_since is None and self.state is not State.FLOWING:
            self._enter(State.FLOWING)
        return tuple(commands)

    def hold(self, now: float, *, begun: bool, comment: bool = False) -> tuple[Command, ...] | None:
        """Note bytes of a block, or of a `comment` before it, that wait for their end. `begun`: it has begun
        just now. None if no state changed and no deadline may be earlier now.
        """
        first, upstream_now = self._held_since is None, self._upstream_time(now)
        if not comment:
            self._block_at = upstream_now
        if self.reopens:
            self._held_since = None
            return self._keep() if self._replacing and not comment else None
        if first or begun:
            self._held_since = upstream_now
        return _NOTHING if first else None

    # Control.

    def handle(self, event: messages.Event, now: float) -> tuple[Command, ...]:
        """Take one event. Return the commands, in order."""
        match event:
            case messages.ClientGone():
                return self._close(CloseReason.CLIENT_GONE, now)
            case messages.Blocked(taken=taken):
                self._blocked(now, taken)
            case messages.Unblocked():
                self._unblocked(now)
            case _ if self.state is State.DRAINING:
                pass
            case messages.CommitEarly(confirm=confirm):
                self._confirmed = confirm
                return self._commit(now, confirm=confirm)
            case messages.Opened(confirm_wait=wait, resumed=resumed):
                return self._opened(wait, resumed, now)
            case messages.NotOpened():
                return self._not_opened(event, now)
            case messages.UpstreamLost(reason=reason, at_least=at_least):
                return self._lost(reason, at_least, now)
            case messages.Hasten(within=within):
                if self.state is State.RECONNECTING and self._paused_at is None and self._outage is not None:
                    self._outage.hasten(within, now)
            case messages.Missed():
                self._missed_at = self._upstream_time(now)
            case messages.Finished(finished=finished):
                self.finished_at = self._upstream_time(now) if finished else None
            case messages.Paused():
                if self._paused_at is None and self.state is not State.RECONNECTING:
                    self._paused_at = now
                    return self._keep()
            case messages.Resumed():
                self._resumed(now)
            case messages.Replaced(asked_at=asked_at, resumed=resumed):
                return self._replaced(asked_at, resumed, now)
            case messages.KeepUntil(at=at):
                self._kept_until = at
            case messages.LeaveAt(at=at, reason=reason):
                self._leave(max(at, now), reason)
            case messages.Fault(reason=reason):
                return self._close(reason, now)
        return _NOTHING

    def _commit(self, now: float, *, confirm: bool) -> tuple[Command, ...]:
        self._committed = True
        self.written_at = now
        return (messages.Commit(confirm),)

    def _opened(self, wait: float, resumed: bool, now: float) -> tuple[Command, ...]:
        again, outage = self.opened_at is not None, self._outage
        self._enter(State.WAITING if self.stalled_since is None else State.STALLED)
        self.opened_at, self._replacing = self._upstream_time(now), False
        if outage is None:
            self.upstream_at = self.alive_at = self.opened_at
        if again and outage is not None:
            return (messages.Announce(outage.reason, now - outage.began_at, resumed),)
        if self._confirmed:
            return _NOTHING
        if wait:
            self.confirm_at = now + wait
        if self._committed:
            return _NOTHING if wait else (messages.Confirm(),)
        return self._commit(now, confirm=not wait)

    def _replaced(self, asked_at: float, resumed: bool, now: float) -> tuple[Command, ...]:
        """Upstream has accepted another client's request, sent at `asked_at`, for the same stream. A server
        with one place for each user ends the old stream for it: that is no gap.
        """
        outage = self._outage
        if outage is not None and (self._replacing or self.state is State.RECONNECTING):
            if outage.reason is not CloseReason.UPSTREAM_END or outage.began_at < asked_at:
                return self._opened(0.0, resumed, now)
            self._enter(State.WAITING if self.stalled_since is None else State.STALLED)
        self.opened_at, self.finished_at = self._upstream_time(now), None
        return _NOTHING

    def _lost(self, reason: CloseReason, at_least: float, now: float) -> tuple[Command, ...]:
        """Upstream is lost: schedule a reconnect, or end the stream with `reason`."""
        if not self.reopens or self._policy.reconnect is None or self.finished_at is not None:
            return self._close(reason, now)
        outage, replacing, self._replacing = self._outage, self._replacing, False
        self._enter(State.RECONNECTING)
        if replacing and outage is not None and outage.reopens_at is None:
            outage.go_on(now)  # the attempt is under way, and may be the reason for the loss
            return _NOTHING
        return self._ask_again(self._begin_outage(self._policy.reconnect, reason, now), at_least, now)

    def _begin_outage(self, policy: Reconnect, reason: CloseReason, now: float) -> Outage:
        outage = self._outage = self._outage or Outage(policy, self._draw)
        outage.begin(reason, self.alive_at, now)
        return outage

    def _not_opened(self, failed: messages.NotOpened, now: float) -> tuple[Command, ...]:
        if self._replacing and self._outage is not None:
            patience = 0.0 if failed.again or self._policy.stall is None else self._policy.stall.after
            self._outage.ask_again(max(failed.at_least, patience), now)
            return _NOTHING
        if not failed.again:
            return self._refused(failed.reason, now)
        if self.state is State.RECONNECTING and self._outage is not None:
            return self._ask_again(self._outage, failed.at_least, now)
        return self._lost(failed.reason, failed.at_least, now)

    def _refused(self, reason: CloseReason, now: float) -> tuple[Command, ...]:
        """Upstream has refused for good: end with `reason`, or keep the client without upstream."""
        kept = reason is CloseReason.UNAUTHORIZED and self.opened_at is not None
        if not kept or self._kept_until is None or self._outage is None:
            return self._close(reason, now)
        self._outage.rest()
        self._leave(max(self._kept_until, now), reason)
        return _NOTHING

    def _keep(self) -> tuple[Command, ...]:
        """Keep upstream's stream: it is not replaced now."""
        if not self._replacing:
            return _NOTHING
        self._replacing = False
        return (messages.Abandon(),)

    def _ask_again(self, outage: Outage, at_least: float, now: float) -> tuple[Command, ...]:
        return _NOTHING if outage.ask_again(at_least, now) else self._close(CloseReason.GIVE_UP, now)

    def _leave(self, at: float, reason: CloseReason) -> None:
        if self._leave_at is None or (at < self._leave_at and self._leave_by is None):
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
        if self.opened_at is not None:
            self.opened_at += stood_still
        if self._outage is not None:
            self._outage.stood_still(stood_still, now)
        if self.stalled_since is not None:
            self.stalled_since += stood_still
        if self._missed_at is not None:
            self._missed_at += stood_still
        if self._block_at is not None:
            self._block_at += stood_still
        if self._held_since is not None:
            self._held_since += stood_still
        if self.finished_at is not None:
            self.finished_at += stood_still

    def _close(self, reason: CloseReason, now: float) -> tuple[Command, ...]:
        if self.close_reason is not None:
            return _NOTHING
        self.close_reason, self._replacing = reason, False
        self._enter(State.DRAINING)
        self._moved_at = self._checked_at = now
        return (messages.Close(reason),)

    def _enter(self, state: State) -> None:
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"no way from {self.state} to {state}")
        self.state = state

    # Time.

    def next_deadline(self) -> float | None:
        """Return the time to call `handle_timer`, or None."""
        at = min(self._deadlines(), default=None)
        return None if at == inf else at

    def _deadlines(self) -> list[float]:
        if self.state is State.DRAINING:
            return [] if self._aborted else [self._looks_at_client()]
        due = [at for at in (self.confirm_at, self._leave_at) if at is not None]
        if not self._committed:
            return due
        if self.blocked:
            due.append(self._looks_at_client())
        elif (keepalive := self._policy.keepalive) and self.finished_at is None:
            due.append(self.written_at + keepalive.interval)
        if self._paused_at is None:
            if self.state is State.FLOWING:
                due.append(self.upstream_at + self._quiet)
            if self._held_since is not None:
                due.append(self._held_since + _UNFINISHED)
            due += [at for at in (self._stalls_at(), self._replaces_at()) if at is not None]
            if self.state is State.RECONNECTING and (outage := self._outage) is not None:
                due.append(outage.due_at)
        return due

    def _looks_at_client(self) -> float:
        """Return the time to check the client's progress: four checks within `write_timeout`."""
        limit = self._policy.write_timeout
        return min(self._moved_at + limit, self._checked_at + limit / 4)

    def _stalls_at(self) -> float | None:
        """Return the time when upstream counts as stalled or, if it is stalled or finished, when the stream
        ends.
        """
        stall = self._policy.stall
        if stall is None or self.shared or self.state is State.CONNECTING:
            return None
        over_since = self.stalled_since if self.finished_at is None else self.finished_at
        if over_since is None:
            return self.alive_at + stall.after if self._may_be_broken(stall) else None
        return None if stall.close_after is None else over_since + stall.close_after

    def _may_be_broken(self, stall: Stall) -> bool:
        """Return whether upstream's silence may be a fault, and not that of a quiet chat."""
        missed = (self._missed_at or 0.0) > max(self.alive_at, self.opened_at or 0.0)
        return missed or stall.sign_of_life is not SignOfLife.BRIDGE

    def _replaces_at(self) -> float | None:
        """Return the time to ask for a new stream in the place of a stalled one, which first gets
        `stall.after` for a sign of life, also after bytes of an unfinished block. None during an attempt, or
        if there is to be none.
        """
        stall = self._policy.stall
        if stall is None or stall.action is not StallAction.RECONNECT or self._policy.reconnect is None:
            return None
        if self.stalled_since is None or self.opened_at is None or self.finished_at is not None:
            return None
        if self.state is not State.STALLED or not self.reopens:
            return None
        if self._replacing and self._outage is not None:
            return self._outage.reopens_at
        if not self._may_be_broken(stall):
            return None
        spoke_at = self.opened_at if self._block_at is None else max(self.opened_at, self._block_at)
        return max(self.stalled_since, spoke_at + stall.after)

    def handle_timer(self, now: float, taken: int = 0, *, unfinished: bool = False) -> tuple[Command, ...]:
        """Return the commands that are due at `now`. `unfinished`: upstream is inside a block.

        `taken`: the bytes that a blocked client has accepted. A client that accepts any is not stalled.
        """
        if self.state is State.DRAINING:
            if self._aborted or not self._write_timed_out(now, taken):
                return _NOTHING
            self._aborted = True
            return (messages.Abort(),)
        if not unfinished:
            self._block_at = None
        if self._leave_at is not None and now >= self._leave_at:
            self._leave_by = self._leave_by or now + _UNFINISHED
            if not unfinished or now >= self._leave_by:
                return self._close(self._leave_reason, now)
            self._leave_at = now + _LOOK
        if not self._committed:
            return _NOTHING
        if self.blocked and self._write_timed_out(now, taken):
            return self._close(CloseReason.CLIENT_STALLED, now)
        commands: list[Command] = []
        self._upstream_due(now, commands)
        self._downstream_due(now, commands)
        self._block_due(now, unfinished, commands)  # behind a ping, which would not fit into the block
        return tuple(commands)

    def _write_timed_out(self, now: float, taken: int) -> bool:
        self._checked_at = now
        if taken > self._taken:
            self._taken = taken
            self._moved_at = now
        return now >= self._moved_at + self._policy.write_timeout

    def _upstream_due(self, now: float, commands: list[Command]) -> None:
        """Add the commands for a silent or lost upstream."""
        if self._paused_at is not None:
            return
        if self.state is State.FLOWING and now >= self.upstream_at + self._quiet:
            self._enter(State.IDLE)
        stalls_at = self._stalls_at()
        if stalls_at is not None and now >= stalls_at:
            if self.stalled_since is not None or self.finished_at is not None:
                commands.extend(self._close(CloseReason.STALLED, now))
                return
            self._stall(now, commands)
        replaces_at, policy = self._replaces_at(), self._policy.reconnect
        if replaces_at is not None and now >= replaces_at and policy is not None and not self._replacing:
            self._replacing = True
            self._begin_outage(policy, CloseReason.STALLED, now).ask_again(self.retry, now)
        outage = self._outage
        if outage is None or not (self._replacing or self.state is State.RECONNECTING):
            return
        if self.state is State.RECONNECTING and now >= outage.gives_up_at:
            commands.extend(self._close(CloseReason.GIVE_UP, now))
        elif self.reopens and outage.reopens_at is not None and now >= outage.reopens_at:
            outage.reopens_at = None
            commands.append(messages.Reopen())

    def _stall(self, now: float, commands: list[Command]) -> None:
        self.stalled_since = now
        if self.state is not State.RECONNECTING:
            self._enter(State.STALLED)
        commands.append(messages.Stalled(now - self.alive_at))
        stall, keepalive = self._policy.stall, self._policy.keepalive
        if stall is None or stall.action is not StallAction.NOTIFY or self.in_block:
            return
        if keepalive is not None and keepalive.form is KeepaliveForm.COMMENT:
            self.written_at = now  # the notice ends the downstream silence: no ping follows at once

    def _block_due(self, now: float, unfinished: bool, commands: list[Command]) -> None:
        """Add the command for a block that stays unfinished, if upstream will not be opened again.

        A stream that is about to end keeps it back: its last frames need a block boundary.
        """
        if self._held_since is None or self._paused_at is not None or self.close_reason is not None:
            return
        if not unfinished or self.reopens or self._leave_by is not None:
            self._held_since = None
        elif now >= self._held_since + _UNFINISHED:
            self._held_since = None
            commands.append(messages.Release())

    def _downstream_due(self, now: float, commands: list[Command]) -> None:
        """Add confirm or ping when due. No ping while bytes wait (behaviour.md#downstream-silence)."""
        if self.close_reason is not None:
            return
        if self.confirm_at is not None and now >= self.confirm_at:
            self.confirm_at = None
            self.written_at = now
            commands.append(messages.Confirm())
        keepalive = self._policy.keepalive
        if self.finished_at is not None:
            return
        if keepalive and not self.blocked and now >= self.written_at + keepalive.interval:
            self.written_at = now
            # A long interval is a pause, too. The clock of upstream may have stopped meanwhile.
            paused_for = max(now - self.upstream_at, keepalive.interval)
            if not self.in_block or paused_for >= _UNFINISHED:
                commands.append(messages.Ping(self._upstream_time(now) - self.upstream_at))
