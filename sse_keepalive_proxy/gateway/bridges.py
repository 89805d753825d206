"""The bridges of the routes, over reloads.

Needs the extra `nats`, and is imported only if a route has a bridge.
"""

from __future__ import annotations

from collections.abc import Container

from sse_keepalive_proxy.bridge.connection import Connections
from sse_keepalive_proxy.live.bridge import RouteBridge
from sse_keepalive_proxy.observe.route_metrics import RouteMetrics
from sse_keepalive_proxy.stream.policy import Bridge

__all__ = ["Bridges"]


class Bridges:
    """The bridge of each route that has one, and their connections to NATS."""

    def __init__(self) -> None:
        self._connections = Connections()
        self._bridges: dict[str, RouteBridge] = {}

    def of(self, route: str, policy: Bridge, metrics: RouteMetrics) -> RouteBridge:
        """Return the bridge of `route`. It survives a reload that leaves `policy` as it is. Another one takes
        its place otherwise, and the streams of the old one keep that.
        """
        known = self._bridges.get(route)
        if known is not None and known.policy == policy:
            return known
        connection = self._connections.to(policy.servers)
        made = RouteBridge(route, policy, metrics, connection, self._connections.tidy)
        self._bridges[route] = metrics.bridge = made
        if known is not None:
            known.retire()
        return made

    def forget(self, routes: Container[str]) -> None:
        """Retire the bridges of routes that are not in `routes`."""
        for name in [name for name in self._bridges if name not in routes]:
            known = self._bridges.pop(name)
            known.metrics.bridge = None
            known.retire()

    async def close(self) -> None:
        """Close all connections to NATS."""
        await self._connections.close()
