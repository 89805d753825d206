"""Upstream asked again for a stream whose response has begun.

Owns what it takes to send a stream's request again: its head, the id of the last event, how long upstream
wants to be left alone; and the task of the attempt that is under way. When to ask, the lifecycle decides.
"""

from __future__ import annotations

import asyncio
import re
from typing import Protocol

from sse_keepalive_proxy.errors import UpstreamError, UpstreamReset
from sse_keepalive_proxy.http.attempts import Answer, Attempt, Target, status_of
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.net.tasks import spawn
from sse_keepalive_proxy.stream.messages import CloseReason, NotOpened
from sse_keepalive_proxy.stream.policy import Reconnect
from sse_keepalive_proxy.wire.block import last_id, last_retry

__all__ = ["AttemptCallbacks", "LateStatus", "Reconnection", "no_answer", "no_stream"]

_SENDABLE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]+")
_UNAUTHORIZED = frozenset({401, 403})
_LONGEST_ID = 4096
"""Bytes of an id that is sent upstream: servers refuse long heads."""

LateStatus = tuple[int, str]
"""The status that a client would have got, had its response not begun, and what happened in words."""


class AttemptCallbacks(Protocol):
    """The stream, which hears what came of an attempt: one of these, once."""

    def reopened(self, answer: Answer) -> None:
        """Upstream answered with a stream. The callee closes the exchange if it does not want it."""

    def not_reopened(self, failed: NotOpened, late: LateStatus, cause: UpstreamError | ResponseHead) -> None:
        """Upstream answered with something else, or not at all: `cause`."""

    def fail(self, error: BaseException) -> None:
        """The proxy failed while it asked."""


class Reconnection:
    """The attempts of one stream.

    `bare` is the head of its request without `Last-Event-ID` and without the blank line at its end; `known`
    is the client's own id. `always`: ask also without an id. `policy` None: wait for an answer, but do not
    ask again.
    """

    __slots__ = ("_always", "_bare", "_callbacks", "_known", "_policy", "_target", "_task", "wait")

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
        self._callbacks: AttemptCallbacks | None = None
        self.wait = 0.0  # seconds that upstream's own `retry` asks for

    @property
    def allowed(self) -> bool:
        """Whether upstream may be asked again now."""
        return bool(self._bare) and (self._always or bool(self._known))

    @property
    def resumes(self) -> bool:
        """Whether the next request carries the id of the last event."""
        return bool(self._known)

    def read(self, blocks: bytes) -> bytes | None:
        """Remember the id and the `retry` in blocks that the client gets. Return the id, if there is one."""
        if (retry := last_retry(blocks)) is not None:
            self.wait = retry / 1000
        if (known := last_id(blocks)) is not None:
            self._known = _sendable(known)
        return known

    def start(self, callbacks: AttemptCallbacks) -> None:
        """Ask again."""
        field = b"Last-Event-ID: %b\r\n" % self._known if self._known else b""
        attempt = Attempt(self._target, b"%b%b\r\n" % (self._bare, field))
        self.await_answer(spawn(attempt.make()), callbacks)

    def await_answer(self, attempt: asyncio.Task[Answer], callbacks: AttemptCallbacks) -> None:
        """Call one of `callbacks` when `attempt` is over."""
        self._task, self._callbacks = attempt, callbacks
        attempt.add_done_callback(self._over)

    def cancel(self) -> bool:
        """Give up the attempt that is under way. Return whether there was one."""
        return self._task is not None and self._task.cancel()

    def _over(self, attempt: asyncio.Task[Answer]) -> None:
        callbacks, self._callbacks, self._task = self._callbacks, None, None
        if attempt.cancelled() or callbacks is None:
            return
        error = attempt.exception()
        if isinstance(error, UpstreamError):
            callbacks.not_reopened(no_answer(error, self.wait), status_of(error), error)
        elif error is not None:
            callbacks.fail(error)
        else:
            self._judge(attempt.result(), callbacks)

    def _judge(self, answer: Answer, callbacks: AttemptCallbacks) -> None:
        head = answer.head
        failed = no_stream(head, self._policy, self.wait)
        if failed is None:
            callbacks.reopened(answer)
            return
        answer.exchange.close()
        text = f"upstream answered with status {head.status}"
        if head.is_event_stream:
            text += ", but encoded its event stream though asked not to"
        elif head.status < 300:
            text += ", but not with an event stream"
        callbacks.not_reopened(failed, (head.status, text), head)


def no_stream(head: ResponseHead, policy: Reconnect | None, wait: float) -> NotOpened | None:
    """Return what an answer means to the stream; None when it is a stream for it. `wait`: seconds that
    upstream wants to be left alone in any case.
    """
    if head.is_event_stream and not head.is_encoded:
        return None
    again = policy is not None and head.status in policy.on_status
    refused = head.status in _UNAUTHORIZED
    reason = CloseReason.UNAUTHORIZED if refused else CloseReason.UPSTREAM_STATUS
    return NotOpened(reason, again, max(head.retry_after, wait))


def no_answer(error: UpstreamError, wait: float) -> NotOpened:
    """Return what a fault of upstream means to the stream. `wait` is that of `no_stream`."""
    broke = isinstance(error, UpstreamReset)
    reason = CloseReason.UPSTREAM_RESET if broke else CloseReason.UPSTREAM_REFUSED
    return NotOpened(reason, again=True, at_least=wait)


def _sendable(known: bytes) -> bytes:
    """Return an id as it can be sent; nothing where a header field cannot hold it."""
    sendable = known.isalnum() or _SENDABLE.fullmatch(known) is not None  # most ids are numbers: cheap
    return known if sendable and len(known) <= _LONGEST_ID else b""
