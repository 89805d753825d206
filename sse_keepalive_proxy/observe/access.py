"""The access log: one line for each request, two lines for each stream.

It does not use `logging`, because a log record would be half of the cost of a line. `log.configure` sets
where the lines go, and whether there are any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["AccessLog", "access"]

Write = Callable[[str, dict[str, Any]], None]
"""A function that takes a message and its fields."""


class AccessLog:
    """The destination of the access log. At first there is none."""

    __slots__ = ("_write",)

    def __init__(self) -> None:
        self._write: Write | None = None

    def to(self, write: Write | None) -> Write | None:
        """Send every further line to `write`, or drop it if None. Return the previous destination."""
        before, self._write = self._write, write
        return before

    def line(self, message: str, fields: dict[str, Any]) -> None:
        """Write one line."""
        if self._write is not None:
            self._write(message, fields)


access = AccessLog()
"""The access log of this process."""
