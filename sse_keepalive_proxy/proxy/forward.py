"""One request of one route, from upstream's connection to the answer.

The border at which upstream's errors become answers, and the one place that starts a task: the pump of
a request's body.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from sse_keepalive_proxy.config import Limits, Match, UpstreamAddress
from sse_keepalive_proxy.errors import (
    BodyInvalid,
    BodyTooLarge,
    BodyTooLate,
    ProxyError,
    RequestBodyError,
    UpstreamError,
    UpstreamInvalid,
    UpstreamTimeout,
)
from sse_keepalive_proxy.observe.log import redact_target
from sse_keepalive_proxy.observe.metrics import Metrics, RouteMetrics
from sse_keepalive_proxy.observe.registry import Registry
from sse_keepalive_proxy.proxy.answer import answer, log_access
from sse_keepalive_proxy.proxy.connection import Connection, Written
from sse_keepalive_proxy.proxy.headers import Header, Trust, encode_head, end_to_end, stream_head
from sse_keepalive_proxy.proxy.incoming import Incoming
from sse_keepalive_proxy.proxy.plain import first_line, pass_back, send_body
from sse_keepalive_proxy.proxy.relay import Relay
from sse_keepalive_proxy.proxy.stream_route import StreamRoute
from sse_keepalive_proxy.proxy.websocket import splice
from sse_keepalive_proxy.stream.frames import confirm_form
from sse_keepalive_proxy.upstream.dial import Dialer
from sse_keepalive_proxy.upstream.head import ResponseHead
from sse_keepalive_proxy.upstream.http import Exchange

__all__ = ["Context", "Forward", "ReadyRoute"]

logger = logging.getLogger("sse_keepalive_proxy.proxy")

_CLIENT_GONE = 499
"""The code that nginx logs when the client leaves before the answer."""

_RETRY_AFTER = (1, 10)
"""Seconds, drawn anew for each refused stream, so that they do not come back together (FACTS 7.22)."""

_BODY_STATUS: dict[type[RequestBodyError], int] = {BodyInvalid: 400, BodyTooLate: 408, BodyTooLarge: 413}
_Pump = asyncio.Task[RequestBodyError | None]
_QUICK_TUNNEL = b".trycloudflare.com"
_EVENT_STREAM = b"text/event-stream"


@dataclass(frozen=True, slots=True)
class ReadyRoute:
    """A route made ready: where it leads, and what its streams are promised (None: pass-through)."""

    name: str
    match: Match
    address: UpstreamAddress
    connect_timeout: float
    response_timeout: float | None
    metrics: RouteMetrics
    stream: StreamRoute | None


@dataclass(frozen=True, slots=True)
class Context:
    """What all requests share."""

    limits: Limits
    metrics: Metrics
    streams: Registry
    dialer: Dialer
    trust: Trust
    spliced: set[Callable[[], None]] = field(default_factory=set)
    warned: set[str] = field(default_factory=set)


class Forward:
    """One admitted request on its way through one route."""

    __slots__ = ("_begun_at", "_client", "_context", "_incoming", "_is_plain", "_relay", "_request", "_route")

    def __init__(
        self, context: Context, request: web.BaseRequest, incoming: Incoming, route: ReadyRoute
    ) -> None:
        self._context, self._request, self._incoming, self._route = context, request, incoming, route
        self._begun_at = asyncio.get_running_loop().time()
        self._client = context.trust.client(incoming.peer, incoming.headers)
        self._relay: Relay | None = None
        self._is_plain = route.stream is None  # until its answer tells

    async def run(self) -> Written:
        """Answer. Whatever happens, the request is counted once and nothing is left open."""
        metrics = self._route.metrics
        metrics.in_flight.inc()
        try:
            return await self._answered()
        except _CutError:
            raise
        except (asyncio.CancelledError, ConnectionError):
            self._count(_CLIENT_GONE)
            raise
        except UpstreamError as error:
            metrics.upstream_error(error)
            return self._failed(error)
        except RequestBodyError as error:
            return self._refuse(_BODY_STATUS[type(error)], str(error), keep_alive=False)
        except Exception:
            logger.exception("a request failed inside the proxy; please report this", extra=self._where())
            return self._refuse(500, "the proxy failed; its log says why", keep_alive=False)
        finally:
            metrics.in_flight.dec()
            if self._relay is not None:
                self._context.streams.remove(self._relay)

    async def _answered(self) -> Written:
        if self._route.stream is not None and (refused := self._enter(self._route.stream)) is not None:
            return refused
        incoming, limit = self._incoming, self._context.limits.max_request_body
        if limit is not None and (incoming.length or 0) > limit:
            raise BodyTooLarge(f"the request's body is larger than {limit} bytes")
        exchange = await self._context.dialer.open(
            self._route.address,
            within=self._route.connect_timeout,
            head_only=incoming.method == "HEAD",
            interim=self._pass_interim,
        )
        pump: _Pump | None = None
        try:
            exchange.send(self._head_for_upstream())
            if incoming.has_body:
                pump = asyncio.create_task(
                    send_body(self._request, exchange, length=incoming.length, limit=limit)
                )
            head = await exchange.response(self._route.response_timeout)
            return await self._respond(exchange, head, pump)
        except BaseException:
            exchange.close()
            raise
        finally:
            if pump is not None:
                pump.cancel()

    def _enter(self, stream: StreamRoute) -> Written | None:
        """Take a place among the streams; the answer when there is none."""
        incoming, context = self._incoming, self._context
        if incoming.method == "HEAD" and stream.policy.refuse_head:
            return self._refuse(405, "HEAD is refused here", fields=((b"Allow", b"GET"),))
        if incoming.method == "GET" and incoming.host.partition(b":")[0].lower().endswith(_QUICK_TUNNEL):
            self._through_quick_tunnel()
        rejected = context.streams.refusal(self._client)
        if rejected is not None:
            self._route.metrics.rejected(rejected)
            wait = random.randint(*_RETRY_AFTER)  # noqa: S311 (spreads clients, guards nothing)
            text = f"there is no room for another stream (limits.{rejected})"
            return self._refuse(503, text, fields=((b"Retry-After", b"%d" % wait),))
        target = redact_target(incoming.target)
        self._relay = Relay(stream, stream_id=os.urandom(8).hex(), client=self._client, target=target)
        context.streams.add(self._relay)
        return None

    def _through_quick_tunnel(self) -> None:
        self._route.metrics.quick_tunnel.inc()
        if self._route.name not in self._context.warned:
            self._context.warned.add(self._route.name)
            logger.warning(
                "a stream was asked for through a Quick Tunnel (*.trycloudflare.com), which holds every GET "
                "until it ends, whatever we send: use a named tunnel",
                extra=self._where(),
            )

    # Towards upstream.

    def _head_for_upstream(self) -> bytes:
        incoming = self._incoming
        dropped = {b"host", b"content-length"}
        if self._route.stream is not None:
            dropped.add(b"accept-encoding")
        host = incoming.host or self._route.address.authority.encode()
        kept = [item for item in end_to_end(incoming.headers) if item[0].lower() not in dropped]
        headers = [
            (b"Host", host),
            *self._context.trust.forward(incoming.peer, incoming.scheme, host, kept),
        ]
        if self._route.stream is not None:
            headers.append((b"Accept-Encoding", b"identity"))
        if incoming.length is not None:
            headers.append((b"Content-Length", b"%d" % incoming.length))
        elif incoming.has_body:
            headers.append((b"Transfer-Encoding", b"chunked"))
        if incoming.upgrade:
            headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        else:
            headers.append((b"Connection", b"close"))
        prefix = "" if incoming.target == "*" else self._route.address.prefix
        line = f"{incoming.method} {prefix}{incoming.target} HTTP/1.1"
        return encode_head(line.encode("latin-1"), headers)

    def _pass_interim(self, head: ResponseHead) -> None:
        """A 1xx goes to the client as it is (RFC 9110 15.2), unless it would not understand it."""
        transport = self._request.transport
        if transport is not None and not self._incoming.http10:
            fields = [field for field in end_to_end(head.headers) if field[0].lower() != b"content-length"]
            transport.write(encode_head(first_line(head), fields))

    # Towards the client.

    async def _respond(self, exchange: Exchange, head: ResponseHead, pump: _Pump | None) -> Written:
        if head.status == 101:
            if not self._incoming.upgrade or head.get(b"upgrade").lower() != b"websocket":
                raise UpstreamInvalid("upstream switched to a protocol that nobody had asked it for")
            return self._switch(exchange, head)
        self._is_plain = not _is_event_stream(head)
        if self._relay is not None and self._is_stream(head):
            if head.get(b"content-encoding").lower() in (b"", b"identity"):
                await self._whole_body(pump)
                return self._stream(self._relay, exchange, head)
            self._route.metrics.uninspectable.inc()
            logger.warning(
                "upstream encodes its event stream though asked not to: it passes through without pings",
                extra=self._where(),
            )
        if self._relay is not None:  # no stream after all
            self._context.streams.remove(self._relay)
        try:
            written = await pass_back(self._request, self._incoming, exchange, head)
        except ProxyError as error:
            self._count(head.status)
            if isinstance(error, UpstreamError):
                self._route.metrics.upstream_error(error)
            logger.warning("an answer broke off: %s", error, extra=self._where())
            raise _CutError from error
        self._count(head.status)
        return written

    async def _whole_body(self, pump: _Pump | None) -> None:
        """A stream's client has said all it has to say: its connection is about to be taken over."""
        if pump is None:
            return
        try:
            async with asyncio.timeout(self._route.response_timeout):
                error = await pump
        except TimeoutError:
            raise BodyTooLate("the request's body took too long") from None
        if error is not None:
            raise error

    def _is_stream(self, head: ResponseHead) -> bool:
        return (
            200 <= head.status < 300
            and head.status not in (204, 205)
            and _is_event_stream(head)
            and self._incoming.method != "HEAD"
        )

    def _stream(self, relay: Relay, exchange: Exchange, head: ResponseHead) -> Written:
        incoming, stream = self._incoming, relay.route
        headers = stream_head(head.headers)
        if not incoming.http10:
            headers.append((b"Transfer-Encoding", b"chunked"))
        headers.append((b"Connection", b"close"))
        connection = self._connection()
        self._relay = None  # it leaves the registry by itself now
        relay.begin(
            lambda protocol: connection.hand_over(protocol)[0],
            exchange,
            encode_head(first_line(head), headers),
            confirm_form(stream.policy.confirm, event_source=incoming.is_event_source),
            chunked=not incoming.http10,
        )
        self._context.streams.begun(relay)
        self._context.metrics.answered(self._route.name, incoming.method, head.status)
        return Written(keep_alive=False)

    def _switch(self, exchange: Exchange, head: ResponseHead) -> Written:
        """A 101: the two connections are spliced from here on."""
        spliced = self._context.spliced
        fields = [*end_to_end(head.headers), (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        done: list[Callable[[], None]] = []

        def over() -> None:
            spliced.difference_update(done)

        done.append(
            splice(self._connection().hand_over, exchange, encode_head(first_line(head), fields), over)
        )
        spliced.update(done)
        self._count(101)
        return Written(keep_alive=False)

    def _connection(self) -> Connection:
        connection = self._request.protocol
        if not isinstance(connection, Connection):
            raise TypeError("this request does not come from our frontend")
        return connection

    def _failed(self, error: UpstreamError) -> Written:
        logger.warning("upstream gave no answer: %s", error, extra=self._where())
        slow = isinstance(error, UpstreamTimeout)
        text = "upstream took too long" if slow else "upstream cannot be reached"
        return self._refuse(504 if slow else 502, text)

    def _refuse(
        self, status: int, text: str, *, fields: tuple[Header, ...] = (), keep_alive: bool = True
    ) -> Written:
        self._count(status, text)
        line = f'route "{self._route.name}": {text}'
        keep_alive = keep_alive and self._incoming.keep_alive
        return answer(self._request, status, line, fields=fields, keep_alive=keep_alive)

    def _count(self, status: int, reason: str = "") -> None:
        seconds = asyncio.get_running_loop().time() - self._begun_at
        self._context.metrics.answered(self._route.name, self._incoming.method, status)
        if self._is_plain:
            self._route.metrics.duration.observe(seconds)
        log_access(self._incoming, self._client, self._route.name, status, seconds, reason)

    def _where(self) -> dict[str, dict[str, str]]:
        return {"fields": {"route": self._route.name, "target": redact_target(self._incoming.target)}}


def _is_event_stream(head: ResponseHead) -> bool:
    return head.get(b"content-type").partition(b";")[0].strip().lower() == _EVENT_STREAM


class _CutError(ConnectionError):
    """The response has begun and cannot be whole: aiohttp closes the connection under it."""
