"""A client's connection: aiohttp's server protocol, with additional limits.

aiohttp parses requests, starts the handler for each and keeps the connection. This module limits the size and
the time of a request head, and the pauses in a body. It passes one request at a time to aiohttp: a whole
head, and a body without any bytes of the next request. `hand_over` gives the transport to another protocol,
and aiohttp's objects are released.

A client that closes its side of the connection after a whole request gets its answer, if it still reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web

from sse_keepalive_proxy.errors import (
    AnswerCut,
    BodyInvalid,
    BodyTooLate,
    CodingInvalid,
    RequestBodyError,
    RequestInvalid,
)
from sse_keepalive_proxy.http.chunked import LAST_CHUNK
from sse_keepalive_proxy.http.head import CHUNKED, NOT_HTTP, HeadReader, RequestHead
from sse_keepalive_proxy.http.headers import Header
from sse_keepalive_proxy.http.lingering import Lingering
from sse_keepalive_proxy.http.request_body import RequestBody
from sse_keepalive_proxy.http.responses import PLAIN_TEXT, error_response, whole_response
from sse_keepalive_proxy.net.tcp import drop, has_left, has_unread, is_broken, peer_address, reset

if TYPE_CHECKING:
    from sse_keepalive_proxy.http.frontend import Frontend

__all__ = ["ClientConnection"]

logger = logging.getLogger("sse_keepalive_proxy.http")

_BODY_TIMEOUT = 60.0  # seconds between two reads of a request body, like nginx's `client_body_timeout`
_LOOK_AT_PEER = 1.0  # seconds between two checks whether a client has left, while it is not read

_FIRST_CHUNK = 1.0
"""Seconds to wait for the first chunk of a `GET`: if it is the last one, the request has no body."""

_AHEAD = b"HTTP/1.1 "
"""The first bytes of every answer. They are sent ahead to a client that has closed its side of a
connection: if it has closed both sides, its system answers with a reset. No other way tells them apart
(facts.md#half-closed-clients).
"""

_AHEAD_OF_A_CHUNK = b"0"  # the same inside of a chunked answer: a zero before a size means nothing
_ANSWER_TO_AHEAD = 0.02  # seconds until the first check for that reset

_NO_HEAD = RequestHead(b"", b"", (), 0)


class ClientConnection(web.RequestHandler):
    """A client's connection until it is closed or handed over. After that `transport` is None."""

    __slots__ = (
        "_ahead", "_answer_task", "_answers", "_began", "_body_error", "_ended", "_frontend", "_head_reader",
        "_held", "_probed", "_receiving", "_taker", "_undecided", "_wakes_at", "chunked", "ends_at_eof",
        "head",
    )  # fmt: skip

    def __init__(self, frontend: Frontend) -> None:
        super().__init__(frontend.server, loop=frontend.loop, **frontend.options)
        self._frontend = frontend
        self._head_reader: HeadReader | None = HeadReader(frontend.limits.max_head)  # None: the head is whole
        self.head = _NO_HEAD  # of the current request
        self._undecided = False  # whether the first chunk will show if the current request has a body
        self._receiving: RequestBody | None = None  # None: no body is being received
        self._body_error: RequestBodyError | None = None
        self._held = b""  # bytes after the current request, or later ones of its body
        self._ended = False  # whether the client has closed its side
        self._probed = False  # whether bytes were sent ahead to a client that has closed its side
        self._ahead = 0  # how many bytes of the next head were sent ahead
        self.chunked = False  # whether what has been written of the answer is a head and whole chunks
        self._taker: asyncio.Protocol | None = None  # what answers in place of the handler
        self.ends_at_eof = False  # whether a client that closes its side has left: set for event streams
        self._answer_task: asyncio.Task[Any] | None = None
        self._answers: web.BaseRequest | None = None  # the current request
        self._began = False  # whether the answer to it has begun
        self._wakes_at: float | None = None

    def write(self, data: bytes) -> None:
        """Send a part of an answer. Raises ConnectionError if the client has left."""
        self._began = True
        self.write_interim(data)

    def write_interim(self, data: bytes) -> None:
        """Send a 1xx head, which does not begin the answer. Raises ConnectionError if the client has left."""
        if self.transport is None or self.transport.is_closing():
            raise ConnectionError("the client has left")
        self.transport.write(self.unsent(data))

    def unsent(self, head: bytes) -> bytes:
        """Return the bytes of a response head that were not sent ahead. To be called once for each head."""
        ahead, self._ahead = self._ahead, 0
        return head[ahead:]

    async def drained(self) -> None:
        """Wait until more can be sent. Raises ConnectionError if the client has left."""
        if self.transport is None or self._answers is None:
            raise ConnectionError("the client has left")
        await self._answers.writer.drain()

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection may carry another request after the current one. This can still change."""
        request = self._answers
        return (
            request is not None
            and request.keep_alive
            and request.content.at_eof()
            and self._frontend.idle_grace is None
            and (not self._ended or bool(self._held))
        )

    def respond(
        self, status: int, text: str, *, fields: Sequence[Header] = (), keep_alive: bool = True
    ) -> bool:
        """Answer with one line of text, or without a body if `text` is empty. Return whether the connection
        is kept, which `keep_alive` can forbid.

        Raises ConnectionError if the client has left, and `AnswerCut` if another answer has begun.
        """
        body = text.encode() + b"\n" if text else b""
        return self.respond_with(status, body, fields=fields, keep_alive=keep_alive)

    def respond_with(
        self,
        status: int,
        body: bytes,
        media_type: bytes = PLAIN_TEXT,
        *,
        fields: Sequence[Header] = (),
        keep_alive: bool = True,
    ) -> bool:
        """Answer like `respond`, with any `body`."""
        if self._began:
            self._cut_answer()
            raise AnswerCut("an answer has begun")
        keep_alive = keep_alive and self.keeps_alive
        response = whole_response(status, body, media_type, fields=fields, keep_alive=keep_alive)
        if self._answers is not None and self._answers.method == "HEAD":
            response = response[: response.index(b"\r\n\r\n") + 4]
        self.write(response)
        return keep_alive

    def lend(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Let `protocol` answer. It may write to the transport, which is returned, and gets its events but
        no data. It gets the transport itself when the handler returns. Until then the rest of a body is
        received here.

        Raises ConnectionError if the client has left.
        """
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ConnectionError("the client has left")
        self._taker, self._began, self.ends_at_eof = protocol, True, True
        self._wake_in(None)  # the answer has begun: a body may take as long as it does
        return transport

    def hand_over(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes]:
        """Give the transport to `protocol` now. Return it, and the bytes received after the request.

        Raises ConnectionError if the client has left.
        """
        transport = self.lend(protocol)
        return transport, self._let_go(transport, protocol)

    def _let_go(self, transport: asyncio.Transport, taker: asyncio.Protocol) -> bytes:
        """Give the transport to `taker`. Return the bytes received after the request."""
        held, self._held = self._held, b""
        transport.set_protocol(taker)
        self.transport = self._answer_task = self._taker = None
        self.connection_lost(None)  # aiohttp releases everything
        transport.resume_reading()
        return held

    # For the frontend.

    @property
    def answering(self) -> bool:
        """Whether a request is being answered, and its client takes the answer."""
        return self._head_reader is None and not self._undecided and not self.writing_paused

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Let the handler answer `request`. The response returned says whether the connection is kept."""
        self._answer_task, self._answers = request.task, request
        if self._body_error is not None:
            request.content.set_exception(self._body_error)
        keep = False
        try:
            keep = await self._frontend.handler(self, request)
        except ConnectionError:
            pass  # the client has left, or the answer was cut
        except Exception:
            logger.exception("a request failed inside the proxy; please report this")
            if self._began:
                self._cut_answer()
            else:
                self._write_error(500, "the proxy failed; its log says why")
        finally:
            self._answer_task = self._answers = self._body_error = None
        if self.transport is not None and self._taker is not None:
            self._let_go(self.transport, self._taker)
        if self.transport is None:
            return self._frontend.last
        if keep and request.content.at_eof():
            self.chunked = False  # the answer is whole
            with contextlib.suppress(ConnectionError):
                await request.writer.drain()  # a client that takes no answer gets no further ones
            if self.connected:
                self._go_on()
            return self._frontend.kept
        if self._held or not request.content.is_eof():
            self._linger()
        return self._frontend.last

    def drain(self) -> None:
        """Close when idle for `idle_grace` of the frontend."""
        if self._head_reader is not None and not self._head_reader.size:
            self._wake_in(self._frontend.idle_grace)

    def cut(self) -> None:
        """Close now, and cancel the current answer."""
        if self.transport is not None:
            drop(self.transport, whole=self._answer_task is None or not self._began)
        if self._answer_task is not None and self._taker is None:
            self._answer_task.cancel()

    # asyncio's protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        frontend = self._frontend
        if frontend.admits(self, cast(asyncio.Transport, transport)):
            super().connection_made(transport)
            wait, grace = frontend.limits.head_timeout, frontend.idle_grace
            self._wake_in(wait if grace is None else min(wait, grace))

    def connection_lost(self, exc: BaseException | None) -> None:
        self._wake_in(None)
        self._frontend.connections.pop(self, None)
        self.keep_alive(False)  # releases a timer that refers to this
        taker, self._taker = self._taker, None
        if taker is not None:
            self.transport = None  # aiohttp must not close it: that is for `taker`
        super().connection_lost(exc)  # this also ends the wait for the rest of a body
        if taker is not None:
            taker.connection_lost(cast(Exception | None, exc))
        elif self._answer_task is not None:
            self._answer_task.cancel()

    def data_received(self, data: bytes) -> None:
        if not data:  # aiohttp continues with bytes that it has kept
            super().data_received(data)
            return
        held = self._held  # it comes first, in `_read_on`
        if self._head_reader is not None and not held:
            try:
                rest = self._read_head(self._head_reader, data)
            except RequestInvalid as error:
                self._refuse(error.status, str(error))
                return
            if rest is None:
                return
            data = rest
        if data and not held and self._receiving is not None:
            data = self._read_body(self._receiving, data)
        if data and self._body_error is None and self.transport is not None:
            self._held += data
            if reads := self.transport.is_reading():  # if not, aiohttp resumes it
                self.transport.pause_reading()
                self._wake_in(_LOOK_AT_PEER)
            if self._receiving is not None and not held:  # other connections have their turn first
                self._frontend.loop.call_soon(self._read_on, reads)

    def eof_received(self) -> Any:  # aiohttp's returns nothing, and means None
        """Keep the connection open for the answer to a whole request, unless a stream has begun. TLS has no
        such state.
        """
        transport = self.transport
        if self._taker is not None:
            self._taker.eof_received()
        if transport is None or self.ends_at_eof or not self._is_whole or not transport.can_write_eof():
            return False
        self._ended = True
        self._look_at_peer()
        return True

    def pause_writing(self) -> None:
        super().pause_writing() if self._taker is None else self._taker.pause_writing()

    def resume_writing(self) -> None:
        super().resume_writing() if self._taker is None else self._taker.resume_writing()

    def pause_reading(self) -> None:
        """Stop reading, because aiohttp's buffer of the body is full."""
        super().pause_reading()
        self._wake_in(_LOOK_AT_PEER)

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 (an object made by aiohttp)
        status: int = 500,  # noqa: ARG002
        exc: BaseException | None = None,  # its text repeats the request
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """Answer a head that aiohttp's parser rejects."""
        if exc is not None:
            exc.__traceback__ = None  # its frames refer to the error and to this connection: a cycle
        self._refuse(400, NOT_HTTP)
        return self._frontend.last

    def _read_head(self, reader: HeadReader, data: bytes) -> bytes | None:
        """Return the bytes after the head, or None if it is not whole. Raises `RequestInvalid`."""
        begins = not reader.size
        rest = reader.feed(data)
        if rest is None:
            if begins:
                self._wake_in(self._frontend.limits.head_timeout)
            return None
        self._head_reader = None
        self.head = head = RequestHead.of(reader.head)
        if head.body:
            frontend = self._frontend
            self._receiving = RequestBody(head.body, frontend.limits.max_head, frontend.loop.time())
        self._undecided = head.body == CHUNKED and head.may_end_empty
        if self._undecided:
            self._wake_in(_FIRST_CHUNK)
        else:
            self._begin()
        return rest

    def _begin(self) -> None:
        """Give the current request to aiohttp, which starts the handler."""
        self._undecided = False
        self._began = self._probed = self.chunked = self.ends_at_eof = False
        self._wake_in(None if self._is_whole else _BODY_TIMEOUT)
        if self._ended:
            self._look_at_peer()
        super().data_received(self.head.for_aiohttp)

    @property
    def _is_whole(self) -> bool:
        """Whether a request is being answered and all of it has been received."""
        return self._head_reader is None and self._receiving is None

    def _read_body(self, body: RequestBody, data: bytes) -> bytes:
        """Pass a part of `body` to aiohttp. Return the bytes after it."""
        body.came_at = self._frontend.loop.time()
        try:
            piece, rest = body.feed(data)
        except CodingInvalid as error:
            if self._undecided:
                self._begin()
            self._fail_body(BodyInvalid(f"the request's body {error}"))
            return b""
        if body.complete:
            self._receiving = None
        if self._undecided and piece:
            if piece == LAST_CHUNK:  # facts.md#empty-chunked-bodies
                self.head, piece = self.head.without_body(), b""
            self._begin()
        if self._is_whole:
            self._wake_in(None)
        if piece:
            super().data_received(piece)
        return rest

    def _fail_body(self, error: RequestBodyError) -> None:
        """Raise `error` in the reader of the body, and ignore the rest of it."""
        error.__traceback__ = None  # its frames refer to this connection, which refers to the error
        self._body_error, self._receiving = error, None
        self._wake_in(None)
        if self._answers is not None:
            self._answers.content.set_exception(error)

    def _go_on(self) -> None:
        """Read the next request. If its bytes are here already, other connections have their turn first."""
        self._head_reader = HeadReader(self._frontend.limits.max_head)
        self._wake_in(self._frontend.idle_grace)
        if self._held:
            self._frontend.loop.call_soon(self._read_on)
        else:
            self._read_on()

    def _read_on(self, resumes: bool = True) -> None:
        if self.transport is None:
            return
        held, self._held = self._held, b""
        if resumes:
            self.transport.resume_reading()
        if held:
            self.data_received(held)
        if self._ended and not self._is_whole:
            self.cut()

    def _refuse(self, status: int, text: str) -> None:
        """Answer an invalid request, and close."""
        self._write_error(status, text)
        self._linger()

    def _write_error(self, status: int, text: str) -> None:
        self._frontend.limits.refused(status, text, peer_address(self.transport))
        if self.transport is not None:
            self.transport.write(self.unsent(error_response(status, text)))

    def _cut_answer(self) -> None:
        """Reset the connection. After a normal close, the answer could look complete."""
        if self.transport is not None:
            reset(self.transport)

    def _linger(self) -> None:
        """Give the connection to `Lingering`, which reads for a while and then closes."""
        transport = self.transport
        if transport is not None and not transport.is_closing():
            left = self._receiving.left if self._receiving is not None else 0
            self.transport = self._answer_task = None
            self.connection_lost(None)
            Lingering(self._frontend, transport, left or None)

    def _wake_in(self, seconds: float | None) -> None:
        """Replace the deadline of this connection. None removes it."""
        timers = self._frontend.timers
        if self._wakes_at is not None:
            timers.cancel(self, self._wakes_at)
        self._wakes_at = None if seconds is None else timers.now() + seconds
        if self._wakes_at is not None:
            timers.schedule(self, self._wakes_at)

    def _look_at_peer(self) -> None:
        """Detect whether the client has left, while its connection is not read, and look again later.

        A client that has closed its side is sent the first bytes of its answer, unless this has begun.
        """
        transport = self.transport
        if transport is None:
            return
        closes = self._ended or has_left(transport)
        if is_broken(transport) or (closes and self.ends_at_eof and not self._ended):
            transport.abort()
            return
        wait = _LOOK_AT_PEER
        if closes and not self._probed and (self.chunked or not self._began):
            self._probed, wait = True, _ANSWER_TO_AHEAD
            self._ahead = 0 if self._began else len(_AHEAD)
            transport.write(_AHEAD_OF_A_CHUNK if self._began else _AHEAD)
        self._wake_in(wait)

    def wake(self) -> None:
        """Handle the deadline."""
        self._wakes_at = None
        transport, reader, body = self.transport, self._head_reader, self._receiving
        if transport is None:
            return
        if reader is not None and reader.size:
            self._refuse(408, f"the request head took longer than {self._frontend.limits.head_timeout:g} s")
        elif not transport.is_reading():
            if body is not None:
                body.came_at = self._frontend.timers.now()  # reading is paused: the client is not late
            self._look_at_peer()
        elif self._undecided:
            self._begin()
        elif has_unread(transport):
            self._wake_in(_LOOK_AT_PEER)  # unread bytes: the loop is late, not the client
        elif reader is not None:
            transport.close()
        elif body is not None:
            left = body.came_at + _BODY_TIMEOUT - self._frontend.timers.now()
            if left > 0:
                self._wake_in(left)
            else:
                self._fail_body(BodyTooLate(f"nothing of the request's body came for {_BODY_TIMEOUT:g} s"))
