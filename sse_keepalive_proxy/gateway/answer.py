"""Write the access log line of a plain request."""

from __future__ import annotations

from sse_keepalive_proxy.http.request import ClientRequest
from sse_keepalive_proxy.observe.line import redact_target
from sse_keepalive_proxy.observe.log import log_line

__all__ = ["log_access"]


def log_access(
    request: ClientRequest, client: str, route: str, status: int, seconds: float, reason: str = ""
) -> None:
    """Write the log line of a plain request. `reason`: why the proxy answered itself."""
    fields = {
        "route": route,
        "method": request.method,
        "target": redact_target(request.target),
        "status": status,
        "seconds": round(seconds, 3),
        "client": client,
        **({"reason": reason} if reason else {}),
    }
    log_line("request", fields)
