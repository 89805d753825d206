"""The bridges of the routes, over reloads.

Needs the extra `nats`, and is imported only if a route has a bridge.
"""

from __future__ import annotations

from collections.abc import Container

from sse_keepalive_proxy.bridge.connection import Connection, Connections
from sse_keepalive_proxy.bridge.durable import Reader
from sse_keepalive_proxy.live.bridge import RouteBridge
from sse_keepalive_proxy.observe.route_metrics import RouteMetrics
from sse_keepalive_proxy.stream.policy import Bridge, BridgeMode, ReplayIds, Share

__all__ = ["Bridges"]


class Bridges:
    """The bridge of each route that has one, and their connections to NATS."""

    def __init__(self) -> None:
        self._connections = Connections()
        self._bridges: dict[str, RouteBridge] = {}

    def of(self, route: str, policy: Bridge, share: Share | None, metrics: RouteMetrics) -> RouteBridge:
        """Return the bridge of `route`. It survives a reload that leaves `policy`, and how long messages are
        kept for clients of `share`, as they are. Another one takes its place otherwise, and the streams of
        the old one keep that.
        """
        known, remembers = self._bridges.get(route), _remembers(policy, share)
        if known is not None and (known.policy, known.remembers) == (policy, remembers):
            return known
        connection = self._connections.to(policy.servers)
        source: Connection | Reader = connection
        if policy.durable is not None:
            source = Reader(connection, policy.durable, remembers, metrics)
        made = RouteBridge(route, policy, metrics, source, self._connections.tidy, remembers)
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


def _remembers(policy: Bridge, share: Share | None) -> float | None:
    """Return the seconds for which messages are kept for clients that come back; None: they are not."""
    replay = None if share is None else share.replay
    if share is None or replay is None or replay.ids is not ReplayIds.ADD:
        return None
    return None if policy.durable is None or policy.mode is BridgeMode.OBSERVE else share.linger
