"""Read a block that is forwarded before its end has come.

A block that stays unfinished is forwarded as far as it has come, and its rest as it comes. So it is never
there as a whole, and its lines are read one by one. Only the beginning of an unfinished line is kept.
"""

from __future__ import annotations

import re
from typing import Final

from sse_keepalive_proxy.wire.block import parse
from sse_keepalive_proxy.wire.framing import begins_event_stream

__all__ = ["Part"]

_CR: Final = 0x0D
_LF: Final = 0x0A
_LINE_END = re.compile(rb"(?:\r\n?+|\n)")
_BLANK_LINE = re.compile(rb"(?:\r\n?+|\n)(?:\r\n?+|\n)")
_KEPT = 8192
"""Bytes that are kept of an unfinished line. A longer line is read without what comes between these bytes and
the read that completes it."""


class Part:
    """The rest of one block, from `begun`, the bytes that have waited for the end.

    After each `take`: `lines` are the lines that the bytes have completed, behind the block's name.
    `comments` counts the comment lines among them. `has_data`: there are lines of data among them, or a long
    one grows. `in_data`: the same, or a short one grows. `events` is 1 when the first line of data has begun.
    `ended`: the block has ended.

    `doubtful`: the block is the first, and it was not clear that it begins an event stream. `opaque` is True
    when it is clear that it does not.
    """

    __slots__ = (
        "_before", "_counted", "_doubtful", "_is_comment", "_line", "_name", "comments", "ended", "events",
        "has_data", "in_data", "lines", "opaque",
    )  # fmt: skip

    def __init__(self, begun: bytes, *, doubtful: bool = False) -> None:
        self._is_comment = begun.startswith(b":")  # before the first field: it ends with its line
        self._doubtful, self.opaque = doubtful, False
        self._before = 0  # the last byte of the block so far
        self._line = self._name = self.lines = b""
        self.comments = self.events = 0
        self.ended = self.has_data = self.in_data = self._counted = False

    @property
    def mid_line(self) -> bool:
        """Whether the last line is unfinished."""
        return self._before not in (_CR, _LF)

    @property
    def so_far(self) -> bytes:
        """`lines`, and the line behind them that is unfinished."""
        return self.lines + self._line

    def take(self, data: bytes) -> bytes:
        """Take the next bytes of the body, at least one. Return those of them that belong to the block."""
        if self._doubtful:
            begins = begins_event_stream(self._line + data)
            self._doubtful, self.opaque = begins is None, begins is False
        end = self._end(data)
        self.ended = end > 0
        taken = data[:end] if end else data
        self._read(taken[1:] if self._before == _CR and taken[0] == _LF else taken)
        self._before = taken[-1]
        return taken

    def _end(self, data: bytes) -> int:
        """Return the offset after the end of the block in `data`, or 0."""
        if self._is_comment:
            found = _LINE_END.search(data)
        elif self._before == _LF or (self._before == _CR and data[0] == _CR):
            found = _LINE_END.match(data) or _BLANK_LINE.search(data)
        else:
            found = _BLANK_LINE.search(data)
        return found.end() if found else 0

    def _read(self, data: bytes) -> None:
        """Read the lines that `data` completes."""
        cut = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        lines, rest = data[:cut], data[cut : cut + _KEPT]
        if cut:
            lines, self._line = self._line + lines, rest
        else:
            self._line = (self._line + rest)[:_KEPT]
        block = parse(lines)
        if block.name is not None:
            self._name = b"event: %b\n" % block.name
        self.lines = self._name + lines
        self.comments = block.comments
        is_event = self.in_data = block.is_event or self._line.startswith(b"data:")
        self.has_data = block.is_event or (is_event and len(self._line) == _KEPT)
        self.events = int(is_event and not self._counted)
        self._counted = self._counted or is_event
