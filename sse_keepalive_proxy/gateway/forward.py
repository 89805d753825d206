"""Forward one request to the upstream of its route, and turn errors of upstream into answers.

`stream_request` contains the rules for routes with streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from sse_keepalive_proxy.errors import (
    AnswerCut,
    BodyInvalid,
    BodyTooLarge,
    BodyTooLate,
    ProxyError,
    RequestBodyError,
    UpstreamError,
    UpstreamInvalid,
)
from sse_keepalive_proxy.gateway.answer import log_access
from sse_keepalive_proxy.gateway.cors import Cors
from sse_keepalive_proxy.gateway.passthrough import first_line, pass_back, send_body
from sse_keepalive_proxy.gateway.sharing import with_named_id
from sse_keepalive_proxy.gateway.state import InForce, Process, ReadyRoute
from sse_keepalive_proxy.gateway.stream_request import StreamRequest
from sse_keepalive_proxy.gateway.upstream_request import request_head
from sse_keepalive_proxy.gateway.websocket import splice
from sse_keepalive_proxy.http.attempts import Answer, Attempt, status_of
from sse_keepalive_proxy.http.connection import ClientConnection
from sse_keepalive_proxy.http.exchange import Exchange
from sse_keepalive_proxy.http.headers import Header, encode_head, end_to_end
from sse_keepalive_proxy.http.request import ClientRequest
from sse_keepalive_proxy.http.response import EVENT_STREAM, ResponseHead
from sse_keepalive_proxy.net.tasks import spawn
from sse_keepalive_proxy.observe.line import redact_target

__all__ = ["Forward"]

logger = logging.getLogger("sse_keepalive_proxy.gateway")

_CLIENT_GONE = 499
"""The status in nginx's log for a client that leaves before the answer."""

_BODY_STATUS: dict[type[RequestBodyError], int] = {BodyInvalid: 400, BodyTooLate: 408, BodyTooLarge: 413}


class Forward:
    """One validated request to one route, with the limits and the trust of `in_force`."""

    __slots__ = (
        "_begun_at", "_body_whole", "_client", "_connection", "_head", "_is_plain", "_limit", "_process",
        "_pump", "_request", "_route", "_stream_request",
    )  # fmt: skip

    def __init__(
        self,
        process: Process,
        in_force: InForce,
        connection: ClientConnection,
        request: ClientRequest,
        route: ReadyRoute,
    ) -> None:
        self._process, self._connection, self._request, self._route = process, connection, request, route
        self._limit = in_force.limits.max_request_body
        self._begun_at = asyncio.get_running_loop().time()
        self._client = client = in_force.trust.client(request.peer, request.headers)
        stream = route.stream
        self._is_plain = stream is None  # of a stream route: known when the answer comes
        self._pump: asyncio.Task[RequestBodyError | None] | None = None
        self._body_whole: asyncio.Future[bool] | None = None
        if request.has_body:
            self._body_whole = asyncio.get_running_loop().create_future()
        if stream is not None:
            request = with_named_id(request, stream.policy)
        self._head = request_head(request, route.target.address, in_force.trust, stream=stream is not None)
        self._stream_request = (
            None if stream is None else StreamRequest(process, connection, request, route, stream, client)
        )

    async def run(self) -> bool:
        """Answer the request. Return whether the connection may carry another request.

        In every case the request is counted once and nothing is left open.
        """
        metrics = self._route.metrics
        metrics.requests_in_flight += 1
        try:
            return await self._answered()
        except AnswerCut:
            raise
        except (asyncio.CancelledError, ConnectionError):
            self._count(_CLIENT_GONE)
            raise
        except UpstreamError as error:
            metrics.upstream_error(error)
            return self._failed(error)
        except RequestBodyError as error:
            error.__traceback__ = None  # its frames refer to this object, and so to the error: a cycle
            return self._refuse(_BODY_STATUS[type(error)], str(error), keep_alive=False)
        except Exception:
            logger.exception("a request failed inside the proxy; please report this", extra=self._where())
            return self._refuse(500, "the proxy failed; its log says why", keep_alive=False)
        finally:
            metrics.requests_in_flight -= 1
            pump, self._pump = self._pump, None  # its error refers to this object
            if pump is not None:
                pump.cancel()
            if self._stream_request is not None:
                self._stream_request.release()

    def preflight(self, cors: Cors) -> bool:
        """Answer a CORS preflight without upstream."""
        self._count(204)
        fields = cors.preflight(self._request.headers)
        return self._connection.respond(204, "", fields=fields)

    async def _answered(self) -> bool:
        stream_request, request, limit = self._stream_request, self._request, self._limit
        if stream_request is not None:
            refused = stream_request.reserve(self._head)
            if refused is not None:
                status, text, fields = refused
                return self._refuse(status, text, fields=fields)
        if limit is not None and (request.length or 0) > limit:
            raise BodyTooLarge(f"the request's body is larger than {limit} bytes")
        broken = request.content.exception()
        if broken is not None:  # it came with the head: upstream need not be connected
            raise broken
        attempt = Attempt(
            self._route.target,
            self._head,
            head_only=request.method == "HEAD",
            interim=None if request.http10 else self._pass_interim,
            sent=self._send_body if request.has_body else None,
            let_go=Exchange.close if stream_request is None else stream_request.let_go,
            in_turn=stream_request is not None and stream_request.takes_turn,
        )
        if stream_request is None:
            return await self._respond(await attempt.make())
        early = stream_request.early
        if early is None:
            return await self._respond(await stream_request.open(attempt))
        opening = spawn(stream_request.open(attempt))
        if await early.answered(opening, self._body_whole):
            return await self._respond(opening.result())
        stream_request.commit_early(opening, early)
        return False

    # Towards upstream.

    def _send_body(self, exchange: Exchange) -> None:
        request, stream_request = self._request, self._stream_request
        exchange.request_sent = False
        look = None if stream_request is None else stream_request.look
        self._pump = spawn(
            send_body(request.content, exchange, length=request.length, limit=self._limit, look=look)
        )
        self._pump.add_done_callback(lambda pump: self._pumped(pump, exchange))

    def _pumped(self, pump: asyncio.Task[RequestBodyError | None], exchange: Exchange) -> None:
        failed = pump.cancelled() or pump.exception() is not None
        exchange.request_sent = not failed and pump.result() is None
        if self._body_whole is not None:
            self._body_whole.set_result(exchange.request_sent)

    def _pass_interim(self, head: ResponseHead) -> None:
        """Pass a 1xx on unchanged (RFC 9110 15.2). It is not called for a client of HTTP/1.0."""
        fields = [field for field in end_to_end(head.headers) if field[0].lower() != b"content-length"]
        with contextlib.suppress(ConnectionError):  # the connection itself notices that its client has left
            self._connection.write_interim(encode_head(first_line(head), fields))

    # Towards the client.

    async def _respond(self, answered: Answer) -> bool:
        try:
            return await self._passed_back(answered)
        except BaseException:
            if self._stream_request is None or not self._stream_request.has_begun:
                answered.forsake()
            elif not answered.exchange.request_sent:
                answered.exchange.close()  # the rest of the request will not come
            raise

    async def _passed_back(self, answered: Answer) -> bool:
        exchange, head = answered.exchange, answered.head
        if head.status == 101:
            if (
                not isinstance(exchange, Exchange)
                or not self._request.upgrade
                or head.get(b"upgrade").lower() != b"websocket"
            ):
                raise UpstreamInvalid("upstream switched to a protocol that was not requested")
            return self._switch(exchange, head)
        self._is_plain = head.media_type != EVENT_STREAM
        if self._stream_request is not None:
            if head.is_event_stream and self._request.method != "HEAD":
                if not head.is_encoded:
                    self._stream_request.commit(answered, first_line(head))
                    await self._pass_rest_of_body()
                    return False
                self._stream_request.encoded()
            self._stream_request.release()  # the answer is no stream
        self._connection.ends_at_eof = head.media_type == EVENT_STREAM
        try:
            written = await pass_back(self._connection, self._request, exchange, head, self._own)
        except ProxyError as error:
            self._count(head.status)
            if isinstance(error, UpstreamError):
                self._route.metrics.upstream_error(error)
            logger.warning("an answer broke off: %s", error, extra=self._where())
            raise AnswerCut from error
        self._count(head.status)
        return written

    async def _pass_rest_of_body(self) -> None:
        """Wait until the whole body of the request has been sent, or the stream is over. Only then the stream
        can have the whole connection.
        """
        if self._pump is not None:
            await asyncio.wait([self._pump])

    def _own(self, fields: list[Header]) -> list[Header]:
        """Return the fields of an answer, with the CORS headers of the route if it has `cors`."""
        cors = self._route.cors
        return fields if cors is None else cors.own(self._request.headers, fields)

    def _switch(self, exchange: Exchange, head: ResponseHead) -> bool:
        """Answer with 101 and splice the two connections."""
        spliced = self._process.spliced
        fields = [*end_to_end(head.headers), (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        done: list[Callable[[], None]] = []

        def over() -> None:
            spliced.difference_update(done)

        answer = self._connection.unsent(encode_head(first_line(head), fields))
        done.append(splice(self._connection.hand_over, exchange, answer, over))
        spliced.update(done)
        self._count(101)
        return False

    def _failed(self, error: UpstreamError) -> bool:
        logger.warning("upstream gave no answer: %s", error, extra=self._where())
        return self._refuse(*status_of(error))

    def _refuse(
        self, status: int, text: str, *, fields: tuple[Header, ...] = (), keep_alive: bool = True
    ) -> bool:
        self._count(status, text)
        line = f'route "{self._route.name}": {text}'
        return self._connection.respond(status, line, fields=self._own(list(fields)), keep_alive=keep_alive)

    def _count(self, status: int, reason: str = "") -> None:
        seconds = asyncio.get_running_loop().time() - self._begun_at
        self._process.metrics.answered(self._route.name, self._request.method, status)
        if self._is_plain:
            self._route.metrics.request_duration_seconds.observe(seconds)
        log_access(self._request, self._client, self._route.name, status, seconds, reason)

    def _where(self) -> dict[str, dict[str, str]]:
        return {"fields": {"route": self._route.name, "target": redact_target(self._request.target)}}
