"""One attempt to get an answer from upstream: connect, send the request, wait for the response head.

When to make another attempt is decided elsewhere: before the client has a status in `gateway.attempts`, after
that by the stream's lifecycle through `live.reconnect`. This module starts no task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from sse_keepalive_proxy.config import UpstreamAddress
from sse_keepalive_proxy.errors import UpstreamError, UpstreamTimeout
from sse_keepalive_proxy.http.dialer import Dialer, UpstreamTls
from sse_keepalive_proxy.http.exchange import Exchange
from sse_keepalive_proxy.http.response import ResponseHead

__all__ = ["Answer", "Attempt", "Target", "abandon", "error_response"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What upstream answered: the head, and the exchange that brings the body."""

    exchange: Exchange
    head: ResponseHead


@dataclass(frozen=True, slots=True)
class Target:
    """Where a route's requests go. Times are seconds; `response_timeout` None is no limit. `tls` is for an
    `https` address.
    """

    dialer: Dialer
    address: UpstreamAddress
    connect_timeout: float
    response_timeout: float | None
    tls: UpstreamTls | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A request as it is sent to `target`, as often as `make` is called.

    `head` is the whole request head. `head_only`: the response has no body (HEAD). `interim` is called with
    every 1xx head. `sent` is called with the exchange as soon as the head has left, so that a body can
    follow.
    """

    target: Target
    head: bytes
    head_only: bool = False
    interim: Callable[[ResponseHead], None] | None = None
    sent: Callable[[Exchange], None] | None = None

    async def make(self, within: float | None = None) -> Answer:
        """Return the answer. `within`: seconds for the connection, where that is less than the target's own.

        Raises `UpstreamError`.
        """
        target = self.target
        limit = target.connect_timeout if within is None else min(within, target.connect_timeout)
        exchange = await target.dialer.open(
            target.address,
            within=limit,
            tls=target.tls,
            head_only=self.head_only,
            interim=self.interim,
        )
        try:
            exchange.send(self.head)
            if self.sent is not None:
                self.sent(exchange)
            return Answer(exchange, await exchange.response(target.response_timeout))
        except BaseException:
            exchange.close()
            raise


def abandon(attempt: asyncio.Task[Answer]) -> None:
    """Cancel `attempt`, and close what it has opened all the same."""
    attempt.add_done_callback(_close)
    attempt.cancel()


def _close(attempt: asyncio.Task[Answer]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().exchange.close()


def error_response(error: UpstreamError) -> tuple[int, str]:
    """Return what a client gets for a fault of upstream: the status, and one line that repeats nothing."""
    if isinstance(error, UpstreamTimeout):
        return 504, "upstream took too long"
    return 502, "upstream cannot be reached"
