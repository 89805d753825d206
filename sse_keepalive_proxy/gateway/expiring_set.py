"""Credentials that are remembered for a while, by their fingerprints: bounded and expiring
(behaviour.md#credentials-stay-secret).

An early commit that ended in a refusal is such a memory: the same credential waits for the real status next
time (behaviour.md#early-commit). Forgetting is harmless, so what is oldest may go at any time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

__all__ = ["ExpiringSet"]


class ExpiringSet:
    """A set of at most `limit` fingerprints, each for `lifetime` seconds since it was last added.

    `now` is a monotonic clock in seconds.
    """

    __slots__ = ("_expires_at", "_lifetime", "_limit", "_now")

    def __init__(self, limit: int, lifetime: float, now: Callable[[], float]) -> None:
        self._limit = limit
        self._lifetime = lifetime
        self._now = now
        self._expires_at: OrderedDict[bytes, float] = OrderedDict()

    def add(self, fingerprint: bytes) -> None:
        """Remember it from now on. When that is one too many, the oldest is forgotten."""
        self._forget_expired()
        self._expires_at[fingerprint] = self._now() + self._lifetime
        self._expires_at.move_to_end(fingerprint)
        while len(self._expires_at) > self._limit:
            self._expires_at.popitem(last=False)

    def discard(self, fingerprint: bytes) -> None:
        """Forget it, whether it was remembered or not."""
        self._expires_at.pop(fingerprint, None)

    def __contains__(self, fingerprint: bytes) -> bool:
        self._forget_expired()
        return fingerprint in self._expires_at

    def __len__(self) -> int:
        self._forget_expired()
        return len(self._expires_at)

    def _forget_expired(self) -> None:
        """All live equally long, so the first in line is the first to expire."""
        now = self._now()
        while self._expires_at and next(iter(self._expires_at.values())) <= now:
            self._expires_at.popitem(last=False)
