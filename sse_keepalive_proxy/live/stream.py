"""One stream, from its request to its last byte: upstream's half (`live.source`) and one client.

This module passes events of the client to the lifecycle, and writes what the lifecycle commands.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

from sse_keepalive_proxy.http.attempts import Answer
from sse_keepalive_proxy.http.exchange import Body, Exchange
from sse_keepalive_proxy.live import stream_log
from sse_keepalive_proxy.live.downstream import Downstream, TakeOver
from sse_keepalive_proxy.live.early_commit import EarlyCommit
from sse_keepalive_proxy.live.held import part
from sse_keepalive_proxy.live.membership import Membership
from sse_keepalive_proxy.live.reconnect import Reconnection
from sse_keepalive_proxy.live.relay import Relay
from sse_keepalive_proxy.live.route import StreamRoute
from sse_keepalive_proxy.live.source import Source
from sse_keepalive_proxy.observe.line import now_rfc3339
from sse_keepalive_proxy.observe.registry import snapshot
from sse_keepalive_proxy.stream import messages
from sse_keepalive_proxy.stream.late_error import LateStatus
from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import ConfirmForm, Family, KeepaliveForm, StallAction, Terminator
from sse_keepalive_proxy.stream.replay_log import GapReason
from sse_keepalive_proxy.stream.states import State

__all__ = ["Stream"]

_OF_GROUP = (State.STALLED, State.RECONNECTING)
_SERVER_ERROR = 500


class Stream(Source):
    """A stream ends with exactly one `close_reason`, or with none if it never began.

    It is made before upstream is asked (state `connecting`), so that limits and metrics include it. `begin`
    takes the client's connection over. `commit` or `commit_early` writes the response head. `claims` are for
    a confirm not yet sent. `request_id` is that of a JSON-RPC request.
    """

    __slots__ = ("_added", "_early", "_head", "_membership", "claims", "down", "pings", "request_id")

    def __init__(
        self,
        route: StreamRoute,
        *,
        stream_id: str,
        client: str,
        target: str,
        reconnection: Reconnection | None = None,
    ) -> None:
        super().__init__(route, stream_id=stream_id, client=client, target=target, reconnection=reconnection)
        self.flow = Relay(self, route, self.life, reconnection)
        self._membership: Membership | None = None  # its place in a group that shares upstream's stream
        self.down: Downstream | None = None  # None: no client is connected
        self._head = b""  # the response head until it is written
        self._early: EarlyCommit | None = None  # until upstream has answered
        self.claims: Mapping[str, Any] | None = None
        self.request_id: str | int | None = None
        self.pings = 0
        self._added = 0  # bytes that could not be paused, while others wait for the client

    @property
    def family(self) -> Family:
        """The family of the client."""
        return self.route.family

    @property
    def comes_back(self) -> bool:
        """Whether the client opens its stream again after an end."""
        return self.route.gets.comes_back

    @property
    def state(self) -> State:
        """The state of the stream, or that of the group's upstream if that is stalled or lost."""
        own, place = self.life.state, self._membership
        if place is None or own is State.DRAINING or place.group.state not in _OF_GROUP:
            return own
        return place.group.state

    @property
    def group(self) -> str | None:
        """The id of the group that shares upstream's stream, or None."""
        return None if self._membership is None else self._membership.group.stream_id

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

    def commit(self, head: bytes, exchange: Body, gap: GapReason | None = None) -> None:
        """Write `head` and the confirm, then relay the body of `exchange`. `gap`: see `Answer`."""
        self._head = head
        try:
            self._open(exchange, gap=gap)
        except Exception as error:  # noqa: BLE001 (it is logged)
            self.fail(error)

    def commit_early(
        self, head: bytes, opening: asyncio.Task[Answer], early: EarlyCommit, *, confirm: bool
    ) -> None:
        """Write `head` before `opening` is done. `confirm`: with the confirm, which is not true yet
        otherwise.
        """
        self._head, self._early = head, early
        self._handle(messages.CommitEarly(confirm))
        self.flow.flush()
        if self._reconnection is not None:
            self._reconnection.await_answer(opening, self)

    def _open(self, exchange: Body, *, resumed: bool = False, gap: GapReason | None = None) -> None:
        first = self.life.opened_at is None
        if isinstance(exchange, Membership):
            self._join(exchange)
        elif first:
            self.flow.expect(exchange.early)
        if first and (self._membership is None or self._membership.accepted is not None):
            self.route.metrics.upstream_time_to_headers_seconds.observe(self.route.now() - self.opened_at)
        super()._open(exchange, resumed=resumed, gap=gap)

    def _join(self, membership: Membership) -> None:
        """Read the stream of a group, which looks after upstream."""
        self._membership, self._reconnection = membership, None
        self.target = membership.group.target  # the same text, stored once
        if self.notice is not None:
            membership.group.notice, self.notice = self.notice, None
        if self.flow.bridge is not None:
            membership.bridge = self.flow.bridge
            self.flow.bridge.move(membership.group.flow)
        membership.member, membership.flow = self, self.flow
        self.life.shared, self.life.reopens = True, False

    def _accepted(self) -> None:
        early, self._early = self._early, None  # a stream lives long: release its request
        if early is not None:
            early.accepted()

    # Events of the client.

    def client_blocked(self) -> None:
        """Handle that bytes wait for the client."""
        if self.down is not None:
            self._handle(messages.Blocked(self.down.taken))
        self.apply_backpressure()

    def client_unblocked(self) -> None:
        """Handle that no bytes wait any more."""
        self._handle(messages.Unblocked())
        self._added = 0
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

    def keep_until(self, at: float) -> None:
        """Keep the client until `at` (loop time) if upstream refuses its credential when asked again."""
        self._handle(messages.KeepUntil(at))

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
        if self._paused or down is None or exchange is None or self.life.shared:
            return  # the other clients of a group are not paused for this one
        if down.waiting > self.route.policy.max_buffer:
            self._paused = True
            exchange.pause()
            self._handle(messages.Paused())

    def has_room(self, size: int) -> bool:
        """Return whether `size` bytes that cannot be paused, of a group or of the bridge, may be added to
        those that wait for the client. End the stream if more than `max_buffer` wait, and so many were added
        since the client took everything. So one large event ends no stream.
        """
        most = self.route.policy.max_buffer
        if self.down is not None and self._added > most and self.down.waiting > most:
            self._handle(messages.Fault(CloseReason.CLIENT_STALLED))
            return False
        self._added += size
        return True

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

    # Calls of the group.

    def waits_for_upstream(self, *, clean: bool) -> bool:
        """Return whether the client stays when upstream is lost. `clean`: upstream has ended its body."""
        policy = self.route.policy.reconnect
        return policy is not None and (policy.after_end or not clean)

    def group_back(self, back: messages.Announce) -> None:
        """Tell the client that upstream was away."""
        self._announce(back)

    def group_stalled(self, silent_for: float) -> None:
        """Tell the client that upstream gives no sign of life."""
        self._stalled(silent_for)

    def group_over(self, reason: CloseReason, late: LateStatus | None) -> None:
        """End the stream with `reason`. `late`: the answer of upstream that caused the end."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close()
        self._late = late
        self._handle(messages.Fault(reason))

    def missed(self, gap: GapReason) -> None:
        """Tell the client that events since its last id cannot be sent again."""
        self.route.metrics.replay_gaps[gap] += 1
        self.flow.inject(self.route.frames.gap(gap, after_id=self.flow.id_seen))

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return the values of this stream for pages."""
        return snapshot(self, now)

    # Commands of the lifecycle.

    def let_go(self, exchange: Exchange) -> None:
        """Take `exchange`, which lives on without this stream, to be closed or held as the policy says."""
        part(self, exchange, self.route.policy.hold)

    def _tell(self, command: messages.ForClients) -> None:
        match command:
            case messages.Ping(idle_for=idle_for):
                self._ping(idle_for)
            case messages.Confirm():
                self._confirm()
            case messages.Announce():
                self._announce(command)
            case messages.Stalled(silent_for=silent_for):
                self._stalled(silent_for)
            case messages.Abort():
                if self.down is not None:
                    self.down.reset()
            case messages.Commit(confirm=confirm):
                self._commit(confirm=confirm)

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

    def _confirm(self) -> None:
        if self.route.gets.confirm is ConfirmForm.EVENT:
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
        policy = self.route.policy.stall
        if policy is not None and policy.action is StallAction.NOTIFY:
            notice = self.route.frames.stalled(silent_for=silent_for, after_id=self.flow.id_seen)
            self.flow.inject(notice)

    def _end(self, reason: CloseReason, late: LateStatus | None) -> None:
        if self.down is not None:
            self._end_for_client(self.down, reason, late)
        early, self._early = self._early, None
        if early is not None and late is not None and not _was_away(reason, late):
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

    # Time.

    def _due(self) -> float | None:
        down = self.down
        if down is None or (self.life.close_reason is not None and not down.waiting):
            return None
        return self.life.next_deadline()

    def _handle_timer(self, now: float) -> None:
        taken = 0
        if self.down is not None:
            if self.life.blocked:
                taken = self.down.check()
            else:
                self.down.trust_kernel()
        self.execute(self.life.handle_timer(now, taken, unfinished=self.flow.unfinished))
        if self.life.confirm_at is None and self.life.opened_at is not None:
            self.claims = None  # no confirm follows after upstream's first event


def _was_away(reason: CloseReason, late: LateStatus) -> bool:
    """Whether upstream was asked again until the proxy gave up, and its last answer refuses no client."""
    return reason is CloseReason.GIVE_UP and late[0] >= _SERVER_ERROR
