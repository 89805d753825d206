"""Log lines: text or JSON, one line each, and the one place that redacts.

A record is a message and `fields` (`logger.info("stream open", extra={"fields": {…}})`). Whatever a peer
chose (a target, an address) can neither break a line nor carry a credential into it: values of a query
never appear, since they are credentials here as often as not (FACTS 7.19).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import sys
import time
import traceback
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO

__all__ = ["complain", "configure", "now_rfc3339", "redact_target"]

logger = logging.getLogger("sse_keepalive_proxy.loop")

_HIDDEN = "***"
_MAX_TARGET = 512
_BARE = re.compile(r"[!#-~]+")
"""What needs no quotes: printable ASCII without a space or a quote."""

_NUMBERS = frozenset({int, float, bool})
"""What never needs them, and is most of a line."""

_PATH_VALUE = re.compile(r"(=|%3[Dd])[^/;&]*")
"""A value inside a path: of a matrix parameter (`;session=`), or of a query whose `?` came encoded."""


def redact_target(target: str) -> str:
    """A request target that may be shown: its path, and of its query only the names.

    A part of the query without a name or without a value is hidden whole: it may be a bare token, padded
    with `=` as base64 is. Longer than 512 characters, the target is cut.
    """
    path, mark, query = target.partition("?")
    if "=" in path or "%3" in path:
        path = _PATH_VALUE.sub(rf"\1{_HIDDEN}", path)
    if not mark:
        return path[:_MAX_TARGET]
    return f"{path}?{'&'.join(map(_redact_part, query.split('&')))}"[:_MAX_TARGET]


def _redact_part(part: str) -> str:
    name, _, value = part.partition("=")
    return f"{name}={_HIDDEN}" if value.strip("=") else _HIDDEN


def now_rfc3339() -> str:
    """The time of day, UTC, to the millisecond, as RFC 3339 writes it."""
    milliseconds = time.time_ns() // 1_000_000
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(maxsize=2)
def _second(unix: int) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{now_rfc3339()} {record.levelname:7} {_one_line(record.getMessage())}"
        if fields := _fields(record):
            told = [f"{key}={_plain(value)}" for key, value in fields.items()]
            line = f"{line}  {' '.join(told)}"
        return f"{line}  {trace}" if (trace := _trace(record)) else line


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


class _Handler(logging.Handler):
    """Writes the lines of one turn of the event loop together, at its end: under load a line costs a fraction
    of a system call. A line that warns, or that is written outside of a loop, waits for nothing.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record) + "\n")
        except Exception:  # noqa: BLE001 (as logging's own handlers do)
            self.handleError(record)
            return
        if len(self._lines) > 1 and record.levelno < logging.WARNING:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
        else:
            self.flush() if record.levelno >= logging.WARNING else loop.call_soon(self.flush)

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        with contextlib.suppress(OSError, ValueError):  # nobody is left who could be told
            if lines:
                self._stream.write("".join(lines))
                self._stream.flush()


def configure(level: str, form: str, *, access: bool) -> None:
    """Send everything from `level` up to stderr, as `form`: text or json. `access`: whether requests and
    streams get their lines.
    """
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.flush()
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.getLogger("sse_keepalive_proxy.access").disabled = not access
    # What no line of ours tells need not be found out (Logging HOWTO, "Optimization"): 7 of 30 µs a line.
    logging._srcfile = None  # noqa: SLF001 (as documented there)
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def complain(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The event loop's exception handler. The loop's own quotes exceptions and the arguments of callbacks,
    and with them what a peer sent.
    """
    logger.error(
        "the event loop met an error; please report this: %s",
        context["message"].partition("(")[0],
        exc_info=context.get("exception"),
    )


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


def _plain(value: object) -> str:
    if type(value) in _NUMBERS:
        return str(value)
    text = "never" if value is None else str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text)


def _one_line(text: str) -> str:
    """`text` with whatever could end a line or steer a terminal written as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _trace(record: logging.LogRecord) -> str:
    """Where an unexpected exception came from, without its text: that may quote what a peer sent."""
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    frames = "".join(traceback.format_tb(record.exc_info[2]))
    return _one_line(f"{frames}{record.exc_info[0].__name__}")
