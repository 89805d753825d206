"""Bytes in, whole blocks out.

A block is everything through a blank line (WHATWG HTML 9.2.5: lines end in CR, LF or CRLF, mixed).
Only whole blocks leave the framer, so whatever stands between two of its answers is a place where
a ping can be injected without touching an event.

The framer owns the bytes of an unfinished block and nothing else. It never looks at a byte twice:
what waits is known to hold no boundary, so only its last byte matters to what comes.
"""

from __future__ import annotations

from sse_keepalive_proxy.errors import EventTooLarge

__all__ = ["Framer", "boundary_after", "first_boundary"]

_BOM = b"\xef\xbb\xbf"
_CR = 0x0D
_LF = 0x0A
# Every blank line is one of these pairs, and every one of these pairs is a blank line:
# a CR LF inside is one line ending, so `\r\n` is not among them.
_CR_PAIRS = (b"\r\r", b"\n\r")
# These two ends are whole whatever came before: the common case needs no search.
_PLAIN_ENDS = (b"\n\n", b"\r\n\r\n")


def boundary_after(data: bytes, before: int) -> int:
    """Where the last whole block of `data` ends: 0 when none does.

    `before` is the byte in front of `data` (LF stands for the start of a block, where a single
    line ending is already a blank line). Everything left of the answer can be forwarded at once,
    also when it ends in a CR whose LF has not come yet (law 2).
    """
    end = data.rfind(b"\n\n") + 2
    if end == 1:
        end = 0
    # A CR form can only matter behind the last LF LF; searching all of a large read would cost.
    searched = max(end - 1, 0)
    if data.find(b"\r", searched) >= 0:
        for pair in _CR_PAIRS:
            found = data.rfind(pair, searched) + 2
            if found > max(end, 1):
                end = found
    if end == 0 and data and _ends_line(before) and _is_blank(before, data[0]):
        end = 1
    if end and data[end - 1] == _CR and data[end : end + 1] == b"\n":
        end += 1
    return end


def first_boundary(data: bytes, before: int) -> int:
    """Where the first whole block of `data` ends: 0 when none does. `before` as above."""
    ends = [found + 2 for pair in (b"\n\n", *_CR_PAIRS) if (found := data.find(pair)) >= 0]
    if data and _ends_line(before) and _is_blank(before, data[0]):
        ends.append(1)
    end = min(ends, default=0)
    if end and data[end - 1] == _CR and data[end : end + 1] == b"\n":
        end += 1
    return end


def _ends_line(byte: int) -> bool:
    return byte in (_LF, _CR)


def _is_blank(before: int, first: int) -> bool:
    """Whether `first`, behind the line ending `before`, makes a blank line (CR LF is one ending)."""
    return first == _CR or (first == _LF and before == _LF)


class Framer:
    """Splits one upstream connection's body at block boundaries.

    `max_event` bounds what is kept, in bytes. A leading BOM is dropped once (WHATWG HTML 9.2.6).
    `after_cr` tells that the last forwarded byte is a CR: an LF may still follow that belongs to it.
    """

    __slots__ = ("_at_start", "_max_event", "_tail", "after_cr")

    def __init__(self, max_event: int) -> None:
        self._max_event = max_event
        self._tail = bytearray()
        self._at_start = True
        self.after_cr = False

    @property
    def pending(self) -> int:
        """How many bytes of an unfinished block wait."""
        return len(self._tail)

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the body; return the whole blocks they complete, unchanged.

        Raises `EventTooLarge`, with the whole blocks before it, when a block outgrows `max_event`.
        """
        if self._at_start:
            data = self._drop_bom(data)
        tail = self._tail
        if len(tail) + len(data) > self._max_event:
            self._refuse_large(data)
        if data.endswith(_PLAIN_ENDS):
            self.after_cr = False
            if not tail:
                return data
            tail += data
            return self._take()
        end = boundary_after(data, tail[-1] if tail else _LF)
        if not end:
            tail += data
            return b""
        self.after_cr = data[end - 1] == _CR
        if not tail:
            tail += data[end:]
            return data[:end]
        tail += data[:end]
        blocks = self._take()
        self._tail += data[end:]
        return blocks

    def _take(self) -> bytes:
        blocks = bytes(self._tail)
        self._tail = bytearray()
        return blocks

    def _drop_bom(self, data: bytes) -> bytes:
        """Hold back at most two bytes until it is known whether the body begins with a BOM."""
        data = bytes(self._tail) + data
        self._tail.clear()
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._tail += data
            return b""
        self._at_start = False
        return data.removeprefix(_BOM)

    def _refuse_large(self, data: bytes) -> None:
        """Raise when one block of what waits and `data` is too large; many small ones may pass."""
        waiting = bytes(self._tail) + data
        start = 0
        while len(waiting) - start > self._max_event:
            # What waits holds no boundary before its last byte, so this scan is paid for once.
            end = first_boundary(waiting[start : start + self._max_event], _LF)
            if not end:
                self._tail = bytearray()
                self.after_cr = start > 0 and waiting[start - 1] == _CR
                raise EventTooLarge(self._max_event, waiting[:start])
            start += end
