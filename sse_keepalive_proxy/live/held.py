"""Upstream's stream after its client has gone (`leave.hold`).

Some servers are harmed by a client that leaves (facts.md#notify-server-freeze). For them upstream's stream
stays open without a client: its bytes are read and discarded, until upstream ends it or the time is over
(behaviour.md#leave-hold).
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from sse_keepalive_proxy.errors import ProxyError
from sse_keepalive_proxy.http.exchange import Exchange
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.live.relay import Relay
from sse_keepalive_proxy.live.route import StreamRoute
from sse_keepalive_proxy.observe.log import log_line
from sse_keepalive_proxy.stream.lifecycle import Lifecycle

__all__ = ["Departed", "part"]


class Departed(Protocol):
    """A stream whose client has gone, or a group whose clients have gone."""

    route: StreamRoute
    opened_at: float
    life: Lifecycle
    flow: Relay

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return its values for pages."""


def part(stream: Departed, exchange: Exchange) -> None:
    """Hold `exchange` without `stream` and its client, or close it, as the route says. An exchange whose
    request was not sent as a whole is never held: the rest will not come.
    """
    hold = stream.route.policy.hold
    if hold is None or not exchange.request_sent:
        exchange.close()
    else:
        _Held(stream, exchange, hold)


class _Held:
    """The sink of a body that no client gets. It holds `exchange` for at most `seconds`."""

    __slots__ = (
        "_exchange", "_is_over", "_known", "_opened_at", "_read_at", "_route", "_since", "_until",
        "route_name",
    )  # fmt: skip

    def __init__(self, stream: Departed, exchange: Exchange, seconds: float) -> None:
        self._route = route = stream.route
        self.route_name = route.name
        self._exchange, self._is_over = exchange, False
        self._since = now = route.now()
        self._known, self._opened_at = stream.snapshot(now), stream.opened_at
        self._read_at = stream.life.upstream_at if stream.flow.upstream_bytes else None
        self._until = now + seconds
        route.timers.schedule(self, self._until)
        if (head := exchange.awaited_head()) is not None:
            head.add_done_callback(self._answered)
        exchange.attach(self)  # this may be its end already
        if not self._is_over:
            route.registry.held.add(self)

    def _answered(self, head: asyncio.Future[ResponseHead]) -> None:
        """Only an event stream is held."""
        if head.exception() is None and not head.result().is_event_stream:
            self.drop()

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return its values for pages."""
        return {
            **self._known,
            "state": "held",
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
        self._over("upstream_end")

    def failed(self, error: ProxyError) -> None:  # noqa: ARG002
        """Handle that upstream's body broke off."""
        self._over("upstream_reset")

    def wake(self) -> None:
        """Let it go: its time is over."""
        self._over("expired")

    def drop(self) -> None:
        """Close the exchange now."""
        self._over("let_go")

    def hurry(self) -> None:
        """Do nothing: no client can come back to it."""

    def _over(self, why: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._exchange.close()
        self._route.timers.cancel(self, self._until)
        self._route.registry.held.remove(self)
        held_for = round(self._route.now() - self._since, 3)
        known = {key: self._known[key] for key in ("id", "route", "client")}
        log_line("held stream closed", {"reason": why, **known, "held_s": held_for})
