"""One stream: the only writer to its client, and the sink of its upstream.

The way of a byte: upstream's read -> `data` -> `Framer.feed` (whole blocks; the tail waits) -> one write
to the client's transport -> two timestamps. No task, queue or timer on that way. The lifecycle is asked
when something happens or its deadline fires; its answers are carried out here.

Backpressure: the transport reports as soon as one byte waits in it (its high-water mark is 0), which
is when pings stop and the client's write deadline runs; past `max_buffer` upstream's reading is paused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from sse_keepalive_proxy.errors import EventTooLarge, ProxyError, UpstreamError
from sse_keepalive_proxy.observe.log import now_rfc3339
from sse_keepalive_proxy.proxy.client_socket import reset, untaken, watch
from sse_keepalive_proxy.proxy.stream_route import StreamRoute, who
from sse_keepalive_proxy.stream import messages
from sse_keepalive_proxy.stream.lifecycle import Lifecycle
from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import ConfirmForm
from sse_keepalive_proxy.upstream.http import Exchange
from sse_keepalive_proxy.wire.block import carries_id, tally
from sse_keepalive_proxy.wire.framing import Framer

__all__ = ["Relay"]

logger = logging.getLogger("sse_keepalive_proxy.stream")

_BROKEN = frozenset({CloseReason.UPSTREAM_RESET, CloseReason.CLIENT_STALLED})
"""Endings that must not look like the end of a whole body: no last chunk."""


class Relay(asyncio.Protocol):
    """A stream from its response head to its last byte.

    Made while upstream is asked (`connecting`), so that limits and metrics see it; `begin` takes the
    client's transport. Ends with exactly one `close_reason`, or with none when it never began.
    """

    __slots__ = (
        "_chunked", "_exchange", "_form", "_framer", "_id_seen", "_least", "_lf_given", "_looks", "_loop",
        "_now", "_paused", "_timer", "_timer_at", "_transport", "_written", "client", "comments", "event_at",
        "events", "life", "opened_at", "pings", "route", "route_name", "sent_synthetic", "sent_upstream",
        "stalls", "stream_id", "target", "upstream_bytes",
    )  # fmt: skip

    def __init__(self, route: StreamRoute, *, stream_id: str, client: str, target: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self.route, self.route_name = route, route.name
        self.stream_id, self.client, self.target = stream_id, client, target
        self.opened_at = self._now()
        self.life = Lifecycle(route.policy, self.opened_at)
        self._framer = Framer(route.policy.max_event)
        self._exchange: Exchange | None = None
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._form: ConfirmForm | None = None
        self._chunked = self._paused = self._id_seen = self._lf_given = False
        self._least, self._looks = route.least, route.looks
        self._timer_at, self._written = 0.0, 0
        self.event_at: float | None = None
        self.upstream_bytes = self.events = self.comments = self.pings = self.stalls = 0
        self.sent_upstream = self.sent_synthetic = 0

    def begin(
        self,
        take_over: Callable[[asyncio.BaseProtocol], asyncio.Transport],
        exchange: Exchange,
        head: bytes,
        form: ConfirmForm | None,
        *,
        chunked: bool,
    ) -> None:
        """Write `head` and the confirm, and relay from here on.

        `take_over` gives the client's transport; it raises ConnectionError when the client has gone.
        `form` is the confirm's for this client; `chunked` whether the body needs chunked coding.
        """
        now = self._now()
        self._exchange, self._form, self._chunked = exchange, form, chunked
        metrics = self.route.metrics
        metrics.opened(now - self.opened_at)
        try:
            self._transport = transport = take_over(self)
        except ConnectionError:
            metrics.confirm_failures.inc()
            self._tell(messages.ClientGone())
            self.route.registry.remove(self)
            return
        try:
            self._start(transport, exchange, head, now)
        except Exception:  # noqa: BLE001 (it is logged)
            self._broke()

    def _start(self, transport: asyncio.Transport, exchange: Exchange, head: bytes, now: float) -> None:
        confirm = self.route.policy.confirm
        transport.set_write_buffer_limits(high=0)
        watch(transport, self.route.policy.write_timeout)
        if transport.get_write_buffer_size():  # of an earlier answer; its writer was told, not we
            self.pause_writing()
        wait = confirm.wait if confirm is not None and self._form is ConfirmForm.EVENT else 0.0
        for command in self.life.handle(messages.Opened(wait), now):
            if isinstance(command, messages.Commit):
                self._commit(head, confirm=command.confirm)
        self.route.opened(self, self.target)
        exchange.attach(self)
        if self._paused:  # by what we said ourselves; attaching has set upstream going
            exchange.pause()
        self._arm()

    def _commit(self, head: bytes, *, confirm: bool) -> None:
        if first := self.route.frames.first(self._form, confirm=confirm, **self._moment()):
            self._first_byte(self._now())
            self.sent_synthetic += len(first)
            head += self._coded(first)
        self._put(head)
        if self._form is not None and (confirm or self._form is ConfirmForm.COMMENT):
            self.route.metrics.confirmed(self._form)

    # The way of a byte: upstream's sink.

    def data(self, data: bytes) -> None:
        """Bytes of upstream's body."""
        self.upstream_bytes += len(data)
        try:
            blocks = self._framer.feed(data)
            if blocks:
                self._forward(blocks)
            else:
                self._received(self._now(), self._least == 0)
        except EventTooLarge as error:
            if error.blocks:
                self._forward(error.blocks)
            self._tell(messages.Fault(CloseReason.EVENT_TOO_LARGE))
        except Exception:  # noqa: BLE001 (it is logged)
            self._broke()

    def _forward(self, blocks: bytes) -> None:
        events, comments, plain = tally(blocks)
        least = self._least
        alive = events > 0 if least == 2 else events + comments > 0 or least == 0
        if not plain:
            self.comments += comments
            self._id_seen = self._id_seen or carries_id(blocks)
        if self._looks:
            blocks, alive = self.route.look(blocks, alive)
        now = self._now()
        if not self.events:
            self._first_byte(now)
            if events:
                self.route.metrics.time_to_first_event.observe(now - self.opened_at)
        if events:
            self.events += events
            self.event_at = now
        self._received(now, alive)
        if self._lf_given:
            self._lf_given = False
            blocks = blocks.removeprefix(b"\n")
            if not blocks:
                return  # as a chunk, nothing would be the end
        transport = self._transport
        if transport is not None:
            frame = b"%x\r\n%b\r\n" % (len(blocks), blocks) if self._chunked else blocks
            self._written += len(frame)
            self.sent_upstream += len(blocks)
            self.life.written_at = now
            transport.write(frame)
            if self.life.blocked:
                self._mind_buffer()

    def _received(self, now: float, alive: bool) -> None:
        commands = self.life.received(now, alive)
        if commands or self._timer is None:
            self._do(commands)
            self._arm()

    def end(self) -> None:
        """Upstream's body is whole. A block without its blank line is dropped: a client would drop it."""
        if self.events == 1:
            self.route.metrics.eof_after_first_event.inc()
        self._tell(messages.UpstreamEnded())

    def failed(self, error: ProxyError) -> None:
        """Upstream's body broke off."""
        if isinstance(error, UpstreamError):
            self.route.metrics.upstream_error(error)
        self._tell(messages.UpstreamEnded(reset=True))

    # The client's side: asyncio's protocol.

    def data_received(self, data: bytes) -> None:
        """What a client sends behind its request is no part of a stream."""

    def eof_received(self) -> None:
        """A half-close counts as leaving (law 8); the transport closes by itself."""
        self._tell(messages.ClientGone())

    def pause_writing(self) -> None:
        if self._transport is not None:
            self._tell(messages.Blocked(self._written - untaken(self._transport)))
        self._mind_buffer()

    def resume_writing(self) -> None:
        self._tell(messages.Unblocked())
        if self._paused and self._exchange is not None:
            self._paused = False
            self._tell(messages.Resumed())
            self._exchange.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        # A TimeoutError is TCP_USER_TIMEOUT's: the kernel may notice a stalled client before we do.
        stalled = isinstance(exc, TimeoutError)
        self._tell(messages.Fault(CloseReason.CLIENT_STALLED) if stalled else messages.ClientGone())
        self._transport = None
        self._arm()
        self.route.registry.remove(self)

    def leave(self, at: float, reason: CloseReason) -> None:
        """End this stream at `at` (loop time), at a block boundary."""
        self._tell(messages.LeaveAt(at, reason))

    def cut(self) -> None:
        """End this stream now, whatever still waits for its client."""
        if self._transport is not None:
            self._tell(messages.Fault(CloseReason.DRAIN))
            self._transport.abort()

    # What the lifecycle wants done.

    def _tell(self, event: messages.Event) -> None:
        self._do(self.life.handle(event, self._now()))
        self._arm()

    def _do(self, commands: tuple[messages.Command, ...]) -> None:
        frames, metrics = self.route.frames, self.route.metrics
        for command in commands:
            match command:
                case messages.Ping(idle_for=idle_for):
                    self.pings += 1
                    self._inject(frames.ping(idle_for=idle_for, after_id=self._id_seen, **self._moment()))
                case messages.Confirm():
                    self._inject(frames.confirm(**self._moment()))
                    metrics.confirmed(ConfirmForm.EVENT)
                case messages.Stalled(silent_for=silent_for):
                    self.stalls += 1
                    self._inject(self.route.stalled(self.stream_id, silent_for, self._form, self._id_seen))
                case messages.Recovered(silent_for=silent_for):
                    metrics.recovered(silent_for)
                case messages.SilenceEnded(seconds=seconds):
                    metrics.silence.observe(seconds)
                case messages.Close(reason=reason):
                    self._close(reason)
                case messages.Abort():
                    if self._transport is not None:
                        reset(self._transport)
                case messages.Commit():
                    raise AssertionError("a stream is committed once, in begin()")

    def _broke(self) -> None:
        """An exception that nothing foresaw ends this stream and no other."""
        logger.exception("a stream failed inside the proxy; please report this", extra=who(self, self.target))
        self._tell(messages.Fault(CloseReason.INTERNAL))

    def _close(self, reason: CloseReason) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close()
        transport = self._transport
        if transport is not None:
            self._inject(self.route.closing(reason, self._form))
            if reason is CloseReason.CLIENT_STALLED:
                reset(transport)
            elif self._chunked and reason not in _BROKEN:
                self._put(b"0\r\n\r\n")
            transport.close()
        self.route.closed(self, reason, self._now())

    # Bytes to the client.

    def _moment(self) -> dict[str, str]:
        return {"stream_id": self.stream_id, "now": now_rfc3339()}

    def _inject(self, frame: bytes) -> None:
        """Write a frame of our own: always between two blocks, since only whole ones were forwarded.
        Where the last one ended in a bare CR, the LF comes first and upstream's own is dropped (law 2).
        """
        if not frame:
            return
        now = self._now()
        self._first_byte(now)
        if self._framer.after_cr and not self._lf_given:
            self._lf_given = True
            frame = b"\n" + frame
        self.sent_synthetic += len(frame)
        self._put(self._coded(frame))
        self.life.written_at = now

    def _first_byte(self, now: float) -> None:
        """A body byte is about to be written: is it the first?"""
        if not self.sent_upstream and not self.sent_synthetic:
            self.route.metrics.time_to_first_byte.observe(now - self.opened_at)

    def _coded(self, body: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(body), body) if self._chunked else body

    def _put(self, data: bytes) -> None:
        transport = self._transport
        if transport is not None and not transport.is_closing():
            self._written += len(data)
            transport.write(data)

    def _mind_buffer(self) -> None:
        transport, exchange = self._transport, self._exchange
        if self._paused or transport is None or exchange is None:
            return
        if transport.get_write_buffer_size() > self.route.policy.max_buffer:
            self._paused = True
            exchange.pause()
            self._tell(messages.Paused())

    def _arm(self) -> None:
        """Have the timer fire at the next deadline. An earlier timer stays: it will find out."""
        due = self.life.next_deadline() if self._transport is not None else None
        if self._timer is not None:
            if due is not None and self._timer_at <= due:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer_at = due
            self._timer = self._loop.call_at(due, self._fire)

    def _fire(self) -> None:
        self._timer = None
        transport = self._transport
        waiting = untaken(transport) if transport is not None and self.life.blocked else 0
        try:
            self._do(self.life.handle_timer(self._now(), self._written - waiting))
        except Exception:  # noqa: BLE001 (it is logged)
            self._broke()
        self._arm()
