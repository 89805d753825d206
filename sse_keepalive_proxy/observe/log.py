"""Log lines: text or JSON, one each for a record, to stderr.

A record is a message and `fields` (`logger.warning("…", extra={"fields": {…}})`); the lines of requests and
streams come from `access` without one. Whatever a peer chose (a target, an address) can neither break a line
nor carry a credential into it: see `line`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import traceback
from collections.abc import Callable
from typing import Any, TextIO

from sse_keepalive_proxy.observe.access import access as access_log
from sse_keepalive_proxy.observe.line import now_rfc3339, one_line, text_line

__all__ = ["complain", "configure"]

logger = logging.getLogger("sse_keepalive_proxy.loop")


_ACCESS = "sse_keepalive_proxy.access"

Form = Callable[[str, str, str, dict[str, Any], str], str]
"""Makes a line of the level, the logger's name, the message, the fields, and where an exception came from."""


def _text(level: str, _: str, message: str, fields: dict[str, Any], trace: str) -> str:
    line = text_line(level, message, fields)
    return f"{line}  {trace}" if trace else line


def _json(level: str, name: str, message: str, fields: dict[str, Any], trace: str) -> str:
    line = {"time": now_rfc3339(), "level": level.lower(), "logger": name, "message": message, **fields}
    if trace:
        line["exception"] = trace
    return json.dumps(line, default=str)


class _Handler(logging.Handler):
    """Writes the lines of one turn of the event loop together, at its end: under load a line costs a fraction
    of a system call. A line that warns, or that is written outside of a loop, waits for nothing.
    """

    def __init__(self, stream: TextIO, form: Form) -> None:
        super().__init__()
        self._stream, self._form = stream, form
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            said, fields, trace = record.getMessage(), _fields(record), _trace(record)
            line = self._form(record.levelname, record.name, said, fields, trace)
        except Exception:  # noqa: BLE001 (as logging's own handlers do)
            self.handleError(record)
        else:
            self._write(line, at_once=record.levelno >= logging.WARNING)

    def access(self, message: str, fields: dict[str, Any]) -> None:
        """A line of the access log."""
        self._write(self._form("INFO", _ACCESS, message, fields, ""), at_once=False)

    def _write(self, line: str, *, at_once: bool) -> None:
        self._lines.append(line + "\n")
        if len(self._lines) > 1 and not at_once:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
        else:
            self.flush() if at_once else loop.call_soon(self.flush)

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
    handler = _Handler(sys.stderr, _json if form == "json" else _text)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.flush()
    root.addHandler(handler)
    root.setLevel(level.upper())
    access_log.to(handler.access if access and root.isEnabledFor(logging.INFO) else None)
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
