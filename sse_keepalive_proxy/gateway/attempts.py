"""The first answer of upstream, before the client has a status: how often it is asked for."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

from sse_keepalive_proxy.errors import UpstreamError
from sse_keepalive_proxy.http.attempts import Answer, Attempt
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.stream.backoff import Backoff
from sse_keepalive_proxy.stream.policy import Reconnect

__all__ = ["first_answer"]

_LONGEST_FIRST_WAIT = 1.0
"""Seconds between two attempts while a client waits for its first answer."""

_SHORTEST_WINDOW = 0.05
"""Seconds that must be left of the window for another attempt."""

_SHORTEST_DIAL = 1.0
"""Seconds that the last attempt has for its connection."""


async def first_answer(
    attempt: Attempt,
    policy: Reconnect,
    *,
    failed: Callable[[UpstreamError | ResponseHead], None],
    leaving: asyncio.Event,
) -> Answer:
    """Return the first answer for a client that gives up for good when it gets a wrong one.

    A fault or one of `on_status` is tried again for `first_within` seconds; then the last answer counts.
    `failed` is called with every fault or status but the last. When `leaving` is set the proxy is about to
    end: there is one more attempt, at once. Raises the last `UpstreamError`.
    """
    now = asyncio.get_running_loop().time
    until = now() + (policy.first_within or 0.0)
    backoff = Backoff(policy, random.random, _LONGEST_FIRST_WAIT)
    within: float | None = None
    while True:
        try:
            answer = await attempt.make(within)
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
    """Return the seconds before the next attempt when `left` are left of the window; None when there is no
    time for another. The last attempt lies at the end of the window, spread over a tenth of what is left.
    """
    wait = backoff.next_wait(at_least)
    if wait >= left:
        wait = left * (1 - 0.1 * random.random())  # noqa: S311 (spreads clients, guards nothing)
    return wait if left >= _SHORTEST_WINDOW and at_least < left else None
