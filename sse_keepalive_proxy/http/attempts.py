"""One attempt to get an answer from upstream: connect, send the request, wait for the response head.

This module does not decide when to try again: before the client has a status, `gateway.attempts` decides,
after that the stream's lifecycle through `live.reconnect`. It starts no tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from sse_keepalive_proxy.config import UpstreamAddress
from sse_keepalive_proxy.errors import UpstreamError, UpstreamRefused, UpstreamTimeout
from sse_keepalive_proxy.http.decoding import DecodedBody
from sse_keepalive_proxy.http.dialer import Dialer, UpstreamTls
from sse_keepalive_proxy.http.exchange import Body, Exchange
from sse_keepalive_proxy.http.openings import Openings
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.http.unanswered import Unanswered
from sse_keepalive_proxy.stream.replay_log import GapReason
from sse_keepalive_proxy.wire.codings import Decoder, can_decode, decoder_of

__all__ = ["Answer", "Attempt", "LetGo", "Target", "abandon", "status_of"]


LetGo = Callable[[Exchange], None]
"""Takes an exchange whose client has gone, and closes it then or later."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of upstream: the head, and the exchange that receives the body, or a body that several
    clients share. `decoder`: the body has a content coding, and `head` does not say so. `gap`: what is known
    of events that the client misses.
    """

    exchange: Body
    head: ResponseHead
    decoder: Decoder | None = None
    let_go: LetGo = Exchange.close
    gap: GapReason | None = None

    @property
    def body(self) -> Body:
        """The body without its content coding, if there is a decoder."""
        return self.exchange if self.decoder is None else DecodedBody(self.exchange, self.decoder)

    def forsake(self) -> None:
        """Let the exchange go if it carries an event stream, otherwise close it: its client has gone."""
        if self.head.is_event_stream:
            self.exchange.part(self.let_go)
        else:
            self.exchange.close()


@dataclass(frozen=True, slots=True)
class Target:
    """The upstream of a route. Times are seconds. `response_timeout` None means no limit. `tls` is for an
    `https` address. `decode`: remove the content coding of event streams. `openings`: those of all routes to
    this upstream. `route`: the name of the route.
    """

    dialer: Dialer
    address: UpstreamAddress
    connect_timeout: float
    response_timeout: float | None
    openings: Openings
    route: str
    tls: UpstreamTls | None = None
    decode: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request to `target`. Each call of `make` sends it once.

    `head` is the whole request head. `head_only`: the response has no body (HEAD). `interim` is called with
    every 1xx head. `sent` is called with the exchange after the head was written, to send a body. `let_go`
    gets the exchange if the attempt is cancelled after its request was sent. `in_turn`: it takes turns with
    the other openings of streams at this upstream.
    """

    target: Target
    head: bytes
    head_only: bool = False
    interim: Callable[[ResponseHead], None] | None = None
    sent: Callable[[Exchange], None] | None = None
    let_go: LetGo = Exchange.close
    in_turn: bool = False

    async def make(self, within: float | None = None) -> Answer:
        """Send the request and return the answer. `within` limits the seconds for the connection further than
        the target's `connect_timeout`. No time limit includes the wait for its turn.

        Raises `UpstreamError`.
        """
        openings = self.target.openings
        turn = await openings.turn() if self.in_turn else None
        try:
            answer = await self._make(within)
        finally:
            if turn is not None:
                openings.over(turn)
        if answer.head.is_event_stream:
            openings.succeeded()
        return answer

    async def _make(self, within: float | None) -> Answer:
        target = self.target
        unanswered = target.openings.unanswered if self.in_turn else None
        number = 0
        limit = target.connect_timeout if within is None else min(within, target.connect_timeout)
        try:
            exchange = await target.dialer.open(
                target.address,
                within=limit,
                tls=target.tls,
                head_only=self.head_only,
                interim=self.interim,
            )
        except UpstreamRefused:
            if unanswered is not None:
                unanswered.answered()
            raise
        try:
            exchange.send(self.head)
            if self.sent is not None:
                self.sent(exchange)
            if unanswered is not None:
                number = unanswered.accepted(target.route)
            head = await exchange.response(target.response_timeout)
        except asyncio.CancelledError:
            self.let_go(exchange)
            if unanswered is not None:
                _await_without_client(exchange, unanswered, number)
            raise
        except BaseException as error:
            exchange.close()
            if unanswered is not None:
                if isinstance(error, UpstreamError) and not isinstance(error, UpstreamTimeout):
                    unanswered.answered(number)
                else:
                    unanswered.given_up(number)
            raise
        if unanswered is not None:
            unanswered.answered(number)
        if target.decode and head.is_event_stream and not self.head_only and can_decode(head.codings):
            plain = [field for field in head.headers if field[0].lower() != b"content-encoding"]
            decoded = ResponseHead(head.status, head.reason, plain)
            return Answer(exchange, decoded, decoder_of(head.codings), self.let_go)
        return Answer(exchange, head, let_go=self.let_go)


def _await_without_client(exchange: Exchange, unanswered: Unanswered, number: int) -> None:
    """Keep opening `number` in `unanswered` until `exchange` has an answer, or its connection is closed."""

    def done(head: asyncio.Future[ResponseHead]) -> None:
        if head.cancelled() or head.exception() is not None:
            unanswered.given_up(number)
        else:
            unanswered.answered(number)

    head = exchange.awaited_head()
    if head is None:
        unanswered.given_up(number)
    else:
        head.add_done_callback(done)


def abandon(attempt: asyncio.Task[Answer]) -> None:
    """Cancel `attempt`. Let its exchange go if it has already succeeded."""
    attempt.add_done_callback(_forsake)
    attempt.cancel()


def _forsake(attempt: asyncio.Task[Answer]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().forsake()


def status_of(error: UpstreamError) -> tuple[int, str]:
    """Return the status for an error of upstream, and what it was: one line without any input of a peer."""
    match error:
        case UpstreamTimeout():
            return 504, "upstream took too long"
        case UpstreamRefused():
            return 502, error.text
        case _:
            return 502, str(error)
