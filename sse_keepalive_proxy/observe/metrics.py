"""Every metric's name, help and labels: the contract of `docs/reference/metrics.md`.

Labels come from the configuration and from closed sets, never from a request (a method that is not
known is `other`). What is counted on the way of a byte are plain integers of each stream; they are
added up when Prometheus asks (`_Collected`), and kept here once a stream is over.
"""

from __future__ import annotations

import platform
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sse_keepalive_proxy import __version__
from sse_keepalive_proxy.errors import (
    UpstreamError,
    UpstreamInvalid,
    UpstreamRefused,
    UpstreamReset,
    UpstreamTimeout,
)
from sse_keepalive_proxy.observe.registry import OpenStream, Registry
from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import ConfirmForm, KeepaliveForm
from sse_keepalive_proxy.stream.states import State

__all__ = ["NO_ROUTE", "Metrics", "RouteMetrics"]

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


class RouteMetrics:
    """The metrics of one route. Calls are for what happens rarely: opening, closing, stalling."""

    def __init__(self, metrics: Metrics, route: str, ping_form: KeepaliveForm | None) -> None:
        self._metrics, self._route = metrics, route
        self.ping_form = ping_form
        self._time_to_headers = metrics.time_to_headers.labels(route)
        self.time_to_first_byte = metrics.time_to_first_byte.labels(route)
        self.time_to_first_event = metrics.time_to_first_event.labels(route)
        self.silence = metrics.silence.labels(route)
        self.eof_after_first_event = metrics.eof_after_first_event.labels(route)
        self.uninspectable = metrics.uninspectable.labels(route)
        self.quick_tunnel = metrics.quick_tunnel.labels(route)
        self.confirm_failures = metrics.confirm_failures.labels(route)
        self.in_flight = metrics.in_flight.labels(route)
        self.duration = metrics.duration.labels(route)
        self._opened = metrics.opened.labels(route)
        self._life_span = metrics.life_span.labels(route)
        self._stalls = metrics.stalls.labels(route)
        self._recoveries = metrics.recoveries.labels(route)
        self._stall_seconds = metrics.stall_seconds.labels(route)
        for reason in CloseReason:
            metrics.closed.labels(route, reason.value)
        for form in (ConfirmForm.EVENT, ConfirmForm.COMMENT):
            metrics.confirms.labels(route, form.value)
        for rejection in _REJECTIONS:
            metrics.rejected.labels(route, rejection)
        for kind in _KINDS.values():
            metrics.upstream_errors.labels(route, kind)
        # Of the streams that are over.
        self.past: Tally[str] = Tally()
        # Upstream's newest event on the loop's clock, and the Unix time that was, worked out once: worked out
        # anew for every scrape it would move without an event.
        self._event_at = float("-inf")
        self.last_event_time = 0.0

    def opened(self, seconds: float) -> None:
        """Upstream accepted a stream, `seconds` after the request: the client gets its head."""
        self._opened.inc()
        self._time_to_headers.observe(seconds)

    def confirmed(self, form: ConfirmForm) -> None:
        """A confirm was written."""
        self._metrics.confirms.labels(self._route, form.value).inc()

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

    def closed(self, stream: OpenStream, reason: str, seconds: float) -> None:
        """A stream is over: keep what it counted."""
        self._metrics.closed.labels(self._route, reason).inc()
        self._life_span.observe(seconds)
        self.past.update(_counts(stream))
        self.saw_event(stream.event_at)

    def saw_event(self, at: float | None) -> None:
        """A stream's newest event was at `at`, on the loop's clock."""
        if at is not None and at > self._event_at:
            self._event_at = at
            self.last_event_time = self._metrics.wall_time(at)


def _counts(stream: OpenStream) -> dict[str, int]:
    return {
        "events": stream.events,
        "comments": stream.comments,
        "pings": stream.pings,
        "upstream_bytes": stream.upstream_bytes,
        "sent_upstream": stream.sent_upstream,
        "sent_synthetic": stream.sent_synthetic,
    }


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
        self.in_flight = Gauge(
            "sse_proxy_requests_in_flight", "Requests being handled.", ("route",), registry=registry
        )
        self.duration = histogram("request_duration_seconds", "Plain requests, streams not.", _SECONDS)
        self.opened = counter("streams_opened", "Streams whose upstream accepted them.", "route")
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
        registry.register(_Collected(self, streams))

    def route(self, name: str, ping_form: KeepaliveForm | None) -> RouteMetrics:
        """The metrics of route `name`, there from the start at 0. `ping_form` None: it sends no pings."""
        if name not in self.routes:
            self.routes[name] = RouteMetrics(self, name, ping_form)
        return self.routes[name]

    def answered(self, route: str, method: str, status: int) -> None:
        """Count one answered request."""
        known = method if method in _METHODS else "other"
        self.requests.labels(route, known, f"{status:03d}").inc()

    def wall_time(self, at: float) -> float:
        """A moment on the loop's clock as a Unix timestamp."""
        return time.time() - (self._clock() - at)

    def now(self) -> float:
        """The loop's clock."""
        return self._clock()


class _Collected(Collector):
    """What is read from the open streams when Prometheus asks."""

    def __init__(self, metrics: Metrics, streams: Registry) -> None:
        self._metrics, self._streams = metrics, streams

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        routes = self._metrics.routes
        now = self._metrics.now()
        sums = {name: Tally(route.past) for name, route in routes.items()}
        states: Tally[tuple[str, State]] = Tally()
        oldest: dict[str, float] = dict.fromkeys(routes, 0.0)
        stalled: Tally[str] = Tally()
        for stream in self._streams:
            name, life = stream.route_name, stream.life
            states[name, life.state] += 1
            if life.close_reason is not None:
                continue  # counted in `past` already
            sums[name].update(_counts(stream))
            routes[name].saw_event(stream.event_at)
            if life.stalled_since is not None:
                stalled[name] += 1
                oldest[name] = max(oldest[name], life.silent_for(now))
        yield _gauge(
            "streams_active",
            "Open streams by state.",
            ("route", "state"),
            {(name, state.value): states[name, state] for name in routes for state in State},
        )
        yield _gauge(
            "upstream_stalled_streams",
            "Upstream streams without a sign of life now.",
            ("route",),
            {(name,): stalled[name] for name in routes},
        )
        yield _gauge(
            "upstream_oldest_stall_seconds",
            "The longest silence among the stalled ones.",
            ("route",),
            {(name,): oldest[name] for name in routes},
        )
        yield _gauge(
            "upstream_last_event_timestamp_seconds",
            "When upstream last sent an event; 0 for never.",
            ("route",),
            {(name,): route.last_event_time for name, route in routes.items()},
        )
        yield from self._counters(sums)

    def _counters(self, sums: dict[str, Tally[str]]) -> Iterator[Metric]:
        for key, name, text in (
            ("events", "upstream_events", "Events from upstream."),
            ("comments", "upstream_comments", "Comment-only blocks from upstream."),
            ("upstream_bytes", "upstream_bytes", "Bytes of stream bodies from upstream."),
        ):
            yield _counter(name, text, ("route",), {(route,): sums[route][key] for route in sums})
        yield _counter(
            "downstream_bytes",
            "Bytes of stream bodies to clients, by who wrote them.",
            ("route", "origin"),
            {
                (route, origin): sums[route][f"sent_{origin}"]
                for route in sums
                for origin in ("upstream", "synthetic")
            },
        )
        yield _counter(
            "pings_sent",
            "Pings written to clients.",
            ("route", "form"),
            {
                (name, form.value): sums[name]["pings"] if form is route.ping_form else 0
                for name, route in self._metrics.routes.items()
                for form in KeepaliveForm
            },
        )


def _gauge(
    name: str, text: str, labels: Sequence[str], values: dict[tuple[str, ...], float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"sse_proxy_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _counter(
    name: str, text: str, labels: Sequence[str], values: dict[tuple[str, ...], float]
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"sse_proxy_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
