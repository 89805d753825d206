"""The deadlines of many streams and connections on one timer of the event loop.

A timer of its own costs a stream about 540 bytes under uvloop (measured), a place in a set a fraction of
that. Deadlines that lie within `_GRAIN` of one another are met together, never early and at most so
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

_SPARE = 64
"""Cancelled ticks that stay in the heap at most, beside as many as there are live ones: plain integers, which
are cheaper to skip than to find.
"""


class Sleeper(Protocol):
    """Has deadlines."""

    def wake(self) -> None:
        """The deadline has come; it is no longer scheduled."""


class TimerWheel:
    """Each sleeper has one deadline at a time, and remembers it itself. Times are the loop's, in seconds.

    The loop's timer is always set to the earliest deadline that is left: what is cancelled wakes nobody.
    """

    __slots__ = ("_loop", "_sleepers", "_ticks", "_timer", "_timer_at", "now")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self._sleepers: dict[int, set[Sleeper]] = {}  # by tick: a multiple of _GRAIN; no set is empty
        self._ticks: list[int] = []  # a heap of its keys, and of ticks that were cancelled
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf  # kept here: uvloop's handle of a timer that is due at once has no `when`

    def schedule(self, sleeper: Sleeper, at: float) -> None:
        """Wake `sleeper` at `at`. A time that has passed means the next turn of the loop."""
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
        """Do not wake `sleeper`, which was scheduled for `at`. Nothing happens when it no longer is."""
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
            if tick in self._sleepers:  # scheduled again meanwhile, for a time that has passed
                heapq.heappush(self._ticks, tick)
        self._arm()

    def _wake(self, sleeper: Sleeper, tick: int) -> None:
        """Wake `sleeper` unless another one has cancelled it meanwhile."""
        sleepers = self._sleepers.get(tick)
        if sleepers is None or sleeper not in sleepers:
            return
        sleepers.remove(sleeper)
        if not sleepers:
            del self._sleepers[tick]
        try:
            sleeper.wake()
        except Exception as error:  # noqa: BLE001 (the loop's handler receives it, the others are woken)
            context = {"message": "a sleeper failed when it was woken", "exception": error}
            self._loop.call_exception_handler(context)


def _tick(at: float) -> int:
    return math.ceil(at / _GRAIN - _ROUNDING)
