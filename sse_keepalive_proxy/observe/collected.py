"""What is read from the open streams when Prometheus asks: gauges, and the counts of the way of a byte."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sse_keepalive_proxy.observe.registry import OpenStream, Registry
from sse_keepalive_proxy.stream.policy import KeepaliveForm
from sse_keepalive_proxy.stream.states import State

__all__ = ["Collected", "RouteCounts", "counts"]


class RouteCounts(Protocol):
    """What is kept of a route's streams that are over: `past`, by the keys of `counts`."""

    past: Tally[str]
    last_event_time: float

    def saw_event(self, at: float | None) -> None:
        """A stream's newest event was at `at`, on the loop's clock."""


def counts(stream: OpenStream) -> dict[str, int]:
    """What a stream has counted."""
    flow = stream.flow
    return {
        "events": flow.events,
        "comments": flow.comments,
        f"pings_{stream.ping_form}": stream.pings,
        "upstream_bytes": flow.upstream_bytes,
        "sent_upstream": flow.sent_upstream,
        "sent_synthetic": flow.sent_synthetic,
    }


class Collected(Collector):
    """What is read from the open streams when Prometheus asks."""

    def __init__(
        self, routes: Mapping[str, RouteCounts], streams: Registry, clock: Callable[[], float]
    ) -> None:
        self._routes, self._streams, self._clock = routes, streams, clock

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        routes = self._routes
        now = self._clock()
        sums = {name: Tally(route.past) for name, route in routes.items()}
        states: Tally[tuple[str, State]] = Tally()
        oldest: dict[str, float] = dict.fromkeys(routes, 0.0)
        stalled: Tally[str] = Tally()
        for stream in self._streams:
            name, life = stream.route_name, stream.life
            states[name, life.state] += 1
            if life.close_reason is not None:
                continue  # counted in `past` already
            sums[name].update(counts(stream))
            routes[name].saw_event(stream.flow.event_at)
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
                (name, form.value): sums[name][f"pings_{form}"]
                for name in self._routes
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
