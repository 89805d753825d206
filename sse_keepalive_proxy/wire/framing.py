"""Split a body into whole blocks.

A block is all bytes up to and including a blank line. Lines end in CR, LF or CR LF, also mixed (WHATWG
HTML 9.2.5). A whole comment line in front of a block's first field leaves at once, like a block of its own:
no event has begun there. The framer returns nothing else, so a ping can be written between two results
without breaking an event.

The framer holds the bytes of the unfinished block and nothing else. It searches each byte once: the held
bytes contain no boundary, so only the first and the last of them matter for the next bytes.
"""

from __future__ import annotations

import re
from typing import Final

from sse_keepalive_proxy.errors import EventTooLarge

__all__ = ["BOM", "Framer", "begins_event_stream", "boundary_after"]

BOM: Final = b"\xef\xbb\xbf"
"""The byte order mark of UTF-8, which a client drops at the start of a body (WHATWG HTML 9.2.6)."""

_CR: Final = 0x0D
_LF: Final = 0x0A
_COLON: Final = 0x3A
_LINE: Final = rb"[^\r\n]*+(?:\r\n?+|\n)"
_COMMENTS = re.compile(b"(?::%b)*+" % _LINE)
_FIELDS = (b"data", b"event", b"id", b"retry")
_BEGINNING = re.compile(
    b"%b$|(?:%b)?+(?:[:\r\n]|(?:%b)[\r\n]|[a-z][a-z0-9_-]{0,63}+:)" % (BOM, BOM, b"|".join(_FIELDS))
)
_REST_OF_COMMENT = re.compile(b"%b(?::%b)*+" % (_LINE, _LINE))
# Every blank line contains one of these pairs or `\n\n`, and each of these pairs is a blank line.
# `\r\n` is one line ending, so it is not among them.
_CR_PAIRS = (b"\r\r", b"\n\r")


def boundary_after(data: bytes, before: int) -> int:
    """Return the offset after the last whole block of `data`, or 0 if no block ends in it.

    `before` is the byte before `data`. LF also means the start of a block, where a single line ending is a
    blank line. The bytes before the offset can be forwarded at once, even if they end in a CR whose LF has
    not arrived yet (behaviour.md#injections-between-blocks).
    """
    found = data.rfind(b"\n\n")
    end = found + 2 if found >= 0 else 0
    # A boundary with CR matters only after the last LF LF. Do not search the rest of a large read.
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
    """Whether the first byte of `data` completes a blank line after the line ending `before`.

    CR LF is one line ending.
    """
    if before == _LF:
        return data.startswith((b"\n", b"\r"))
    return before == _CR and data.startswith(b"\r")


def _leaves(data: bytes, held: bytes | bytearray) -> int:
    """Return the number of bytes of `data` that leave with `held`, the unfinished block before them: whole
    blocks, and the comment lines in front of the next one.
    """
    end = boundary_after(data, held[-1] if held else _LF)
    if not end and held:
        if held[0] != _COLON:
            return 0
        found = _REST_OF_COMMENT.match(data)
    elif data[end : end + 1] == b":":
        found = _COMMENTS.match(data, end)
    else:
        return end
    return found.end() if found else end


def begins_event_stream(data: bytes) -> bool | None:
    """Return whether a body that begins with `data` may be an event stream, or None if this is not clear yet.

    After an optional BOM, an event stream begins with a blank line, a comment, or a field. A client ignores
    fields that it does not know (WHATWG HTML 9.2.6), so any name of small letters, digits, `_` and `-` with a
    colon behind it counts, if it comes in one piece (behaviour.md#no-event-stream).
    """
    if _BEGINNING.match(data):
        return True
    name = data.removeprefix(BOM)
    return None if BOM.startswith(data) or any(field.startswith(name) for field in _FIELDS) else False


class Framer:
    """Split the body of one upstream response at block boundaries.

    `max_event` limits one block, in bytes, and so the held bytes. If a block ends in CR LF, the LF does not
    count: the framer may return the block before the LF arrives. A leading BOM is dropped once, and `bom` is
    then True. `after_cr` is True if the last returned byte is a CR; its LF may still arrive. `held` has the
    bytes of the unfinished block.

    The first bytes are held until it is clear what they begin; from then on `begun` is True. If it is no
    event stream, they stay held and `opaque` is True, unless `sure`: the client is in the middle of a stream.
    """

    __slots__ = ("_max_event", "_sure", "after_cr", "begun", "bom", "held", "opaque")

    def __init__(self, max_event: int, *, sure: bool = False) -> None:
        self._max_event, self._sure = max_event, sure
        self.held = bytearray()
        self.begun = self.after_cr = self.bom = self.opaque = False

    @property
    def pending(self) -> int:
        """The number of held bytes of the unfinished block."""
        return len(self.held)

    @property
    def unfinished(self) -> bool:
        """Whether a block has begun and not ended. A BOM begins none."""
        return bool(self.held) and (self.begun or not BOM.startswith(self.held))

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the body. Return the whole blocks that they complete, unchanged.

        Raises `EventTooLarge`, with the whole blocks before it, if a block is larger than `max_event`. The
        result does not depend on how the body was cut into reads. After the error the framer is unusable.
        """
        if not self.begun and not (data := self._begin(data)):
            return b""
        tail = self.held
        if len(tail) + len(data) > self._max_event:
            self._refuse_large(data)
        # These two endings are a boundary after any earlier byte. The common case needs no search.
        if data[-2:] == b"\n\n" or data[-4:] == b"\r\n\r\n":  # faster than `endswith`
            self.after_cr = False
            return self._take(data, len(data)) if tail else data
        end = _leaves(data, tail)
        if not end:
            tail += data
            return b""
        self.after_cr = data[end - 1] == _CR
        blocks = self._take(data, end) if tail else data[:end]
        tail += data[end:]
        return blocks

    def _take(self, data: bytes, end: int) -> bytes:
        """Return the held bytes followed by `data` up to `end`, and hold nothing. Copies once."""
        blocks = b"".join((self.held, memoryview(data)[:end]))
        self.held.clear()
        return blocks

    def release(self) -> bytes:
        """Return the held bytes, and hold nothing. Without a leading BOM, unless `opaque`."""
        held = bytes(self.held)
        self.held.clear()
        return held if self.begun or self.opaque else self._without_bom(held)

    def _begin(self, data: bytes) -> bytes:
        """Return the first bytes of the body without a BOM, or nothing if it is not clear what they begin."""
        self.held += data
        held = bytes(self.held)
        begins = begins_event_stream(held)
        self.opaque = begins is False and not self._sure
        if begins is None or self.opaque:
            return b""
        self.held.clear()
        return self._without_bom(held)

    def _without_bom(self, data: bytes) -> bytes:
        self.begun, self.bom = True, data.startswith(BOM)
        return data.removeprefix(BOM)

    def _refuse_large(self, data: bytes) -> None:
        """Raise `EventTooLarge` if one block of the held bytes and `data` is too large.

        Steps through the bytes in windows of `max_event` bytes. Each step moves to the last boundary in
        the window. Two steps together are longer than one window, so the work is linear.
        """
        waiting = bytes(self.held) + data
        start = 0
        while len(waiting) - start > self._max_event:
            end = _leaves(waiting[start : start + self._max_event], b"")
            if not end:
                self.held.clear()
                if start:
                    self.after_cr = waiting[start - 1] == _CR
                raise EventTooLarge(self._max_event, waiting[:start])
            start += end
