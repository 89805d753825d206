"""The openings of streams at one upstream: they take turns, and are hastened when the upstream is back.

A server may need far more for the opening of a stream than for the stream. Many openings at once can make it
deaf (facts.md#notify-server-herd). This module opens nothing.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from typing import Protocol

from sse_keepalive_proxy.http.unanswered import Unanswered

__all__ = ["Hastened", "Openings"]

_LONGEST_TURN = 5.0
"""Seconds: an opening that takes longer counts no more. Some servers send the head with the first event."""

_WITHIN = 2.0
"""Seconds: an upstream that has opened no stream for so long may have been away. When it is back, the streams
that have lost it are opened within the same time.
"""

_SLICE = 100
"""Streams per turn of the event loop. Each takes about 10 µs."""


class Hastened(Protocol):
    """A stream that waits for its next attempt to open upstream."""

    def hasten(self, within: float) -> None:
        """Start the next attempt at a random time within so many seconds, unless it comes earlier."""


class Openings:
    """At most `limit` openings have a turn at a time. The others wait, first come first served.

    `unanswered`: those that upstream has accepted and not answered.
    """

    __slots__ = (
        "_back_until", "_expecting", "_last", "_limit", "_loop", "_succeeded_at", "_timer", "_turns",
        "_waiting", "unanswered",
    )  # fmt: skip

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._last = 0  # the number of the latest turn
        self._turns: dict[int, float] = {}  # when each of them began, the oldest first
        self._waiting: OrderedDict[asyncio.Future[int], None] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None  # only while an opening waits
        self._expecting: set[Hastened] = set()
        self._succeeded_at = self._back_until = -math.inf
        self.unanswered = Unanswered(self._loop.time)

    @property
    def waiting(self) -> int:
        """The number of openings that wait for their turn."""
        return len(self._waiting)

    def set_limit(self, limit: int) -> None:
        """Change the limit. Turns that have begun go on."""
        self._limit = limit
        self._admit()

    async def turn(self) -> int:
        """Wait for a turn. Return its number, for `over`."""
        if len(self._turns) < self._limit:
            return self._begin()
        place: asyncio.Future[int] = self._loop.create_future()
        self._waiting[place] = None
        self._watch()
        try:
            return await place
        except asyncio.CancelledError:
            if place.cancelled():
                self._waiting.pop(place, None)
                self._watch()
            else:
                self.over(place.result())
            raise

    def over(self, turn: int) -> None:
        """End `turn`: it is that of the next opening."""
        if self._turns.pop(turn, None) is not None and self._waiting:
            self._admit()

    def expect(self, stream: Hastened) -> None:
        """Hasten `stream` when upstream is back, or at once if it has just come back."""
        self._expecting.add(stream)
        if self._loop.time() < self._back_until:
            stream.hasten(_WITHIN)

    def forget(self, stream: Hastened) -> None:
        """Do not hasten `stream`: it waits no more."""
        self._expecting.discard(stream)

    def succeeded(self) -> None:
        """Note that upstream has opened a stream."""
        before, now = self._succeeded_at, self._loop.time()
        self._succeeded_at = now
        if now - before >= _WITHIN:
            self._back_until = now + _WITHIN
            self._hasten(list(self._expecting))

    def _hasten(self, streams: list[Hastened]) -> None:
        """Hasten some of `streams` now, and the others in the next turns of the event loop."""
        for stream in streams[-_SLICE:]:
            if stream in self._expecting:
                stream.hasten(_WITHIN)
        del streams[-_SLICE:]
        if streams:
            self._loop.call_soon(self._hasten, streams)

    def _begin(self) -> int:
        self._last += 1
        self._turns[self._last] = self._loop.time()
        return self._last

    def _admit(self) -> None:
        while self._waiting and len(self._turns) < self._limit:
            place, _ = self._waiting.popitem(last=False)
            if not place.done():  # cancelled: its client has just left
                place.set_result(self._begin())
        self._watch()

    def _watch(self) -> None:
        """See to it that the oldest turn ends in time for those that wait."""
        if self._timer is not None and not self._waiting:
            self._timer.cancel()
            self._timer = None
        elif self._timer is None and self._waiting:
            oldest = next(iter(self._turns.values()))
            self._timer = self._loop.call_at(oldest + _LONGEST_TURN, self._end_long_turns)

    def _end_long_turns(self) -> None:
        self._timer = None
        began_by = self._loop.time() - _LONGEST_TURN
        for turn in [turn for turn, began_at in self._turns.items() if began_at <= began_by]:
            del self._turns[turn]
        self._admit()
