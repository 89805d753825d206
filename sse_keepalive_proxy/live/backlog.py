"""The bytes that all streams together hold: those that wait for slow clients, and unfinished blocks.

`max_buffer` and `max_event` bound one stream. This module bounds their sum (`limits.max_buffered`): one
instance with many slow clients must not run out of memory. Only a stream that holds bytes is known here.
"""

from __future__ import annotations

from typing import Protocol

from sse_keepalive_proxy.stream.messages import CloseReason

__all__ = ["Backlog", "Holder"]


class Holder(Protocol):
    """A stream that holds bytes."""

    @property
    def buffered(self) -> int:
        """The number of bytes that the stream holds now."""

    @property
    def stuck_since(self) -> float | None:
        """The time of the client's last progress while bytes wait for it, or None."""

    def shed(self, reason: CloseReason) -> None:
        """End the stream with `reason`, and drop the bytes that it holds."""


class Backlog:
    """The streams that hold bytes. `limit` is in bytes; a reload may change it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._sizes: dict[Holder, int] = {}
        self._total = 0

    def note(self, holder: Holder, size: int) -> None:
        """Note that `holder` holds `size` bytes. If the sum exceeds the limit, end streams until it does not.

        The stream whose client has made no progress for the longest time ends first (`client_stalled`). If
        unfinished blocks are the larger part of the sum, the stream with most bytes ends
        (`event_too_large`).
        """
        self._set(holder, size)
        while self._total > self.limit:
            self._measure()
            if self._total <= self.limit:
                return
            victim, reason = self._victim()
            self._set(victim, 0)
            victim.shed(reason)

    def _set(self, holder: Holder, size: int) -> None:
        self._total += size - self._sizes.pop(holder, 0)
        if size:
            self._sizes[holder] = size

    def _measure(self) -> None:
        """Ask every stream again: clients have taken bytes since."""
        for holder in list(self._sizes):
            self._set(holder, holder.buffered)

    def _victim(self) -> tuple[Holder, CloseReason]:
        stuck = {holder: since for holder in self._sizes if (since := holder.stuck_since) is not None}
        if 2 * sum(self._sizes[holder] for holder in stuck) >= self._total:
            return min(stuck, key=stuck.__getitem__), CloseReason.CLIENT_STALLED
        others = {holder: size for holder, size in self._sizes.items() if holder not in stuck}
        return max(others, key=others.__getitem__), CloseReason.EVENT_TOO_LARGE
