"""Bytes in, whole blocks out.

A block is everything through a blank line (WHATWG HTML 9.2.5: lines end in CR, LF or CRLF, mixed).
Only whole blocks leave the framer, so whatever stands between two of its answers is a place where
a ping can be injected without touching an event.

The framer owns the bytes of an unfinished block and nothing else. It never looks at a byte twice:
what waits is known to hold no boundary, so only its last byte matters to what comes.
"""

from __future__ import annotations

from typing import Final

from sse_keepalive_proxy.errors import EventTooLarge

__all__ = ["Framer", "boundary_after"]

_BOM: Final = b"\xef\xbb\xbf"
_CR: Final = 0x0D
_LF: Final = 0x0A
# Every blank line is one of these pairs, and every one of these pairs is a blank line:
# a CR LF inside is one line ending, so `\r\n` is not among them. The third pair is `\n\n`.
_CR_PAIRS = (b"\r\r", b"\n\r")


def boundary_after(data: bytes, before: int) -> int:
    """Where the last whole block of `data` ends: 0 when none does.

    `before` is the byte in front of `data` (LF stands for the start of a block, where a single
    line ending is already a blank line). Everything left of the answer can be forwarded at once,
    also when it ends in a CR whose LF has not come yet (behaviour.md#injections-between-blocks).
    """
    found = data.rfind(b"\n\n")
    end = found + 2 if found >= 0 else 0
    # A CR form can only matter behind the last LF LF; searching all of a large read would cost.
    searched = end - 1 if end else 0
    if data.find(b"\r", searched) >= 0:
        for pair in _CR_PAIRS:
            found = data.rfind(pair, searched)
            if found >= 0:
                end = max(end, found + 2)
    if not end and _begins_blank(data, before):
        end = 1
    if end and data[end - 1] == _CR and data[end : end + 1] == b"\n":
        end += 1
    return end


def _begins_blank(data: bytes, before: int) -> bool:
    """Whether the first byte of `data` makes a blank line of the line ending `before` (CR LF is one
    ending).
    """
    if before == _LF:
        return data.startswith((b"\n", b"\r"))
    return before == _CR and data.startswith(b"\r")


class Framer:
    """Splits one upstream connection's body at block boundaries.

    `max_event` bounds one block, in bytes, and so what is kept. The LF of a CR LF that ends a block
    is not counted: a block leaves with its CR, and is no larger for what comes after.
    A leading BOM is dropped once (WHATWG HTML 9.2.6).
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

        Raises `EventTooLarge`, with the whole blocks before it, when a block outgrows `max_event`:
        at the same block however the body was cut. The framer has then lost its place.
        """
        if self._at_start and not (data := self._drop_bom(data)):
            return b""
        tail = self._tail
        if len(tail) + len(data) > self._max_event:
            self._refuse_large(data)
        # These two ends are whole whatever came before: the common case needs no search.
        if data[-2:] == b"\n\n" or data[-4:] == b"\r\n\r\n":  # as `endswith`, in two thirds of the time
            self.after_cr = False
            return self._take(data, len(data)) if tail else data
        end = boundary_after(data, tail[-1] if tail else _LF)
        if not end:
            tail += data
            return b""
        self.after_cr = data[end - 1] == _CR
        blocks = self._take(data, end) if tail else data[:end]
        tail += data[end:]
        return blocks

    def _take(self, data: bytes, end: int) -> bytes:
        """What waited, and `data` up to `end` behind it: copied once, since a read may be 64 KiB."""
        blocks = b"".join((self._tail, memoryview(data)[:end]))
        self._tail.clear()
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
        """Raise when one block of what waits and `data` is too large; many small ones may pass.

        Goes from one window of `max_event` bytes to the next. All blocks up to the last boundary in a
        window fit in it; two steps go further than a window is wide, so the work stays linear.
        """
        waiting = bytes(self._tail) + data
        start = 0
        while len(waiting) - start > self._max_event:
            end = boundary_after(waiting[start : start + self._max_event], _LF)
            if not end:
                self._tail.clear()
                if start:
                    self.after_cr = waiting[start - 1] == _CR
                raise EventTooLarge(self._max_event, waiting[:start])
            start += end
