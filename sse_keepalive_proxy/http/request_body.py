"""The body of a client's request while it is received: where it ends, and what aiohttp gets of it."""

from __future__ import annotations

from sse_keepalive_proxy.http.chunked import LAST_CHUNK, ChunkedDecoder, chunk
from sse_keepalive_proxy.http.head import CHUNKED

__all__ = ["RequestBody"]

_MOST_DECODED = 4096  # bytes of a chunked body decoded at once, so that small chunks delay no other client


class RequestBody:
    """One body. `left` is the number of missing bytes, or 0 if it is chunked. `came_at` is the time of its
    last bytes.
    """

    __slots__ = ("_decoder", "came_at", "left")

    def __init__(self, size: int, allowance: int, now: float) -> None:
        """`size` is the body's size in bytes, or `CHUNKED`. Its chunked coding may take `allowance` bytes."""
        self._decoder = ChunkedDecoder(allowance) if size == CHUNKED else None
        self.left = 0 if size == CHUNKED else size
        self.came_at = now

    @property
    def complete(self) -> bool:
        """Whether all of the body has been received."""
        return not self.left if self._decoder is None else self._decoder.complete

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Receive bytes. Return those for aiohttp, in the coding that the head has announced, and those not
        received: they come after the body, or there were too many to decode at once.

        Raises `CodingInvalid`.
        """
        if self._decoder is None:
            piece, rest = data[: self.left], data[self.left :]
            self.left -= len(piece)
            return piece, rest
        piece, rest = self._decoder.feed(data[:_MOST_DECODED])
        coded = (chunk(piece) if piece else b"") + (LAST_CHUNK if self._decoder.complete else b"")
        return coded, rest + data[_MOST_DECODED:]
