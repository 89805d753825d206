"""The frames we write ourselves: comments and events without `id`.

Whatever would end a line early, and so break the frame, is refused with `EncodingError`: CR, LF,
and NUL, which some parsers end a string at. So is half a surrogate pair, which UTF-8 cannot hold.
Data is JSON, on one line by its nature.
"""

from __future__ import annotations

import json
import re
from typing import Any

from sse_keepalive_proxy.errors import EncodingError

__all__ = ["comment", "event", "json_line"]

_BREAKS = re.compile(r"[\r\n\0\ud800-\udfff]")


def comment(text: str, *, blank: bool = True) -> bytes:
    """`:text`, with a blank line behind it or, where `blank` is false, a single line feed."""
    return b":%b\n%b" % (_safe(text, "a comment"), b"\n" if blank else b"")


def event(name: str, data: str, *, retry: int | None = None) -> bytes:
    """One whole event. An empty `name` leaves the `event` line out; `retry` is milliseconds.

    `retry` changes a client for good, so only the block that ends a stream carries one
    (behaviour.md#injections-between-blocks).
    """
    lines = []
    if name:
        lines.append(b"event: %b\n" % _safe(name, "an event name"))
    if retry is not None:
        lines.append(b"retry: %d\n" % retry)
    lines.append(b"data: %b\n\n" % _safe(data, "event data"))
    return b"".join(lines)


def json_line(value: Any) -> str:
    """`value` as compact JSON: one line, ASCII, so nothing in it can break a frame."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _safe(text: str, what: str) -> bytes:
    found = _BREAKS.search(text)
    if found:
        raise EncodingError(f"{what} cannot hold {found[0]!r}: it would break the frame: {text!r:.80}")
    return text.encode("utf-8")
