"""Find the path patterns that match a path, without trying each pattern.

Ten thousand routes cost a request no more than ten.
"""

from __future__ import annotations

from bisect import insort
from typing import Generic, TypeVar

__all__ = ["PathTable"]

T = TypeVar("T")


class PathTable(Generic[T]):
    """Items by path pattern: an exact path, or a prefix that ends in `/*`. See `Match.path`."""

    def __init__(self) -> None:
        self._exact: dict[str, list[tuple[int, T]]] = {}
        self._prefixes: dict[str, list[tuple[int, T]]] = {}
        self._lengths: list[int] = []  # the lengths of the prefixes, each once, in order
        self._count = 0

    def add(self, pattern: str, item: T) -> None:
        """Add `item` after all others."""
        place = (self._count, item)
        self._count += 1
        if not pattern.endswith("/*"):
            self._exact.setdefault(pattern, []).append(place)
            return
        prefix = pattern[:-1]
        if len(prefix) not in self._lengths:
            insort(self._lengths, len(prefix))
        self._prefixes.setdefault(prefix, []).append(place)

    def taking(self, path: str) -> list[T]:
        """Return the items whose pattern matches `path`, in the order of `add`. `/*` also matches `*`."""
        found = list(self._exact.get(path, ()))
        if path == "*":
            found += self._prefixes.get("/", ())
        for length in self._lengths:
            if length > len(path):
                break
            found += self._prefixes.get(path[:length], ())
        if len(found) > 1:
            found.sort(key=_place)
        return [item for _, item in found]


def _place(found: tuple[int, object]) -> int:
    return found[0]
