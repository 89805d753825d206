"""The demo's page: the page itself, its two panes, and their requests.

All paths are under /demo/, so that a pane has the same origin as its stream. notify-server sends no CORS
headers, and neither does the proxy.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from sse_keepalive_proxy.demo.answers import Handler, json_body, only, text
from sse_keepalive_proxy.demo.hub import Outcome

__all__ = ["incident_pages", "pages"]

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
    direct: Callable[[], Awaitable[Any]],
    outage: Callable[[], Any],
    say: Callable[[str, Sequence[int]], Awaitable[Outcome]],
    network: Callable[[bool], Any],
    incident: Callable[[], Awaitable[Any]],
    tries: Callable[[], Awaitable[Any]],
) -> Mapping[str, Handler]:
    """Return paths and handlers for `NotifyServer`. The result of a callable is the answer, as JSON.

    `join`: a new user and its token. `wire`: the observers' figures. `restart`: open their streams again.
    `direct`: open the direct stream again if it has ended. `outage`: restart upstream. `say`: send a message
    when these users are listening, and return its outcome. `network`: take the network of the panes
    away, or bring it back. `incident`: start the parts of the incident. `tries`: play it many times.
    """

    async def said(request: web.Request) -> web.StreamResponse:
        try:
            asked = json.loads(await request.read())
            content, users = str(asked["content"]), [int(each) for each in asked.get("user_ids", ())]
        except (ValueError, KeyError, TypeError):
            return text(400, 'this takes {"content": "…"}')
        return json_body(dataclasses.asdict(await say(content, users)))

    async def turned(request: web.Request) -> web.StreamResponse:
        return json_body(network(request.query.get("up") == "true"))

    return {
        "/demo/": only("GET", _file("page.html")),
        "/demo/pane": only("GET", _file("pane.html")),
        "/demo/join": only("POST", _json(join)),
        "/demo/wire": only("GET", _json(wire)),
        "/demo/restart": only("POST", _json(restart)),
        "/demo/direct": only("POST", _awaited(direct)),
        "/demo/outage": only("POST", _json(outage)),
        "/demo/say": only("POST", said),
        "/demo/network": only("POST", turned),
        "/demo/incident": only("POST", _awaited(incident)),
        "/demo/incident/tries": only("POST", _awaited(tries)),
    }


def incident_pages(
    *, join: Callable[[], Any], say: Callable[[int, int, str], Awaitable[None]]
) -> Mapping[str, Handler]:
    """Return the paths and handlers of a pane that sends a message itself. `say` takes its chat, its sender
    and its content.
    """

    async def said(request: web.Request) -> web.StreamResponse:
        try:
            asked = json.loads(await request.read())
            message = int(asked["chat_id"]), int(asked["user_id"]), str(asked["content"])
        except (ValueError, KeyError, TypeError):
            return text(400, 'this takes {"chat_id": 3, "user_id": 5, "content": "…"}')
        await say(*message)
        return json_body({})

    return {
        "/demo/pane": only("GET", _file("pane.html")),
        "/demo/join": only("POST", _json(join)),
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


def _awaited(ask: Callable[[], Awaitable[Any]]) -> Handler:
    async def answer(_: web.Request) -> web.StreamResponse:
        return json_body(await ask())

    return answer
