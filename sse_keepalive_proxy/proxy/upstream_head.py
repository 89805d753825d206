"""The request head that upstream gets: written anew from what the client's says."""

from __future__ import annotations

from sse_keepalive_proxy.config import UpstreamAddress
from sse_keepalive_proxy.proxy.headers import Header, Trust, encode_head, end_to_end
from sse_keepalive_proxy.proxy.incoming import Incoming

__all__ = ["own_id", "request_head", "without_id"]

_LAST_EVENT_ID = b"last-event-id"


def request_head(incoming: Incoming, address: UpstreamAddress, trust: Trust, *, stream: bool) -> bytes:
    """The whole head, blank line included. `stream`: of a route of streams, which are asked for unencoded."""
    dropped = {b"host", b"content-length"}
    if stream:
        dropped.add(b"accept-encoding")
    host = incoming.host or address.authority.encode()
    kept = [item for item in end_to_end(incoming.headers) if item[0].lower() not in dropped]
    headers: list[Header] = [(b"Host", host), *trust.forward(incoming.peer, incoming.scheme, host, kept)]
    if stream:
        headers.append((b"Accept-Encoding", b"identity"))
    if incoming.length is not None:
        headers.append((b"Content-Length", b"%d" % incoming.length))
    elif incoming.has_body:
        headers.append((b"Transfer-Encoding", b"chunked"))
    if incoming.upgrade:
        headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    else:
        headers.append((b"Connection", b"close"))
    prefix = "" if incoming.target == "*" else address.prefix
    return encode_head(f"{incoming.method} {prefix}{incoming.target} HTTP/1.1".encode("latin-1"), headers)


def own_id(incoming: Incoming) -> bytes:
    """The client's own `Last-Event-ID`; nothing where there is none."""
    return next((value for name, value in incoming.headers if name.lower() == _LAST_EVENT_ID), b"")


def without_id(head: bytes) -> bytes:
    """A request head without `Last-Event-ID` and without the blank line at its end, so that another id can
    follow.
    """
    lines = head[:-2].splitlines(keepends=True)
    return b"".join(line for line in lines if not line.lower().startswith(_LAST_EVENT_ID + b":"))
