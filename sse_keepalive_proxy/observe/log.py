"""Write log records to stderr, one line each, as text or JSON.

A record has a message and `fields` (`logger.warning("…", extra={"fields": {…}})`). The lines of requests and
streams come from `access` without a record. Input from a peer (a target, an address) cannot break a line or
add a credential to it: see `line`.
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
"""A function from the level, the logger's name, the message, the fields and the traceback to a line."""


def _text(level: str, _: str, message: str, fields: dict[str, Any], trace: str) -> str:
    line = text_line(level, message, fields)
    return f"{line}  {trace}" if trace else line


def _json(level: str, name: str, message: str, fields: dict[str, Any], trace: str) -> str:
    line = {"time": now_rfc3339(), "level": level.lower(), "logger": name, "message": message, **fields}
    if trace:
        line["exception"] = trace
    return json.dumps(line, default=str)


class _Handler(logging.Handler):
    """Write the lines of one turn of the event loop with one system call, at the end of the turn.

    A warning, and a line outside of a loop, is written at once.
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
        """Write a line of the access log."""
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
        with contextlib.suppress(OSError, ValueError):  # stderr is closed: no place to report it
            if lines:
                self._stream.write("".join(lines))
                self._stream.flush()


def configure(level: str, form: str, *, access: bool) -> None:
    """Write every record from `level` upwards to stderr, as `form`: `text` or `json`.

    `access`: whether to write the access log.
    """
    handler = _Handler(sys.stderr, _json if form == "json" else _text)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.flush()
    root.addHandler(handler)
    root.setLevel(level.upper())
    access_log.to(handler.access if access and root.isEnabledFor(logging.INFO) else None)
    # Do not compute data that no line uses (Logging HOWTO, "Optimization").
    logging._srcfile = None  # noqa: SLF001 (as documented there)
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def complain(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error of the event loop, as its exception handler.

    The loop's own handler quotes exceptions and the arguments of callbacks, which may contain data of a peer.
    """
    logger.error(
        "an error in the event loop; please report it: %s",
        context["message"].partition("(")[0],
        exc_info=context.get("exception"),
    )


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


def _trace(record: logging.LogRecord) -> str:
    """Return the traceback of an exception without its text, which may contain data of a peer."""
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    frames = "".join(traceback.format_tb(record.exc_info[2]))
    return one_line(f"{frames}{record.exc_info[0].__name__}")
