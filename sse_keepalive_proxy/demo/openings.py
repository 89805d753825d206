"""The turns of new streams at the database, as notify-server opens them (facts.md#notify-server-herd).

Each opening makes a database pool of its own. PostgreSQL serves them one after the other, and it has
`CONNECTIONS` connections. The openings above this number are refused, try again and again, and so take time
from all others.
"""

from __future__ import annotations

import asyncio
import contextlib

__all__ = ["CONNECTIONS", "OPENING_COST", "Openings", "seconds_of_a_turn"]

OPENING_COST = 0.009
"""Seconds of a turn, while no opening is refused."""

CONNECTIONS = 100
"""The connections of PostgreSQL (its default)."""

_CROWD = 155  # refused openings that double a turn: of 1,000 at one instant, about 400 have a head after 20 s
_PATIENCE = 30.0  # seconds after which a pool is given up. The stream is answered without it


def seconds_of_a_turn(cost: float, under_way: int) -> float:
    """Return the time of one opening of `cost` seconds while so many are under way."""
    return cost * (1 + max(0, under_way - CONNECTIONS) / _CROWD)


class Openings:
    """The queue of the openings that are under way."""

    def __init__(self) -> None:
        self.under_way = 0
        self._turn = asyncio.Lock()
        self._free_at = 0.0  # when the last turn ends, on the event loop's clock

    async def take_turn(self, cost: float) -> None:
        """Return after the turn of one opening of `cost` seconds. One that is cancelled leaves the queue."""
        clock = asyncio.get_running_loop().time
        asked_at = clock()
        self.under_way += 1
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE), self._turn:
                    # Counted from the end of the turn before: a sleep that is too long delays no other turn.
                    self._free_at = max(self._free_at, asked_at) + seconds_of_a_turn(cost, self.under_way)
                    await asyncio.sleep(self._free_at - clock())
        finally:
            self.under_way -= 1
