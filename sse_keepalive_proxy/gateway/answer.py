"""Answers of our own: one line of text; and the log line of a plain request."""

from __future__ import annotations

from collections.abc import Sequence

from sse_keepalive_proxy.http.connection import Connection
from sse_keepalive_proxy.http.headers import Header
from sse_keepalive_proxy.http.request import Incoming
from sse_keepalive_proxy.http.request_reader import Request
from sse_keepalive_proxy.http.responses import plain_error
from sse_keepalive_proxy.observe.access import access
from sse_keepalive_proxy.observe.line import redact_target

__all__ = ["answer", "log_access"]


def answer(
    connection: Connection,
    request: Request | Incoming,
    status: int,
    text: str,
    *,
    fields: Sequence[Header] = (),
    keep_alive: bool,
) -> bool:
    """Write one line of text as the whole answer, or none with a status that has no body; returns whether the
    connection may carry another request. It ends that of a request whose body is still on its way.

    Raises ConnectionError when the client has gone.
    """
    keep_alive = keep_alive and request.whole
    response = plain_error(status, text, fields=fields, keep_alive=keep_alive)
    if request.method == "HEAD":
        response = response[: response.index(b"\r\n\r\n") + 4]
    connection.write(response)
    return keep_alive


def log_access(
    incoming: Incoming, client: str, route: str, status: int, seconds: float, reason: str = ""
) -> None:
    """The line of a plain request. `reason`: why the answer is ours."""
    fields = {
        "route": route,
        "method": incoming.method,
        "target": redact_target(incoming.target),
        "status": status,
        "seconds": round(seconds, 3),
        "client": client,
        **({"reason": reason} if reason else {}),
    }
    access.line("request", fields)
