"""The access log: a line for each request, and two for each stream.

Apart from `logging`, whose record of each would be half of what a line costs (5 of 10 µs). Where they go,
and whether there are any, `log.configure` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["AccessLog", "access"]

Write = Callable[[str, dict[str, Any]], None]
"""Takes a message and its fields."""


class AccessLog:
    """Where the lines of requests and streams go: nowhere at first."""

    __slots__ = ("_write",)

    def __init__(self) -> None:
        self._write: Write | None = None

    def to(self, write: Write | None) -> Write | None:
        """Send every line to `write` from now on, or nowhere; returns where they went until now."""
        before, self._write = self._write, write
        return before

    def line(self, message: str, fields: dict[str, Any]) -> None:
        """Write a line."""
        if self._write is not None:
            self._write(message, fields)


access = AccessLog()
"""The one of this process."""
