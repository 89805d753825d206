"""A bounded set of fingerprints that expire (behaviour.md#credentials-stay-secret).

It contains the credentials whose early commit ended in a refusal: their next request waits for the real
status (behaviour.md#early-commit). A missing entry does no harm, so the oldest entries may be removed at any
time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

__all__ = ["ExpiringSet"]


class ExpiringSet:
    """A set of at most `limit` fingerprints. Each expires `lifetime` seconds after it was last added.

    `now` is a monotonic clock in seconds.
    """

    __slots__ = ("_expires_at", "_lifetime", "_limit", "_now")

    def __init__(self, limit: int, lifetime: float, now: Callable[[], float]) -> None:
        self._limit = limit
        self._lifetime = lifetime
        self._now = now
        self._expires_at: OrderedDict[bytes, float] = OrderedDict()

    def add(self, fingerprint: bytes) -> None:
        """Add `fingerprint`, or renew it. Remove the oldest if there are too many."""
        self._forget_expired()
        self._expires_at[fingerprint] = self._now() + self._lifetime
        self._expires_at.move_to_end(fingerprint)
        while len(self._expires_at) > self._limit:
            self._expires_at.popitem(last=False)

    def discard(self, fingerprint: bytes) -> None:
        """Remove `fingerprint` if it is in the set."""
        self._expires_at.pop(fingerprint, None)

    def __contains__(self, fingerprint: bytes) -> bool:
        self._forget_expired()
        return fingerprint in self._expires_at

    def __len__(self) -> int:
        self._forget_expired()
        return len(self._expires_at)

    def _forget_expired(self) -> None:
        """Remove expired entries. All have the same lifetime, so the oldest expires first."""
        now = self._now()
        while self._expires_at and next(iter(self._expires_at.values())) <= now:
            self._expires_at.popitem(last=False)
