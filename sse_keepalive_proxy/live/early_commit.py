"""The early commit: a client gets status 200 before upstream has answered.

This module waits for upstream's answer before the early commit, and reports a later answer, which decides
about the next request with the same credential. The stream writes the response.
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
    """The early commit of one request, `after` seconds without an answer.

    There is none if the request, when its body is whole, is not one that `wants_stream`. If upstream answers
    later, one of the other callbacks is called: `accepted` for a stream, `refused` for any other answer that
    ends the stream. Neither is called if the proxy has given up an upstream that was away.
    """

    after: float
    wants_stream: Callable[[], bool]
    accepted: Callable[[], None]
    refused: Callable[[], None]

    async def answered(self, opening: asyncio.Task[Answer], body: asyncio.Future[bool] | None) -> bool:
        """Wait for `opening`. Return True if it is done, False if it is time for the early commit.

        `body` becomes True when the request's body is whole, False if it fails. A stream can take over the
        connection only after the whole body, so this method waits for it too.
        """
        try:
            await asyncio.wait({opening}, timeout=self.after)
            if body is not None and not opening.done():
                either: set[asyncio.Future[Any]] = {opening, body}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if body.done() and not body.result():
                    await asyncio.wait({opening})  # `opening` fails with the body's error
            if not opening.done() and not self.wants_stream():
                await asyncio.wait({opening})
        except asyncio.CancelledError:
            abandon(opening)
            raise
        return opening.done()
