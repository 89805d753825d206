"""Histograms of our own: they say what prometheus-client's would."""

from __future__ import annotations

from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry, Histogram

from sse_keepalive_proxy.observe.metrics import Metrics
from sse_keepalive_proxy.observe.registry import Registry
from tests.support.clock import ManualClock

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SILENCES = (1, 5, 10, 15, 20, 30, 45, 60, 90, 120, 300, 600, 1800, 3600)
LIVES = (1, 10, 30, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 86400)
HISTOGRAMS = {
    "request_duration_seconds": SECONDS,
    "stream_duration_seconds": LIVES,
    "time_to_first_byte_seconds": SECONDS,
    "upstream_time_to_headers_seconds": SECONDS,
    "upstream_time_to_first_event_seconds": SILENCES,
    "upstream_silence_seconds": SILENCES,
    "upstream_stall_seconds": SILENCES,
}


def samples(registry: CollectorRegistry, name: str) -> list[tuple[str, dict[str, str], float]]:
    return [
        (sample.name, sample.labels, sample.value)
        for family in registry.collect()
        if family.name == f"sse_proxy_{name}"
        for sample in family.samples
    ]


@pytest.mark.parametrize("name", list(HISTOGRAMS))
def test_every_value_falls_into_the_bucket_that_prometheus_client_gives_it(name: str) -> None:
    bounds = HISTOGRAMS[name]
    metrics, others = Metrics(Registry(10, None), ManualClock()), CollectorRegistry()
    spread = getattr(metrics.route("events"), name)
    theirs = Histogram(f"sse_proxy_{name}", "The same.", ("route",), registry=others, buckets=bounds)
    histogram = theirs.labels("events")
    assert samples(metrics.registry, name) == samples(others, name) != []
    between = [(low + high) / 2 for low, high in pairwise(bounds)]
    for value in (0.0, bounds[0] / 2, *bounds, *between, bounds[-1] * 2):
        spread.observe(value)
        histogram.observe(value)
        assert samples(metrics.registry, name) == samples(others, name)


def test_every_histogram_is_among_them() -> None:
    metrics = Metrics(Registry(10, None), ManualClock())
    found = {family.name for family in metrics.registry.collect() if family.type == "histogram"}
    assert found == {f"sse_proxy_{name}" for name in HISTOGRAMS}
