"""Every metric's name, help and labels: the contract of `docs/reference/metrics.md`.

Labels come from the configuration and from closed sets, never from a request (a method that is not
known is `other`). What is counted on the way of a byte are plain integers of each stream; they are
added up when Prometheus asks (`collected`), and kept here once a stream is over.
"""

from __future__ import annotations

import platform
import time
from collections import Counter as Tally
from collections.abc import Callable, Sequence
from enum import StrEnum

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

from sse_keepalive_proxy import __version__
from sse_keepalive_proxy.errors import (
    UpstreamError,
    UpstreamInvalid,
    UpstreamRefused,
    UpstreamReset,
    UpstreamTimeout,
)
from sse_keepalive_proxy.observe.collected import Collected, counts
from sse_keepalive_proxy.observe.registry import OpenStream, Registry
from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import ConfirmForm

__all__ = ["NO_ROUTE", "Metrics", "ReconnectResult", "RouteMetrics"]

NO_ROUTE = "_none"
"""The route label of a request that no route takes: no configured name can be this."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_KINDS: dict[type[UpstreamError], str] = {
    UpstreamRefused: "refused",
    UpstreamTimeout: "timeout",
    UpstreamReset: "reset",
    UpstreamInvalid: "invalid",
}
_REJECTIONS = ("max_streams", "max_streams_per_client")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SILENCES = (1, 5, 10, 15, 20, 30, 45, 60, 90, 120, 300, 600, 1800, 3600)
_LIVES = (1, 10, 30, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 86400)


class ReconnectResult(StrEnum):
    """What came of asking upstream again: a stream, nothing yet, or the end of the client's stream."""

    REOPENED = "reopened"
    FAILED = "failed"
    ENDED = "ended"


class RouteMetrics:
    """The metrics of one route. Calls are for what happens rarely: opening, closing, stalling."""

    def __init__(self, metrics: Metrics, route: str) -> None:
        self._metrics, self._route = metrics, route
        self._time_to_headers = metrics.time_to_headers.labels(route)
        self.time_to_first_byte = metrics.time_to_first_byte.labels(route)
        self.time_to_first_event = metrics.time_to_first_event.labels(route)
        self.silence = metrics.silence.labels(route)
        self.eof_after_first_event = metrics.eof_after_first_event.labels(route)
        self.uninspectable = metrics.uninspectable.labels(route)
        self.quick_tunnel = metrics.quick_tunnel.labels(route)
        self.confirm_failures = metrics.confirm_failures.labels(route)
        self.in_flight = 0  # requests being answered
        metrics.in_flight.labels(route).set_function(lambda: self.in_flight)
        self.duration = metrics.duration.labels(route)
        self._opened = metrics.opened.labels(route)
        self._life_span = metrics.life_span.labels(route)
        self._stalls = metrics.stalls.labels(route)
        self._recoveries = metrics.recoveries.labels(route)
        self._stall_seconds = metrics.stall_seconds.labels(route)
        self._closed = {reason: metrics.closed.labels(route, reason.value) for reason in CloseReason}
        forms = (ConfirmForm.EVENT, ConfirmForm.COMMENT)
        self._confirms = {form: metrics.confirms.labels(route, form.value) for form in forms}
        for rejection in _REJECTIONS:
            metrics.rejected.labels(route, rejection)
        for kind in _KINDS.values():
            metrics.upstream_errors.labels(route, kind)
        for result in ReconnectResult:
            metrics.reconnects.labels(route, result.value)
        # Of the streams that are over.
        self.past: Tally[str] = Tally()
        # Upstream's newest event on the loop's clock, and the Unix time that was, worked out once: worked out
        # anew for every scrape it would move without an event.
        self._event_at = float("-inf")
        self.last_event_time = 0.0

    def opened(self) -> None:
        """A client gets the head of its stream."""
        self._opened.inc()

    def answered_in(self, seconds: float) -> None:
        """Upstream accepted a stream, `seconds` after the request."""
        self._time_to_headers.observe(seconds)

    def reconnected(self, result: ReconnectResult) -> None:
        """Upstream was asked again behind a live client."""
        self._metrics.reconnects.labels(self._route, result.value).inc()

    def confirmed(self, form: ConfirmForm) -> None:
        """A confirm was written."""
        self._confirms[form].inc()

    def stalled(self) -> None:
        """An upstream stream counts as stalled."""
        self._stalls.inc()

    def recovered(self, seconds: float) -> None:
        """A stalled upstream gave a sign of life after `seconds`."""
        self._recoveries.inc()
        self._stall_seconds.observe(seconds)

    def rejected(self, reason: str) -> None:
        """A stream found no room."""
        self._metrics.rejected.labels(self._route, reason).inc()

    def upstream_error(self, error: UpstreamError) -> None:
        """Upstream gave no usable answer."""
        self._metrics.upstream_errors.labels(self._route, _KINDS[type(error)]).inc()

    def closed(self, stream: OpenStream, reason: CloseReason, seconds: float) -> None:
        """A stream is over: keep what it counted."""
        self._closed[reason].inc()
        self._life_span.observe(seconds)
        for key, count in counts(stream).items():
            self.past[key] += count
        self.saw_event(stream.flow.event_at)

    def saw_event(self, at: float | None) -> None:
        """A stream's newest event was at `at`, on the loop's clock."""
        if at is not None and at > self._event_at:
            self._event_at = at
            self.last_event_time = self._metrics.wall_time(at)


class Metrics:
    """All metrics of one instance, in a registry of their own.

    `clock` is the loop's clock, which streams stamp their events with.
    """

    def __init__(self, streams: Registry, clock: Callable[[], float]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self._clock = clock
        self.routes: dict[str, RouteMetrics] = {}

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"sse_proxy_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(f"sse_proxy_{name}", text, ("route",), registry=registry, buckets=buckets)

        ProcessCollector(registry=registry)
        Info("sse_proxy_build", "What runs here.", registry=registry).info(
            {"version": __version__, "python_version": platform.python_version()}
        )
        self.requests = counter("requests", "Requests answered, streams too.", "route", "method", "code")
        self._answered: dict[tuple[str, str, int], Counter] = {}  # as found: `labels` takes 2 µs to find it
        self.in_flight = Gauge(
            "sse_proxy_requests_in_flight", "Requests being handled.", ("route",), registry=registry
        )
        self.duration = histogram("request_duration_seconds", "Plain requests, streams not.", _SECONDS)
        self.opened = counter("streams_opened", "Streams whose client got a response head.", "route")
        self.closed = counter("streams_closed", "Streams ended, by their only reason.", "route", "reason")
        self.life_span = histogram("stream_duration_seconds", "How long streams lived.", _LIVES)
        self.time_to_headers = histogram(
            "upstream_time_to_headers_seconds", "Request to upstream's response head.", _SECONDS
        )
        self.time_to_first_byte = histogram(
            "time_to_first_byte_seconds", "Request to the first body byte that the client gets.", _SECONDS
        )
        self.time_to_first_event = histogram(
            "upstream_time_to_first_event_seconds", "Request to upstream's first event.", _SILENCES
        )
        self.silence = histogram(
            "upstream_silence_seconds",
            "Silences of upstream as they ended, from one keepalive interval up.",
            _SILENCES,
        )
        self.confirms = counter("confirms_sent", "Confirms written to clients.", "route", "form")
        self.confirm_failures = counter(
            "confirm_failures", "Streams whose client had gone before it could be confirmed.", "route"
        )
        self.stalls = counter("upstream_stalls", "Times an upstream stream stalled.", "route")
        self.recoveries = counter("upstream_stall_recoveries", "Stalls that ended in life.", "route")
        self.stall_seconds = histogram(
            "upstream_stall_seconds", "Silences of stalled upstreams as they recovered.", _SILENCES
        )
        self.upstream_errors = counter("upstream_errors", "Upstream gave no usable answer.", "route", "kind")
        self.reconnects = counter(
            "upstream_reconnects", "Attempts to open upstream again behind a live client.", "route", "result"
        )
        self.eof_after_first_event = counter(
            "upstream_eof_after_first_event", "Streams that upstream ended after one event.", "route"
        )
        self.uninspectable = counter(
            "uninspectable_streams", "Encoded streams, passed through without pings.", "route"
        )
        self.rejected = counter("streams_rejected", "Streams refused for want of room.", "route", "reason")
        self.quick_tunnel = counter(
            "quick_tunnel_requests",
            "Stream GETs through *.trycloudflare.com, which holds them back whatever we send.",
            "route",
        )
        self.loop_lag = Gauge(
            "sse_proxy_event_loop_lag_seconds", "How late the event loop's last tick was.", registry=registry
        )
        Gauge("sse_proxy_streams_limit", "Streams there is room for.", registry=registry).set_function(
            lambda: streams.limit
        )
        self._reloads = counter("config_reloads", "Times the configuration was read anew.", "result")
        for result in ("success", "failure"):
            self._reloads.labels(result)
        self._last_reload_successful = Gauge(
            "sse_proxy_config_last_reload_successful",
            "1 when the configuration was good when it was last read, else 0.",
            registry=registry,
        )
        self._last_reload_success = Gauge(
            "sse_proxy_config_last_reload_success_timestamp_seconds",
            "Since when the configuration in force is; the start counts.",
            registry=registry,
        )
        self._last_reload_successful.set(1)
        self._last_reload_success.set_to_current_time()
        registry.register(Collected(self.routes, streams, clock))

    def route(self, name: str) -> RouteMetrics:
        """The metrics of route `name`, there from the start at 0."""
        if name not in self.routes:
            self.routes[name] = RouteMetrics(self, name)
        return self.routes[name]

    def answered(self, route: str, method: str, status: int) -> None:
        """Count one answered request."""
        known = method if method in _METHODS else "other"
        counted = self._answered.get((route, known, status))
        if counted is None:
            counted = self.requests.labels(route, known, f"{status:03d}")
            self._answered[route, known, status] = counted
        counted.inc()

    def reloaded(self, *, success: bool) -> None:
        """The configuration was read anew; without `success` the last good one stays."""
        self._reloads.labels("success" if success else "failure").inc()
        self._last_reload_successful.set(success)
        if success:
            self._last_reload_success.set_to_current_time()

    def wall_time(self, at: float) -> float:
        """A moment on the loop's clock as a Unix timestamp."""
        return time.time() - (self._clock() - at)
