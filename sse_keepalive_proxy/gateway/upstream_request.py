"""Write the request head for upstream from the validated values of the client's request."""

from __future__ import annotations

from sse_keepalive_proxy.config import UpstreamAddress
from sse_keepalive_proxy.gateway.forwarded import Trust
from sse_keepalive_proxy.http.headers import Header, encode_head, end_to_end
from sse_keepalive_proxy.http.request import ClientRequest

__all__ = ["own_id", "request_head", "without_id"]

_REPLACED = frozenset({b"host", b"content-length"})
_REPLACED_FOR_STREAMS = _REPLACED | {b"accept-encoding"}
_LAST_EVENT_ID = b"last-event-id"
_NOTHING = [b""]


def request_head(request: ClientRequest, address: UpstreamAddress, trust: Trust, *, stream: bool) -> bytes:
    """Return the whole head with its blank line. `stream`: request an answer without content coding.

    It has no `Connection: close`, although the proxy closes the connection after the answer
    (facts.md#connection-close-changes-the-framing).
    """
    host = request.host or address.authority.encode()
    kept = end_to_end(request.headers, _REPLACED_FOR_STREAMS if stream else _REPLACED)
    headers: list[Header] = [(b"Host", host), *trust.forward(request.peer, request.scheme, host, kept)]
    if stream:
        headers.append((b"Accept-Encoding", b"identity"))
    if request.length is not None:
        headers.append((b"Content-Length", b"%d" % request.length))
    elif request.has_body:
        headers.append((b"Transfer-Encoding", b"chunked"))
    if request.upgrade:
        headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    prefix = "" if request.target == "*" else address.prefix
    return encode_head(f"{request.method} {prefix}{request.target} HTTP/1.1".encode("latin-1"), headers)


def own_id(request: ClientRequest) -> bytes:
    """Return the `Last-Event-ID` of the client's request, or `b""`."""
    return request.named.get(_LAST_EVENT_ID, _NOTHING)[0]


def without_id(head: bytes) -> bytes:
    """Return a request head without `Last-Event-ID` and without the final blank line, so that another id can
    be appended.
    """
    if _LAST_EVENT_ID not in head.lower():
        return head[:-2]
    lines = head[:-2].splitlines(keepends=True)
    return b"".join(line for line in lines if not line.lower().startswith(_LAST_EVENT_ID + b":"))
