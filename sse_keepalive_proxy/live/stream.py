"""One stream, from its request to its last byte.

The lifecycle decides and the relay passes bytes on. This module passes events of the client, of upstream and
of the timer to the lifecycle, and executes its commands. Deadlines are lazy: a byte does not change the
timer.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

from sse_keepalive_proxy.errors import ProxyError, UpstreamError
from sse_keepalive_proxy.http.attempts import Answer
from sse_keepalive_proxy.http.exchange import Body, Exchange
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.live import stream_log
from sse_keepalive_proxy.live.downstream import Downstream, TakeOver
from sse_keepalive_proxy.live.early_commit import EarlyCommit
from sse_keepalive_proxy.live.held import part
from sse_keepalive_proxy.live.reconnect import Reconnection
from sse_keepalive_proxy.live.relay import Relay
from sse_keepalive_proxy.live.route import StreamRoute
from sse_keepalive_proxy.observe.line import now_rfc3339
from sse_keepalive_proxy.stream import messages
from sse_keepalive_proxy.stream.late_error import LateStatus
from sse_keepalive_proxy.stream.lifecycle import Lifecycle
from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import ConfirmForm, Family, KeepaliveForm, StallAction, Terminator
from sse_keepalive_proxy.stream.states import ReconnectResult, State

__all__ = ["Stream"]

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


class Stream:
    """A stream ends with exactly one `close_reason`, or with none if it never began.

    It is made before upstream is asked (state `connecting`), so that limits and metrics include it. `begin`
    takes the client's connection over. `commit` or `commit_early` writes the response head. `reconnection`
    can ask upstream again; it is None if this is not allowed. `claims` are for a confirm not yet sent.
    `request_id` is that of a JSON-RPC request.
    """

    __slots__ = (
        "_early", "_events_before", "_exchange", "_head", "_late", "_paused", "_reconnection",
        "_wakes_at", "claims", "client", "down", "flow", "life", "opened_at", "pings", "reconnects",
        "request_id", "route", "route_name", "stalls", "stream_id", "target",
    )  # fmt: skip

    def __init__(
        self,
        route: StreamRoute,
        *,
        stream_id: str,
        client: str,
        target: str,
        reconnection: Reconnection | None = None,
    ) -> None:
        self.route, self.route_name = route, route.name
        self.stream_id, self.client, self.target = stream_id, client, target
        self.opened_at = self.route.now()
        self.life = Lifecycle(route.policy, self.opened_at, random.random)
        self.flow = Relay(self, route, self.life, reconnection)
        self.down: Downstream | None = None  # None: no client is connected
        self._reconnection = reconnection
        self._exchange: Body | None = None
        self._head = b""  # the response head until it is written
        self._early: EarlyCommit | None = None  # until upstream has answered
        self._late: LateStatus | None = None
        self.claims: Mapping[str, Any] | None = None
        self.request_id: str | int | None = None
        self._wakes_at: float | None = None
        self._paused = False
        self._events_before = self.pings = self.stalls = self.reconnects = 0

    @property
    def family(self) -> Family:
        """The family of the client."""
        return self.route.family

    @property
    def comes_back(self) -> bool:
        """Whether the client opens its stream again after an end."""
        return self.route.gets.comes_back

    # The beginning.

    def begin(self, take_over: TakeOver, *, chunked: bool) -> bool:
        """Take the client's connection over. Return False if the client has left or this fails. `chunked`:
        whether the body needs chunked coding.
        """
        policy = self.route.policy
        try:
            self.down = Downstream(self, take_over, chunked=chunked, write_timeout=policy.write_timeout)
        except Exception as error:  # noqa: BLE001 (it is logged)
            self.route.metrics.streams_opened[self.family] += 1
            self.route.metrics.confirm_failures += 1
            self.client_lost(None) if isinstance(error, ConnectionError) else self.fail(error)
            return False
        self.flow.down = self.down
        if self.down.waiting:  # bytes of an earlier answer, which this protocol got no call for
            self.client_blocked()
        if policy.max_age is not None:
            age = policy.max_age * (1 - 0.2 * random.random())  # noqa: S311 (spreads clients)
            self.leave(self.opened_at + age, CloseReason.MAX_AGE)
        return True

    def commit(self, head: bytes, exchange: Body) -> None:
        """Write `head` and the confirm, then relay the body of `exchange`."""
        self._head = head
        try:
            self._open(exchange)
        except Exception as error:  # noqa: BLE001 (it is logged)
            self.fail(error)

    def commit_early(self, head: bytes, opening: asyncio.Task[Answer], early: EarlyCommit) -> None:
        """Write `head` before `opening` is done."""
        self._head, self._early = head, early
        self._handle(messages.CommitEarly())
        self.flow.flush()
        if self._reconnection is not None:
            self._reconnection.await_answer(opening, self)

    def _open(self, exchange: Body, *, resumed: bool = False) -> None:
        """Relay the body of `exchange` from now on."""
        policy, now = self.route.policy, self.route.now()
        if self.life.opened_at is None:
            self.route.metrics.upstream_time_to_headers_seconds.observe(now - self.opened_at)
            self.flow.expect(exchange.early)
        self._exchange, self._events_before = exchange, self.flow.events
        wait = policy.confirm.wait if policy.confirm and self._confirms_by_event else 0.0
        self._do(self.life.handle(messages.Opened(wait, resumed), now))
        exchange.attach(self.flow, paused=self._paused)
        self.flow.flush()
        self._arm()

    # Events of upstream.

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
            self._start_over(CloseReason.STALLED if self._asking else reason)

    def let_go(self, exchange: Exchange) -> None:
        """Close `exchange`, which lives on without this stream, or hold it as the policy says."""
        part(self, exchange)

    def _start_over(self, reason: CloseReason) -> None:
        stream_log.lost(self, reason)
        self.flow.start_over()

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
            early, self._early = self._early, None  # a stream lives long: release its request
            if early is not None:
                early.accepted()
            if again:
                self.reconnects += 1
                self.route.metrics.upstream_reconnects[ReconnectResult.REOPENED] += 1
            resumed = again and self._reconnection is not None and self._reconnection.resumes
            self._open(answer.body, resumed=resumed)
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

    # Events of the client.

    def client_blocked(self) -> None:
        """Handle that bytes wait for the client."""
        if self.down is not None:
            self._handle(messages.Blocked(self.down.taken))
        self.apply_backpressure()

    def client_unblocked(self) -> None:
        """Handle that no bytes wait any more."""
        self._handle(messages.Unblocked())
        self.route.backlog.note(self, self.flow.held)
        if self._paused:
            self._paused = False
            self._handle(messages.Resumed())
            if self._exchange is not None:
                self._exchange.resume()

    def client_left(self) -> None:
        """Handle that the client has closed its side."""
        self._handle(messages.ClientGone())

    def client_lost(self, exc: Exception | None) -> None:
        """Handle that the client's connection is closed."""
        # A TimeoutError comes from TCP_USER_TIMEOUT: the kernel may detect a stalled client first.
        stalled = isinstance(exc, TimeoutError)
        self._handle(messages.Fault(CloseReason.CLIENT_STALLED) if stalled else messages.ClientGone())
        self.down = None
        self.route.backlog.note(self, 0)
        self.flow.retire()
        self._arm()
        self.route.registry.remove(self)

    def leave(self, at: float, reason: CloseReason) -> None:
        """End this stream at `at` (loop time), at a block boundary."""
        self._handle(messages.LeaveAt(at, reason))

    def cut(self) -> None:
        """End this stream now. Waiting bytes are lost."""
        if self.down is not None:
            self._handle(messages.Fault(CloseReason.DRAIN))
            self.down.abort()

    def apply_backpressure(self) -> None:
        """Pause upstream if more than `max_buffer` bytes wait for the client. Note the bytes that the stream
        holds.
        """
        self.route.backlog.note(self, self.buffered)
        down, exchange = self.down, self._exchange
        if self._paused or down is None or exchange is None:
            return
        if down.waiting > self.route.policy.max_buffer:
            self._paused = True
            exchange.pause()
            self._handle(messages.Paused())

    @property
    def buffered(self) -> int:
        """The number of bytes that the stream holds: those that wait for the client, and a large block."""
        return 0 if self.down is None else self.down.waiting + self.flow.held

    @property
    def stuck_since(self) -> float | None:
        """The time of the client's last progress while bytes wait for it, or None."""
        return self.life.stuck_since

    def shed(self, reason: CloseReason) -> None:
        """End this stream with `reason`: all streams together hold more than `limits.max_buffered`."""
        stream_log.shed(self, reason)
        self._handle(messages.Fault(reason))
        if self.down is not None:
            self.down.reset()

    # Commands of the lifecycle.

    def _handle(self, event: messages.Event) -> None:
        self.execute(self.life.handle(event, self.route.now()))

    def execute(self, commands: tuple[messages.Command, ...]) -> None:
        """Execute commands of the lifecycle, then set the timer to its next deadline."""
        self._do(commands)
        self._arm()

    def _do(self, commands: tuple[messages.Command, ...]) -> None:
        route, flow = self.route, self.flow
        for command in commands:
            match command:
                case messages.Ping(idle_for=idle_for):
                    self._ping(idle_for)
                case messages.Confirm():
                    self._confirm()
                case messages.Reopen():
                    if self._reconnection is not None:
                        self._reconnection.start(self)
                case messages.Abandon():
                    if self._reconnection is not None:
                        self._reconnection.cancel()
                case messages.Release():
                    flow.release()
                case messages.Announce():
                    self._announce(command)
                case messages.Stalled(silent_for=silent_for):
                    self._stalled(silent_for)
                case messages.Recovered(silent_for=silent_for):
                    route.metrics.recovered(silent_for)
                case messages.SilenceEnded(seconds=seconds):
                    route.metrics.upstream_silence_seconds.observe(seconds)
                case messages.Close(reason=reason):
                    self._close(reason)
                case messages.Abort():
                    if self.down is not None:
                        self.down.reset()
                case messages.Commit(confirm=confirm):
                    self._commit(confirm=confirm)

    def fail(self, error: BaseException) -> None:
        """End this stream, and no other, after an unexpected exception."""
        stream_log.failed(self, error)
        self._handle(messages.Fault(CloseReason.INTERNAL))

    def _commit(self, *, confirm: bool) -> None:
        """Write the response head with the first bytes of the body."""
        head, self._head = self._head, b""
        self.route.metrics.streams_opened[self.family] += 1
        frames, form = self.route.frames, None if self.flow.opaque else self.route.gets.confirm
        first = frames.ok
        if confirm and form is ConfirmForm.EVENT:
            first = frames.confirm(claims=self.claims, **self._moment())
        self.flow.begin_with(head, b"" if self.flow.opaque else frames.first(first))
        if confirm:
            self.claims = None
        if form is not None and (confirm or form is ConfirmForm.COMMENT):
            self.route.metrics.confirms_sent[form] += 1
        stream_log.opened(self)

    @property
    def _confirms_by_event(self) -> bool:
        return self.route.gets.confirm is ConfirmForm.EVENT

    def _confirm(self) -> None:
        if self._confirms_by_event:
            written = self.flow.inject(self.route.frames.confirm(claims=self.claims, **self._moment()))
            self.route.metrics.confirms_sent[ConfirmForm.EVENT] += written
        self.claims = None

    def _ping(self, idle_for: float) -> None:
        flow, frames, in_block = self.flow, self.route.frames, self.life.in_block
        if in_block and self.route.gets.terminator is Terminator.BLANK:
            return  # this client splits at blank lines, and would take the comment for a part of the block
        if in_block:
            frame = frames.ping_line(idle_for)
        else:
            frame = frames.ping(idle_for=idle_for, after_id=flow.id_seen, **self._moment())
        if flow.inject(frame, line=in_block):
            self.pings += 1
            by_event = self.route.pings_by_event and not in_block
            self.route.metrics.pings_sent[KeepaliveForm.EVENT if by_event else KeepaliveForm.COMMENT] += 1

    def _announce(self, back: messages.Announce) -> None:
        stream_log.recovered(self, back)
        policy = self.route.policy.reconnect
        if policy is not None and policy.announce:
            frame = self.route.frames.recovered(
                reason=back.reason,
                gap=back.gap,
                resumed=back.resumed,
                after_id=self.flow.id_seen,
            )
            self.flow.inject(frame)

    def _stalled(self, silent_for: float) -> None:
        self.stalls += 1
        stream_log.stalled(self, silent_for)
        policy = self.route.policy.stall
        if policy is not None and policy.action is StallAction.NOTIFY:
            notice = self.route.frames.stalled(silent_for=silent_for, after_id=self.flow.id_seen)
            self.flow.inject(notice)

    def _close(self, reason: CloseReason) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self.let_go(exchange.release())
        if self._reconnection is not None and self._reconnection.cancel() and reason is CloseReason.GIVE_UP:
            self.route.metrics.upstream_reconnects[ReconnectResult.ENDED] += 1
        late = self._late if reason in _LATE and exchange is None else None
        if self.down is not None:
            self._end_for_client(self.down, reason, late)
        early, self._early = self._early, None
        if early is not None and late is not None:
            early.refused()
        stream_log.closed(self, reason, self.route.now(), late)

    def _end_for_client(self, down: Downstream, reason: CloseReason, late: LateStatus | None) -> None:
        if reason is CloseReason.CLIENT_STALLED:
            down.reset()
            return
        # After a fault of upstream, an MCP client opens its stream again by an event id, if it has one.
        resumes = reason is CloseReason.UPSTREAM_RESET and self.flow.id_seen
        request_id = None if resumes else self.request_id
        last, whole = self.route.farewell(reason, late, request_id, early=self.life.opened_at is None)
        if self.life.finished_at is not None:
            last, whole = b"", reason is not CloseReason.UPSTREAM_RESET  # the client has everything
        written = self.flow.inject(last)
        if whole and (written or not last):
            down.end()
        else:
            down.cut(self.route.call_later)

    def _moment(self) -> dict[str, str]:
        return {"stream_id": self.stream_id, "now": now_rfc3339()}

    def _arm(self) -> None:
        """Schedule `wake` at the next deadline. An earlier one stays: `wake` then schedules again."""
        down, timers = self.down, self.route.timers
        over = down is None or (self.life.close_reason is not None and not down.waiting)
        due = None if over else self.life.next_deadline()
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
        taken = self.down.taken if self.down is not None and self.life.blocked else 0
        try:
            self.execute(self.life.handle_timer(now, taken, unfinished=self.flow.unfinished))
            if self.life.confirm_at is None and self.life.opened_at is not None:
                self.claims = None  # no confirm follows after upstream's first event
        except Exception as error:  # noqa: BLE001 (it is logged)
            self.fail(error)
