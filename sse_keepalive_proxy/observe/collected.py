"""The collector of the routes' metrics: the counts of `route_metrics` and the state of the open streams.

It reads them when Prometheus scrapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from sse_keepalive_proxy.observe.registry import OpenGroup, OpenStream, Registry
from sse_keepalive_proxy.observe.route_metrics import Counts, Histogram, RouteMetrics
from sse_keepalive_proxy.stream.states import State

__all__ = ["Collected", "Oldest", "Waiting"]

_COUNTERS = {
    "confirm_failures": "Streams whose client left before the confirm.",
    "upstream_stalls": "Stalls of upstream streams.",
    "upstream_stall_recoveries": "Stalls that ended with a sign of life.",
    "upstream_eof_after_first_event": "Streams that upstream ended after one event.",
    "upstream_eof_without_event": "Streams that upstream ended without any event.",
    "uninspectable_streams": "Streams with a content coding, and bodies that do not begin like an event "
    "stream: passed through without pings.",
    "bridge_positions_lost": "JetStream streams (`bridge.durable`) that were made again, or had lost "
    "messages that were not read yet.",
    "replayed_events": "Events sent again to clients that came back.",
    "quick_tunnel_requests": "GET requests for streams through *.trycloudflare.com, which holds them back.",
}
_LABELLED = {
    "streams_opened": ("family", "Streams whose client got a response head, by family of the client."),
    "streams_closed": ("reason", "Ended streams, by close reason."),
    "streams_rejected": ("reason", "Streams refused because of a limit."),
    "confirms_sent": ("form", "Confirms written to clients."),
    "pings_sent": ("form", "Pings written to clients."),
    "share_joins": ("how", "Clients that joined a shared stream: asked upstream first, or trusted."),
    "replay_gaps": (
        "reason",
        "Clients that came back with an id whose later events could not be sent again.",
    ),
    "bridge_events": ("outcome", "Messages of NATS for streams, and dropped copies of them."),
    "bridge_overflows": ("memory", "What a full memory of the bridge has forgotten."),
    "leave_publishes": ("result", "Messages on NATS that a client has left (`leave.publish`)."),
    "upstream_errors": ("kind", "Upstream connections without a usable answer."),
    "upstream_reconnects": ("result", "Attempts to open upstream again for a connected client."),
}
_HISTOGRAMS = {
    "request_duration_seconds": "Duration of plain requests, without streams.",
    "stream_duration_seconds": "Duration of streams.",
    "upstream_time_to_headers_seconds": "Time from the request to upstream's response head.",
    "time_to_first_byte_seconds": "Time from the request to the first body byte for the client.",
    "upstream_time_to_first_event_seconds": "Time from the request to upstream's first event.",
    "upstream_silence_seconds": "Ended silences of upstream of at least one keepalive interval.",
    "upstream_stall_seconds": "Silences of stalled upstreams that recovered.",
}
_GAUGES = {
    "requests_in_flight": "Requests in progress.",
    "bridge_stream_missing": "1 while the JetStream stream of `bridge.durable` does not exist, otherwise 0.",
    "upstream_last_event_timestamp_seconds": "Unix time of upstream's last event; 0 for none.",
}
_SUMS = {
    "upstream_events": ("events", "Events from upstream."),
    "upstream_comments": ("comments", "Comment lines from upstream."),
    "upstream_bytes": ("upstream_bytes", "Bytes of stream bodies from upstream."),
}

Values = dict[tuple[str, ...], float]
"""Numbers by their label values."""


class Oldest(Protocol):
    """The openings of streams that one upstream has accepted and not answered."""

    def oldest(self) -> Iterator[tuple[str, float]]:
        """Yield each route with such an opening, and the age of the oldest one in seconds."""


class Waiting(Protocol):
    """The openings of streams at one upstream."""

    @property
    def unanswered(self) -> Oldest:
        """Those that upstream has accepted and not answered."""

    @property
    def waiting(self) -> int:
        """The number of openings that wait for their turn."""


class Collected(Collector):
    """Collect the routes' metrics.

    `requests`: the answered requests by route, method and status. `openings`: those of each upstream.
    `clock`: the clock of the event loop.
    """

    def __init__(
        self,
        routes: Mapping[str, RouteMetrics],
        requests: Mapping[tuple[str, str, int], int],
        openings: Mapping[str, Waiting],
        streams: Registry,
        clock: Callable[[], float],
    ) -> None:
        self._routes, self._requests, self._openings = routes, requests, openings
        self._streams, self._clock = streams, clock

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._of_open_streams()
        requests: Values = {
            (route, method, f"{status:03d}"): count
            for (route, method, status), count in self._requests.items()
        }
        yield _counter(
            "requests", "Answered requests, streams included.", ("route", "method", "code"), requests
        )
        waiting: Values = {(upstream,): openings.waiting for upstream, openings in self._openings.items()}
        text = "Openings of streams that wait for their turn (`limits.max_opening`)."
        yield _gauge("upstream_openings_waiting", text, ("upstream",), waiting)
        unanswered: Values = {(route,): 0.0 for route in self._routes}
        for openings in self._openings.values():
            unanswered.update({(route,): seconds for route, seconds in openings.unanswered.oldest()})
        text = (
            "Age of the oldest opening of a stream that upstream has accepted and not answered; 0 for none."
        )
        yield _gauge("upstream_oldest_opening_seconds", text, ("route",), unanswered)
        for name, text in _COUNTERS.items():
            yield _counter(name, text, ("route",), self._of_each(name))
        for name, (label, text) in _LABELLED.items():
            numbers: Values = {
                (route, value): count
                for route, metrics in self._routes.items()
                for value, count in getattr(metrics, name).items()
            }
            yield _counter(name, text, ("route", label), numbers)
        yield _counter(
            "replay_logs_emptied",
            "Logs of shared streams that were emptied because of limits.max_replay.",
            (),
            {(): self._streams.logs.let_go},
        )
        bridges = {route: found for route, each in self._routes.items() if (found := each.bridge) is not None}
        lost: Values = {(route,): bridge.lost for route, bridge in bridges.items()}
        text = "Messages of NATS that came faster than they are handled, on the connection of the route."
        yield _counter("bridge_lost", text, ("route",), lost)
        connected: Values = {(route,): float(bridge.connected) for route, bridge in bridges.items()}
        text = "1 while NATS is connected (`bridge`) and permits all subjects of the route, otherwise 0."
        yield _gauge("bridge_connected", text, ("route",), connected)
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
        """Yield the metrics of the open streams, and the sums over open and ended streams."""
        routes = self._routes
        now = self._clock()
        sums = {name: route.past.copy() for name, route in routes.items()}
        states: Values = {(name, state.value): 0 for name in routes for state in State}
        oldest: Values = {(name,): 0.0 for name in routes}
        stalled: Values = {(name,): 0 for name in routes}
        held: Values = {(name,): 0 for name in routes}
        for without_client in self._streams.held:
            held[without_client.route_name,] += 1
        finished: Values = {(name,): 0 for name in routes}
        groups: Values = {(name,): 0 for name in routes}
        upstreams: list[OpenStream | OpenGroup] = []
        for group in self._streams.groups:
            groups[group.route_name,] += 1
            sums[group.route_name].add_upstream(group.flow)
            upstreams.append(group)
        for stream in self._streams:
            states[stream.route_name, stream.state.value] += 1
            if stream.life.close_reason is None:  # else already counted in `past`
                sums[stream.route_name].add(stream)
                upstreams.append(stream)
        for each in upstreams:
            name, life = each.route_name, each.life
            routes[name].saw_event(each.flow.event_at)
            if life.stalled_since is not None:
                stalled[name,] += 1
                oldest[name,] = max(oldest[name,], life.silent_for(now))
            if life.finished_at is not None:
                finished[name,] += 1
        yield _gauge("streams_active", "Open streams by state.", ("route", "state"), states)
        yield _gauge(
            "upstream_stalled_streams", "Streams whose upstream is stalled now.", ("route",), stalled
        )
        yield _gauge(
            "upstream_oldest_stall_seconds", "Longest silence of a stalled upstream.", ("route",), oldest
        )
        yield _gauge(
            "upstream_held_streams", "Upstream streams kept open without a client.", ("route",), held
        )
        yield _gauge("share_groups", "Streams of upstream that clients share.", ("route",), groups)
        yield _gauge(
            "upstream_finished_streams",
            "Open streams whose upstream has sent its last event.",
            ("route",),
            finished,
        )
        yield from _sums(sums)


def _sums(sums: Mapping[str, Counts]) -> Iterator[Metric]:
    for name, (counted, text) in _SUMS.items():
        yield _counter(
            name, text, ("route",), {(route,): getattr(counts, counted) for route, counts in sums.items()}
        )
    sent: Values = {}
    for route, counts in sums.items():
        sent[route, "upstream"], sent[route, "synthetic"] = counts.sent_upstream, counts.sent_synthetic
    yield _counter(
        "downstream_bytes", "Bytes of stream bodies to clients, by origin.", ("route", "origin"), sent
    )


def _buckets(spread: Histogram) -> list[tuple[str, float]]:
    """Return the cumulative count of each bucket."""
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
