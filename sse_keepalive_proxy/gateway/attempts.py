"""Get the first answer of upstream, before the client has a status, with several attempts."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

from sse_keepalive_proxy.errors import UpstreamError
from sse_keepalive_proxy.http.attempts import Answer, Attempt
from sse_keepalive_proxy.http.openings import Openings
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.stream.backoff import Backoff
from sse_keepalive_proxy.stream.policy import Reconnect

__all__ = ["first_answer"]

_LONGEST_FIRST_WAIT = 1.0
"""The most seconds between two attempts while a client waits for its first answer."""

_SHORTEST_WINDOW = 0.05
"""Seconds: with less time left, there is no other attempt."""

_SHORTEST_DIAL = 1.0
"""Seconds for the connection of the last attempt."""


async def first_answer(
    attempt: Attempt,
    policy: Reconnect,
    *,
    failed: Callable[[UpstreamError | ResponseHead], None],
    leaving: asyncio.Event,
    openings: Openings,
) -> Answer:
    """Return the first answer of upstream for an EventSource, which stops for ever after an error status.

    An error of upstream or a status in `on_status` is retried for `first_within` seconds. Then the last
    answer is returned. `failed` is called for each retried error or status. If `leaving` is set, the proxy is
    about to stop: one more attempt starts at once. `openings` hasten the next attempt when upstream is back.
    Raises the last `UpstreamError`.
    """
    now = asyncio.get_running_loop().time
    until = now() + (policy.first_within or 0.0)
    backoff = Backoff(policy, random.random, _LONGEST_FIRST_WAIT)
    within: float | None = None
    while True:
        demanded = 0.0
        try:
            answer = await attempt.make(within)
        except UpstreamError as error:
            wait = _wait(backoff, demanded, until - now())
            if wait is None or leaving.is_set():
                raise
            failed(error)
        else:
            if not policy.retries(answer.head.status, opened=False):
                return answer
            demanded = answer.head.retry_after
            wait = _wait(backoff, demanded, until - now())
            if wait is None or leaving.is_set():
                return answer
            answer.exchange.close()
            failed(answer.head)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait) as timeout:
                waits = _Wait(timeout, now() + demanded)
                openings.expect(waits)
                try:
                    await leaving.wait()
                finally:
                    openings.forget(waits)
        within = max(until - now(), _SHORTEST_DIAL)


class _Wait:
    """The wait until `timeout`, which may be shorter. `demanded_until`: the end of the wait that upstream
    demands.
    """

    __slots__ = ("_demanded_until", "_timeout")

    def __init__(self, timeout: asyncio.Timeout, demanded_until: float) -> None:
        self._timeout, self._demanded_until = timeout, demanded_until

    def hasten(self, within: float) -> None:
        """End the wait at a random time within so many seconds, after the wait that upstream demands."""
        ends_at = self._timeout.when()
        if ends_at is None or self._timeout.expired():
            return
        earliest = max(self._demanded_until, asyncio.get_running_loop().time())
        at = earliest + within * random.random()  # noqa: S311 (spreads clients, guards nothing)
        self._timeout.reschedule(min(ends_at, at))


def _wait(backoff: Backoff, at_least: float, left: float) -> float | None:
    """Return the seconds until the next attempt, or None if the `left` seconds are too few for another one.

    The last attempt is at the end of the window, at a random time in the last tenth of `left`.
    """
    wait = backoff.next_wait(at_least)
    if wait >= left:
        wait = left * (1 - 0.1 * random.random())  # noqa: S311 (spreads clients, guards nothing)
    return wait if left >= _SHORTEST_WINDOW and at_least < left else None
