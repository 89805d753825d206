"""The deadlines of many streams on one timer of the event loop.

A timer of its own costs a stream about 540 bytes under uvloop (measured), a place in a set a fraction of
that. Deadlines that lie within `_GRAIN` of one another ring together, never early and at most so
much late, which the 250 ms of behaviour.md#downstream-silence allow for.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from typing import Protocol

__all__ = ["TimerWheel"]

_GRAIN = 0.05
_ROUNDING = 1e-6
"""Of a grain: less than this late is on time."""


class Sleeper(Protocol):
    """Whoever wants to be woken."""

    def wake(self) -> None:
        """The deadline has come; it is no longer set."""


class TimerWheel:
    """Each sleeper has one deadline at a time, and says itself which it had. Times are the loop's."""

    __slots__ = ("_loop", "_rings_at", "_sleepers", "_ticks", "_timer", "now")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._sleepers: dict[int, set[Sleeper]] = {}  # by tick: a multiple of _GRAIN
        self._ticks: list[int] = []  # a heap of its keys
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf  # kept here: uvloop's handle of a timer that is due at once has no `when`

    def schedule(self, sleeper: Sleeper, at: float) -> None:
        """Wake `sleeper` at `at`."""
        tick = _tick(at)
        sleepers = self._sleepers.get(tick)
        if sleepers is None:
            self._sleepers[tick] = {sleeper}
            heapq.heappush(self._ticks, tick)
            self._arm()
        else:
            sleepers.add(sleeper)

    def cancel(self, sleeper: Sleeper, at: float) -> None:
        """Do not wake `sleeper` at `at` after all."""
        if (sleepers := self._sleepers.get(_tick(at))) is not None:
            sleepers.discard(sleeper)

    def _arm(self) -> None:
        at = self._ticks[0] * _GRAIN
        if at < self._rings_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._rings_at = self._loop.call_at(at, self._ring), at

    def _ring(self) -> None:
        self._timer, self._rings_at = None, math.inf
        last = math.floor(self._loop.time() / _GRAIN + _ROUNDING)
        while self._ticks and self._ticks[0] <= last:
            for sleeper in self._sleepers.pop(heapq.heappop(self._ticks)):
                sleeper.wake()
        if self._ticks:
            self._arm()


def _tick(at: float) -> int:
    return math.ceil(at / _GRAIN - _ROUNDING)
