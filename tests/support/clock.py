"""Time that moves only when a test says so."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ManualClock", "Timer"]


@dataclass(order=True, slots=True)
class Timer:
    """What `call_at` returns: like asyncio's TimerHandle as far as anybody needs it."""

    at: float
    order: int
    call: Callable[[], Any] = field(compare=False)
    is_cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        """Never call."""
        self.is_cancelled = True

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self.is_cancelled

    def when(self) -> float:
        """The time it is set for."""
        return self.at


class ManualClock:
    """A clock to be handed in where code wants `time.monotonic` or `loop.time`: call it for the time.

    `call_at` and `call_later` stand in for the loop's: timers run inside `advance`, in the order of
    their times, and see the time they were set for.
    """

    def __init__(self, start: float = 1000.0) -> None:
        self.now = start
        self._timers: list[Timer] = []
        self._order = itertools.count()

    def __call__(self) -> float:
        return self.now

    def time(self) -> float:
        """The same under the event loop's name."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass and run every timer that becomes due."""
        if seconds < 0:
            raise ValueError("time does not run backwards")
        self.advance_to(self.now + seconds)

    def advance_to(self, at: float) -> None:
        """Let time pass until `at`."""
        while (due := self.next_timer()) is not None and due <= at:
            timer = heapq.heappop(self._timers)
            self.now = max(self.now, timer.at)
            timer.call()
        self.now = max(self.now, at)

    def next_timer(self) -> float | None:
        """The time of the next timer, None when there is none."""
        while self._timers and self._timers[0].is_cancelled:
            heapq.heappop(self._timers)
        return self._timers[0].at if self._timers else None

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> Timer:
        """Run `callback(*args)` when the clock reaches `when`."""
        timer = Timer(when, next(self._order), lambda: callback(*args))
        heapq.heappush(self._timers, timer)
        return timer

    def create_future(self) -> Future[Any]:
        """One that needs no loop, and that nobody can await."""
        return Future()

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> Timer:
        """Run `callback(*args)` after `delay` seconds."""
        return self.call_at(self.now + delay, callback, *args)
