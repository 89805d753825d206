"""Run the deadlines of many streams and connections on one timer of the event loop.

A timer of uvloop takes about 540 bytes per stream, a place in a set takes a fraction of that. Deadlines are
rounded up to multiples of `_GRAIN`, and those with the same tick are met together. A deadline is never early,
and at most `_GRAIN` late, which the 250 ms of behaviour.md#downstream-silence allow.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from typing import Protocol

__all__ = ["TimerWheel"]

_GRAIN = 0.05
"""Seconds."""

_ROUNDING = 1e-6
"""A fraction of a grain: a tick that is due in less than this is due now."""

_SPARE = 64
"""Cancelled ticks that may stay in the heap, in addition to twice the number of live ticks. They are plain
integers: to skip one costs less than to find it.
"""


class Sleeper(Protocol):
    """An object with a deadline."""

    def wake(self) -> None:
        """Handle the deadline, which is no longer scheduled."""


class TimerWheel:
    """Wake sleepers at their deadlines. Times are those of the event loop, in seconds.

    A sleeper has at most one deadline at a time, and stores it itself. The loop's timer is always set to the
    earliest deadline that is not cancelled, so that cancelled deadlines cause no wake-ups.
    """

    __slots__ = ("_loop", "_sleepers", "_ticks", "_timer", "_timer_at", "now")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._sleepers: dict[int, set[Sleeper]] = {}  # key: a tick, a multiple of _GRAIN; no set is empty
        self._ticks: list[int] = []  # a heap of the keys, and of cancelled ticks
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf  # uvloop's handle has no `when` if the timer is due at once

    def schedule(self, sleeper: Sleeper, at: float) -> None:
        """Wake `sleeper` at `at`, or in the next turn of the loop if `at` is in the past."""
        tick = _tick(at)
        sleepers = self._sleepers.get(tick)
        if sleepers is None:
            self._sleepers[tick] = {sleeper}
            heapq.heappush(self._ticks, tick)
            if tick == self._ticks[0]:
                self._arm()
        else:
            sleepers.add(sleeper)

    def cancel(self, sleeper: Sleeper, at: float) -> None:
        """Remove the deadline `at` of `sleeper`. Do nothing if it is not scheduled."""
        tick = _tick(at)
        sleepers = self._sleepers.get(tick)
        if sleepers is None:
            return
        sleepers.discard(sleeper)
        if sleepers:
            return
        del self._sleepers[tick]
        if self._ticks and tick == self._ticks[0]:
            self._arm()
        elif len(self._ticks) > 2 * len(self._sleepers) + _SPARE:
            self._ticks = list(self._sleepers)
            heapq.heapify(self._ticks)

    def _arm(self) -> None:
        """Set the loop's timer to the earliest tick that has sleepers."""
        ticks = self._ticks
        while ticks and ticks[0] not in self._sleepers:
            heapq.heappop(ticks)
        at = ticks[0] * _GRAIN if ticks else math.inf
        if at == self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._wake_due) if ticks else None
        self._timer_at = at

    def _wake_due(self) -> None:
        self._timer, self._timer_at = None, math.inf
        last = math.floor(self._loop.time() / _GRAIN + _ROUNDING)
        due = []
        while self._ticks and self._ticks[0] <= last:
            due.append(heapq.heappop(self._ticks))
        for tick in due:
            for sleeper in tuple(self._sleepers.get(tick, ())):
                self._wake(sleeper, tick)
            if tick in self._sleepers:  # a sleeper was scheduled again, for a time in the past
                heapq.heappush(self._ticks, tick)
        self._arm()

    def _wake(self, sleeper: Sleeper, tick: int) -> None:
        """Wake `sleeper` unless another sleeper of this tick has cancelled it."""
        sleepers = self._sleepers.get(tick)
        if sleepers is None or sleeper not in sleepers:
            return
        sleepers.remove(sleeper)
        if not sleepers:
            del self._sleepers[tick]
        try:
            sleeper.wake()
        except Exception as error:  # noqa: BLE001 (reported to the loop's handler; the others are woken)
            context = {"message": "a sleeper failed when it was woken", "exception": error}
            self._loop.call_exception_handler(context)


def _tick(at: float) -> int:
    return math.ceil(at / _GRAIN - _ROUNDING)
