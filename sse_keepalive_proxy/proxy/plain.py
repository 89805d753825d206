"""Everything that is no event stream: bodies streamed both ways, as they are.

A response is pulled: aiohttp's writer waits for the client, and upstream is paused meanwhile, so that
at most `_MAX_WAITING` bytes and one read wait in memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from aiohttp import web

from sse_keepalive_proxy.errors import BodyTooLarge, ProxyError, RequestBodyError
from sse_keepalive_proxy.proxy.client_socket import reset
from sse_keepalive_proxy.proxy.connection import Written
from sse_keepalive_proxy.proxy.headers import Header, encode_head, end_to_end
from sse_keepalive_proxy.proxy.incoming import Incoming
from sse_keepalive_proxy.upstream.head import ResponseHead
from sse_keepalive_proxy.upstream.http import Exchange

__all__ = ["first_line", "pass_back", "send_body"]

_MAX_WAITING = 256 * 1024
_NO_BODY = frozenset({204, 304})


class _Body:
    """A response body as it can be pulled: the sink of an exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._over = False
        self._error: ProxyError | None = None
        self._wake: asyncio.Future[None] | None = None
        exchange.attach(self)

    def data(self, data: bytes) -> None:
        self._waiting.append(data)
        self._size += len(data)
        if self._size > _MAX_WAITING:
            self._exchange.pause()
        self._notify()

    def end(self) -> None:
        self._over = True
        self._notify()

    def failed(self, error: ProxyError) -> None:
        self._error, self._over = error, True
        self._notify()

    async def read(self) -> bytes:
        """What has come, at least one byte; nothing at the end. Raises `UpstreamError`."""
        while not self._waiting:
            if self._error is not None:
                raise self._error
            if self._over:
                return b""
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        data = b"".join(self._waiting)
        self._waiting.clear()
        if self._size > _MAX_WAITING:
            self._exchange.resume()
        self._size = 0
        return data

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


async def send_body(
    request: web.BaseRequest, exchange: Exchange, *, length: int | None, limit: int | None
) -> RequestBodyError | None:
    """Stream the request's body to upstream: as it is when its `length` is known, else chunked.

    Where the body is larger than `limit` bytes or not valid, the exchange fails with that, and it is
    returned: whichever of the two is waited for tells.
    """
    sent = 0
    try:
        while data := await request.content.readany():
            sent += len(data)
            if limit is not None and sent > limit:
                raise BodyTooLarge(f"the request's body is larger than {limit} bytes")
            exchange.send(data if length is not None else b"%x\r\n%b\r\n" % (len(data), data))
            if not await exchange.drained():
                return None
    except RequestBodyError as error:
        exchange.fail(error)
        return error
    if length is None:
        exchange.send(b"0\r\n\r\n")
    return None


async def pass_back(
    request: web.BaseRequest,
    incoming: Incoming,
    exchange: Exchange,
    head: ResponseHead,
    own: Callable[[list[Header]], list[Header]],
) -> Written:
    """Give upstream's response to the client unchanged but for hop-by-hop fields, and those that `own` makes
    ours.

    Raises ConnectionError when the client goes, `UpstreamError` when the body breaks off: the response
    has begun then, and can only be cut.
    """
    headers, chunked, sized = _framed(incoming, head)
    headers = own(headers)
    # A connection whose request is still on its way carries no other one.
    keep_alive = incoming.keep_alive and (sized or chunked) and request.content.is_eof()
    if not keep_alive:
        headers.append((b"Connection", b"close"))
    elif incoming.http10:
        headers.append((b"Connection", b"keep-alive"))
    transport = request.transport
    if transport is None:
        raise ConnectionError("the client has gone")
    transport.write(encode_head(first_line(head), headers))
    writer = request.writer
    if chunked:
        writer.enable_chunking()
    body = _Body(exchange)
    try:
        while data := await body.read():
            await writer.write(data)
    except ProxyError:
        if not sized and not chunked:
            reset(transport)  # closed, it would look like the end of a whole body
        raise
    await writer.write_eof()
    return Written(keep_alive=keep_alive)


def _framed(incoming: Incoming, head: ResponseHead) -> tuple[list[Header], bool, bool]:
    """The response's fields with the framing this client understands, and where the body ends: with a
    last chunk, after a known size, or else with the connection.
    """
    headers = end_to_end(head.headers)
    # A length beside a transfer coding is void (RFC 9112 6.3), that of a 204 has no meaning (RFC 9110 8.6).
    if head.get(b"transfer-encoding") or head.status == 204:
        headers = [field for field in headers if field[0].lower() != b"content-length"]
    bodyless = incoming.method == "HEAD" or head.status in _NO_BODY
    sized = bodyless or any(name.lower() == b"content-length" for name, _ in headers)
    chunked = not sized and not incoming.http10
    if chunked:
        headers.append((b"Transfer-Encoding", b"chunked"))
    return headers, chunked, sized


def first_line(head: ResponseHead) -> bytes:
    """The status line, upstream's reason phrase kept."""
    return b"HTTP/1.1 %d %b" % (head.status, head.reason)
