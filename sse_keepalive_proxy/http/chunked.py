"""Chunked coding (RFC 9112 7.1): encoding for both sides, and decoding.

A client's body is decoded strictly, upstream's as nginx does it (behaviour.md#lenient-towards-upstream).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from sse_keepalive_proxy.errors import CodingInvalid

__all__ = ["LAST_CHUNK", "LENIENT", "STRICT", "ChunkedDecoder", "chunk", "size_line"]

LAST_CHUNK = b"0\r\n\r\n"

_SIZES: Final = [b"%x\r\n" % size for size in range(2048)]
"""The size lines of most events. A look-up takes half as long as formatting."""

_KNOWN: Final = {digits: size for size in range(1, 2048) for digits in (b"%x" % size, b"%X" % size)}
"""The sizes of most chunks. A look-up is the quickest way to read one."""

_BEGINS: Final[list[tuple[bytes, ...]]] = [()] * (len(_SIZES) + 7)
"""The size lines that a chunk can begin with, by the bytes that it takes as a whole, in its usual form."""

for _line in _SIZES[1:]:
    _BEGINS[len(_line) + int(_line, 16) + 2] = (_line, _line.upper())

_NO_TRAILERS: Final = frozenset({b"content-length", b"transfer-encoding"})
_CODING_PER_BYTE: Final = 16
"""Bytes of coding allowed per byte of data. Endless chunk extensions and trailers are an attack."""
_COST_OF_A_TRAILER: Final = 320
"""A trailer counts as this many bytes of coding more than it has: many short ones cost time. So a short body
has about 100 at most, like a head.
"""


@dataclass(frozen=True, slots=True)
class Grammar:
    """What a decoder accepts. A line includes its LF. `unfinished`: a size line whose end has not arrived."""

    size_line: re.Pattern[bytes]
    unfinished: re.Pattern[bytes]
    trailer: re.Pattern[bytes]
    line_ends: tuple[bytes, ...]


STRICT: Final = Grammar(
    re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n"),
    re.compile(rb"[0-9A-Fa-f]{1,15}(?:\r|;[\t\x20-\x7e\x80-\xff]*\r?)?"),
    re.compile(rb"([A-Za-z0-9!#$%&'*+.^_`|~-]+):[\t\x20-\x7e\x80-\xff]*\r\n"),
    (b"\r\n",),
)
"""No bare CR or LF, no blanks around a size."""

LENIENT: Final = Grammar(
    re.compile(rb"0*([0-9A-Fa-f]{1,15})(?:[ \t;\r][^\n]*)?\n"),
    re.compile(rb"[0-9A-Fa-f]+(?:[ \t;\r][^\n]*)?"),
    re.compile(rb"([^\n]+)\n"),
    (b"\r\n", b"\n"),
)
"""Lines may end in a bare LF. A size may be followed by anything after a blank. Any line is a trailer."""


def size_line(size: int) -> bytes:
    """Return the size line of a chunk of `size` bytes."""
    return _SIZES[size] if size < len(_SIZES) else b"%x\r\n" % size


def chunk(data: bytes) -> bytes:
    """Return `data` as one chunk. `data` must not be empty: an empty chunk ends the body."""
    return size_line(len(data)) + data + b"\r\n"


class ChunkedDecoder:
    """Decode one chunked body.

    Extensions and trailers are dropped. They may take `allowance` bytes, and 16 more for each byte of data.
    `complete` is true after the end of the body.
    """

    __slots__ = ("_between", "_coding", "_grammar", "_in_trailers", "_left", "_line", "complete")

    def __init__(self, allowance: int, grammar: Grammar = STRICT) -> None:
        self._coding = allowance  # bytes of coding that may still come
        self._grammar = grammar
        self._line = b""  # an unfinished line
        self._left = 0  # remaining bytes of the chunk, and one more for its line end
        self._in_trailers = self.complete = False
        self._between = True  # the next byte begins a chunk

    def only_chunk(self, data: bytes) -> bytes:
        """Return what is in `data` if it is exactly one chunk in its usual form, as most reads are, otherwise
        `b""`. Then nothing has changed, and `feed` decodes the same bytes.
        """
        if self._between and len(data) < len(_BEGINS):
            begins = _BEGINS[len(data)]
            if data.startswith(begins) and data.endswith(b"\r\n"):
                return data[len(begins[0]) : -2]
        return b""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Decode the next bytes. Return the data in them, and the bytes after the end of the body.

        Raises `CodingInvalid`.
        """
        found: list[bytes] = []
        at, size = 0, len(data)
        while at < size and not self.complete:
            end = data.find(b"\n", at) + 1 if self._left <= 1 else 0
            stop = size
            if self._between and end > at + 2:  # compiled, a slice must not end before it begins
                stop = end + _KNOWN.get(data[at : end - 2], size)
            if stop + 2 <= size and data[end - 2 : end] == data[stop : stop + 2] == b"\r\n":
                found.append(data[end:stop])  # a whole chunk in its usual form: it pays for its own coding
                at = stop + 2
            elif self._left > 1:
                piece = data[at : at + self._left - 1]
                self._left -= len(piece)
                self._coding += _CODING_PER_BYTE * len(piece)
                at += len(piece)
                found.append(piece)
            else:
                end = end or size
                self._line += data[at:end]
                self._coding -= end - at
                at = end
                if self._coding < 0:
                    raise CodingInvalid("has more chunked coding than data", b"".join(found))
                if not self._accepts_line():
                    raise CodingInvalid("is not valid", b"".join(found))
                self._between = not (self._left or self._line or self._in_trailers)
        return b"".join(found), data[at:]

    def _accepts_line(self) -> bool:
        """Take the current line, if it is whole. Return whether it is valid, or can still become valid.

        So an error is raised at once, and not when the rest of the line arrives.
        """
        line, grammar = self._line, self._grammar
        whole = line.endswith(b"\n")
        if whole:
            self._line = b""
        if self._left:
            self._left = 0 if whole else 1
            return line in grammar.line_ends or line == b"\r"
        if self._in_trailers:
            if not whole:
                return True
            self.complete = line in grammar.line_ends
            self._coding -= _COST_OF_A_TRAILER
            trailer = grammar.trailer.fullmatch(line)
            return self.complete or (trailer is not None and trailer[1].lower() not in _NO_TRAILERS)
        if not whole:
            return grammar.unfinished.fullmatch(line) is not None
        found = grammar.size_line.fullmatch(line)
        if found is None:
            return False
        size = int(found[1], 16)
        self._in_trailers = not size
        self._left = size + 1 if size else 0
        return True
