"""The openings of streams that one upstream has accepted and not answered: is it frozen?

An upstream has accepted an opening when the request was sent on its connection. Only openings that take turns
are noted, and only while they do not wait for their turn. This module does no I/O; the clock is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

__all__ = ["Unanswered"]


class Unanswered:
    """The openings that wait for an answer. `clock` returns seconds.

    An opening that was accepted before the latest answer may wait for its first event. So only later ones
    show that upstream is silent.
    """

    __slots__ = ("_accepted", "_clock", "_last", "_later", "_silent", "_since")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = 0  # the number of the latest opening
        self._accepted: dict[int, tuple[str, float]] = {}  # route and time, the oldest first
        self._later: set[int] = set()  # those accepted after the latest answer
        self._since = 0.0  # since then one of `_later` waits
        self._silent = 0.0  # seconds in which earlier ones waited in vain, since the latest answer

    @property
    def seconds(self) -> float:
        """How long openings have waited since the latest answer; 0 if none waits now.

        Times without an opening do not count. Those of openings that were given up do.
        """
        return self._silent + self._clock() - self._since if self._later else 0.0

    def oldest(self) -> Iterator[tuple[str, float]]:
        """Yield each route with an opening that waits, and the seconds of its oldest one."""
        now, seen = self._clock(), set[str]()
        for route, at in self._accepted.values():
            if route not in seen:
                seen.add(route)
                yield route, now - at

    def accepted(self, route: str) -> int:
        """Note an opening of `route`. Return its number, for `given_up` or `answered`."""
        self._last += 1
        now = self._clock()
        self._accepted[self._last] = route, now
        if not self._later:
            self._since = now
        self._later.add(self._last)
        return self._last

    def answered(self, number: int | None = None) -> None:
        """Note that upstream is not frozen: it has answered opening `number`, or broken or refused a
        connection.
        """
        self._accepted.pop(number or 0, None)
        self._later.clear()
        self._silent = 0.0

    def given_up(self, number: int) -> None:
        """Note that opening `number` waits no more, and has no answer."""
        self._accepted.pop(number, None)
        if number in self._later:
            self._later.remove(number)
            if not self._later:
                self._silent += self._clock() - self._since
