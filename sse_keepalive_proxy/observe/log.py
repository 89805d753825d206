"""Log lines: text or JSON, one each for a record, to stderr.

A record is a message and `fields` (`logger.warning("…", extra={"fields": {…}})`). The access log, the lines
of requests and streams, is a logger of its own: it can be turned off. Whatever a peer chose (a target, an
address) can neither break a line nor carry a credential into it: see `line`.
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
    """Makes the line that people read."""

    def format(self, record: logging.LogRecord) -> str:
        line, trace = text_line(record.levelname, record.getMessage(), _fields(record)), _trace(record)
        return f"{line}  {trace}" if trace else line


class _Json(logging.Formatter):
    """Makes the line that machines read: the same facts, each under its own key."""

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
    """Send everything from `level` up to stderr, as `form`: text or json. `access`: whether requests and
    streams get their lines. A handler that somebody adds to the root logger does not see those.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = access_log.handlers[:] = [handler]
    root.setLevel(level.upper())
    access_log.propagate, access_log.disabled = False, not access
    # What no line of ours tells need not be found out (Logging HOWTO, "Optimization"): 7 of 30 µs a line.
    logging._srcfile = None  # noqa: SLF001 (as documented there)
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def log_line(message: str, fields: dict[str, Any]) -> None:
    """Write a line of the access log: one for each request, two for each stream."""
    access_log.info(message, extra={"fields": fields})


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
