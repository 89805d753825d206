"""The waits before a lost upstream is opened again, and the time to give up.

A wait is random between 0 and a ceiling, and the ceiling doubles with every attempt. So clients that lost
their upstream together come back at different times. A wait that upstream demands is added to the random
wait, so it does not bring them back together (facts.md#equal-waits).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import Reconnect

__all__ = ["Backoff", "Outage"]


class Backoff:
    """The random waits of one client, each at most `longest` seconds.

    `draw` returns uniform random numbers from 0 up to but not including 1.
    """

    __slots__ = ("_ceiling", "_delay", "_draw", "_longest")

    def __init__(self, policy: Reconnect, draw: Callable[[], float], longest: float = math.inf) -> None:
        self._draw, self._longest = draw, min(policy.max_delay, longest)
        self._ceiling = self._delay = min(policy.delay, self._longest)

    def next_wait(self, at_least: float = 0.0) -> float:
        """Return the seconds until the next attempt: `at_least` plus a random part."""
        wait = self._ceiling * self._draw()
        self._ceiling = min(2 * self._ceiling, self._longest)
        return at_least + wait

    def within(self, seconds: float) -> float:
        """Return a random wait of at most `seconds`."""
        return seconds * self._draw()

    def start_over(self) -> None:
        """Reset the ceiling after a sign of life."""
        self._ceiling = self._delay


class Outage:
    """The reason and the times of a lost upstream: the loss, the next attempt, the end of all attempts.
    For a stalled upstream, which is still there, the loss is the decision to replace it.

    The stream keeps it after upstream is back. The waits of the next outage go on growing unless
    `alive_at`, the time of upstream's last sign of life, has moved.
    """

    __slots__ = (
        "_backoff", "_demanded_until", "_give_up_after", "alive_at", "began_at", "gives_up_at", "reason",
        "reopens_at",
    )  # fmt: skip

    def __init__(self, policy: Reconnect, draw: Callable[[], float]) -> None:
        self._backoff = Backoff(policy, draw)
        self._give_up_after = policy.give_up_after
        self.reason = CloseReason.UPSTREAM_END
        self.began_at = self.gives_up_at = 0.0
        self.alive_at: float | None = None
        self.reopens_at: float | None = None  # None during an attempt
        self._demanded_until = 0.0  # the end of the wait that upstream demands

    def begin(self, reason: CloseReason, alive_at: float, now: float) -> None:
        """Record that upstream is lost at `now`."""
        if alive_at != self.alive_at:
            self._backoff.start_over()
        self.reason, self.alive_at, self.began_at = reason, alive_at, now
        self.gives_up_at = now + self._give_up_after

    def go_on(self, now: float) -> None:
        """Record that the stream which the current attempt was to replace is lost at `now`."""
        self.gives_up_at = now + self._give_up_after

    def ask_again(self, at_least: float, now: float) -> bool:
        """Set `reopens_at`. Return False if it is later than `gives_up_at`."""
        at = now + self._backoff.next_wait(at_least)
        self.reopens_at, self._demanded_until = at, now + at_least
        return at < self.gives_up_at

    def rest(self) -> None:
        """Make no other attempt, and do not give up."""
        self.reopens_at = self.gives_up_at = math.inf

    def hasten(self, within: float, now: float) -> None:
        """Set `reopens_at` to a random time within so many seconds, if that is earlier. The seconds begin
        after the wait that upstream demands.
        """
        if self.reopens_at is not None and self.reopens_at < math.inf:
            at = max(self._demanded_until, now) + self._backoff.within(within)
            self.reopens_at = min(self.reopens_at, at)

    def stood_still(self, seconds: float, now: float) -> None:
        """Shift the times by the `seconds` until `now` for which the proxy paused upstream."""
        if self.alive_at is not None:
            self.alive_at += seconds
        lost_for = min(seconds, now - self.began_at)
        self.gives_up_at += lost_for
        if self.reopens_at is not None:
            self.reopens_at += lost_for
            self._demanded_until += lost_for

    @property
    def due_at(self) -> float:
        """The time of the next attempt or, during an attempt, the time to give up."""
        return self.gives_up_at if self.reopens_at is None else self.reopens_at
