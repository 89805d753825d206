"""How upstream is asked for an answer: once, or again.

`ask` is one attempt, `first_answer` what is tried before a client has a status; behind a client that has
one, `reopening` asks when the lifecycle says so. `no_stream` and `no_answer` say what an answer means then.
Who asks, waits: this module starts no task.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sse_keepalive_proxy.config import UpstreamAddress
from sse_keepalive_proxy.errors import UpstreamError, UpstreamReset, UpstreamTimeout
from sse_keepalive_proxy.http.dialer import Dialer
from sse_keepalive_proxy.http.exchange import Exchange
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.stream.backoff import Backoff
from sse_keepalive_proxy.stream.messages import CloseReason, NotOpened
from sse_keepalive_proxy.stream.policy import Reconnect

__all__ = [
    "EVENT_STREAM",
    "Answer",
    "Target",
    "abandon",
    "ask",
    "error_response",
    "first_answer",
    "is_readable",
    "is_stream",
    "no_answer",
    "no_stream",
]

EVENT_STREAM = b"text/event-stream"
_UNAUTHORIZED = frozenset({401, 403})
_LONGEST_FIRST_WAIT = 1.0
"""Seconds between two attempts while a client waits for its first answer."""

_SHORTEST_WINDOW = 0.05
"""Seconds that must be left of it for another attempt."""

_SHORTEST_DIAL = 1.0
"""Seconds that the last attempt has for its connection."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What upstream answered: the head, and the exchange that brings the body."""

    exchange: Exchange
    head: ResponseHead


@dataclass(frozen=True, slots=True)
class Target:
    """Where a route's requests go. Times are seconds; `response_timeout` None is no limit."""

    dialer: Dialer
    address: UpstreamAddress
    connect_timeout: float
    response_timeout: float | None


async def ask(
    target: Target,
    head: bytes,
    *,
    within: float | None = None,
    head_only: bool = False,
    interim: Callable[[ResponseHead], None] | None = None,
    sent: Callable[[Exchange], None] | None = None,
) -> Answer:
    """Connect, send `head`, and wait for the answer's. Raises `UpstreamError`.

    `within`: seconds for the connection, where that is less than the target's own. `sent` is told of the
    exchange as soon as the head has left, so that a body can follow. `head_only` and `interim` are the
    dialer's.
    """
    limit = target.connect_timeout if within is None else min(within, target.connect_timeout)
    exchange = await target.dialer.open(target.address, within=limit, head_only=head_only, interim=interim)
    try:
        exchange.send(head)
        if sent is not None:
            sent(exchange)
        return Answer(exchange, await exchange.response(target.response_timeout))
    except BaseException:
        exchange.close()
        raise


async def first_answer(
    once: Callable[[float | None], Awaitable[Answer]],
    policy: Reconnect,
    *,
    failed: Callable[[UpstreamError | ResponseHead], None],
    leaving: asyncio.Event,
) -> Answer:
    """The answer to the first request of a client that gives up for good when it gets a wrong one: while
    that is a fault or one of `on_status`, `once` is asked again, for `first_within` seconds; then whatever
    came last counts. Raises the last `UpstreamError`.

    `once` takes the seconds that a connection may take. `failed` is told of every fault or status but the
    last. When `leaving` is set the proxy is about to end: there is one more attempt, at once.
    """
    now = asyncio.get_running_loop().time
    until = now() + (policy.first_within or 0.0)
    backoff = Backoff(policy, random.random, _LONGEST_FIRST_WAIT)
    within: float | None = None
    while True:
        try:
            answer = await once(within)
        except UpstreamError as error:
            wait = _wait(backoff, 0.0, until - now())
            if wait is None or leaving.is_set():
                raise
            failed(error)
        else:
            if answer.head.status not in policy.on_status:
                return answer
            wait = _wait(backoff, answer.head.retry_after, until - now())
            if wait is None or leaving.is_set():
                return answer
            answer.exchange.close()
            failed(answer.head)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await leaving.wait()
        within = max(until - now(), _SHORTEST_DIAL)


def _wait(backoff: Backoff, at_least: float, left: float) -> float | None:
    """Seconds before the next attempt when `left` are left of the window: its last attempt lies at its end,
    spread over a tenth of what is left. None when there is no time for another.
    """
    wait = backoff.next_wait(at_least)
    if wait >= left:
        wait = left * (1 - 0.1 * random.random())  # noqa: S311 (spreads clients, guards nothing)
    return wait if left >= _SHORTEST_WINDOW and at_least < left else None


def abandon(attempt: asyncio.Task[Answer]) -> None:
    """Nobody waits for `attempt` any more: what it opens all the same is closed."""
    attempt.add_done_callback(_close)
    attempt.cancel()


def _close(attempt: asyncio.Task[Answer]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().exchange.close()


def error_response(error: UpstreamError) -> tuple[int, str]:
    """What a client is told of a fault of upstream: the status, and one line that repeats nothing."""
    if isinstance(error, UpstreamTimeout):
        return 504, "upstream took too long"
    return 502, "upstream cannot be reached"


def is_stream(head: ResponseHead) -> bool:
    """Whether an answer is an event stream that the proxy keeps alive, however it is encoded."""
    return 200 <= head.status < 300 and head.status not in (204, 205) and head.media_type == EVENT_STREAM


def is_readable(head: ResponseHead) -> bool:
    """Whether a stream comes without a content coding, so that something can stand between its blocks."""
    return head.get(b"content-encoding").lower() in (b"", b"identity")


def no_stream(head: ResponseHead, policy: Reconnect | None, wait: float) -> NotOpened | None:
    """What an answer means to a client whose response has begun; None when it is a stream for it. `wait`: so
    many seconds upstream wants to be left alone in any case.
    """
    if is_stream(head) and is_readable(head):
        return None
    again = policy is not None and head.status in policy.on_status
    refused = head.status in _UNAUTHORIZED
    reason = CloseReason.UNAUTHORIZED if refused else CloseReason.UPSTREAM_STATUS
    return NotOpened(reason, again, max(head.retry_after, wait))


def no_answer(error: UpstreamError, wait: float) -> NotOpened:
    """The same for a fault of upstream."""
    broke = isinstance(error, UpstreamReset)
    reason = CloseReason.UPSTREAM_RESET if broke else CloseReason.UPSTREAM_REFUSED
    return NotOpened(reason, again=True, at_least=wait)
