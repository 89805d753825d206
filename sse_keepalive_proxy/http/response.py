"""A response head of upstream, and checks that the parser does not do."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime

import httptools

__all__ = ["EVENT_STREAM", "SWITCHING_PROTOCOLS", "Header", "ResponseHead", "by_name", "fault"]

Header = tuple[bytes, bytes]

EVENT_STREAM = b"text/event-stream"
SWITCHING_PROTOCOLS = 101
_NOTHING = [b""]
_MOST_DIGITS = 9
_REASON = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


def by_name(headers: Iterable[Header]) -> dict[bytes, list[bytes]]:
    """Return the values of each field name in order. The names are in lower case."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        found.setdefault(name.lower(), []).append(value)
    return found


@dataclass(slots=True)
class ResponseHead:
    """A response head as upstream sent it: raw names and values, in order, with repetitions."""

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


def fault(head: ResponseHead, parser: httptools.HttpResponseParser) -> str:
    """Return a fault of `head` that `parser` accepts, or an empty string."""
    if parser.get_http_version() not in ("1.0", "1.1") or head.status < 100:
        return "its status line is of another protocol"
    if not _REASON.fullmatch(head.reason):
        return "its reason phrase holds a control character"
    if [coding for coding in head.get_all(b"transfer-encoding") if coding.lower() != b"chunked"]:
        return "it uses a transfer coding that was not asked for"
    if head.status == SWITCHING_PROTOCOLS and not parser.should_upgrade():
        return "it switches protocols and names none"
    return ""
