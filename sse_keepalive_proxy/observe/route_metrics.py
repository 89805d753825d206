"""The counts of a route: plain numbers, which `collected` reads when Prometheus scrapes.

The counters of prometheus_client have a lock for each number. Everything here runs on one thread, so plain
numbers are enough and cost less.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from sse_keepalive_proxy.errors import (
    UpstreamError,
    UpstreamInvalid,
    UpstreamRefused,
    UpstreamReset,
    UpstreamTimeout,
)
from sse_keepalive_proxy.observe.registry import Flow, OpenStream
from sse_keepalive_proxy.stream.bridging import Outcome
from sse_keepalive_proxy.stream.families import TREATMENTS
from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import ConfirmForm, KeepaliveForm
from sse_keepalive_proxy.stream.replay_log import GapReason
from sse_keepalive_proxy.stream.states import Join, ReconnectResult

__all__ = ["Counts", "Histogram", "RouteMetrics"]


_REJECTIONS = ("max_streams", "max_streams_per_client")
_KINDS: dict[type[UpstreamError], str] = {
    UpstreamRefused: "refused",
    UpstreamTimeout: "timeout",
    UpstreamReset: "reset",
    UpstreamInvalid: "invalid",
}
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SILENCES = (1.0, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_LIVES = (1.0, 10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0, 86400.0)


class Histogram:
    """The counts of a Prometheus histogram.

    `bounds`: the largest value of each bucket; the last bucket has none. `counts`: the number of values in
    each bucket. `total`: the sum of the values.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count `value`."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Counts:
    """The sums over streams: events, comments, bytes."""

    __slots__ = ("comments", "events", "sent_synthetic", "sent_upstream", "upstream_bytes")

    def __init__(self) -> None:
        self.events = self.comments = self.upstream_bytes = self.sent_upstream = self.sent_synthetic = 0

    def add(self, stream: OpenStream) -> None:
        """Add the counts of one stream."""
        flow = stream.flow
        if stream.group is None:
            self.add_upstream(flow)
        self.sent_upstream += flow.sent_upstream
        self.sent_synthetic += flow.sent_synthetic

    def add_upstream(self, flow: Flow) -> None:
        """Add the counts of a stream of upstream."""
        self.events += flow.events
        self.comments += flow.comments
        self.upstream_bytes += flow.upstream_bytes

    def copy(self) -> Counts:
        """Return a copy."""
        made = Counts()
        made.events, made.comments, made.upstream_bytes = self.events, self.comments, self.upstream_bytes
        made.sent_upstream, made.sent_synthetic = self.sent_upstream, self.sent_synthetic
        return made


class Bridge(Protocol):
    """The bridge of a route."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection to NATS."""

    @property
    def lost(self) -> int:
        """The messages that its connection has lost."""

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return its values for pages."""


class RouteMetrics:
    """The numbers of one route. They have the names of the metrics.

    `wall_time` converts a time of the loop's clock to Unix time. `bridge` is set if the route has one.
    """

    def __init__(self, wall_time: Callable[[float], float]) -> None:
        self._wall_time = wall_time
        self.requests_in_flight = 0
        self.request_duration_seconds = Histogram(_SECONDS)
        self.streams_opened = dict.fromkeys(TREATMENTS, 0)
        self.streams_closed = dict.fromkeys(CloseReason, 0)
        self.streams_rejected = dict.fromkeys(_REJECTIONS, 0)
        self.stream_duration_seconds = Histogram(_LIVES)
        self.time_to_first_byte_seconds = Histogram(_SECONDS)
        self.upstream_time_to_headers_seconds = Histogram(_SECONDS)
        self.upstream_time_to_first_event_seconds = Histogram(_SILENCES)
        self.upstream_silence_seconds = Histogram(_SILENCES)
        self.upstream_eof_after_first_event = 0
        self.upstream_eof_without_event = 0
        self.upstream_stalls = 0
        self.upstream_stall_recoveries = 0
        self.upstream_stall_seconds = Histogram(_SILENCES)
        self.upstream_errors = dict.fromkeys(_KINDS.values(), 0)
        self.upstream_reconnects = dict.fromkeys(ReconnectResult, 0)
        self.uninspectable_streams = 0
        self.quick_tunnel_requests = 0
        self.share_joins = dict.fromkeys(Join, 0)
        self.replayed_events = 0
        self.replay_gaps = dict.fromkeys(GapReason, 0)
        self.bridge: Bridge | None = None
        self.bridge_events = dict.fromkeys(Outcome, 0)
        self.bridge_overflows = dict.fromkeys(("stream", "replay", "audiences"), 0)
        self.bridge_positions_lost = 0
        self.bridge_stream_missing = 0
        self.leave_publishes = {"published": 0, "failed": 0}
        self.confirms_sent = dict.fromkeys((ConfirmForm.EVENT, ConfirmForm.COMMENT), 0)
        self.confirm_failures = 0
        self.pings_sent = dict.fromkeys(KeepaliveForm, 0)
        self.past = Counts()  # of ended streams
        # The time of upstream's latest event on the loop's clock, and its Unix time. The Unix time is
        # computed once; computed for every scrape, it would move without an event.
        self._event_at = float("-inf")
        self.upstream_last_event_timestamp_seconds = 0.0

    def recovered(self, seconds: float) -> None:
        """Count a stalled upstream that gave a sign of life after `seconds`."""
        self.upstream_stall_recoveries += 1
        self.upstream_stall_seconds.observe(seconds)

    def upstream_error(self, error: UpstreamError) -> None:
        """Count an upstream connection without a usable answer."""
        self.upstream_errors[_KINDS[type(error)]] += 1

    def closed(self, stream: OpenStream, reason: CloseReason, seconds: float) -> None:
        """Count an ended stream and keep its counts."""
        self.streams_closed[reason] += 1
        self.stream_duration_seconds.observe(seconds)
        self.past.add(stream)
        self.saw_event(stream.flow.event_at)

    def saw_event(self, at: float | None) -> None:
        """Note the time of a stream's latest event, on the loop's clock."""
        if at is not None and at > self._event_at:
            self._event_at = at
            self.upstream_last_event_timestamp_seconds = self._wall_time(at)
