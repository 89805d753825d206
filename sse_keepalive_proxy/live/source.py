"""Upstream's half of a stream: its answer, its clocks, and how it is opened again.

The lifecycle decides and the relay passes bytes on. This module passes events of upstream and of the timer to
the lifecycle, and executes its commands. A `Stream` adds the one client that the bytes are for, a `Group`
several. Deadlines are lazy: a byte does not change the timer.
"""

from __future__ import annotations

import random

from sse_keepalive_proxy.errors import ProxyError, UpstreamError
from sse_keepalive_proxy.http.attempts import Answer
from sse_keepalive_proxy.http.exchange import Body, Exchange
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.live import stream_log
from sse_keepalive_proxy.live.leave_notice import LeaveNotice
from sse_keepalive_proxy.live.reconnect import Reconnection
from sse_keepalive_proxy.live.relay import Relay
from sse_keepalive_proxy.live.route import StreamRoute
from sse_keepalive_proxy.stream import messages
from sse_keepalive_proxy.stream.late_error import LateStatus
from sse_keepalive_proxy.stream.lifecycle import Lifecycle
from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.replay_log import GapReason
from sse_keepalive_proxy.stream.states import ReconnectResult, State

__all__ = ["Source"]

_NOT_TO_BE_WRITTEN = frozenset(
    {
        CloseReason.CLIENT_GONE,
        CloseReason.CLIENT_STALLED,
        CloseReason.UNAUTHORIZED,
        CloseReason.INTERNAL,
    }
)
"""Ends after which a client gets no messages of NATS that still wait for upstream."""

_LATE = frozenset(
    {
        CloseReason.UPSTREAM_RESET,
        CloseReason.UPSTREAM_REFUSED,
        CloseReason.UPSTREAM_STATUS,
        CloseReason.UNAUTHORIZED,
        CloseReason.GIVE_UP,
    }
)
"""Ends that an answer of upstream causes, which comes too late to be the status of the client's response."""


class Source:
    """The part of a stream that upstream moves. It ends with exactly one `close_reason`.

    `reconnection` can ask upstream again; it is None if this is not allowed. `target` is redacted. `flow` is
    what upstream's bytes pass through. `notice` is published when its clients have gone.
    """

    flow: Relay

    __slots__ = (
        "_events_before", "_exchange", "_late", "_paused", "_reconnection", "_wakes_at", "client", "flow",
        "life", "notice", "opened_at", "reconnects", "route", "route_name", "stalls", "stream_id", "target",
    )  # fmt: skip

    def __init__(
        self,
        route: StreamRoute,
        *,
        stream_id: str,
        client: str,
        target: str,
        reconnection: Reconnection | None,
    ) -> None:
        self.route, self.route_name = route, route.name
        self.stream_id, self.client, self.target = stream_id, client, target
        self.opened_at = self.route.now()
        self.life = Lifecycle(route.policy, self.opened_at, random.random)
        self._reconnection = reconnection
        self.notice: LeaveNotice | None = None
        self._exchange: Body | None = None
        self._late: LateStatus | None = None
        self._wakes_at: float | None = None
        self._paused = False
        self._events_before = self.stalls = self.reconnects = 0

    # What a stream or a group adds.

    def _tell(self, command: messages.ForClients) -> None:
        """Execute a command that concerns clients."""
        raise NotImplementedError

    def _accepted(self) -> None:
        """Handle that upstream has accepted a request that was made for a client without upstream."""
        raise NotImplementedError

    def _end(self, reason: CloseReason, late: LateStatus | None) -> None:
        """End for the clients, after upstream has been let go. `late`: the answer that caused the end."""
        raise NotImplementedError

    def _due(self) -> float | None:
        """Return the time of the next deadline, or None."""
        raise NotImplementedError

    def _handle_timer(self, now: float) -> None:
        """Handle that a deadline may have come."""
        raise NotImplementedError

    def missed(self, gap: GapReason) -> None:
        """Tell the client that events since its last id cannot be sent again."""
        raise NotImplementedError

    def let_go(self, exchange: Exchange) -> None:
        """Take `exchange`, which lives on without this stream, to be closed or held as the policy says."""
        raise NotImplementedError

    def apply_backpressure(self) -> None:
        """Note the bytes that are held, and limit them."""
        raise NotImplementedError

    def has_room(self, size: int) -> bool:  # noqa: ARG002 (only a stream with a client of its own needs it)
        """Return whether `size` bytes that cannot be paused may be added to those that wait for a client."""
        return True

    # Events of upstream.

    def _open(self, exchange: Body, *, resumed: bool = False, gap: GapReason | None = None) -> None:
        """Relay the body of `exchange` from now on."""
        self._exchange, self._events_before = exchange, self.flow.events
        self._do(self.life.handle(messages.Opened(self.route.confirm_wait, resumed), self.route.now()))
        if gap is not None:
            self.missed(gap)
        exchange.attach(self.flow, paused=self._paused)
        self.flow.flush()
        self._arm()

    def upstream_ended(self) -> None:
        """Handle the end of upstream's body."""
        asking, reconnection = self._asking, self._reconnection
        if reconnection is not None and not asking:
            events = self.flow.events - self._events_before
            lived = self.route.now() - (self.life.opened_at or 0.0)
            self.life.reopens = self.life.reopens and reconnection.may_have_more(events, lived)
        if not self.life.reopens:
            self.flow.release()  # the stream ends with its last block, whole or not
        events = self.flow.events - self._events_before
        if events == 1 and not asking:
            self.route.metrics.upstream_eof_after_first_event += 1
        elif not events and not self.flow.opaque:
            self.route.metrics.upstream_eof_without_event += 1
        self._lost(CloseReason.UPSTREAM_END)

    def upstream_failed(self, error: ProxyError) -> None:
        """Handle that upstream's body broke off."""
        if isinstance(error, UpstreamError) and not self._asking:
            self.route.metrics.upstream_error(error)
        self._lost(CloseReason.UPSTREAM_RESET)

    @property
    def _asking(self) -> bool:
        """Whether upstream is asked for another stream. A server with one place for each user ends the old
        one for it.
        """
        return self._reconnection is not None and self._reconnection.busy

    def not_an_event_stream(self) -> None:
        """Handle that upstream's body does not begin like an event stream."""
        stream_log.not_an_event_stream(self)

    def _lost(self, reason: CloseReason) -> None:
        self._exchange = self._late = None  # an answer to an earlier attempt did not cause this
        self._handle(messages.UpstreamLost(reason, self.life.retry))
        if self.life.state is State.RECONNECTING:
            stream_log.lost(self, CloseReason.STALLED if self._asking else reason)
            self.flow.start_over()
            if reason is CloseReason.UPSTREAM_RESET:  # a clean end is no outage
                self._expect_upstream()

    def _expect_upstream(self) -> None:
        """Be hastened when upstream is back (behaviour.md#an-upstream-is-back)."""
        if self._reconnection is not None and self.life.state is State.RECONNECTING:
            self._reconnection.expect(self)

    def hasten(self, within: float) -> None:
        """Ask upstream again within so many seconds: it is back."""
        try:
            self._handle(messages.Hasten(within))
        except Exception as error:  # noqa: BLE001 (it is logged)
            self.fail(error)

    @property
    def opened(self) -> bool:
        """Whether upstream has answered with a stream."""
        return self.life.opened_at is not None

    def reopened(self, answer: Answer) -> None:
        """Handle a stream from upstream after an early commit or a reconnection."""
        again = self.life.state is not State.CONNECTING
        try:
            if self._exchange is not None:  # stalled, and replaced now
                self._exchange.close()
                self.flow.start_over()
            self._exchange, self._late = answer.exchange, None
            self._accepted()
            if again:
                self.reconnects += 1
                self.route.metrics.upstream_reconnects[ReconnectResult.REOPENED] += 1
            resumed = again and self._reconnection is not None and self._reconnection.resumes
            self._open(answer.body, resumed=resumed, gap=answer.gap)
        except Exception as error:  # noqa: BLE001 (it is logged)
            self.fail(error)

    def not_reopened(
        self, failed: messages.NotOpened, late: LateStatus, cause: UpstreamError | ResponseHead
    ) -> None:
        """Handle an error of upstream, or an answer without a stream."""
        stream_log.not_reopened(self, cause, late[1], repeated=late == self._late)
        self._late = late
        again = self.life.state is not State.CONNECTING
        self._handle(failed)
        if again:
            result = ReconnectResult.FAILED if self.life.close_reason is None else ReconnectResult.ENDED
            self.route.metrics.upstream_reconnects[result] += 1
        self._expect_upstream()

    # Commands of the lifecycle.

    def _handle(self, event: messages.Event) -> None:
        self.execute(self.life.handle(event, self.route.now()))

    def execute(self, commands: tuple[messages.Command, ...]) -> None:
        """Execute commands of the lifecycle, then set the timer to its next deadline."""
        self._do(commands)
        self._arm()

    def _do(self, commands: tuple[messages.Command, ...]) -> None:
        for command in commands:
            match command:
                case messages.Commit() | messages.Ping():  # the frequent ones
                    self._tell(command)
                case messages.Reopen():
                    self._reopen()
                case messages.Abandon():
                    self._abandon()
                case messages.Release():
                    self.flow.release()
                case messages.Announce(gap=gap):
                    stream_log.recovered(self, command)
                    bridge = self.flow.bridge
                    if bridge is None or not bridge.covers(gap):
                        self._tell(command)
                case messages.Stalled(silent_for=silent_for):
                    self.stalls += 1
                    stream_log.stalled(self, silent_for)
                    self._tell(command)
                case messages.Recovered(silent_for=silent_for):
                    self.route.metrics.recovered(silent_for)
                case messages.SilenceEnded(seconds=seconds):
                    self.route.metrics.upstream_silence_seconds.observe(seconds)
                case messages.Close(reason=reason):
                    self._close(reason)
                case _:
                    self._tell(command)

    def _reopen(self) -> None:
        """Ask upstream again."""
        if self._reconnection is not None:
            self._reconnection.start(self)

    def _abandon(self) -> None:
        """End the attempt to replace upstream's stream."""
        if self._reconnection is not None:
            self._reconnection.cancel()

    def fail(self, error: BaseException) -> None:
        """End this stream, and no other, after an unexpected exception."""
        stream_log.failed(self, error)
        self._handle(messages.Fault(CloseReason.INTERNAL))

    def _close(self, reason: CloseReason) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.part(self.let_go)
        if self.flow.bridge is not None:
            if reason not in _NOT_TO_BE_WRITTEN:
                self.flow.bridge.finish()
            self.flow.bridge.close()  # after the notice, which may be the last thing that it publishes
        if self._reconnection is not None and self._reconnection.cancel() and reason is CloseReason.GIVE_UP:
            self.route.metrics.upstream_reconnects[ReconnectResult.ENDED] += 1
        self._end(reason, self._late if reason in _LATE and exchange is None else None)

    def _arm(self) -> None:
        """Schedule `wake` at the next deadline. An earlier one stays: `wake` then schedules again."""
        timers, due = self.route.timers, self._due()
        if self._wakes_at is not None:
            if due is not None and self._wakes_at <= due:
                return
            timers.cancel(self, self._wakes_at)
        self._wakes_at = due
        if due is not None:
            timers.schedule(self, due)

    def wake(self) -> None:
        """Handle the deadline."""
        now, self._wakes_at = max(self.route.now(), self._wakes_at or 0.0), None
        try:
            self._handle_timer(now)
        except Exception as error:  # noqa: BLE001 (it is logged)
            self.fail(error)
