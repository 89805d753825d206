"""Write log records to stderr, one line each, as text or JSON.

A record has a message and `fields` (`logger.warning("…", extra={"fields": {…}})`). The access log, with the
lines of requests and streams, is a separate logger and can be turned off. Input from a peer (a target, an
address) cannot break a line or add a credential to it: see `line`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import traceback
from typing import Any

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


def configure(level: str, form: str, *, access: bool) -> None:
    """Write every record from `level` upwards to stderr, as `form`: `text` or `json`.

    `access`: whether to write the access log. Other handlers of the root logger do not get its records.
    """
    handler = logging.StreamHandler(sys.stderr)
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
    access_log.info(message, extra={"fields": fields})


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
