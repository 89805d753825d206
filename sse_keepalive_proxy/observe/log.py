"""Log lines: text or JSON, one line each, and the one place that redacts.

A record is a message and `fields` (`logger.info("stream open", extra={"fields": {…}})`). Whatever a peer
chose (a target, an address) can neither break a line nor carry a credential into it: values of a query
never appear, since they are credentials here as often as not (FACTS 7.19).
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

__all__ = ["configure", "now_rfc3339", "redact_target"]

_HIDDEN = "***"
_MAX_TARGET = 512


def redact_target(target: str) -> str:
    """A request target that may be shown: its path, and of its query only the names.

    A part of the query without a name is hidden whole. Longer than 512 characters, it is cut.
    """
    path, mark, query = target.partition("?")
    if not mark:
        return path[:_MAX_TARGET]
    parts = [f"{part.partition('=')[0]}={_HIDDEN}" if "=" in part else _HIDDEN for part in query.split("&")]
    return f"{path}?{'&'.join(parts)}"[:_MAX_TARGET]


def now_rfc3339() -> str:
    """The time of day, UTC, to the millisecond, as RFC 3339 writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{key}={_plain(value)}" for key, value in _fields(record).items())
        line = f"{now_rfc3339()} {record.levelname:7} {_one_line(record.getMessage())}"
        return "  ".join(filter(None, (line, fields, _trace(record))))


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": now_rfc3339(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if trace := _trace(record):
            line["exception"] = trace
        return json.dumps(line, default=str)


def configure(level: str, form: str, *, access: bool) -> None:
    """Send everything from `level` up to stderr, as `form`: text or json. `access`: whether requests and
    streams get their lines.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.getLogger("sse_keepalive_proxy.access").disabled = not access


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


def _plain(value: object) -> str:
    text = str(value)
    if text and text.isascii() and text.isprintable() and " " not in text and '"' not in text:
        return text
    return json.dumps(text)


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n").replace("\r", "\\r")


def _trace(record: logging.LogRecord) -> str:
    """Where an unexpected exception came from, without its text: that may quote what a peer sent."""
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    frames = "".join(traceback.format_tb(record.exc_info[2]))
    return _one_line(f"{frames}{record.exc_info[0].__name__}")
