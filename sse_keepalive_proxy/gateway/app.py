"""Route requests by the current configuration, and limit connections."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from aiohttp import web

from sse_keepalive_proxy.config import Route, Settings
from sse_keepalive_proxy.gateway.answer import log_access
from sse_keepalive_proxy.gateway.cors import Cors, preflight_method
from sse_keepalive_proxy.gateway.expiring_set import ExpiringSet
from sse_keepalive_proxy.gateway.forward import Forward
from sse_keepalive_proxy.gateway.forwarded import Trust
from sse_keepalive_proxy.gateway.identity import Identifier
from sse_keepalive_proxy.gateway.routes import RouteTable, host_name
from sse_keepalive_proxy.gateway.state import InForce, Process, ReadyRoute
from sse_keepalive_proxy.gateway.tls import context_for_clients, tls_of_upstreams
from sse_keepalive_proxy.http.attempts import Target
from sse_keepalive_proxy.http.connection import ClientConnection
from sse_keepalive_proxy.http.dialer import Dialer, UpstreamTls
from sse_keepalive_proxy.http.frontend import ConnectionLimits, Frontend
from sse_keepalive_proxy.http.openings import Openings
from sse_keepalive_proxy.http.request import Refusal, admit
from sse_keepalive_proxy.live.backlog import Backlog
from sse_keepalive_proxy.live.route import StreamRoutes
from sse_keepalive_proxy.net.poller import Poller
from sse_keepalive_proxy.net.tasks import in_slices
from sse_keepalive_proxy.net.tcp import scheme, shown_address
from sse_keepalive_proxy.observe.log import log_line
from sse_keepalive_proxy.observe.metrics import NO_ROUTE, Metrics
from sse_keepalive_proxy.observe.registry import Registry

if TYPE_CHECKING:
    from sse_keepalive_proxy.gateway.bridges import Bridges

__all__ = ["Proxy"]

_MOST_REFUSED = 10_000
_REFUSED_FOR = 600.0
"""The most refused credentials that are stored, and the seconds until one expires."""


class Proxy:
    """Answer the requests of all clients. `adopt` sets the routes; until then there are none.

    `descriptors`: the number of file descriptors for connections of both sides together.
    `frontend` is the protocol factory of the listening sockets.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics, streams: Registry, poller: Poller, descriptors: int
    ) -> None:
        self._process = Process(
            metrics=metrics,
            streams=streams,
            dialer=Dialer(poller),
            refused=ExpiringSet(_MOST_REFUSED, _REFUSED_FOR, asyncio.get_running_loop().time),
            key=os.urandom(32),
            backlog=Backlog(settings.limits.max_buffered),
        )
        self._descriptors = descriptors
        self._openings: dict[str, Openings] = {}  # by upstream
        self._bridges: Bridges | None = None
        context = context_for_clients(settings)
        self._in_force = _in_force(settings, RouteTable())
        limits = settings.limits
        self.frontend = Frontend(
            self._handle,
            ConnectionLimits(
                limits.max_request_header, limits.request_header_timeout, self._room, self._refused
            ),
        )
        self._poller = poller
        if context is not None:
            self.frontend.use_tls(poller, context)

    async def adopt(self, settings: Settings) -> None:
        """Prepare the routes, a few in each turn of the event loop, then answer new requests by `settings`.
        Requests in flight keep the settings they began with. The limits of the frontend
        (`max_request_header`, `request_header_timeout`) must not change.

        Raises `ConfigurationError` if a file cannot be used. Nothing changes in this case.
        """
        context = context_for_clients(settings)
        self._in_force = _in_force(settings, await self._prepare_routes(settings))
        self._process.forget_groups({route.name for route in settings.routes})
        if self._bridges is not None:
            bridged = {each.name for each in settings.routes if each.stream and each.stream.bridge}
            self._bridges.forget(bridged)
        self._process.backlog.limit = settings.limits.max_buffered
        if context is not None:
            self.frontend.use_tls(self._poller, context)

    @property
    def busy(self) -> bool:
        """Whether any client is still connected."""
        return bool(self.frontend.open_connections or len(self._process.streams) or self._process.spliced)

    async def close_bridges(self) -> None:
        """Close the connections to NATS."""
        if self._bridges is not None:
            await self._bridges.close()

    def silence_of(self, upstream: str) -> float | None:
        """Return the seconds for which `upstream` has answered no opening that it has accepted, or None if
        the name is unknown.
        """
        openings = self._openings.get(upstream)
        return None if openings is None else openings.unanswered.seconds

    def cut_upgraded(self) -> None:
        """Close every upgraded connection now. A WebSocket has no block boundary to wait for."""
        for cut in list(self._process.spliced):
            cut()

    async def _prepare_routes(self, settings: Settings) -> RouteTable[ReadyRoute]:
        # Steps that can fail come first: a route that is not used must not leave metrics.
        identified: list[tuple[Route, Identifier | None]] = []
        await in_slices(
            settings.routes, lambda part: identified.extend((each, _identifier(each)) for each in part)
        )
        tls = tls_of_upstreams(settings)
        self._open_in_turn(settings)
        table: RouteTable[ReadyRoute] = RouteTable()
        await in_slices(
            identified,
            lambda part: table.extend(
                self._prepare_route(settings, tls.get(route.upstream), route, identifier)
                for route, identifier in part
            ),
        )
        return table

    def _open_in_turn(self, settings: Settings) -> None:
        """Make the openings of each upstream. An upstream that stays keeps its own, and who waits in them."""
        before, limit = self._openings, settings.limits.max_opening
        self._openings = {name: before.get(name) or Openings(limit) for name in settings.upstreams}
        for openings in self._openings.values():
            openings.set_limit(limit)
        self._process.metrics.set_openings(self._openings)

    def _prepare_route(
        self, settings: Settings, tls: UpstreamTls | None, route: Route, identifier: Identifier | None
    ) -> ReadyRoute:
        upstream, process = settings.upstreams[route.upstream], self._process
        policy = route.stream.policy if route.stream is not None else None
        metrics = process.metrics.route(route.name)
        stream = None
        if policy is not None:
            stream = StreamRoutes(route.name, policy, metrics, process.streams, process.backlog)
        bridge = None
        if policy is not None and policy.bridge is not None:
            bridge = self._bridges_of_routes().of(route.name, policy.bridge, policy.share, metrics)
        groups = None
        if policy is not None and policy.share is not None:
            alike = policy.identity, policy.credential, policy.bridge, upstream.address
            groups = process.groups_of(route.name, policy.share, alike)
        timeout = upstream.response_timeout if policy is None else policy.open_timeout
        return ReadyRoute(
            name=route.name,
            match=route.match,
            target=Target(
                process.dialer,
                upstream.address,
                upstream.connect_timeout,
                timeout,
                self._openings[route.upstream],
                route.name,
                tls,
                decode=policy is not None and policy.decode,
            ),
            metrics=metrics,
            stream=stream,
            cors=None if route.cors is None else Cors(route.cors.origins, route.cors.credentials),
            identifier=identifier,
            groups=groups,
            bridge=bridge,
        )

    def _bridges_of_routes(self) -> Bridges:
        if self._bridges is None:
            from sse_keepalive_proxy.gateway.bridges import Bridges  # needs the extra `nats`

            self._bridges = Bridges()
        return self._bridges

    def _room(self) -> int:
        """Return how many more connections are allowed, by the configuration and by the descriptors. Each may
        need a second descriptor, to upstream. The result is negative if there are too many connections.
        """
        streams = self._process.streams
        clients = (
            self.frontend.open_connections
            + (len(streams) - streams.connecting)  # these have left the frontend
            + len(self._process.spliced)
        )
        descriptors = self._descriptors - len(streams.held)
        return min(self._in_force.limits.max_connections, descriptors // 2) - clients

    def _refused(self, status: int, reason: str, peer: str) -> None:
        """Count and log a refusal before routing. The request is not logged, because it may be invalid."""
        self._process.metrics.answered(NO_ROUTE, "other", status)
        log_line("refused", {"status": status, "reason": reason, "client": peer})

    async def _handle(self, connection: ClientConnection, request: web.BaseRequest) -> bool:
        process, in_force, peer = self._process, self._in_force, shown_address(connection.peername)
        admitted = admit(request, connection.head, peer=peer, scheme=scheme(connection.transport))
        if isinstance(admitted, Refusal):
            self._refused(admitted.status, admitted.text, peer)
            return connection.respond(admitted.status, admitted.text, keep_alive=False)
        host = host_name(admitted.host.decode("latin-1"))
        asked = preflight_method(admitted.method, admitted.headers)
        if asked is not None:
            route = in_force.routes.find(method=asked.decode("latin-1"), path=admitted.path, host=host)
            if route is not None and route.cors is not None:
                return Forward(process, in_force, connection, admitted, route).preflight(route.cors)
        route = in_force.routes.find(method=admitted.method, path=admitted.path, host=host)
        if route is None:
            client = in_force.trust.client(admitted.peer, admitted.headers)
            process.metrics.answered(NO_ROUTE, admitted.method, 404)
            log_access(admitted, client, NO_ROUTE, 404, 0.0, "no route takes this request")
            return connection.respond(404, "no route takes this request")
        return await Forward(process, in_force, connection, admitted, route).run()


def _in_force(settings: Settings, routes: RouteTable[ReadyRoute]) -> InForce:
    return InForce(settings.limits, Trust(settings.trusted_proxies, settings.client_address), routes)


def _identifier(route: Route) -> Identifier | None:
    identity = route.stream.policy.identity if route.stream is not None else None
    return None if identity is None else Identifier(identity)
