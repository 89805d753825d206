"""Decide which blocks are signs of life and which is the last, and rewrite blocks of configured events."""

from __future__ import annotations

from sse_keepalive_proxy.stream.policy import SignOfLife, Stall, StreamPolicy
from sse_keepalive_proxy.wire.block import parse, split, unname

__all__ = ["Inspection"]


class Inspection:
    """Inspect blocks according to `policy`. `last_events`: see `Treatment`.

    `least` is the least sign of life, as a number: 0 any byte, 1 a comment, 2 an event. `needed`: whether
    blocks must be looked at, because some are rewritten, ignored as signs of life, the last one, or copies.
    `ends`: whether an event can be the last one.
    """

    __slots__ = ("_ignored_events", "_ignored_types", "_last_events", "_unname", "ends", "least", "needed")

    def __init__(self, policy: StreamPolicy, last_events: frozenset[bytes] = frozenset()) -> None:
        self._last_events = last_events
        stall = policy.stall or Stall()  # signs of life also reset the backoff
        self.least = min(list(SignOfLife).index(stall.sign_of_life), 2)
        self._ignored_events, self._ignored_types = stall.ignore_events, stall.ignore_types
        self._unname = frozenset(event.encode() for event in policy.unname)
        self.ends = bool(last_events)
        self.needed = bool(self._unname or last_events or policy.bridge) or self._ignores

    @property
    def _ignores(self) -> bool:
        return bool(self.least and (self._ignored_events or self._ignored_types))

    def look(self, blocks: bytes, alive: bool) -> tuple[bytes, bool]:
        """Return whole `blocks` as the client gets them, and whether they are a sign of life. `alive`:
        whether they are one by their kind.
        """
        if alive and self._ignores:
            alive = any(map(self._counts, split(blocks)))
        return (unname(blocks, self._unname) if self._unname else blocks), alive

    def finish(self, blocks: bytes) -> bool:
        """Return whether the last event of `blocks` is one after which upstream has nothing more to send."""
        for mark in self._last_events:
            if mark in blocks:
                break
        else:
            return False  # the common case: no event is parsed
        found = False
        for block in split(blocks):
            read = parse(block)
            if read.is_event:
                found = bool(self._last_events & {read.data, read.name, (read.json_type or "").encode()})
        return found

    def _counts(self, block: bytes) -> bool:
        """Return whether one block is a sign of life, if some events are ignored."""
        read = parse(block)
        if read.comments and self.least < 2:
            return True
        if not read.is_event:
            return False
        if (read.name or b"message").decode("utf-8", "replace") in self._ignored_events:
            return False
        return not self._ignored_types or read.json_type not in self._ignored_types
