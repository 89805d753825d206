"""A response head of upstream, and what it says. `http.response_head` reads it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime

from sse_keepalive_proxy.http.headers import Header

__all__ = ["EVENT_STREAM", "SWITCHING_PROTOCOLS", "ResponseHead", "by_name"]

EVENT_STREAM = b"text/event-stream"
SWITCHING_PROTOCOLS = 101
_NOTHING = [b""]
_MOST_DIGITS = 9
_CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"ascii", b"iso-8859-1", b"latin1")
_NO_CODINGS = frozenset({b"", b"identity", b"none", b"7bit", b"8bit", b"binary", *_CHARSETS})
"""What servers write into `Content-Encoding` without a coding: to keep compressors off, or by mistake."""


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
        """The media type of the content, lower case, without its parameters. Of several, the last counts, as
        in browsers (WHATWG Fetch, "extract a MIME type").
        """
        for value in reversed(b",".join(self.get_all(b"content-type")).split(b",")):
            essence = value.partition(b";")[0].strip().lower()
            if b"/" in essence:
                return essence
        return b""

    @property
    def is_event_stream(self) -> bool:
        """Whether this is an event stream, with or without a content coding."""
        return 200 <= self.status < 300 and self.status not in (204, 205) and self.media_type == EVENT_STREAM

    @property
    def codings(self) -> tuple[bytes, ...]:
        """The content codings, in lower case, without words that mean no coding."""
        values = self.get_all(b"content-encoding")
        if not values:
            return ()
        words = [word.strip() for word in b",".join(values).lower().split(b",")]
        return tuple(word.removeprefix(b"x-") for word in words if word not in _NO_CODINGS)

    @property
    def is_encoded(self) -> bool:
        """Whether the content has a coding, so that the proxy cannot write between blocks."""
        return bool(self.codings)

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
