"""Pass requests and answers that are no event streams through, with their bodies unchanged.

A body is read as fast as the other side takes it. Its sender is paused while too many bytes wait
(backpressure).
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import StreamReader

from sse_keepalive_proxy.errors import BodyTooLarge, ProxyError, RequestBodyError
from sse_keepalive_proxy.http.body import BufferedBody
from sse_keepalive_proxy.http.chunked import LAST_CHUNK, chunk
from sse_keepalive_proxy.http.connection import ClientConnection
from sse_keepalive_proxy.http.exchange import Body, Exchange
from sse_keepalive_proxy.http.headers import Header, encode_head, end_to_end
from sse_keepalive_proxy.http.request import ClientRequest
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.net.tcp import reset

__all__ = ["first_line", "pass_back", "send_body"]

_NO_BODY = frozenset({204, 304})


async def send_body(
    body: StreamReader,
    exchange: Exchange,
    *,
    length: int | None,
    limit: int | None,
    look: Callable[[bytes], None] | None,
) -> RequestBodyError | None:
    """Send a request's body to upstream, chunked if its `length` is None. `look` sees each part of it.

    If the body is invalid or larger than `limit` bytes, the exchange fails with an error, which is also
    returned. The caller may wait for either of them.
    """
    sent = 0
    try:
        while data := await body.readany():
            sent += len(data)
            if limit is not None and sent > limit:
                raise BodyTooLarge(f"the request's body is larger than {limit} bytes")
            exchange.send(data if length is not None else chunk(data))
            if look is not None:
                look(data)
            if not await exchange.drained():
                return None
    except RequestBodyError as error:
        exchange.fail(error)
        return error
    if length is None:
        exchange.send(LAST_CHUNK)
    return None


async def pass_back(
    connection: ClientConnection,
    request: ClientRequest,
    exchange: Body,
    head: ResponseHead,
    own: Callable[[list[Header]], list[Header]],
) -> bool:
    """Pass upstream's response to the client without hop-by-hop fields. `own` may change other fields. Return
    whether the connection may carry another request.

    Raises ConnectionError if the client leaves, and `UpstreamError` if the body breaks off. The response has
    begun by then, so it can only be cut.
    """
    headers, chunked, sized = _framed(request, head)
    headers = own(headers)
    # If the request's body is not complete, the connection cannot carry another request.
    keep_alive = (sized or chunked) and connection.keeps_alive
    if not keep_alive:
        headers.append((b"Connection", b"close"))
    elif request.http10:
        headers.append((b"Connection", b"keep-alive"))
    connection.write(encode_head(first_line(head), headers))
    connection.chunked = chunked
    body = BufferedBody(exchange)
    exchange.attach(body)
    try:
        while data := await body.read():
            connection.write(chunk(data) if chunked else data)
            await connection.drained()
    except ProxyError:
        if not sized and not chunked and connection.transport is not None:
            reset(connection.transport)  # after a normal close the body could look complete
        raise
    if chunked:
        connection.write(LAST_CHUNK)
    return keep_alive


def _framed(request: ClientRequest, head: ResponseHead) -> tuple[list[Header], bool, bool]:
    """Return the response's fields with framing for this client, whether the body is chunked, and whether its
    size is known. If neither is true, the body ends with the connection.
    """
    headers = end_to_end(head.headers)
    # Ignore a length together with a transfer coding (RFC 9112 6.3), and that of a 204 (RFC 9110 8.6).
    if head.get(b"transfer-encoding") or head.status == 204:
        headers = [field for field in headers if field[0].lower() != b"content-length"]
    bodyless = request.method == "HEAD" or head.status in _NO_BODY
    sized = bodyless or any(name.lower() == b"content-length" for name, _ in headers)
    chunked = not sized and not request.http10
    if chunked:
        headers.append((b"Transfer-Encoding", b"chunked"))
    return headers, chunked, sized


def first_line(head: ResponseHead) -> bytes:
    """Return the status line, with upstream's reason phrase."""
    return b"HTTP/1.1 %d %b" % (head.status, head.reason)
