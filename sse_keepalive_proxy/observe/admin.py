"""The admin listener: metrics and probes for all its clients, pages for operators.

No request on it changes state. Pages show single clients, so by default only clients on loopback may see
them, and only with a `Host` that is an address or `localhost`. So a web page elsewhere cannot read them
through its own host name (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from sse_keepalive_proxy.config import Pages
from sse_keepalive_proxy.observe.metrics import Metrics
from sse_keepalive_proxy.observe.page import render
from sse_keepalive_proxy.observe.registry import Registry, snapshot

__all__ = ["Phase", "admin_app"]

_NO_STORE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Phase(StrEnum):
    """The phase of the server, as `/readyz` shows it."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


def admin_app(
    *,
    metrics: Metrics,
    streams: Registry,
    config_yaml: Callable[[], str],
    pages: Pages,
    phase: Callable[[], Phase],
) -> web.Application:
    """Return the admin application. `config_yaml` returns the redacted effective configuration."""

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def livez(_: web.Request) -> web.Response:
        return _text("alive")

    async def readyz(_: web.Request) -> web.Response:
        now = phase()
        return _text(now.value, 200 if now is Phase.READY else 503)

    async def list_streams(_: web.Request) -> web.Response:
        return web.json_response({"streams": _snapshots(streams)}, headers=_NO_STORE)

    async def show_config(_: web.Request) -> web.Response:
        return _text(config_yaml())

    async def status(_: web.Request) -> web.Response:
        return web.Response(
            text=render(_snapshots(streams), phase().value, streams.limit),
            content_type="text/html",
            headers={
                **_NO_STORE,
                "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
            },
        )

    def for_operators(handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            return await handler(request) if _may_see(request, pages) else _text("not found", 404)

        return guarded

    app = web.Application()
    app.router.add_get("/metrics", scrape)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/streams", for_operators(list_streams))
    app.router.add_get("/config", for_operators(show_config))
    app.router.add_get("/", for_operators(status))
    return app


def _text(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text.rstrip("\n") + "\n", status=status, headers=_NO_STORE)


def _snapshots(streams: Registry) -> list[dict[str, Any]]:
    now = asyncio.get_running_loop().time()
    return [snapshot(stream, now) for stream in streams]


def _may_see(request: web.Request, pages: Pages) -> bool:
    if pages is Pages.OFF or not _is_local_name(request.headers.get("Host", "")):
        return False
    if pages is Pages.ALL:
        return True
    peer = request.transport.get_extra_info("peername") if request.transport else None
    return not isinstance(peer, tuple) or _is_loopback(peer[0].partition("%")[0])


def _is_loopback(peer: str) -> bool:
    address = ipaddress.ip_address(peer)
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
