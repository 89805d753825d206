"""A buffered body: one side pushes what it receives, the other side pulls what it can send.

When more than `_MAX_WAITING` bytes wait, the source is paused. One more read can follow.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from sse_keepalive_proxy.errors import ProxyError

__all__ = ["BufferedBody", "Source"]

_MAX_WAITING = 256 * 1024


class Source(Protocol):
    """The origin of the bytes."""

    def pause(self) -> None:
        """Stop pushing."""

    def resume(self) -> None:
        """Push again."""


class BufferedBody:
    """A body that `data`, `end` and `failed` push into, and that `read` pulls from.

    `size` is the number of bytes received so far. `whole` is true after the end of the body.
    """

    __slots__ = ("_dropped", "_error", "_size", "_source", "_waiting", "_wake", "size", "whole")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._waiting: deque[bytes] = deque()
        self._size = self.size = 0
        self.whole = self._dropped = False
        self._error: ProxyError | None = None
        self._wake: asyncio.Future[None] | None = None

    def data(self, data: bytes) -> None:
        """Add bytes of the body, at least one."""
        self.size += len(data)
        if self._dropped:
            return
        self._waiting.append(data)
        self._size += len(data)
        if self._size > _MAX_WAITING:
            self._source.pause()
        self._notify()

    def end(self) -> None:
        """Mark the body as complete."""
        self.whole = True
        self._notify()

    def failed(self, error: ProxyError) -> None:
        """Fail later reads with `error`: the body is incomplete."""
        self._error = self._error or error
        self._notify()

    def drop(self) -> None:
        """Discard all waiting and later bytes, because nothing reads the body any more."""
        self._dropped = True
        self._waiting.clear()
        self._source.resume()

    async def read(self) -> bytes:
        """Return the waiting bytes, at least one, or `b""` at the end. Raises the error given to `failed`."""
        while not self._waiting:
            if self._error is not None:
                raise self._error
            if self.whole:
                return b""
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        data = b"".join(self._waiting)
        self._waiting.clear()
        if self._size > _MAX_WAITING:
            self._source.resume()
        self._size = 0
        return data

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
