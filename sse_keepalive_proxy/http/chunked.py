"""Chunked coding (RFC 9112 7.1): encoding for both sides, and decoding of a client's body."""

from __future__ import annotations

import re
from typing import Final

from sse_keepalive_proxy.errors import BodyInvalid

__all__ = ["LAST_CHUNK", "ChunkedDecoder", "chunk", "size_line"]

LAST_CHUNK = b"0\r\n\r\n"

_SIZES: Final = [b"%x\r\n" % size for size in range(2048)]
"""The size lines of most events. A look-up takes half as long as formatting."""

_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_UNFINISHED_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,15}(?:\r|;[\t\x20-\x7e\x80-\xff]*\r?)?")
_TRAILER: Final = re.compile(rb"([A-Za-z0-9!#$%&'*+.^_`|~-]+):[\t\x20-\x7e\x80-\xff]*\r\n")
_NO_TRAILERS: Final = frozenset({b"content-length", b"transfer-encoding"})
_CODING_PER_BYTE: Final = 16
"""Bytes of coding allowed per byte of data. Endless chunk extensions and trailers are an attack."""


def size_line(size: int) -> bytes:
    """Return the size line of a chunk of `size` bytes."""
    return _SIZES[size] if size < len(_SIZES) else b"%x\r\n" % size


def chunk(data: bytes) -> bytes:
    """Return `data` as one chunk. `data` must not be empty: an empty chunk ends the body."""
    return size_line(len(data)) + data + b"\r\n"


class ChunkedDecoder:
    """Decode one chunked body strictly: no bare CR or LF, no blanks around a size.

    Extensions and trailers are checked and dropped. They may take `allowance` bytes, and 16 more for each
    byte of data. `complete` is true after the end of the body.
    """

    __slots__ = ("_coding", "_in_trailers", "_left", "_line", "complete")

    def __init__(self, allowance: int) -> None:
        self._coding = allowance  # bytes of coding that may still come
        self._line = b""  # an unfinished line
        self._left = 0  # remaining bytes of the chunk and its CRLF
        self._in_trailers = self.complete = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Decode the next bytes. Return the data in them, and the bytes after the end of the body.

        Raises `BodyInvalid`.
        """
        found: list[bytes] = []
        at = 0
        while at < len(data) and not self.complete:
            if self._left > 2:
                piece = data[at : at + self._left - 2]
                self._left -= len(piece)
                self._coding += _CODING_PER_BYTE * len(piece)
                at += len(piece)
                found.append(piece)
            else:
                end = data.find(b"\n", at) + 1 or len(data)
                self._line += data[at:end]
                self._coding -= end - at
                at = end
                if self._coding < 0:
                    raise BodyInvalid("the request's body has more chunked coding than data")
                if self._line.endswith(b"\n"):
                    line, self._line = self._line, b""
                    self._read_line(line)
                elif not self._in_trailers and not self._may_become_good():
                    raise BodyInvalid("the request's body is not valid")
        return b"".join(found), data[at:]

    def _may_become_good(self) -> bool:
        """Return whether the unfinished line can still become valid. If not, the error is raised at once, and
        not when the rest of the line arrives.
        """
        if self._left:
            return b"\r\n".startswith(self._line)
        return _UNFINISHED_SIZE.fullmatch(self._line) is not None

    def _read_line(self, line: bytes) -> None:
        if self._left:
            self._left = 0
            if line == b"\r\n":
                return
        elif self._in_trailers:
            self.complete = line == b"\r\n"
            trailer = _TRAILER.fullmatch(line)
            if self.complete or (trailer is not None and trailer[1].lower() not in _NO_TRAILERS):
                return
        elif (found := _SIZE_LINE.fullmatch(line)) is not None:
            size = int(found[1], 16)
            self._in_trailers = not size
            self._left = size + 2 if size else 0
            return
        raise BodyInvalid("the request's body is not valid")
