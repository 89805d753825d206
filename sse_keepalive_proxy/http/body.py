"""A body that one side pushes, as its socket brings it, and the other pulls, as its own takes it.

At most `_MAX_WAITING` bytes and one read wait in between: then the source is paused.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from sse_keepalive_proxy.errors import ProxyError

__all__ = ["BufferedBody", "Source"]

_MAX_WAITING = 256 * 1024


class Source(Protocol):
    """Where the bytes come from."""

    def pause(self) -> None:
        """Bring no more for now."""

    def resume(self) -> None:
        """Go on."""


class BufferedBody:
    """Pushed into by `data`, `end` and `failed`, pulled from by `read`.

    `size` is how many bytes have come in all; `whole` whether that was the end.
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
        """Some bytes of the body, never none."""
        self.size += len(data)
        if self._dropped:
            return
        self._waiting.append(data)
        self._size += len(data)
        if self._size > _MAX_WAITING:
            self._source.pause()
        self._notify()

    def end(self) -> None:
        """The body is whole."""
        self.whole = True
        self._notify()

    def failed(self, error: ProxyError) -> None:
        """The body broke off."""
        self._error = self._error or error
        self._notify()

    def drop(self) -> None:
        """Nobody pulls any more: what waits and what is still to come is thrown away."""
        self._dropped = True
        self._waiting.clear()
        self._source.resume()

    async def read(self) -> bytes:
        """What has come, at least one byte; nothing at the end. Raises what it `failed` with."""
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
