"""Upstream asked behind the back of a client whose response has begun.

Owns what it takes to send a stream's request again: its head, the id of the last event, how long upstream
wants to be left alone; and the task of the attempt that is under way. When to ask, the lifecycle decides.
"""

from __future__ import annotations

import asyncio
import re
from typing import Protocol

from sse_keepalive_proxy.errors import UpstreamError
from sse_keepalive_proxy.http.attempts import (
    Answer,
    Target,
    ask,
    error_response,
    is_stream,
    no_answer,
    no_stream,
)
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.net.tasks import spawn
from sse_keepalive_proxy.stream.messages import NotOpened
from sse_keepalive_proxy.stream.policy import Reconnect
from sse_keepalive_proxy.wire.block import last_id, last_retry

__all__ = ["Listener", "Refusal", "Reopening"]

_SENDABLE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]+")
_LONGEST_ID = 4096
"""Bytes of an id that is sent upstream: servers refuse long heads."""

Refusal = tuple[int, str]
"""What a client would have been answered: a status, and what happened in words."""


class Listener(Protocol):
    """The stream that is told what came of an attempt."""

    def reopened(self, answer: Answer) -> None:
        """Upstream answered with a stream. Whoever does not want it closes the exchange."""

    def not_reopened(self, failed: NotOpened, refusal: Refusal, cause: UpstreamError | ResponseHead) -> None:
        """It did not, or gave no answer: `cause`."""

    def fail(self, error: BaseException) -> None:
        """The proxy failed while it asked."""


class Reopening:
    """The attempts of one stream.

    `bare` is the head of its request without `Last-Event-ID` and the blank line at its end; `known` is the
    client's own id. `always`: also without an id. `policy` None: an answer is waited for, but not asked for
    again.
    """

    __slots__ = ("_always", "_bare", "_known", "_listener", "_policy", "_target", "_task", "wait")

    def __init__(
        self,
        target: Target,
        policy: Reconnect | None,
        bare: bytes = b"",
        known: bytes = b"",
        *,
        always: bool,
    ) -> None:
        self._target, self._policy, self._bare, self._always = target, policy, bare, always
        self._known = _sendable(known)
        self._task: asyncio.Task[Answer] | None = None
        self._listener: Listener | None = None
        self.wait = 0.0  # seconds that upstream's own `retry` asks for

    @property
    def allowed(self) -> bool:
        """Whether upstream may be asked again now."""
        return bool(self._bare) and (self._always or bool(self._known))

    @property
    def resumes(self) -> bool:
        """Whether upstream is told the id of the last event."""
        return bool(self._known)

    def read(self, blocks: bytes) -> bytes | None:
        """Remember the id and the `retry` in blocks that the client is given; returns the id, if any."""
        if (retry := last_retry(blocks)) is not None:
            self.wait = retry / 1000
        if (known := last_id(blocks)) is not None:
            self._known = _sendable(known)
        return known

    def start(self, listener: Listener) -> None:
        """Ask again."""
        field = b"Last-Event-ID: %b\r\n" % self._known if self._known else b""
        self.await_answer(spawn(ask(self._target, b"%b%b\r\n" % (self._bare, field))), listener)

    def await_answer(self, attempt: asyncio.Task[Answer], listener: Listener) -> None:
        """Wait for what comes of `attempt`."""
        self._task, self._listener = attempt, listener
        attempt.add_done_callback(self._over)

    def cancel(self) -> bool:
        """Nobody wants an answer any more. Returns whether one was still awaited."""
        return self._task is not None and self._task.cancel()

    def _over(self, attempt: asyncio.Task[Answer]) -> None:
        listener, self._listener, self._task = self._listener, None, None
        if attempt.cancelled() or listener is None:
            return
        error = attempt.exception()
        if isinstance(error, UpstreamError):
            listener.not_reopened(no_answer(error, self.wait), error_response(error), error)
        elif error is not None:
            listener.fail(error)
        else:
            self._judge(attempt.result(), listener)

    def _judge(self, answer: Answer, listener: Listener) -> None:
        failed = no_stream(answer.head, self._policy, self.wait)
        if failed is None:
            listener.reopened(answer)
            return
        answer.exchange.close()
        text = f"upstream answered with status {answer.head.status}"
        if is_stream(answer.head):
            text += ", but encoded its event stream though asked not to"
        elif answer.head.status < 300:
            text += ", but not with an event stream"
        listener.not_reopened(failed, (answer.head.status, text), answer.head)


def _sendable(known: bytes) -> bytes:
    """An id as it can be sent; nothing where a header field cannot hold it."""
    sendable = known.isalnum() or _SENDABLE.fullmatch(known) is not None  # most ids are numbers: cheap
    return known if sendable and len(known) <= _LONGEST_ID else b""
