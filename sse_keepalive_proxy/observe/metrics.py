"""The metrics of one instance, as `docs/reference/metrics.md` lists them.

Labels come from the configuration and from closed sets, never from a request; an unknown method is `other`.
The counts of a route and the answered requests are plain numbers (`route_metrics`), which `collected` reads
when Prometheus scrapes. This module owns the metrics of the whole instance.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus

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
from sse_keepalive_proxy.observe.collected import Collected, Waiting
from sse_keepalive_proxy.observe.registry import Registry
from sse_keepalive_proxy.observe.route_metrics import RouteMetrics

__all__ = ["NO_ROUTE", "Metrics"]

NO_ROUTE = "_none"
"""The route label of a request without a matching route. No route can have this name."""

_LEFT = 499
"""nginx's code for a client that has left before its answer."""

_CODES = frozenset({*map(int, HTTPStatus), _LEFT})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


class Metrics:
    """All metrics of one instance, in their own registry.

    `clock` is the clock of the event loop; streams use it for the times of their events.
    """

    def __init__(self, streams: Registry, clock: Callable[[], float]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self._clock = clock
        self.routes: dict[str, RouteMetrics] = {}
        self._requests: dict[tuple[str, str, int], int] = {}
        self._openings: dict[str, Waiting] = {}
        ProcessCollector(registry=registry)
        Info("sse_proxy_build", "The running versions.", registry=registry).info(
            {"version": __version__, "python_version": platform.python_version(), "build": BUILD}
        )
        self.loop_lag = Gauge(
            "sse_proxy_event_loop_lag_seconds", "Delay of the event loop's last tick.", registry=registry
        )
        Gauge("sse_proxy_streams_limit", "Largest number of open streams.", registry=registry).set_function(
            lambda: streams.limit
        )
        Gauge(
            "sse_proxy_replay_bytes", "Bytes in the logs of shared streams.", registry=registry
        ).set_function(lambda: streams.logs.size)
        self._reloads = Counter(
            "sse_proxy_config_reloads",
            "Reloads of the configuration.",
            ("result",),
            registry=registry,
        )
        for result in ("success", "failure"):
            self._reloads.labels(result)
        self._last_reload_successful = Gauge(
            "sse_proxy_config_last_reload_successful",
            "1 if the last reload succeeded, otherwise 0.",
            registry=registry,
        )
        self._last_reload_success = Gauge(
            "sse_proxy_config_last_reload_success_timestamp_seconds",
            "Unix time of the last successful reload, or of the start.",
            registry=registry,
        )
        self._last_reload_successful.set(1)
        self._last_reload_success.set_to_current_time()
        registry.register(Collected(self.routes, self._requests, self._openings, streams, clock))

    def route(self, name: str) -> RouteMetrics:
        """Return the metrics of route `name`. New ones begin at 0."""
        if name not in self.routes:
            self.routes[name] = RouteMetrics(self._wall_time)
        return self.routes[name]

    def set_openings(self, openings: Mapping[str, Waiting]) -> None:
        """Set the openings of each upstream, from now on."""
        self._openings.clear()
        self._openings.update(openings)

    def answered(self, route: str, method: str, status: int) -> None:
        """Count one answered request."""
        key = (route, method if method in _METHODS else "other", _code(status))
        self._requests[key] = self._requests.get(key, 0) + 1

    def reloaded(self, *, success: bool) -> None:
        """Count one reload of the configuration."""
        self._reloads.labels("success" if success else "failure").inc()
        self._last_reload_successful.set(success)
        if success:
            self._last_reload_success.set_to_current_time()

    def _wall_time(self, at: float) -> float:
        """Convert a time of the loop's clock to Unix time."""
        return time.time() - (self._clock() - at)


def _code(status: int) -> int:
    """Return the value of the label `code`. A status that is not registered counts as the x00 of its class,
    and one outside of 100 to 599 as 500 (RFC 9110 15). So upstream cannot add values.
    """
    if status in _CODES:
        return status
    return status // 100 * 100 if 100 <= status < 600 else 500
