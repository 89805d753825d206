"""Chunked coding as it is written (RFC 9112 7.1)."""

from __future__ import annotations

__all__ = ["LAST_CHUNK", "chunk"]

LAST_CHUNK = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """`data` as one chunk. Never of nothing: that would be the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)
