"""What requests share: what lives as long as the process, and what a configuration brings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sse_keepalive_proxy.config import Limits, Match
from sse_keepalive_proxy.gateway.cors import Cors
from sse_keepalive_proxy.gateway.expiring_set import ExpiringSet
from sse_keepalive_proxy.gateway.forwarded import Trust
from sse_keepalive_proxy.gateway.identity import Identifier
from sse_keepalive_proxy.gateway.routes import RouteTable
from sse_keepalive_proxy.http.attempts import Target
from sse_keepalive_proxy.http.dialer import Dialer
from sse_keepalive_proxy.live.route import StreamRoute
from sse_keepalive_proxy.observe.metrics import Metrics
from sse_keepalive_proxy.observe.registry import Registry
from sse_keepalive_proxy.observe.route_metrics import RouteMetrics

__all__ = ["InForce", "Process", "ReadyRoute"]


@dataclass(frozen=True, slots=True)
class ReadyRoute:
    """A route made ready: where it leads, and what its streams are promised (None: pass-through)."""

    name: str
    match: Match
    target: Target
    metrics: RouteMetrics
    stream: StreamRoute | None
    cors: Cors | None = None
    identifier: Identifier | None = None


@dataclass(frozen=True, slots=True)
class InForce:
    """The configuration in force, made ready. A reload puts another one in its place."""

    limits: Limits
    trust: Trust
    routes: RouteTable[ReadyRoute]


@dataclass(frozen=True, slots=True)
class Process:
    """What lives as long as the process.

    `refused`: credentials whose early commit was not borne out, as fingerprints made with `key`. `spliced`:
    for each upgraded connection the function that cuts it. `warned`: what has been said once and need not be
    said again.
    """

    metrics: Metrics
    streams: Registry
    dialer: Dialer
    refused: ExpiringSet
    key: bytes
    spliced: set[Callable[[], None]] = field(default_factory=set)
    warned: set[str] = field(default_factory=set)
