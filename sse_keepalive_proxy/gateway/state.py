"""State shared by requests: of the process, and of the current configuration."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, field

from sse_keepalive_proxy.config import Limits, Match
from sse_keepalive_proxy.gateway.cors import Cors
from sse_keepalive_proxy.gateway.expiring_set import ExpiringSet
from sse_keepalive_proxy.gateway.forwarded import Trust
from sse_keepalive_proxy.gateway.identity import Identifier
from sse_keepalive_proxy.gateway.routes import RouteTable
from sse_keepalive_proxy.gateway.sharing import Groups
from sse_keepalive_proxy.http.attempts import Target
from sse_keepalive_proxy.http.dialer import Dialer
from sse_keepalive_proxy.live.backlog import Backlog
from sse_keepalive_proxy.live.bridged import StreamBridge
from sse_keepalive_proxy.live.route import StreamRoutes
from sse_keepalive_proxy.observe.metrics import Metrics
from sse_keepalive_proxy.observe.registry import Registry
from sse_keepalive_proxy.observe.route_metrics import RouteMetrics
from sse_keepalive_proxy.stream.policy import Share

__all__ = ["InForce", "Process", "ReadyRoute"]


@dataclass(frozen=True, slots=True)
class ReadyRoute:
    """A prepared route: its target, and the policy of its streams (None: pass-through only)."""

    name: str
    match: Match
    target: Target
    metrics: RouteMetrics
    stream: StreamRoutes | None
    cors: Cors | None = None
    identifier: Identifier | None = None
    groups: Groups | None = None
    bridge: StreamBridge | None = None


@dataclass(frozen=True, slots=True)
class InForce:
    """The current configuration, prepared for use. A reload replaces it."""

    limits: Limits
    trust: Trust
    routes: RouteTable[ReadyRoute]


@dataclass(frozen=True, slots=True)
class Process:
    """State that exists once per process.

    `refused`: fingerprints, made with `key`, of credentials that upstream refused after an early commit.
    `backlog`: the bytes that all streams together hold.
    `groups`: those of each route, with the settings that they depend on.
    `spliced`: a function for each upgraded connection that closes it. `warned`: the keys of warnings that
    were already logged.
    """

    metrics: Metrics
    streams: Registry
    dialer: Dialer
    refused: ExpiringSet
    key: bytes
    backlog: Backlog
    spliced: set[Callable[[], None]] = field(default_factory=set)
    warned: set[str] = field(default_factory=set)
    groups: dict[str, tuple[object, Groups]] = field(default_factory=dict)

    def groups_of(self, route: str, share: Share, alike: object) -> Groups:
        """Return the groups of `route`. They survive a reload that leaves `share` and `alike` as they are."""
        known = self.groups.get(route)
        if known is None or known[0] != (share, alike):
            known = self.groups[route] = (share, alike), Groups(share, self.key)
        return known[1]

    def forget_groups(self, routes: Container[str]) -> None:
        """Forget the groups of routes that are not in `routes`. Their clients keep their streams."""
        for name in [name for name in self.groups if name not in routes]:
            del self.groups[name]
