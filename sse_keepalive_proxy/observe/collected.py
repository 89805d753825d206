"""The metrics of the routes as Prometheus gets them: what was counted, and what is read from the open streams
when it asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from sse_keepalive_proxy.observe.registry import Registry
from sse_keepalive_proxy.observe.route_metrics import Counts, Histogram, RouteMetrics
from sse_keepalive_proxy.stream.states import State

__all__ = ["Collected"]

_COUNTERS = {
    "streams_opened": "Streams whose client got a response head.",
    "confirm_failures": "Streams whose client had gone before it could be confirmed.",
    "upstream_stalls": "Times an upstream stream stalled.",
    "upstream_stall_recoveries": "Stalls that ended in life.",
    "upstream_eof_after_first_event": "Streams that upstream ended after one event.",
    "uninspectable_streams": "Encoded streams, passed through without pings.",
    "quick_tunnel_requests": (
        "Stream GETs through *.trycloudflare.com, which holds them back whatever we send."
    ),
}
_LABELLED = {
    "streams_closed": ("reason", "Streams ended, by their only reason."),
    "streams_rejected": ("reason", "Streams refused for want of room."),
    "confirms_sent": ("form", "Confirms written to clients."),
    "upstream_errors": ("kind", "Upstream gave no usable answer."),
    "upstream_reconnects": ("result", "Attempts to open upstream again behind a live client."),
}
_HISTOGRAMS = {
    "request_duration_seconds": "Plain requests, streams not.",
    "stream_duration_seconds": "How long streams lived.",
    "upstream_time_to_headers_seconds": "Request to upstream's response head.",
    "time_to_first_byte_seconds": "Request to the first body byte that the client gets.",
    "upstream_time_to_first_event_seconds": "Request to upstream's first event.",
    "upstream_silence_seconds": "Silences of upstream as they ended, from one keepalive interval up.",
    "upstream_stall_seconds": "Silences of stalled upstreams as they recovered.",
}
_GAUGES = {
    "requests_in_flight": "Requests being handled.",
    "upstream_last_event_timestamp_seconds": "When upstream last sent an event; 0 for never.",
}
_SUMS = {
    "upstream_events": ("events", "Events from upstream."),
    "upstream_comments": ("comments", "Comment-only blocks from upstream."),
    "upstream_bytes": ("upstream_bytes", "Bytes of stream bodies from upstream."),
}

Values = dict[tuple[str, ...], float]
"""By the values of the labels."""


class Collected(Collector):
    """The routes' metrics. `requests`: those answered, by route, method and status; `clock`: the loop's."""

    def __init__(
        self,
        routes: Mapping[str, RouteMetrics],
        requests: Mapping[tuple[str, str, int], int],
        streams: Registry,
        clock: Callable[[], float],
    ) -> None:
        self._routes, self._requests, self._streams, self._clock = routes, requests, streams, clock

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._of_open_streams()
        requests: Values = {
            (route, method, f"{status:03d}"): count
            for (route, method, status), count in self._requests.items()
        }
        yield _counter("requests", "Requests answered, streams too.", ("route", "method", "code"), requests)
        for name, text in _COUNTERS.items():
            yield _counter(name, text, ("route",), self._of_each(name))
        for name, (label, text) in _LABELLED.items():
            numbers: Values = {
                (route, value): count
                for route, metrics in self._routes.items()
                for value, count in getattr(metrics, name).items()
            }
            yield _counter(name, text, ("route", label), numbers)
        for name, text in _GAUGES.items():
            yield _gauge(name, text, ("route",), self._of_each(name))
        for name, text in _HISTOGRAMS.items():
            family = HistogramMetricFamily(f"sse_proxy_{name}", text, labels=("route",))
            for route, metrics in self._routes.items():
                spread = getattr(metrics, name)
                family.add_metric((route,), _buckets(spread), spread.total)
            yield family

    def _of_each(self, name: str) -> Values:
        return {(route,): getattr(metrics, name) for route, metrics in self._routes.items()}

    def _of_open_streams(self) -> Iterator[Metric]:
        """What the open streams have to say, also of what those before them have counted."""
        routes = self._routes
        now = self._clock()
        sums = {name: route.past.copy() for name, route in routes.items()}
        states: Values = {(name, state.value): 0 for name in routes for state in State}
        oldest: Values = {(name,): 0.0 for name in routes}
        stalled: Values = {(name,): 0 for name in routes}
        for stream in self._streams:
            name, life = stream.route_name, stream.life
            states[name, life.state.value] += 1
            if life.close_reason is not None:
                continue  # counted in `past` already
            sums[name].add(stream)
            routes[name].saw_event(stream.flow.event_at)
            if life.stalled_since is not None:
                stalled[name,] += 1
                oldest[name,] = max(oldest[name,], life.silent_for(now))
        yield _gauge("streams_active", "Open streams by state.", ("route", "state"), states)
        yield _gauge(
            "upstream_stalled_streams", "Upstream streams without a sign of life now.", ("route",), stalled
        )
        yield _gauge(
            "upstream_oldest_stall_seconds", "The longest silence among the stalled ones.", ("route",), oldest
        )
        yield from _sums(sums)


def _sums(sums: Mapping[str, Counts]) -> Iterator[Metric]:
    for name, (counted, text) in _SUMS.items():
        yield _counter(
            name, text, ("route",), {(route,): getattr(counts, counted) for route, counts in sums.items()}
        )
    sent: Values = {}
    pings: Values = {}
    for route, counts in sums.items():
        sent[route, "upstream"], sent[route, "synthetic"] = counts.sent_upstream, counts.sent_synthetic
        pings.update({(route, form.value): count for form, count in counts.pings.items()})
    yield _counter(
        "downstream_bytes", "Bytes of stream bodies to clients, by who wrote them.", ("route", "origin"), sent
    )
    yield _counter("pings_sent", "Pings written to clients.", ("route", "form"), pings)


def _buckets(spread: Histogram) -> list[tuple[str, float]]:
    """How many values each bucket has, those of the lower ones too."""
    names = [*map(floatToGoString, spread.bounds), "+Inf"]
    return list(zip(names, accumulate(spread.counts), strict=True))


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Values) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"sse_proxy_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _counter(name: str, text: str, labels: tuple[str, ...], values: Values) -> CounterMetricFamily:
    family = CounterMetricFamily(f"sse_proxy_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
