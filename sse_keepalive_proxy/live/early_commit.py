"""The early commit: a client gets 200 before upstream has answered, and the answer comes behind it.

Owns how long upstream may take before that, and what its late answer means for the next request of the same
credential. What is written is the stream's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sse_keepalive_proxy.http.attempts import Answer, abandon

__all__ = ["EarlyCommit"]


@dataclass(frozen=True, slots=True)
class EarlyCommit:
    """The early commit of one request, `after` so many seconds.

    One of two is called once upstream has answered behind it: `accepted` for a stream, `refused` for any
    other answer that ends the stream.
    """

    after: float
    accepted: Callable[[], None]
    refused: Callable[[], None]

    async def answered(self, opening: asyncio.Task[Answer], body: asyncio.Future[bool] | None) -> bool:
        """Wait for `opening`, and return whether it is over in time.

        `body` becomes true when the request's body is whole, false when it never will be. It has to be whole
        before the connection can be taken over, so it is waited for as well.
        """
        try:
            await asyncio.wait({opening}, timeout=self.after)
            if body is not None and not opening.done():
                either: set[asyncio.Future[Any]] = {opening, body}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if body.done() and not body.result():
                    await asyncio.wait({opening})  # it fails with what is wrong
        except asyncio.CancelledError:
            abandon(opening)
            raise
        return opening.done()
