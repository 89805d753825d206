"""Upstream's stream after its client has gone (`leave`).

Some servers are harmed by a client that leaves (facts.md#notify-server-freeze). `leave.publish` says on NATS
that it has left, and upstream then ends the stream itself (behaviour.md#leave-publish). With `leave.hold`,
upstream's stream stays open without a client: its bytes are read and discarded, until upstream ends it or the
time is over (behaviour.md#leave-hold).
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from sse_keepalive_proxy.errors import ProxyError
from sse_keepalive_proxy.http.exchange import Exchange
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.live.leave_notice import LeaveNotice
from sse_keepalive_proxy.live.relay import Relay
from sse_keepalive_proxy.live.route import StreamRoute
from sse_keepalive_proxy.observe.log import log_line
from sse_keepalive_proxy.stream.lifecycle import Lifecycle

__all__ = ["Departed", "can_say_so", "part"]

_ENDS_ITSELF = 2.0
"""Seconds that upstream has to end its stream itself, after what `leave.publish` has said."""


class Departed(Protocol):
    """A stream whose client has gone, or a group whose clients have gone. `notice` says so on NATS; None if
    the client has not the claims for it.
    """

    route: StreamRoute
    opened_at: float
    life: Lifecycle
    flow: Relay
    notice: LeaveNotice | None

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return its values for pages."""


def part(stream: Departed, exchange: Exchange, hold: float | None, *, at_once: bool = False) -> None:
    """Publish that the client of `stream` has gone if the route says so, and hold `exchange` for `hold`
    seconds or close it. `at_once`: close it as soon as that is published. An exchange whose request was not
    sent as a whole is closed: the rest will not come.
    """
    route, life = stream.route, stream.life
    replaced = life.close_reason is None and life.opened_at is not None  # the client is there
    publishes = route.policy.publish is not None and not replaced
    if not exchange.request_sent or (hold is None and not publishes):
        exchange.close()
        return
    held = _Held(stream, exchange, hold, publishes=publishes)
    if at_once:
        held.drop()
    elif not held.is_over:
        route.registry.held.add(held)


def can_say_so(stream: Departed) -> bool:
    """Return whether it can be published that the client of `stream` has gone. If it should be, and cannot,
    this is counted.
    """
    if stream.route.policy.publish is None:
        return False
    if stream.notice is not None and stream.notice.can_be_published:
        return True
    stream.route.metrics.leave_publishes["failed"] += 1
    return False


class _Held:
    """The sink of a body that no client gets. It is held for `hold` seconds, or, if it `publishes`, until
    upstream has had the time to end it.
    """

    __slots__ = (
        "_exchange", "_hold", "_is_answered", "_known", "_notice", "_opened_at", "_publishes", "_publishing",
        "_read_at", "_route", "_since", "_until", "is_over", "route_name",
    )  # fmt: skip

    def __init__(self, stream: Departed, exchange: Exchange, hold: float | None, *, publishes: bool) -> None:
        self._route = route = stream.route
        self.route_name = route.name
        self._exchange, self._hold, self.is_over = exchange, hold, False
        self._since = now = route.now()
        self._known, self._opened_at = stream.snapshot(now), stream.opened_at
        self._read_at = stream.life.upstream_at if stream.flow.upstream_bytes else None
        self._publishes = publishes  # until that is done, or is not to be done
        self._notice = stream.notice
        self._publishing: asyncio.Task[str | None] | None = None
        self._until = now + (route.policy.open_timeout if hold is None else hold)
        route.timers.schedule(self, self._until)
        head = exchange.awaited_head()
        self._is_answered = head is None
        if head is not None:
            head.add_done_callback(self._answered)
        exchange.attach(self)  # this may be its end already
        if publishes and head is None and not self.is_over:
            self._publish()

    def _answered(self, head: asyncio.Future[ResponseHead]) -> None:
        """Only an event stream is held. Its client went before it began, and may have another one by now."""
        if self.is_over or head.exception() is not None:
            return
        if not head.result().is_event_stream:
            self.drop()
            return
        self._is_answered = True
        if not self._publishes:
            return
        if self._notice is None or not self._notice.is_untrue:
            self._publish()
        elif self._hold is None:
            self._may_end_itself()
        else:
            self._publishes = False

    def _publish(self) -> None:
        if self._notice is None:
            self._not_published()
        else:
            self._publishing = self._notice.publish()
            self._publishing.add_done_callback(self._published)

    def _published(self, publishing: asyncio.Task[str | None]) -> None:
        self._publishing = None
        done = not publishing.cancelled() and publishing.result() is None
        if done:
            self._route.metrics.leave_publishes["published"] += 1
        if self.is_over:
            self._exchange.close()
        elif done:
            self._may_end_itself()
        if not done:
            self._not_published()

    def _may_end_itself(self) -> None:
        """Give upstream the time to end its stream. If it does not, there is nothing more to do."""
        self._publishes = False
        self._wait_until(self._route.now() + _ENDS_ITSELF)

    def _not_published(self) -> None:
        self._route.metrics.leave_publishes["failed"] += 1
        if self._hold is None:
            self._publishes = False
            self._over("not_published")

    def _wait_until(self, at: float) -> None:
        self._route.timers.cancel(self, self._until)
        self._until = at
        self._route.timers.schedule(self, at)

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return its values for pages."""
        return {
            **self._known,
            "state": "held",
            "bridge": None,
            "age_s": round(now - self._opened_at, 3),
            "held_s": round(now - self._since, 3),
            "since_upstream_byte_s": None if self._read_at is None else round(now - self._read_at, 3),
        }

    # Upstream's sink, and the timer.

    def data(self, data: bytes) -> None:  # noqa: ARG002
        """Discard bytes of upstream's body."""
        self._read_at = self._route.now()

    def end(self) -> None:
        """Handle the end of upstream's body."""
        self._publishes = False
        self._over("upstream_end")

    def failed(self, error: ProxyError) -> None:  # noqa: ARG002
        """Handle that upstream's body broke off."""
        self._publishes = False
        self._over("upstream_reset")

    def wake(self) -> None:
        """Let it go: its time is over."""
        self._over("expired")

    def drop(self) -> None:
        """Close the exchange, if possible after what is published."""
        self._over("let_go")

    def hurry(self) -> None:
        """Do nothing: no client can come back to it."""

    def _over(self, why: str) -> None:
        if self.is_over:
            return
        self.is_over = True
        self._route.timers.cancel(self, self._until)
        self._route.registry.held.remove(self)
        held_for = round(self._route.now() - self._since, 3)
        known = {key: self._known[key] for key in ("id", "route", "client")}
        log_line("held stream closed", {"reason": why, **known, "held_s": held_for})
        if self._publishing is None:
            self._close()

    def _close(self) -> None:
        """Close the exchange. Publish that its client has gone before, if that can only be done now."""
        notice = self._notice if self._publishes and self._is_answered else None
        if notice is not None and notice.can_be_published:
            self._publish()
        else:
            self._exchange.close()
