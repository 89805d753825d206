"""The admin listener: metrics and probes for all its clients, pages for operators.

No request on it changes state. Pages show single clients, so by default only clients on loopback may see
them, and only with a `Host` that is an address or `localhost`. So a web page elsewhere cannot read them
through its own host name (DNS rebinding).

Its connections are those of `http.connection`, with limits of their own: its clients take no place from the
clients of streams, and these take none from probes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from sse_keepalive_proxy.config import Pages
from sse_keepalive_proxy.http.connection import ClientConnection
from sse_keepalive_proxy.http.frontend import ConnectionLimits, Frontend, Handler
from sse_keepalive_proxy.http.headers import Header
from sse_keepalive_proxy.http.request import ClientRequest, Refusal, admit
from sse_keepalive_proxy.http.responses import PLAIN_TEXT
from sse_keepalive_proxy.net.tcp import peer_address
from sse_keepalive_proxy.observe.metrics import Metrics
from sse_keepalive_proxy.observe.page import render
from sse_keepalive_proxy.observe.registry import Registry, snapshot

__all__ = ["MOST_CONNECTIONS", "Phase", "Silence", "admin_frontend", "admin_handler"]

MOST_CONNECTIONS: Final = 16
"""Enough for Prometheus, probes and an operator. One more takes the place of the oldest idle one."""

_MAX_HEAD: Final = 16 * 1024
_HEAD_TIMEOUT: Final = 10.0
_IDLE_TIMEOUT: Final = 120.0
"""Seconds: longer than the usual intervals of scrapers and probes."""

_UPSTREAMS: Final = "/upstreams/"
_NO_SNIFFING = (b"X-Content-Type-Options", b"nosniff")
_NO_SCRIPTS = (b"Content-Security-Policy", b"default-src 'none'; style-src 'unsafe-inline'")
_ALLOW = (b"Allow", b"GET,HEAD")


class Phase(StrEnum):
    """The phase of the server, as `/readyz` shows it."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class _Page:
    """What is answered on one path."""

    body: bytes
    media_type: bytes = PLAIN_TEXT
    status: int = 200
    fields: tuple[Header, ...] = (_NO_SNIFFING,)


@dataclass(frozen=True, slots=True)
class Silence:
    """The seconds for which an upstream has answered no opening of a stream that it has accepted, and those
    after which it counts as frozen (None: never).
    """

    seconds: float
    frozen_after: float | None

    def page(self) -> _Page:
        """The answer to a liveness probe of this upstream."""
        if self.frozen_after is None:
            return _text("not watched: frozen_after is off")
        if not self.seconds:
            return _text("not frozen: no opening of a stream waits for it")
        waits = f"openings of streams are accepted, and none was answered for {self.seconds:.1f} s"
        if self.seconds < self.frozen_after:
            return _text(f"not frozen: {waits}")
        return _text(f"frozen: {waits} (frozen_after: {self.frozen_after:g} s)", 503)


def admin_frontend(handler: Handler) -> Frontend:
    """Return a frontend with the limits of the admin listener. A refused request is not logged."""
    frontend: Frontend

    def room() -> int:
        return MOST_CONNECTIONS - frontend.open_connections

    limits = ConnectionLimits(
        _MAX_HEAD,
        _HEAD_TIMEOUT,
        room,
        refused=lambda status, reason, peer: None,  # noqa: ARG005 (the names of a callback)
        idle_timeout=_IDLE_TIMEOUT,
        displaces=True,
    )
    frontend = Frontend(handler, limits)
    return frontend


def admin_handler(
    *,
    metrics: Metrics,
    streams: Registry,
    config_yaml: Callable[[], str],
    pages: Pages,
    phase: Callable[[], Phase],
    upstream: Callable[[str], Silence | None],
) -> Handler:
    """Return what answers the requests of the admin listener. `config_yaml` returns the effective
    configuration, `upstream` the silence of the upstream of a name, None if there is none.
    """

    def scrape() -> _Page:
        return _Page(generate_latest(metrics.registry), CONTENT_TYPE_LATEST.encode(), fields=())

    def livez() -> _Page:
        return _text("alive")

    def readyz() -> _Page:
        now = phase()
        return _text(now.value, 200 if now is Phase.READY else 503)

    def list_streams() -> _Page:
        found = {"streams": _snapshots(streams), "groups": _groups(streams), "bridges": _bridges(metrics)}
        text = json.dumps(found)
        return _Page(text.encode(), b"application/json; charset=utf-8")

    def show_config() -> _Page:
        return _text(config_yaml())

    def status() -> _Page:
        tables = _snapshots(streams), _groups(streams), _bridges(metrics)
        html = render(*tables, phase().value, streams.limit)
        return _Page(html.encode(), b"text/html; charset=utf-8", fields=(_NO_SNIFFING, _NO_SCRIPTS))

    for_all = {"/metrics": scrape, "/livez": livez, "/readyz": readyz}
    for_operators = {"/streams": list_streams, "/config": show_config, "/": status}

    def page(request: ClientRequest) -> _Page:
        found = for_all.get(request.path)
        if found is None and request.path.startswith(_UPSTREAMS):
            silence = upstream(request.path.removeprefix(_UPSTREAMS))
            if silence is not None:
                found = silence.page
        if found is None:
            found = for_operators.get(request.path)
            if found is None or not may_see(request.peer, request.host, pages):
                return _text("not found", 404)
        if request.method not in ("GET", "HEAD"):
            return _Page(b"only GET and HEAD are answered here\n", status=405, fields=(_ALLOW,))
        return found()

    one_at_a_time = asyncio.Lock()

    async def answer(connection: ClientConnection, request: web.BaseRequest) -> bool:
        peer = peer_address(connection.transport)
        admitted = admit(request, connection.head, peer=peer, scheme=b"http")
        if isinstance(admitted, Refusal):
            return connection.respond(admitted.status, admitted.text, keep_alive=False)
        async with one_at_a_time:  # a page takes milliseconds, and streams go on between two of them
            made = page(admitted)
            await asyncio.sleep(0)
        return connection.respond_with(made.status, made.body, made.media_type, fields=made.fields)

    return answer


def _text(text: str, status: int = 200) -> _Page:
    return _Page(text.rstrip("\n").encode() + b"\n", status=status)


def _snapshots(streams: Registry) -> list[dict[str, Any]]:
    now = asyncio.get_running_loop().time()
    shared = {group["id"] for group in _groups(streams)}  # they have rows of their own
    held = [row for each in streams.held if (row := each.snapshot(now))["id"] not in shared]
    return [*(snapshot(stream, now) for stream in streams), *held]


def _groups(streams: Registry) -> list[dict[str, Any]]:
    now = asyncio.get_running_loop().time()
    return [group.snapshot(now) for group in streams.groups]


def _bridges(metrics: Metrics) -> list[dict[str, Any]]:
    now = asyncio.get_running_loop().time()
    return [each.bridge.snapshot(now) for each in metrics.routes.values() if each.bridge is not None]


def may_see(peer: str, host: bytes, pages: Pages) -> bool:
    """Return whether a client at `peer` (empty for a Unix socket) may see pages by this `Host`."""
    if pages is Pages.OFF or not _is_local_name(host.decode("latin-1")):
        return False
    return pages is Pages.ALL or not peer or _is_loopback(peer.partition("%")[0])


def _is_loopback(peer: str) -> bool:
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:  # the client has left
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _is_local_name(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
