"""A response head of upstream, and what it says. `http.response_head` reads it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime

__all__ = ["EVENT_STREAM", "SWITCHING_PROTOCOLS", "Header", "ResponseHead", "by_name"]

Header = tuple[bytes, bytes]

EVENT_STREAM = b"text/event-stream"
SWITCHING_PROTOCOLS = 101
_NOTHING = [b""]
_MOST_DIGITS = 9


def by_name(headers: Iterable[Header]) -> dict[bytes, list[bytes]]:
    """Return the values of each field name in order. The names are in lower case."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        found.setdefault(name.lower(), []).append(value)
    return found


@dataclass(slots=True)
class ResponseHead:
    """A response head of upstream: raw names and values, in order, with repetitions."""

    status: int
    reason: bytes
    headers: Sequence[Header]
    _named: dict[bytes, list[bytes]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._named = by_name(self.headers)

    def get(self, name: bytes) -> bytes:
        """Return the first value of `name` (lower case), or `b""`."""
        return self._named.get(name, _NOTHING)[0]

    @property
    def media_type(self) -> bytes:
        """The media type of the content, lower case, without its parameters."""
        return self.get(b"content-type").partition(b";")[0].strip().lower()

    @property
    def is_event_stream(self) -> bool:
        """Whether this is an event stream, with or without a content coding."""
        return 200 <= self.status < 300 and self.status not in (204, 205) and self.media_type == EVENT_STREAM

    @property
    def is_encoded(self) -> bool:
        """Whether the content has a coding, so that the proxy cannot write between blocks."""
        return self.get(b"content-encoding").lower() not in (b"", b"identity")

    @property
    def retry_after(self) -> float:
        """The seconds of `Retry-After` (RFC 9110 10.2.3), or 0 if it is missing or invalid."""
        value = self.get(b"retry-after").strip()
        if value.isdigit():
            return float(value.lstrip(b"0")[:_MOST_DIGITS] or b"0")
        try:
            at = parsedate_to_datetime(value.decode("latin-1"))
            return max(at.replace(tzinfo=at.tzinfo or UTC).timestamp() - time.time(), 0.0)
        except (ValueError, TypeError, OverflowError):
            return 0.0

    def get_all(self, name: bytes) -> list[bytes]:
        """Return every value of `name` (lower case), in order."""
        return self._named.get(name, [])
