"""The demo's page: the page itself, its two panes, and their requests.

All paths are under /demo/, so that a pane has the same origin as its stream. notify-server sends no CORS
headers, and neither does the proxy.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from sse_keepalive_proxy.demo.answers import Handler, json_body, only, text
from sse_keepalive_proxy.demo.hub import Outcome

__all__ = ["pages"]

_HERE = Path(__file__).parent
_HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; frame-src http://127.0.0.1:*; base-uri 'none'; form-action 'none'",
}


def pages(
    *,
    join: Callable[[], Any],
    wire: Callable[[], Any],
    restart: Callable[[], Any],
    direct: Callable[[], Awaitable[None]],
    outage: Callable[[], Any],
    say: Callable[[str], Awaitable[Outcome]],
) -> Mapping[str, Handler]:
    """Return paths and handlers for `NotifyServer`. The result of a callable is the answer, as JSON.

    `join`: a new user and its token. `wire`: the observers' figures. `restart`: open their streams again.
    `direct`: open the direct stream again if it has ended. `outage`: restart upstream. `say`: send a message
    and return its outcome.
    """

    async def opened(_: web.Request) -> web.StreamResponse:
        await direct()
        return json_body({})

    async def said(request: web.Request) -> web.StreamResponse:
        try:
            content = str(json.loads(await request.read())["content"])
        except (ValueError, KeyError, TypeError):
            return text(400, 'this takes {"content": "…"}')
        return json_body(dataclasses.asdict(await say(content)))

    return {
        "/demo/": only("GET", _file("page.html")),
        "/demo/pane": only("GET", _file("pane.html")),
        "/demo/join": only("POST", _json(join)),
        "/demo/wire": only("GET", _json(wire)),
        "/demo/restart": only("POST", _json(restart)),
        "/demo/direct": only("POST", opened),
        "/demo/outage": only("POST", _json(outage)),
        "/demo/say": only("POST", said),
    }


def _file(name: str) -> Handler:
    html = (_HERE / name).read_text(encoding="utf-8")

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(text=html, content_type="text/html", headers=_HEADERS)

    return answer


def _json(ask: Callable[[], Any]) -> Handler:
    async def answer(_: web.Request) -> web.StreamResponse:
        return json_body(ask())

    return answer
