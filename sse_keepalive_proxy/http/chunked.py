"""Chunked coding as it is written (RFC 9112 7.1)."""

from __future__ import annotations

from typing import Final

__all__ = ["LAST_CHUNK", "chunk", "size_line"]

LAST_CHUNK = b"0\r\n\r\n"

_SIZES: Final = [b"%x\r\n" % size for size in range(2048)]
"""Those of most events: to look one up and join the pieces takes half as long as to format them."""


def size_line(size: int) -> bytes:
    """The line in front of a chunk of `size` bytes."""
    return _SIZES[size] if size < len(_SIZES) else b"%x\r\n" % size


def chunk(data: bytes) -> bytes:
    """`data` as one chunk. Never of nothing: that would be the last one."""
    return size_line(len(data)) + data + b"\r\n"
