"""A request as the proxy means it, made up by a test."""

from __future__ import annotations

from collections.abc import Sequence

from sse_keepalive_proxy.http.headers import Header
from sse_keepalive_proxy.http.request import ClientRequest

__all__ = ["incoming"]


def incoming(target: str = "/events", headers: Sequence[Header] = ()) -> ClientRequest:
    """A GET without a body for `target`, with `headers`."""
    return ClientRequest(
        method="GET",
        target=target,
        http10=False,
        host=b"example.com",
        headers=tuple(headers),
        has_body=False,
        length=None,
        peer="192.0.2.1",
        scheme=b"http",
        upgrade=False,
    )
