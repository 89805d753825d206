"""Write log records to stderr, one line each, as text or JSON.

A record has a message and `fields` (`logger.warning("…", extra={"fields": {…}})`). The access log, with the
lines of requests and streams, is a separate logger and can be turned off. Input from a peer (a target, an
address) cannot break a line or add a credential to it: see `line`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import time
import traceback
from typing import Any, TextIO

from sse_keepalive_proxy.observe.line import now_rfc3339, one_line, text_line

__all__ = ["complain", "configure", "log_line"]

logger = logging.getLogger("sse_keepalive_proxy.loop")
access_log = logging.getLogger("sse_keepalive_proxy.access")


class _Text(logging.Formatter):
    """Format a record as text."""

    def format(self, record: logging.LogRecord) -> str:
        line, trace = text_line(record.levelname, record.getMessage(), _fields(record)), _trace(record)
        return f"{line}  {trace}" if trace else line


class _Json(logging.Formatter):
    """Format a record as JSON, with the same fields."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": now_rfc3339(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        trace = _trace(record)
        if trace:
            line["exception"] = trace
        return json.dumps(line, default=str)


class _TurnHandler(logging.StreamHandler[TextIO]):
    """Write the lines of one turn of the event loop together. A write for each is a third of their cost.

    Outside a loop, and in other threads, each line is written at once.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record) + self.terminator)
            if len(self._lines) == 1:
                asyncio.get_running_loop().call_soon(self.flush)
        except RuntimeError:  # no loop runs here
            self.flush()
        except Exception:  # noqa: BLE001 (a handler never raises)
            self.handleError(record)

    def flush(self) -> None:
        with self.lock or contextlib.nullcontext():
            lines, self._lines = self._lines, []
            if lines:
                with contextlib.suppress(OSError, ValueError):  # nothing can be written there any more
                    self.stream.write("".join(lines))
        super().flush()


class _AccessRecord(logging.LogRecord):
    """A record of the access log, without the place in the source: to find it costs more than the rest."""

    def __init__(self, message: str, fields: dict[str, Any]) -> None:
        self.__dict__ = {**_ACCESS, "msg": message, "fields": fields, "created": time.time()}


_ACCESS = vars(logging.LogRecord("sse_keepalive_proxy.access", logging.INFO, "", 0, "", (), None))


def configure(level: str, form: str, *, access: bool) -> None:
    """Write every record from `level` upwards to stderr, as `form`: `text` or `json`.

    `access`: whether to write the access log. Other handlers of the root logger do not get its records.
    """
    handler = _TurnHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = access_log.handlers[:] = [handler]
    root.setLevel(level.upper())
    access_log.propagate, access_log.disabled = False, not access
    # Do not compute data that no line uses (Logging HOWTO, "Optimization").
    logging._srcfile = None  # noqa: SLF001 (as documented there)
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def log_line(message: str, fields: dict[str, Any]) -> None:
    """Write a line of the access log: one for each request, two for each stream."""
    if access_log.isEnabledFor(logging.INFO):
        access_log.handle(_AccessRecord(message, fields))


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
