"""Tell a client that its answer is not whole, in the words of its family.

The answer has begun, so no status can say it. Each client library turns its own form into its own kind of
exception (facts.md#late-errors). The body is cut behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from sse_keepalive_proxy.stream.families import LateError
from sse_keepalive_proxy.stream.states import CloseReason
from sse_keepalive_proxy.wire import encode

__all__ = ["LateStatus", "late_error"]

LateStatus = tuple[int, str]
"""The status that came too late for the client, whose response had begun, and an explanation."""

_ENDS: Mapping[CloseReason, LateStatus] = MappingProxyType(
    {
        CloseReason.UPSTREAM_RESET: (502, "upstream's connection broke before its answer was complete"),
        CloseReason.UPSTREAM_REFUSED: (502, "upstream cannot be reached"),
        CloseReason.UPSTREAM_STATUS: (502, "upstream gave no event stream when it was opened again"),
        CloseReason.STALLED: (504, "upstream gave no sign of life for too long"),
        CloseReason.GIVE_UP: (504, "upstream was lost and did not come back in time"),
        CloseReason.EVENT_TOO_LARGE: (502, "an event of upstream is larger than the proxy allows"),
        CloseReason.MAX_AGE: (503, "this stream has reached its largest age"),
        CloseReason.DRAIN: (503, "the proxy is shutting down"),
        CloseReason.ROUTE_REMOVED: (503, "the route of this stream was removed from the proxy"),
        CloseReason.UNAUTHORIZED: (401, "the permission for this stream has ended"),
        CloseReason.INTERNAL: (500, "the proxy failed; its log says why"),
    }
)
"""The status that the proxy would have answered with, and the words. Other ends are no errors."""

_NO_ERROR = 400  # a lower status is none of a failure, and libraries do not take it for one
_BAD_GATEWAY = 502

_GOOGLE: Mapping[int, str] = MappingProxyType(
    {
        400: "INVALID_ARGUMENT",
        401: "UNAUTHENTICATED",
        403: "PERMISSION_DENIED",
        404: "NOT_FOUND",
        409: "ABORTED",
        429: "RESOURCE_EXHAUSTED",
        499: "CANCELLED",
        501: "UNIMPLEMENTED",
        502: "UNAVAILABLE",
        503: "UNAVAILABLE",
        504: "DEADLINE_EXCEEDED",
    }
)
"""The names of google.rpc.Code for statuses of HTTP."""

_CONNECTION_CLOSED: Final = -32000
"""The JSON-RPC error code that MCP's libraries use for a lost connection."""


def late_error(
    form: LateError, reason: CloseReason, late: LateStatus | None, request_id: str | int | None = None
) -> bytes:
    """Return the frames that report the end `reason`, or nothing if there are no words for it.

    `late`: upstream's answer that came too late, if it is the cause. `request_id`: the id of a JSON-RPC
    request; without one, its client can only see the cut.
    """
    if late is None and reason not in _ENDS:
        return b""
    status, message = late or _ENDS[reason]
    failure = status if status >= _NO_ERROR else _BAD_GATEWAY
    match form:
        case LateError.PROXY_ERROR:
            if late is None and reason is CloseReason.UPSTREAM_RESET:
                return b""  # these clients see a cut as they would without the proxy
            return _event("proxy_error", {"type": "proxy_error", "status": status, "message": message})
        case LateError.API_ERROR | LateError.SDK_ERROR:
            code = str(failure) if late else reason.value
            error = {"type": "api_error", "code": code, "message": message}
            rest = {"code": code, "message": message, "param": None, "sequence_number": 0}
            data: dict[str, object] = {"type": "error", "error": error, **rest}
            frame = _event("error", data)
            # Old SDKs of OpenAI skip events with a name. An old SDK of Anthropic sees the end of an event
            # only when more bytes follow it.
            return frame if form is LateError.API_ERROR else _event("", data) + frame + b":\n"
        case LateError.GOOGLE:
            named = _GOOGLE.get(failure, "INVALID_ARGUMENT" if failure < 500 else "INTERNAL")
            data = {"error": {"code": failure, "message": message, "status": named}}
            # The bare object is the form of Google's own servers. An old library for Go takes the other form
            # for a chunk without text. In an event stream it is a field with an unknown name.
            return encode.json_line(data).encode() + b"\n\n" + _event("", data)
        case LateError.JSON_RPC:
            if request_id is None:
                return b""
            wrong = {"code": _CONNECTION_CLOSED, "message": message}
            return _event("", {"jsonrpc": "2.0", "id": request_id, "error": wrong})


def _event(name: str, data: Mapping[str, object]) -> bytes:
    return encode.event(name, encode.json_line(data))
