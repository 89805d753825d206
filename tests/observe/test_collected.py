"""What is read from the open streams when somebody asks, and kept of those that are over."""

from __future__ import annotations

import random

from sse_keepalive_proxy.observe.metrics import Metrics
from sse_keepalive_proxy.observe.registry import Bridged, Registry
from sse_keepalive_proxy.stream.lifecycle import Lifecycle
from sse_keepalive_proxy.stream.messages import CloseReason, Fault
from sse_keepalive_proxy.stream.policy import Family, StreamPolicy
from sse_keepalive_proxy.stream.states import ReconnectResult, State
from tests.support.clock import ManualClock


class Passed:
    """What has passed through a stream, as a test says."""

    def __init__(self) -> None:
        self.comments = self.events = self.upstream_bytes = self.sent_upstream = self.sent_synthetic = 0
        self.event_at: float | None = None
        self.bridge: Bridged | None = None


class Stream:
    """An open stream that nobody relays."""

    stream_id, client, family = "0011223344556677", "203.0.113.7", Family.HTTP
    pings = stalls = reconnects = 0
    group: str | None = None
    route_name = "events"

    def __init__(self, events: int = 0) -> None:
        self.opened_at = 1000.0
        self.life = Lifecycle(StreamPolicy(), self.opened_at, random.random)
        self.flow = Passed()
        self.flow.events = events

    @property
    def state(self) -> State:
        return self.life.state

    def leave(self, at: float, reason: CloseReason) -> None:
        raise AssertionError("nobody asked for it")

    def cut(self) -> None:
        raise AssertionError("nobody asked for it")


class Instance:
    """The metrics of two routes, and the streams that they are read from."""

    def __init__(self, *streams: Stream) -> None:
        self.clock, self.streams = ManualClock(), Registry(10, None)
        self.metrics = Metrics(self.streams, self.clock)
        for name in ("events", "other"):
            self.metrics.route(name)
        for stream in streams:
            self.streams.add(stream)

    def close(self, stream: Stream) -> None:
        """It ends, as far as counts go: told first, forgotten when its connection is gone."""
        stream.life.handle(Fault(CloseReason.INTERNAL), self.clock())
        self.metrics.route(stream.route_name).closed(stream, CloseReason.INTERNAL, 1.0)

    def value(self, name: str, route: str = "events", **labels: str) -> float:
        found = self.metrics.registry.get_sample_value(f"sse_proxy_{name}", {"route": route, **labels})
        assert found is not None, f"there is no {name} {route} {labels}"
        return found


def test_what_a_stream_counted_is_there_once_while_it_ends_and_after_it_has() -> None:
    proxy = Instance(old := Stream(2), Stream(5))
    old.flow.upstream_bytes, old.flow.sent_synthetic = 30, 9

    def counted() -> tuple[float, ...]:
        synthetic = proxy.value("downstream_bytes_total", origin="synthetic")
        return proxy.value("upstream_events_total"), proxy.value("upstream_bytes_total"), synthetic

    assert counted() == (7, 30, 9)
    proxy.close(old)  # its connection is still there
    assert counted() == (7, 30, 9)
    proxy.streams.remove(old)
    assert counted() == (7, 30, 9)


def test_a_route_that_is_asked_for_again_goes_on_with_its_counts() -> None:
    proxy = Instance(old := Stream(3))
    proxy.close(old)
    proxy.streams.remove(old)
    assert proxy.metrics.route("events") is proxy.metrics.routes["events"]
    proxy.streams.add(Stream(1))
    assert proxy.value("upstream_events_total") == 4


def test_each_result_of_asking_upstream_again_is_counted_as_what_it_is() -> None:
    proxy = Instance()
    for count, result in enumerate(ReconnectResult, start=1):
        for _ in range(count):
            proxy.metrics.route("events").upstream_reconnects[result] += 1

    def counted(route: str) -> list[float]:
        return [proxy.value("upstream_reconnects_total", route, result=result) for result in ReconnectResult]

    assert (counted("events"), counted("other")) == ([1, 2, 3], [0, 0, 0])
