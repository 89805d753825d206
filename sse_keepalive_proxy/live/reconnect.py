"""Reconnect to upstream for a stream whose response has begun.

This module keeps what a new request needs: the head, the id of the last event, and the wait that upstream
asks for. It owns the task of the current attempt. The lifecycle decides when to reconnect.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from sse_keepalive_proxy.errors import UpstreamError, UpstreamReset
from sse_keepalive_proxy.http.attempts import Answer, Attempt, Target, abandon, status_of
from sse_keepalive_proxy.http.cursors import Cursors
from sse_keepalive_proxy.http.exchange import Body, Exchange
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.net.tasks import spawn
from sse_keepalive_proxy.stream.late_error import LateStatus
from sse_keepalive_proxy.stream.messages import CloseReason, NotOpened
from sse_keepalive_proxy.stream.policy import Reconnect
from sse_keepalive_proxy.wire.block import last_id, last_retry

__all__ = ["AttemptCallbacks", "Reconnection", "no_answer", "no_stream"]

_SENDABLE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]+")
_UNAUTHORIZED = frozenset({401, 403})
_LONGEST_ID = 4096
"""Bytes: a longer id is not sent to upstream, because servers refuse long heads."""

_AT_ONCE = 1.0
_MOST_IN_VAIN = 10
"""An upstream that ends within so many seconds and sends no event, so many times in a row, has no more."""


class AttemptCallbacks(Protocol):
    """The result of an attempt, handled by the stream. Each attempt makes at most one of these calls."""

    @property
    def opened(self) -> bool:
        """Whether upstream had answered with a stream before this attempt."""

    def reopened(self, answer: Answer) -> None:
        """Handle an answer with a stream. The callee owns the exchange, and closes it if it is not needed."""

    def not_reopened(self, failed: NotOpened, late: LateStatus, cause: UpstreamError | ResponseHead) -> None:
        """Handle another answer, or an error: `cause`."""

    def fail(self, error: BaseException) -> None:
        """Handle an exception of the proxy itself."""

    def let_go(self, exchange: Exchange) -> None:
        """Take the exchange of an attempt that was cancelled after its request was sent."""

    def hasten(self, within: float) -> None:
        """Start the next attempt within so many seconds: upstream is back."""


class Reconnection:
    """The attempts of one stream, each made by `make` if it is given.

    `bare` is the head of the request without `Last-Event-ID` and without the final blank line. `known` is the
    id in the client's request, `cursors` the ids in its query. `always`: reconnect even without an id.
    `policy` None: wait for the first answer only.
    """

    __slots__ = (
        "_always", "_asked", "_bare", "_callbacks", "_cursors", "_exchange", "_fresh", "_in_vain", "_known",
        "_make", "_named", "_policy", "_target", "_task", "sent_at", "wait",
    )  # fmt: skip

    def __init__(
        self,
        target: Target,
        policy: Reconnect | None,
        bare: bytes = b"",
        known: bytes = b"",
        cursors: Cursors | None = None,
        *,
        always: bool,
        make: Callable[[Attempt], Coroutine[Any, Any, Answer]] | None = None,
    ) -> None:
        self._make = make
        self._target, self._policy, self._bare, self._always = target, policy, bare, always
        self._cursors = cursors
        self._fresh = True  # the client has got no event and no id yet
        self._known = self._asked = _sendable(known)  # `_asked`: the id of the latest request
        self._named = False  # whether upstream has sent an id since that request
        self._in_vain = 0
        self._task: asyncio.Task[Answer] | None = None
        self._callbacks: AttemptCallbacks | None = None
        self._exchange: Exchange | None = None  # that of the current attempt, when its request was sent
        self.sent_at: float | None = None  # when the latest attempt has sent its request, if it has
        self.wait = 0.0  # seconds, from the last `retry` of upstream

    @property
    def allowed(self) -> bool:
        """Whether the stream may reconnect now. A cursor that is no longer true must not be sent again
        (behaviour.md#cursors).
        """
        known, cursors = bool(self._known), self._cursors
        stale = cursors is not None and not self._fresh and not (known and cursors.renewable)
        return bool(self._bare) and (self._always or known) and not stale

    @property
    def resumes(self) -> bool:
        """Whether the next request carries the id of the last event."""
        return bool(self._known)

    def read(self, blocks: bytes) -> bytes | None:
        """Store the last id and `retry` in `blocks`, which the client gets. Return the id, or None."""
        if (retry := last_retry(blocks)) is not None:
            self.wait = retry / 1000
        if (known := last_id(blocks)) is not None:
            self._known, self._fresh, self._named = _sendable(known), False, True
        return known

    def may_have_more(self, events: int, lived: float) -> bool:
        """Return whether upstream, which has ended cleanly after `events` in `lived` seconds, may be asked
        again. It is not asked in a circle (behaviour.md#never-in-a-circle).
        """
        if self._policy is None or not self._policy.after_end:
            return False
        if self._named and self._asked and self._known == self._asked:
            return False  # it has sent the event again after which it was asked to go on
        self._in_vain = 0 if events or lived >= _AT_ONCE else self._in_vain + 1
        return self._always or self._in_vain < _MOST_IN_VAIN

    def saw_event(self) -> None:
        """Note that the client gets its first event."""
        self._fresh = False

    def expect(self, callbacks: AttemptCallbacks) -> None:
        """Hasten the next attempt when upstream is back."""
        if self._task is None:
            self._callbacks = callbacks
            self._target.openings.expect(callbacks)

    def start(self, callbacks: AttemptCallbacks) -> None:
        """Start an attempt."""
        self._target.openings.forget(callbacks)
        bare = self._bare
        if self._cursors is not None and not self._fresh:
            bare = self._cursors.renewed(self._known)
        self._asked, self._named = self._known, False
        head = self.resuming(bare) + b"\r\n"
        self.sent_at = None
        attempt = Attempt(self._target, head, sent=self._sent, let_go=callbacks.let_go, in_turn=True)
        self.await_answer(spawn(attempt.make() if self._make is None else self._make(attempt)), callbacks)

    def _sent(self, exchange: Exchange) -> None:
        self._exchange, self.sent_at = exchange, asyncio.get_running_loop().time()

    def resuming(self, bare: bytes) -> bytes:
        """Return `bare` with the id of the last event, if there is one, and without the final blank line."""
        return b"%bLast-Event-ID: %b\r\n" % (bare, self._known) if self._known else bare

    def ask_with(self, bare: bytes) -> None:
        """Ask upstream with the request `bare` from now on, for the same stream."""
        self._bare = bare
        self._asked, self._named = b"", False

    def await_answer(self, attempt: asyncio.Task[Answer], callbacks: AttemptCallbacks) -> None:
        """Call one of `callbacks` when `attempt` is done."""
        self._task, self._callbacks = attempt, callbacks
        attempt.add_done_callback(self._over)

    @property
    def busy(self) -> bool:
        """Whether an attempt is under way."""
        return self._task is not None

    def cancel(self) -> bool:
        """Cancel the current attempt. Return whether there was one."""
        attempt, callbacks = self._task, self._callbacks
        self._task = self._callbacks = self._exchange = None
        if callbacks is not None:
            self._target.openings.forget(callbacks)
        if attempt is None:
            return False
        abandon(attempt)
        return True

    @property
    def is_answered(self) -> bool:
        """Whether upstream has answered the current attempt with a stream, which is not handled yet."""
        return self._accepted() is not None

    def read_out(self) -> bytes:
        """Return the bytes that have come of the stream with which upstream has answered the current attempt.
        It must then be cancelled.
        """
        body = self._accepted()
        return b"" if body is None else body.read_out()[0]

    def _accepted(self) -> Body | None:
        attempt, exchange = self._task, self._exchange
        if attempt is None or exchange is None:
            return None
        body: Body = exchange
        if not attempt.done():
            head = exchange.answered()
        elif attempt.cancelled() or attempt.exception() is not None:
            return None
        else:
            head, body = attempt.result().head, attempt.result().body
        is_stream = head is not None and no_stream(head, self._policy, 0.0, opened=True) is None
        return body if is_stream else None

    def _over(self, attempt: asyncio.Task[Answer]) -> None:
        if attempt is not self._task:
            return  # it was cancelled
        callbacks, self._callbacks, self._task, self._exchange = self._callbacks, None, None, None
        if callbacks is None or attempt.cancelled():
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
        failed = no_stream(head, self._policy, self.wait, opened=callbacks.opened)
        if failed is None:
            callbacks.reopened(answer)
            return
        answer.exchange.close()
        text = f"upstream answered with status {head.status}"
        if head.is_event_stream:
            text += ", but encoded its event stream despite `Accept-Encoding: identity`"
        elif head.status < 300:
            text += ", but not with an event stream"
        callbacks.not_reopened(failed, (head.status, text), head)


def no_stream(head: ResponseHead, policy: Reconnect | None, wait: float, *, opened: bool) -> NotOpened | None:
    """Return None if `head` is a usable stream, otherwise its meaning for the stream. `wait`: the least
    seconds until the next attempt. `opened`: see `Reconnect.retries`.
    """
    if head.is_event_stream and not head.is_encoded:
        return None
    again = policy is not None and policy.retries(head.status, opened=opened)
    refused = head.status in _UNAUTHORIZED
    reason = CloseReason.UNAUTHORIZED if refused else CloseReason.UPSTREAM_STATUS
    return NotOpened(reason, again, max(head.retry_after, wait))


def no_answer(error: UpstreamError, wait: float) -> NotOpened:
    """Return what an error of upstream means for the stream. `wait`: see `no_stream`."""
    broke = isinstance(error, UpstreamReset)
    reason = CloseReason.UPSTREAM_RESET if broke else CloseReason.UPSTREAM_REFUSED
    return NotOpened(reason, again=True, at_least=wait)


def _sendable(known: bytes) -> bytes:
    """Return `known`, or `b""` if it is not valid in a header field or is too long."""
    sendable = known.isalnum() or _SENDABLE.fullmatch(known) is not None  # cheap for most ids
    return known if sendable and len(known) <= _LONGEST_ID else b""
