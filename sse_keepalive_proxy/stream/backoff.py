"""An upstream that was lost: how long to wait before it is asked again, and when to give it up.

The ceiling of a wait doubles with every attempt, and the wait is drawn evenly from nothing up to it:
clients that lost their upstream together come back spread over the whole of it. What upstream itself
demands comes on top, so that it spreads them, too (facts.md#equal-waits).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import Reconnect

__all__ = ["Backoff", "Outage"]


class Backoff:
    """The waits of one client, none above `longest` seconds. `draw` gives numbers evenly spread over 0 to 1,
    1 left out.
    """

    __slots__ = ("_ceiling", "_delay", "_draw", "_longest")

    def __init__(self, policy: Reconnect, draw: Callable[[], float], longest: float = math.inf) -> None:
        self._draw, self._longest = draw, min(policy.max_delay, longest)
        self._ceiling = self._delay = min(policy.delay, self._longest)

    def next_wait(self, at_least: float = 0.0) -> float:
        """Seconds before the next attempt, not less than `at_least`."""
        wait = self._ceiling * self._draw()
        self._ceiling = min(2 * self._ceiling, self._longest)
        return at_least + wait

    def start_over(self) -> None:
        """Upstream has shown that it lives: the next wait is short again."""
        self._ceiling = self._delay


class Outage:
    """Why upstream is lost, since when, and when it is asked again or given up. Kept after its end, so that
    the waits of the next one go on growing unless `alive_at`, upstream's last sign of life, has moved.
    """

    __slots__ = ("_backoff", "_give_up_after", "alive_at", "began_at", "gives_up_at", "reason", "reopens_at")

    def __init__(self, policy: Reconnect, draw: Callable[[], float]) -> None:
        self._backoff = Backoff(policy, draw)
        self._give_up_after = policy.give_up_after
        self.reason = CloseReason.UPSTREAM_END
        self.began_at = self.gives_up_at = 0.0
        self.alive_at: float | None = None
        self.reopens_at: float | None = None  # None while upstream is being asked

    def begin(self, reason: CloseReason, alive_at: float, now: float) -> None:
        """Upstream is lost, again or for the first time."""
        if alive_at != self.alive_at:
            self._backoff.start_over()
        self.reason, self.alive_at, self.began_at = reason, alive_at, now
        self.gives_up_at = now + self._give_up_after

    def ask_again(self, at_least: float, now: float) -> bool:
        """Set `reopens_at`; false when that would be too late."""
        at = now + self._backoff.next_wait(at_least)
        self.reopens_at = at
        return at < self.gives_up_at

    def stood_still(self, seconds: float, now: float) -> None:
        """For so many seconds, until now, we held upstream back for the client's sake: they do not count."""
        if self.alive_at is not None:
            self.alive_at += seconds
        lost_for = min(seconds, now - self.began_at)
        self.gives_up_at += lost_for
        if self.reopens_at is not None:
            self.reopens_at += lost_for

    @property
    def due_at(self) -> float:
        """When upstream is to be asked or, while it is, to be given up."""
        return self.gives_up_at if self.reopens_at is None else self.reopens_at
