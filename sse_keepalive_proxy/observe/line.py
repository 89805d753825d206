"""Format log lines: always on one line, and without credentials.

The values of a query never appear, because many are credentials (facts.md#credentials-in-queries).
"""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

__all__ = ["now_rfc3339", "one_line", "redact_target", "text_line"]

_HIDDEN = "***"
_MAX_TARGET = 512
"""The number of characters of a target that are read and shown."""

_BARE = re.compile(r"[!#-~]+")
"""Text that needs no quotes: printable ASCII without a space or a quote."""

_PLAIN = r"[A-Za-z0-9/_.~+-]*"
"""Characters of a path that are no part of `user:password@` and no value."""

_USERINFO = re.compile(rf"\A({_PLAIN}://|/?+).+(@|%(?:25)*40)", re.DOTALL)
"""What can be `user:password` in a path, up to the last `@`: a password may contain `/`."""

_PATH_VALUE = re.compile(r"(=|%(?:25)*3[DdFf]).*", re.DOTALL)
"""A value in a path, of a matrix parameter (`;session=`) or behind an encoded `?`. It may contain `/`."""

_CUT = re.compile(rf"\A((?:{_PLAIN}/)?).*", re.DOTALL)
"""A path whose end is not read: its first plain segments, which are shown, and the rest."""

_NAME = re.compile(r"(?=.{0,32}\Z)(?:[_.\[\]-]|[A-Za-z]{1,16}[0-9]{0,2}(?![A-Za-z0-9]))*")
"""The name of a parameter: words of letters, with up to two digits at their ends. Others may be secrets."""


def redact_target(target: str) -> str:
    """Redact a request target: keep its path and the names in its query, at most 512 characters.

    A part of the query without a name or without a value is hidden as a whole, because it may be a token
    with `=` as base64 padding. A name that does not consist of words is hidden. In a path, all before an
    `@` is hidden, from `://` on, and all behind a `=` or an encoded `?`. These marks may be encoded several
    times. Only the first 512 characters are read. Of a longer path, whole plain segments are shown.
    """
    path, mark, query = target[:_MAX_TARGET].partition("?")
    if len(target) > _MAX_TARGET and not mark:
        path = _CUT.sub(rf"\1{_HIDDEN}", path)
    if "@" in path or "%" in path:
        path = _USERINFO.sub(rf"\1{_HIDDEN}\2", path)
    if "=" in path or "%" in path:
        path = _PATH_VALUE.sub(rf"\1{_HIDDEN}", path)
    if not mark:
        return path[:_MAX_TARGET]
    return f"{path}?{'&'.join(map(_redact_part, query.split('&')))}"[:_MAX_TARGET]


def _redact_part(part: str) -> str:
    name, _, value = part.partition("=")
    if not value.strip("="):
        return _HIDDEN
    return f"{name if _NAME.fullmatch(name) else _HIDDEN}={_HIDDEN}"


def now_rfc3339() -> str:
    """Return the current UTC time in RFC 3339 form, with milliseconds."""
    return _millisecond(time.time_ns() // 1_000_000)


@lru_cache(maxsize=2)
def _millisecond(unix: int) -> str:
    return f"{_second(unix // 1000)}.{unix % 1000:03d}Z"


@lru_cache(maxsize=2)
def _second(unix: int) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def text_line(level: str, message: str, fields: dict[str, Any]) -> str:
    """Return a line of text: the time, the level, the message, and each field as `name=value`."""
    line = f"{now_rfc3339()} {level:7} {one_line(message)}"
    values = ["never" if value is None else str(value) for value in fields.values()]
    if not _BARE.fullmatch("".join(values)) or "" in values:  # one look is enough for most lines
        values = [value if _BARE.fullmatch(value) else json.dumps(value) for value in values]
    shown = " ".join([f"{key}={value}" for key, value in zip(fields, values, strict=True)])
    return f"{line}  {shown}" if shown else line


def one_line(text: str) -> str:
    """Escape every character of `text` that could end a line or control a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
