"""Log lines: text or JSON, one each for a record, to stderr.

A record is a message and `fields` (`logger.info("stream open", extra={"fields": {…}})`). Whatever a peer
chose (a target, an address) can neither break a line nor carry a credential into it: see `line`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import traceback
from typing import Any, TextIO

from sse_keepalive_proxy.observe.line import now_rfc3339, one_line, text_line

__all__ = ["complain", "configure"]

logger = logging.getLogger("sse_keepalive_proxy.loop")


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = text_line(record.levelname, record.getMessage(), _fields(record))
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


def _trace(record: logging.LogRecord) -> str:
    """Where an unexpected exception came from, without its text: that may quote what a peer sent."""
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    frames = "".join(traceback.format_tb(record.exc_info[2]))
    return one_line(f"{frames}{record.exc_info[0].__name__}")
