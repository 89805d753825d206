"""One stream of upstream for several clients (behaviour.md#sharing).

A group reads upstream's stream once and hands its blocks to its members, each a `Stream` with its own pings,
frames and limits. The stall clock, the reconnection and the log of the last blocks are the group's. When the
last member has gone, upstream's stream is kept for a while, and for servers that a leaving client harms until
upstream ends it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sse_keepalive_proxy.errors import UpstreamError
from sse_keepalive_proxy.http.attempts import Answer
from sse_keepalive_proxy.http.chunked import chunk
from sse_keepalive_proxy.http.exchange import Body, Exchange
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.live import stream_log
from sse_keepalive_proxy.live.held import can_say_so, part
from sse_keepalive_proxy.live.membership import Credential, Credentials, Member, Membership
from sse_keepalive_proxy.live.reconnect import Reconnection
from sse_keepalive_proxy.live.relay import Relay
from sse_keepalive_proxy.live.returning import missed_by
from sse_keepalive_proxy.live.route import StreamRoute
from sse_keepalive_proxy.live.source import Source
from sse_keepalive_proxy.observe.registry import group_snapshot
from sse_keepalive_proxy.stream import messages
from sse_keepalive_proxy.stream.late_error import LateStatus
from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import OnRefusal, Share
from sse_keepalive_proxy.stream.replay_log import GapReason, ReplayLog
from sse_keepalive_proxy.stream.states import ReconnectResult, State

__all__ = ["Group"]

_NEVER = float("inf")

_LAST_MOMENT = 1.0
"""Seconds for which a group that was held stays without upstream's stream."""


class Group(Source):
    """Upstream's stream and its members. `over` is called when no more clients may join.

    `key`: what the requests of its members have in common, as a fingerprint. `log` has the last blocks, or is
    None. `credentials` are those of the members, the newest accepted last.
    """

    __slots__ = (
        "_arriving", "_asked_at", "_asked_with", "_asks", "_empty_since", "_has_ended", "_is_dropped",
        "_is_held", "_is_overtaken", "_members", "_over", "_share", "_until", "_waits", "credentials", "key",
        "log",
    )  # fmt: skip

    def __init__(
        self,
        route: StreamRoute,
        share: Share,
        *,
        key: bytes,
        stream_id: str,
        target: str,
        reconnection: Reconnection | None,
        log: ReplayLog | None,
        over: Callable[[Group], None],
    ) -> None:
        super().__init__(
            route, stream_id=stream_id, client="shared", target=target, reconnection=reconnection
        )
        self.flow = Relay(self, route, self.life, reconnection)
        self.flow.audience = self
        self.key, self.log = key, log
        self._share, self._over = share, over
        self._members: dict[Membership, None] = {}  # in the order of their arrival
        self._arriving: dict[Membership, None] = {}  # they begin when the unfinished block has ended
        self._empty_since = self.opened_at
        self._until: float | None = None  # without members: the next decision about upstream's stream
        self._is_held = self._is_dropped = False
        self._asks = 0  # the clients that ask upstream for their own streams now
        self._has_ended = False  # upstream's stream; another one may take its place
        self._waits = False  # whether the last member wanted upstream to be opened again after an end
        self.credentials = Credentials()
        self._asked_with: Credential | None = None  # in the latest attempt to open upstream again
        self._asked_at = 0.0  # when the stream that is read was asked for
        self._is_overtaken = False  # an attempt goes on, and another stream is read meanwhile
        reconnect = route.policy.reconnect
        if reconnect is not None and reconnect.on_refusal is OnRefusal.KEEP:
            self.life.handle(messages.KeepUntil(_NEVER), self.opened_at)
        route.registry.groups.add(self)

    @property
    def state(self) -> State:
        """The state of upstream's stream."""
        return self.life.state

    @property
    def is_full(self) -> bool:
        """Whether no other client may join."""
        return self.clients >= self._share.max_clients

    @property
    def clients(self) -> int:
        """The number of members."""
        return len(self._members) + len(self._arriving)

    # Upstream's stream.

    def request(self, bare: bytes) -> bytes:
        """Return the head `bare` as upstream is asked with it now: while its stream is lost, with the id of
        its last event. The final blank line is missing.
        """
        lost = self.life.state is State.RECONNECTING
        return self._reconnection.resuming(bare) if lost and self._reconnection is not None else bare

    def _adopt(self, body: Body, of: Membership) -> None:
        """Read upstream's stream from `body`, which upstream has accepted for a client. The older one is
        closed. A server with one place for each user has ended it already, or ends this one for an attempt
        that the group has begun since.
        """
        if self.life.close_reason is not None or self.flow.in_part:
            body.part(self.let_go)
            return
        present, attempts, rest, came = self._exchange, self._reconnection, b"", b""
        if present is not None and (of.resumes or of.asked_at < self._asked_at):
            rest, over = present.read_out()
            if not over:  # it stays; a server with one place for each user has ended the other one
                if not of.resumes:  # otherwise the present one has brought the same events
                    self.flow.insert(body.read_out()[0])
                body.part(self.let_go)
                self._read_out(rest)
                return
        if attempts is not None:
            sent_at = attempts.sent_at if attempts.busy else None
            self._is_overtaken = sent_at is not None and sent_at >= of.asked_at
            if not self._is_overtaken:
                came = b"" if of.resumes else attempts.read_out()
                attempts.cancel()
            attempts.ask_with(of.credential.bare)
        self._replace(body, of.asked_at, of.resumes, rest, came)

    def _replace(self, body: Body, asked_at: float, resumed: bool, rest: bytes, came: bytes) -> None:
        """Read `body`, after the `rest` of the present stream and what `came` on another one since."""
        self._read_out(rest)
        if self.life.close_reason is not None:
            body.part(self.let_go)
            return
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.part(self.let_go)
        if exchange is not None or self._has_ended:
            self.flow.start_over()
        self._has_ended, self._asked_at = False, asked_at
        if self.life.opened_at is None:
            self._open(body)
            return
        self._exchange, self._events_before = body, self.flow.events
        self._handle(messages.Replaced(asked_at, resumed))
        if came:
            self.flow.insert(came)
        if self.life.close_reason is None:
            body.attach(self.flow)

    def _read_out(self, rest: bytes = b"") -> None:
        """Deliver `rest`, and what else the present stream has brought and was not read yet."""
        if self._exchange is not None:
            rest += self._exchange.read_out()[0]
        if rest:
            self.flow.data(rest)

    def _reopen(self) -> None:
        if self._is_overtaken:  # an attempt is under way already
            self._is_overtaken = False
            self._end_if_due()
            return
        self._asked_with = self.credentials.newest
        if self._reconnection is not None and self._asked_with is not None:
            self._reconnection.ask_with(self._asked_with.bare)
        super()._reopen()

    def _abandon(self) -> None:
        """End the attempt, unless it has brought a stream: the old one may have ended for that."""
        attempts = self._reconnection
        if attempts is None or self._is_overtaken:
            return
        may_replace = self.life.reopens and not attempts.resumes and not self.flow.unfinished
        self._is_overtaken = may_replace and attempts.is_answered
        if not self._is_overtaken:
            attempts.cancel()

    def _accepted(self) -> None:
        if self._asked_with is not None:
            self._asked_with.accepted_at = self.route.now()

    def reopened(self, answer: Answer) -> None:
        """Handle a stream from upstream. If the attempt was overtaken, this one is still the newest."""
        if (attempts := self._reconnection) is not None:
            if not attempts.resumes:
                self._read_out()  # a stalled stream may have spoken
            self._asked_at = attempts.sent_at or 0.0
        if not self._is_overtaken and self.life.state not in (State.FLOWING, State.DRAINING):
            if self._has_ended:
                self.flow.start_over()
            self._has_ended = False
            super().reopened(answer)
            return
        self._is_overtaken = False
        try:
            self._accepted()
            self.reconnects += 1
            self.route.metrics.upstream_reconnects[ReconnectResult.REOPENED] += 1
            self._replace(answer.body, self._asked_at, False, b"", b"")
        except Exception as error:  # noqa: BLE001 (it is logged)
            self.fail(error)

    def not_reopened(
        self, failed: messages.NotOpened, late: LateStatus, cause: UpstreamError | ResponseHead
    ) -> None:
        """Handle an error of upstream, or an answer without a stream. A refusal concerns the clients of one
        credential; upstream is asked again with another one, if there is any. It ends no stream while
        another one of upstream is read.
        """
        if self._is_overtaken:
            self._is_overtaken = False
            self.route.metrics.upstream_reconnects[ReconnectResult.FAILED] += 1
            self._end_if_due()
            return
        asked = self._asked_with
        if failed.reason is CloseReason.UNAUTHORIZED and not failed.again and asked is not None:
            if self._exchange is not None:
                self.credentials.put_back(asked)
            else:
                asked.refused = True
                self._dismiss_refused(asked, late)
                if self.credentials.newest is not None:
                    failed = messages.NotOpened(failed.reason, again=True, at_least=failed.at_least)
        super().not_reopened(failed, late, cause)

    def _dismiss_refused(self, refused: Credential, late: LateStatus) -> None:
        """End the clients of a credential that upstream has refused, or let them wait until it expires."""
        policy = self.route.policy.reconnect
        if policy is not None and policy.on_refusal is OnRefusal.KEEP:
            refused.keep_until_expiry(self.route.now())
            return
        for member in self._members_of(refused):
            member.group_over(CloseReason.UNAUTHORIZED, late)

    def _members_of(self, credential: Credential) -> list[Member]:
        places = (*self._members, *self._arriving)
        return [each.member for each in places if each.credential is credential and each.member is not None]

    def ask(self) -> Callable[[], None]:
        """Note that a client asks upstream for the same stream. Return what is to be called when upstream has
        answered and the client has begun, or when it will not begin.
        """
        self._asks += 1
        return self._answered

    def _answered(self) -> None:
        self._asks -= 1
        self._end_if_due()
        self._arm()

    def upstream_ended(self) -> None:
        """Handle the end of upstream's body. A server with one place for each user ends it for a client that
        asks for its own stream, which then goes on as the group's.
        """
        if self._is_held:
            self._until = self.route.now() + _LAST_MOMENT  # a client that is coming back finds the log
        elif not self._is_overtaken and (not self._asks or self.life.reopens):
            super().upstream_ended()
            return
        self._has_ended, self._exchange = True, None
        self._arm()

    def _end_if_due(self) -> None:
        if self._has_ended and not (self._asks or self._is_held or self._is_overtaken):
            self._has_ended = False
            super().upstream_ended()

    def _lost(self, reason: CloseReason) -> None:
        clean = reason is CloseReason.UPSTREAM_END
        waits = self.life.reopens and not self._is_held
        had_members = self.clients > 0
        for each in (*self._members, *self._arriving):
            if each.member is not None and not (waits and each.member.waits_for_upstream(clean=clean)):
                each.member.group_over(reason, None)
        self.life.reopens = self.clients > 0 if had_members else waits and self._waits
        super()._lost(reason)

    def not_an_event_stream(self) -> None:
        """Handle that upstream's body does not begin like an event stream: no other client may join."""
        super().not_an_event_stream()
        self._over(self)
        for each in list(self._members):
            if each.flow is not None:
                each.flow.become_opaque()
        self._begin_arrived()

    # The members.

    def deliver(self, data: bytes, events: int, alive: bool, now: float, *, upstreams: bool = True) -> None:
        """Deliver bytes to all members, and keep whole blocks in the log."""
        log = self.log
        if log is not None:
            if self.flow.passes:
                log.clear()  # a block that left in parts cannot be sent again
            else:
                bridge = self.flow.bridge
                data = log.add(data, None if bridge is None else bridge.position)
                self.flow.id_seen = self.flow.id_seen or (log.adds and events > 0)
            self.route.registry.logs.note(log)
        if not self._members:
            return
        framed = chunk(data)
        for each in list(self._members):
            flow = each.flow
            if flow is None or each not in self._members:  # it has gone because of another member
                continue
            try:
                flow.share(self.flow, data, framed, events, alive, now, upstreams=upstreams)
            except Exception as error:  # noqa: BLE001 (it is logged)
                flow.fail(error)

    def follow(self) -> None:
        """Note that a part of a block, or its end, was delivered."""
        for each in list(self._members):
            if each.flow is not None:
                each.flow.follow(self.flow)
        if not self.flow.in_part:
            self._begin_arrived()

    def _begin_arrived(self) -> None:
        while self._arriving:
            membership = next(iter(self._arriving))
            del self._arriving[membership]
            self._begin(membership)

    def enter(self, membership: Membership) -> None:
        """Begin to deliver to a client, first what it has missed. Then read the stream that upstream has
        accepted for it, if there is one.
        """
        membership.credential.members += 1
        if self._until is not None:
            self._until, self._is_held = None, False
            self.route.registry.held.remove(self)
            self._arm()
        if self.flow.in_part:
            self._arriving[membership] = None
        else:
            self._begin(membership)
        self._adopt_of(membership)
        self._end_if_due()

    def _adopt_of(self, membership: Membership) -> None:
        body, membership.accepted = membership.accepted, None
        if body is not None:
            self._adopt(body, membership)
        answered, membership.answered = membership.answered, None
        if answered is not None:
            answered()

    def _begin(self, membership: Membership) -> None:
        flow, member = membership.flow, membership.member
        if flow is None or member is None:
            raise AssertionError("a membership belongs to a stream when it begins")
        if (over := self.life.close_reason) is None:
            self._members[membership] = None
        flow.id_seen = self.flow.id_seen
        if self.flow.opaque:
            flow.become_opaque()
        found = missed_by(membership, self.log, self.flow)
        if isinstance(found, GapReason):
            member.missed(found)
        elif found:
            missed = b"".join(found)
            self.route.metrics.replayed_events += len(found)
            flow.share(self.flow, missed, chunk(missed), len(found), True, self.route.now())
        flow.join(self.flow)
        if over is not None:
            member.group_over(over, None)

    def exit(self, membership: Membership) -> None:
        """Deliver no more to a client. It may have been done already, or never begun."""
        self._adopt_of(membership)  # the client has gone before it began, and upstream has accepted it
        if membership in self._members or membership in self._arriving:
            membership.credential.members -= 1
            if membership.member is not None:
                self._waits = membership.member.waits_for_upstream(clean=True)
            self._members.pop(membership, None)
            self._arriving.pop(membership, None)
        if self.clients or self._until is not None or self.life.close_reason is not None:
            return
        self._empty_since = self.route.now()
        self._until = self._empty_since + self._share.linger
        self.route.registry.held.add(self)
        self._arm()

    # Without members.

    def drop(self) -> None:
        """Let upstream's stream go now."""
        self._is_held = self._is_dropped = True
        self._handle(messages.Fault(CloseReason.CLIENT_GONE))

    def hurry(self) -> None:
        """Wait for no client that may come back: the proxy drains."""
        if not self._is_held:
            self._linger_over()

    def _linger_over(self) -> None:
        """Decide about upstream's stream, which no client reads: it may be held for longer."""
        hold = self.route.policy.hold
        self._is_held = self._is_held or hold is None or hold <= self._share.linger
        if self._is_held or hold is None or self._exchange is None or can_say_so(self):
            # an attempt that is under way may be held
            self._handle(messages.Fault(CloseReason.CLIENT_GONE))
            return
        self._is_held = True
        self._until = self._empty_since + hold
        self._arm()

    def let_go(self, exchange: Exchange) -> None:
        """Take `exchange`, to be closed, or held as the policy says if that has not been done."""
        if self.life.close_reason is not None:
            self.route.registry.held.remove(self)  # `exchange` takes its place
        part(self, exchange, None if self._is_held else self.route.policy.hold, at_once=self._is_dropped)

    # What a `Source` needs.

    def _tell(self, command: messages.ForClients) -> None:
        for each in list(self._members):
            if each.member is None:
                continue
            match command:
                case messages.Announce():
                    each.member.group_back(command)
                case messages.Stalled(silent_for=silent_for):
                    each.member.group_stalled(silent_for)
                case _:
                    pass

    def _end(self, reason: CloseReason, late: LateStatus | None) -> None:
        registry = self.route.registry
        self._over(self)
        registry.held.remove(self)
        registry.groups.discard(self)
        self.route.backlog.note(self, 0)
        if self.log is not None:
            registry.logs.forget(self.log)
        stream_log.group_closed(self, reason)
        for each in (*self._members, *self._arriving):
            if each.member is not None:
                each.member.group_over(reason, late)
        self.flow.retire()

    def _due(self) -> float | None:
        if self.life.close_reason is not None:
            return None
        until = None if self._asks else self._until  # a client that asks may come back
        due = [None if self._is_held else self.life.next_deadline(), until, self.credentials.leaves_at]
        return min((at for at in due if at is not None), default=None)

    def _handle_timer(self, now: float) -> None:
        for refused in self.credentials.expired(now):
            for member in self._members_of(refused):
                member.leave(now, CloseReason.UNAUTHORIZED)
        if self._until is not None and now >= self._until and not self._asks:
            self._linger_over()
        elif self._is_held:
            self._arm()
        else:
            self.execute(self.life.handle_timer(now, unfinished=self.flow.unfinished))

    def apply_backpressure(self) -> None:
        """Note the bytes that the group holds: a large unfinished block."""
        self.route.backlog.note(self, self.buffered)

    @property
    def buffered(self) -> int:
        """The number of bytes that the group holds."""
        return self.flow.held

    @property
    def stuck_since(self) -> float | None:
        """Nothing: no bytes wait for a client here."""
        return None

    def shed(self, reason: CloseReason) -> None:
        """End the group with `reason`: all streams together hold more than `limits.max_buffered`."""
        stream_log.shed(self, reason)
        self._handle(messages.Fault(reason))

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return its values for pages."""
        state = self.life.state.value
        if self._until is not None:
            state = "held" if self._is_held else "lingering"
        return group_snapshot(self, now, state, 0 if self.log is None else self.log.size)
