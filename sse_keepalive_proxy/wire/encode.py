"""Encode the proxy's own frames: comments, and events without `id`.

CR and LF would end a line early. Some parsers end a string at NUL. UTF-8 cannot encode half a surrogate
pair. Text with any of them raises `EncodingError`. Event data is JSON on one line.
"""

from __future__ import annotations

import json
import re
from typing import Any

from sse_keepalive_proxy.errors import EncodingError

__all__ = ["comment", "event", "json_line"]

_BREAKS = re.compile(r"[\r\n\0\ud800-\udfff]")


def comment(text: str, *, blank: bool = True, retry: int | None = None) -> bytes:
    """Encode `:text`, followed by a blank line, or by a single LF if `blank` is false.

    With `retry`, in milliseconds, it is one whole block. Raises `EncodingError`.
    """
    if retry is not None:
        return b":%b\nretry: %d\n\n" % (_safe(text, "a comment"), retry)
    return b":%b\n%b" % (_safe(text, "a comment"), b"\n" if blank else b"")


def event(name: str, data: str, *, retry: int | None = None) -> bytes:
    """Encode one whole event. An empty `name` omits the `event` line. `retry` is in milliseconds.

    `retry` changes a client permanently, so only the confirm and the last block of a stream can have one
    (behaviour.md#injections-between-blocks). Raises `EncodingError`.
    """
    lines = []
    if name:
        lines.append(b"event: %b\n" % _safe(name, "an event name"))
    if retry is not None:
        lines.append(b"retry: %d\n" % retry)
    lines.append(b"data: %b\n\n" % _safe(data, "event data"))
    return b"".join(lines)


def json_line(value: Any) -> str:
    """Encode `value` as compact JSON on one line of ASCII, which cannot break a frame.

    Raises `ValueError` for a number that JSON cannot express, and `RecursionError` for deep nesting.
    """
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _safe(text: str, what: str) -> bytes:
    found = _BREAKS.search(text)
    if found:
        raise EncodingError(f"{what} cannot hold {found[0]!r}: it would break the frame: {text!r:.80}")
    return text.encode("utf-8")
