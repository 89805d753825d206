"""Detect that the clients of a route leave at one age.

People leave at any age. If most clients leave at the same age, a hop in front of the proxy limits the whole
response, and no ping helps (facts.md#idle-timeouts-of-hops). Times are in seconds.
"""

from __future__ import annotations

from collections import deque

__all__ = ["Departures"]

_YOUNGEST = 5.0
"""A client that leaves earlier did not meet such a limit: no common hop has a shorter one."""

_SAMPLE = 48
_MOST = 0.8
"""The part of the last departures that must have one age."""

_TOLERANCE = 0.02
"""Ages count as one if they differ by at most this part, or by `_SHORTEST_TOLERANCE` seconds."""

_SHORTEST_TOLERANCE = 0.5
_QUIET = 3600.0
"""Seconds between two reports."""


class Departures:
    """The ages of the last clients that left."""

    __slots__ = ("_ages", "_quiet_until")

    def __init__(self) -> None:
        self._ages: deque[float] | None = None  # most routes never need it
        self._quiet_until = 0.0

    def left(self, age: float, now: float) -> float | None:
        """Note that a client left at `age`. Return the age at which most clients leave, or None.

        It is returned at most once an hour, and only after 48 departures.
        """
        if age < _YOUNGEST:
            return None
        if self._ages is None:
            self._ages = deque(maxlen=_SAMPLE)
        self._ages.append(age)
        if len(self._ages) < _SAMPLE or now < self._quiet_until:
            return None
        common = _common(sorted(self._ages))
        if common is not None:
            self._quiet_until = now + _QUIET
        return common


def _common(ages: list[float]) -> float | None:
    """Return the middle of the narrowest range that has most of the sorted `ages`, if it is narrow enough."""
    most = round(_MOST * len(ages))
    width, start = min((ages[at + most - 1] - ages[at], at) for at in range(len(ages) - most + 1))
    middle = ages[start + most // 2]
    return middle if width <= max(middle * _TOLERANCE, _SHORTEST_TOLERANCE) else None
