"""What Prometheus gets: the contract of `docs/reference/metrics.md`.

Labels come from the configuration and from closed sets, never from a request (a method that is not known is
`other`). What is counted of a route are plain numbers (`route_metrics`), which `collected` reads when
Prometheus asks, and so are the answered requests, which may have no route. Else here is what there is one of.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Info,
    ProcessCollector,
    disable_created_metrics,
)

from sse_keepalive_proxy import __version__
from sse_keepalive_proxy.build import BUILD
from sse_keepalive_proxy.observe.collected import Collected
from sse_keepalive_proxy.observe.registry import Registry
from sse_keepalive_proxy.observe.route_metrics import RouteMetrics

__all__ = ["NO_ROUTE", "Metrics"]

NO_ROUTE = "_none"
"""The route label of a request that no route takes: no configured name can be this."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


class Metrics:
    """All metrics of one instance, in a registry of their own.

    `clock` is the loop's clock, which streams stamp their events with.
    """

    def __init__(self, streams: Registry, clock: Callable[[], float]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self._clock = clock
        self.routes: dict[str, RouteMetrics] = {}
        self._requests: dict[tuple[str, str, int], int] = {}
        ProcessCollector(registry=registry)
        Info("sse_proxy_build", "What runs here.", registry=registry).info(
            {"version": __version__, "python_version": platform.python_version(), "build": BUILD}
        )
        self.loop_lag = Gauge(
            "sse_proxy_event_loop_lag_seconds", "How late the event loop's last tick was.", registry=registry
        )
        Gauge("sse_proxy_streams_limit", "Streams there is room for.", registry=registry).set_function(
            lambda: streams.limit
        )
        self._reloads = Counter(
            "sse_proxy_config_reloads",
            "Times the configuration was read anew.",
            ("result",),
            registry=registry,
        )
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
        registry.register(Collected(self.routes, self._requests, streams, clock))

    def route(self, name: str) -> RouteMetrics:
        """The metrics of route `name`, there from the start at 0."""
        if name not in self.routes:
            self.routes[name] = RouteMetrics(self._wall_time)
        return self.routes[name]

    def answered(self, route: str, method: str, status: int) -> None:
        """Count one answered request."""
        key = (route, method if method in _METHODS else "other", status)
        self._requests[key] = self._requests.get(key, 0) + 1

    def reloaded(self, *, success: bool) -> None:
        """The configuration was read anew; without `success` the last good one stays."""
        self._reloads.labels("success" if success else "failure").inc()
        self._last_reload_successful.set(success)
        if success:
            self._last_reload_success.set_to_current_time()

    def _wall_time(self, at: float) -> float:
        """A moment on the loop's clock as a Unix timestamp."""
        return time.time() - (self._clock() - at)
