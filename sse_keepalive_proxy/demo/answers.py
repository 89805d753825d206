"""Plain answers of the stand-in, with the same bytes as from axum and hyper."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

__all__ = [
    "Handler",
    "as_hyper_writes",
    "healthy",
    "json_body",
    "method_not_allowed",
    "not_found",
    "nowhere",
    "online_user",
    "only",
    "text",
]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def as_hyper_writes(_: web.Request, response: web.StreamResponse) -> None:
    """Write header names in lower case, and no `Server`. For `on_response_prepare`."""
    headers = [(name.lower(), value) for name, value in response.headers.items()]
    response.headers.clear()
    response.headers.extend((name, value) for name, value in headers if name != "server")


def only(method: str, handler: Handler) -> Handler:
    """Return a handler for one method (GET includes HEAD). Other methods get 405."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method == method or (method == "GET" and request.method == "HEAD"):
            return await handler(request)
        return method_not_allowed("GET,HEAD" if method == "GET" else method)

    return answer


async def healthy(_: web.Request) -> web.StreamResponse:
    """Answer `/health` and similar paths, always with the same text."""
    return json_body({"service": "notify_server", "status": "healthy"})


async def nowhere(_: web.Request) -> web.StreamResponse:
    """Answer every unknown path."""
    return not_found()


def not_found() -> web.Response:
    """Return 404 without a body."""
    return web.Response(status=404)


def method_not_allowed(allowed: str) -> web.Response:
    """Return 405 without a body."""
    return web.Response(status=405, headers={"allow": allowed})


def text(status: int, body: str) -> web.Response:
    """Return `body` as `text/plain; charset=utf-8`."""
    return web.Response(status=status, text=body)


def json_body(data: Any) -> web.Response:
    """Return 200 with compact JSON."""
    body = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return web.Response(body=body, content_type="application/json")


def online_user(user_id: int, now: str) -> dict[str, Any]:
    """Return one element of `/online-users`. notify-server writes `now` for both times."""
    return {
        "user_id": user_id,
        "fullname": f"User {user_id}",
        "email": f"user{user_id}@example.com",
        "status": "online",
        "last_seen": now,
        "connected_at": now,
    }
