"""One stream from its request to its last byte: what becomes of it, and who does what for it.

The lifecycle decides, the relay passes bytes on, the client's side and upstream's report here; so does time.
Deadlines are lazy: bytes never touch them.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

from sse_keepalive_proxy.errors import ProxyError, UpstreamError
from sse_keepalive_proxy.http.attempts import Answer
from sse_keepalive_proxy.http.exchange import Exchange
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.live.downstream import Downstream, TakeOver
from sse_keepalive_proxy.live.reconnect import Refusal, Reopening
from sse_keepalive_proxy.live.relay import Relay
from sse_keepalive_proxy.live.route import BROKEN, REFUSED, StreamRoute, log_fields
from sse_keepalive_proxy.observe.line import now_rfc3339
from sse_keepalive_proxy.stream import messages
from sse_keepalive_proxy.stream.frames import OK
from sse_keepalive_proxy.stream.lifecycle import Lifecycle
from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import ConfirmForm
from sse_keepalive_proxy.stream.states import ReconnectResult, State

__all__ = ["Stream"]

logger = logging.getLogger("sse_keepalive_proxy.stream")


class Stream:
    """Ends with exactly one `close_reason`, or with none when it never began.

    Made while upstream is asked (`connecting`), so that limits and metrics see it; `begin` takes the client,
    `commit` or `commit_early` gives it its response. `reopening` is how upstream can be asked again, if it
    can be. `claims` are the client's, for a confirm that is still to come.
    """

    __slots__ = (
        "_events_before", "_exchange", "_form", "_loop", "_paused", "_refusal", "_reopening", "_settle",
        "_wakes_at", "claims", "client", "flow", "life", "opened_at", "ping_form", "pings",
        "reconnects", "route", "route_name", "stalls", "stream_id", "target",
    )  # fmt: skip

    def __init__(
        self,
        route: StreamRoute,
        *,
        stream_id: str,
        client: str,
        target: str,
        reopening: Reopening | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.route, self.route_name, self.ping_form = route, route.name, route.ping_form
        self.stream_id, self.client, self.target = stream_id, client, target
        self.opened_at = self._loop.time()
        self.life = Lifecycle(route.policy, self.opened_at, random.random)
        self.flow = Relay(self, route, self.life, reopening)
        self._reopening = reopening
        self._exchange: Exchange | None = None
        self._settle: Callable[[Answer | None], None] | None = None
        self._refusal: Refusal | None = None
        self.claims: Mapping[str, Any] | None = None
        self._wakes_at: float | None = None
        self._form: ConfirmForm | None = None
        self._paused = False
        self._events_before = self.pings = self.stalls = self.reconnects = 0

    # The beginning.

    def begin(self, take_over: TakeOver, form: ConfirmForm | None, *, chunked: bool) -> bool:
        """Take the client over; false when it has gone, or cannot be kept. `form` is the confirm's for this
        client; `chunked` whether the body needs chunked coding.
        """
        self._form, policy = form, self.route.policy
        try:
            self.flow.down = Downstream(self, take_over, chunked=chunked, write_timeout=policy.write_timeout)
        except Exception as error:  # noqa: BLE001 (it is logged)
            self.route.metrics.streams_opened += 1
            self.route.metrics.confirm_failures += 1
            self.client_lost(None) if isinstance(error, ConnectionError) else self.fail(error)
            return False
        if self.flow.down.waiting:  # of an earlier answer; its writer was told, not we
            self.client_blocked()
        if policy.max_age is not None:
            age = policy.max_age * (1 - 0.2 * random.random())  # noqa: S311 (spreads clients)
            self.leave(self.opened_at + age, CloseReason.MAX_AGE)
        return True

    def commit(self, head: bytes, exchange: Exchange) -> None:
        """Upstream has answered with a stream: write `head` and the confirm, and relay from here on."""
        try:
            self._open(exchange, head)
        except Exception as error:  # noqa: BLE001 (it is logged)
            self.fail(error)

    def commit_early(
        self, head: bytes, opening: asyncio.Task[Answer], settle: Callable[[Answer | None], None]
    ) -> None:
        """Write `head` while `opening` goes on. `settle` is told its answer, None for a refusal."""
        self._settle = settle
        self.life.handle(messages.CommitEarly(), self._loop.time())
        self._commit(head, confirm=False)
        self.flow.flush()
        if self._reopening is not None:
            self._reopening.await_answer(opening, self)
        self._arm()

    def _open(self, exchange: Exchange, head: bytes = b"", *, resumed: bool = False) -> None:
        """Upstream's body comes from `exchange` from now on."""
        policy, now = self.route.policy, self._loop.time()
        if self.life.opened_at is None:
            self.route.metrics.upstream_time_to_headers_seconds.observe(now - self.opened_at)
        self._exchange, self._events_before = exchange, self.flow.events
        wait = policy.confirm.wait if policy.confirm and self._form is ConfirmForm.EVENT else 0.0
        for command in self.life.handle(messages.Opened(wait, resumed), now):
            if isinstance(command, messages.Commit):
                self._commit(head, confirm=command.confirm)
            else:
                self._do((command,))
        exchange.attach(self.flow, paused=self._paused)
        self.flow.flush()
        self._arm()

    def _commit(self, head: bytes, *, confirm: bool) -> None:
        self.route.metrics.streams_opened += 1
        frames, form, first = self.route.frames, self._form, OK
        if confirm and form is ConfirmForm.EVENT:
            first = frames.confirm(claims=self.claims, **self._moment())
        self.flow.begin_with(head, frames.first(form, first))
        if confirm:
            self.claims = None
        if form is not None and (confirm or form is ConfirmForm.COMMENT):
            self.route.metrics.confirms_sent[form] += 1
        self.route.opened(self, self.target)

    # Upstream, lost and found.

    def upstream_ended(self) -> None:
        """Upstream's body is whole."""
        if self.flow.events - self._events_before == 1:
            self.route.metrics.upstream_eof_after_first_event += 1
        self._lost(CloseReason.UPSTREAM_END)

    def upstream_failed(self, error: ProxyError) -> None:
        """Upstream's body broke off."""
        if isinstance(error, UpstreamError):
            self.route.metrics.upstream_error(error)
        self._lost(CloseReason.UPSTREAM_RESET)

    def _lost(self, reason: CloseReason) -> None:
        self._exchange = None
        self._tell(messages.UpstreamLost(reason, self.life.retry))
        if self.life.state is State.RECONNECTING:
            self._start_over(reason)

    def _let_go(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close()

    def _start_over(self, reason: CloseReason) -> None:
        self.route.lost(self, self.target, reason)
        self.flow.start_over()

    def reopened(self, answer: Answer) -> None:
        """Upstream answered behind the client's back."""
        if self.life.state is State.DRAINING:
            answer.exchange.close()
            return
        again = self.life.state is State.RECONNECTING
        try:
            self._exchange, self._refusal = answer.exchange, None
            settle, self._settle = self._settle, None  # a stream lives long: its request need not
            if settle is not None:
                settle(answer)
            if again:
                self.reconnects += 1
                self.route.metrics.upstream_reconnects[ReconnectResult.REOPENED] += 1
            resumed = again and self._reopening is not None and self._reopening.resumes
            self._open(answer.exchange, resumed=resumed)
        except Exception as error:  # noqa: BLE001 (it is logged)
            self.fail(error)

    def not_reopened(
        self, failed: messages.NotOpened, refusal: Refusal, cause: UpstreamError | ResponseHead
    ) -> None:
        """It did not answer, or not with a stream."""
        self.route.not_back(self, self.target, cause, refusal[1], again=refusal == self._refusal)
        self._refusal = refusal
        again = self.life.state is State.RECONNECTING
        self._tell(failed)
        if again:
            result = ReconnectResult.FAILED if self.life.close_reason is None else ReconnectResult.ENDED
            self.route.metrics.upstream_reconnects[result] += 1

    # The client's side.

    def client_blocked(self) -> None:
        """Bytes wait for the client."""
        if self.flow.down is not None:
            self._tell(messages.Blocked(self.flow.down.taken))
        self.apply_backpressure()

    def client_unblocked(self) -> None:
        """Everything that waited has left."""
        self._tell(messages.Unblocked())
        if self._paused:
            self._paused = False
            self._tell(messages.Resumed())
            if self._exchange is not None:
                self._exchange.resume()

    def client_left(self) -> None:
        """It has closed its side."""
        self._tell(messages.ClientGone())

    def client_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        # A TimeoutError is TCP_USER_TIMEOUT's: the kernel may notice a stalled client before we do.
        stalled = isinstance(exc, TimeoutError)
        self._tell(messages.Fault(CloseReason.CLIENT_STALLED) if stalled else messages.ClientGone())
        self.flow.retire()
        self._arm()
        self.route.registry.remove(self)

    def leave(self, at: float, reason: CloseReason) -> None:
        """End this stream at `at` (loop time), at a block boundary."""
        self._tell(messages.LeaveAt(at, reason))

    def cut(self) -> None:
        """End this stream now, whatever still waits for its client."""
        if self.flow.down is not None:
            self._tell(messages.Fault(CloseReason.DRAIN))
            self.flow.down.abort()

    def apply_backpressure(self) -> None:
        """Pause upstream while more than `max_buffer` waits for the client."""
        down, exchange = self.flow.down, self._exchange
        if self._paused or down is None or exchange is None:
            return
        if down.waiting > self.route.policy.max_buffer:
            self._paused = True
            exchange.pause()
            self._tell(messages.Paused())

    # What the lifecycle wants done.

    def _tell(self, event: messages.Event) -> None:
        self.execute(self.life.handle(event, self._loop.time()))

    def execute(self, commands: tuple[messages.Command, ...]) -> None:
        """Do what the lifecycle wants done, and be woken when it wants to be asked again."""
        self._do(commands)
        self._arm()

    def _do(self, commands: tuple[messages.Command, ...]) -> None:
        route, flow = self.route, self.flow
        for command in commands:
            match command:
                case messages.Ping(idle_for=idle_for):
                    self.pings += 1
                    flow.inject(route.frames.ping(idle_for=idle_for, after_id=flow.id_seen, **self._moment()))
                case messages.Confirm():
                    self._confirm()
                case messages.Drop():
                    self._let_go()
                    self._start_over(CloseReason.STALLED)
                case messages.Reopen():
                    if self._reopening is not None:
                        self._reopening.start(self)
                case messages.Announce():
                    flow.inject(route.recovered(self, self.target, command, self._form, flow.id_seen))
                case messages.Stalled(silent_for=silent_for):
                    self.stalls += 1
                    flow.inject(route.stalled(self.stream_id, silent_for, self._form, flow.id_seen))
                case messages.Recovered(silent_for=silent_for):
                    route.metrics.recovered(silent_for)
                case messages.SilenceEnded(seconds=seconds):
                    route.metrics.upstream_silence_seconds.observe(seconds)
                case messages.Close(reason=reason):
                    self._close(reason)
                case messages.Abort():
                    if flow.down is not None:
                        flow.down.reset()
                case messages.Commit():
                    raise AssertionError("a stream is committed once, in commit() or commit_early()")

    def fail(self, error: BaseException) -> None:
        """An exception that nothing foresaw ends this stream and no other."""
        text = "a stream failed inside the proxy; please report this"
        logger.error(text, extra=log_fields(self, self.target), exc_info=error)
        self._tell(messages.Fault(CloseReason.INTERNAL))

    def _confirm(self) -> None:
        if self._form is ConfirmForm.EVENT:
            self.flow.inject(self.route.frames.confirm(claims=self.claims, **self._moment()))
            self.route.metrics.confirms_sent[ConfirmForm.EVENT] += 1
        self.claims = None

    def _close(self, reason: CloseReason) -> None:
        self._let_go()
        if self._reopening is not None and self._reopening.cancel() and reason is CloseReason.GIVE_UP:
            self.route.metrics.upstream_reconnects[ReconnectResult.ENDED] += 1
        late = reason in REFUSED and self.life.opened_at is None
        down, refusal = self.flow.down, self._refusal if late else None
        if down is not None:
            told = self.route.farewell(reason, self._form, refusal)
            self.flow.inject(told)
            if reason is CloseReason.CLIENT_STALLED:
                down.reset()
            else:
                down.end(whole=reason not in BROKEN or bool(told))
        if self._settle is not None and refusal is not None:
            self._settle(None)
        self.route.closed(self, reason, self._loop.time(), refusal)

    def _moment(self) -> dict[str, str]:
        return {"stream_id": self.stream_id, "now": now_rfc3339()}

    def _arm(self) -> None:
        """Be woken at the next deadline. An earlier alarm stays: it will find out."""
        down, timers = self.flow.down, self.route.timers
        over = down is None or (self.life.close_reason is not None and not down.waiting)  # or about to be
        due = None if over else self.life.next_deadline()
        if self._wakes_at is not None:
            if due is not None and self._wakes_at <= due:
                return
            timers.cancel(self, self._wakes_at)
        self._wakes_at = due
        if due is not None:
            timers.schedule(self, due)

    def wake(self) -> None:
        """The alarm rings."""
        now, self._wakes_at = max(self._loop.time(), self._wakes_at or 0.0), None
        taken = self.flow.down.taken if self.flow.down is not None and self.life.blocked else 0
        try:
            self.execute(self.life.handle_timer(now, taken, unfinished=self.flow.unfinished))
            if self.life.confirm_at is None and self.life.opened_at is not None:
                self.claims = None  # upstream spoke first: no confirm will ask for them
        except Exception as error:  # noqa: BLE001 (it is logged)
            self.fail(error)
