"""The streams of upstream that are kept open although their client has gone (`leave.hold`, `share.linger`).

Their number is limited (`limits.max_held`): the oldest is let go first. They are no clients, so no other
limit and no metric of clients includes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

__all__ = ["HeldStream", "HeldStreams"]


class HeldStream(Protocol):
    """A stream of upstream without a client."""

    route_name: str

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return its values for pages, as those of an open stream. `now` is on the loop's clock."""

    def drop(self) -> None:
        """Close it now. It removes itself."""

    def hurry(self) -> None:
        """Wait for no client that may come back."""


class HeldStreams:
    """All of them, the oldest first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._streams: dict[HeldStream, None] = {}

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[HeldStream]:
        return iter(list(self._streams))

    def allow(self, limit: int) -> None:
        """Hold at most `limit` streams from now on, and let the oldest of more go. 0 lets all of them go."""
        self._limit = limit
        while len(self._streams) > limit:
            next(iter(self._streams)).drop()

    def hurry(self) -> None:
        """Let those go that only wait for a client that may come back."""
        for each in self:
            each.hurry()

    def add(self, stream: HeldStream) -> None:
        """Add the newest."""
        self._streams[stream] = None
        self.allow(self._limit)

    def remove(self, stream: HeldStream) -> None:
        """Remove `stream`. It may have been removed already."""
        self._streams.pop(stream, None)
