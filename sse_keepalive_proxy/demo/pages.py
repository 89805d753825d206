"""What the stand-in serves for the demo's page: the page, its two panes, and what they ask for.

Everything is under /demo/, so that a pane has the same origin as the stream it reads: notify-server sends
no CORS headers, and neither does the proxy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from sse_keepalive_proxy.demo.answers import Handler, json_body, only

__all__ = ["pages"]

_HERE = Path(__file__).parent
_HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; frame-src http://127.0.0.1:*; base-uri 'none'; form-action 'none'",
}


def pages(
    *, join: Callable[[], Any], wire: Callable[[], Any], restart: Callable[[], Any]
) -> Mapping[str, Handler]:
    """Paths and handlers, for `NotifyServer`. Each callable gives what is answered as JSON.

    join: a user nobody is yet, and a token. wire: the observers' figures. restart: their streams anew.
    """
    return {
        "/demo/": only("GET", _file("page.html")),
        "/demo/pane": only("GET", _file("pane.html")),
        "/demo/join": only("POST", _json(join)),
        "/demo/wire": only("GET", _json(wire)),
        "/demo/restart": only("POST", _json(restart)),
    }


def _file(name: str) -> Handler:
    text = (_HERE / name).read_text(encoding="utf-8")

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(text=text, content_type="text/html", headers=_HEADERS)

    return answer


def _json(ask: Callable[[], Any]) -> Handler:
    async def answer(_: web.Request) -> web.StreamResponse:
        return json_body(ask())

    return answer
