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
import random
import socket
from collections.abc import Callable
from typing import Any

from sse_keepalive_proxy.errors import EventTooLarge, ProxyError, UpstreamError
from sse_keepalive_proxy.observe.log import now_rfc3339
from sse_keepalive_proxy.observe.metrics import RouteMetrics
from sse_keepalive_proxy.observe.registry import Registry
from sse_keepalive_proxy.stream import lifecycle as life
from sse_keepalive_proxy.stream.frames import Frames
from sse_keepalive_proxy.stream.lifecycle import CloseReason, Lifecycle
from sse_keepalive_proxy.stream.policy import ConfirmForm, SignOfLife, StallAction, StreamPolicy
from sse_keepalive_proxy.upstream.http import Exchange
from sse_keepalive_proxy.wire.block import carries_id, parse, split, tally, unname
from sse_keepalive_proxy.wire.framing import Framer

__all__ = ["Relay", "StreamRoute"]

logger = logging.getLogger("sse_keepalive_proxy.stream")
access = logging.getLogger("sse_keepalive_proxy.access")

_RETRY_MS = (1000, 5000)
"""A client that we send away comes back after this many milliseconds, drawn anew for each."""

_OURS = frozenset({CloseReason.STALLED, CloseReason.EVENT_TOO_LARGE, CloseReason.DRAIN, CloseReason.INTERNAL})
"""Endings of our own making: these are announced with `stream_closing`. (A stalled client takes none.)"""

_BROKEN = frozenset({CloseReason.UPSTREAM_RESET, CloseReason.CLIENT_STALLED})
"""Endings that must not look like the end of a whole body: no last chunk."""


class StreamRoute:
    """What all streams of a route share: the policy, made ready for use."""

    __slots__ = (
        "frames",
        "ignored_events",
        "ignored_types",
        "least",
        "metrics",
        "name",
        "notifies",
        "policy",
        "registry",
        "unname",
    )

    def __init__(self, name: str, policy: StreamPolicy, metrics: RouteMetrics, registry: Registry) -> None:
        self.name, self.policy, self.metrics, self.registry = name, policy, metrics, registry
        self.frames = Frames(policy, name)
        self.unname = frozenset(event.encode() for event in policy.unname)
        stall = policy.stall
        self.notifies = stall is not None and stall.action is StallAction.NOTIFY
        # The least that counts as life, as a number: 0 any byte, 1 a comment, 2 an event.
        self.least = 0 if stall is None else list(SignOfLife).index(stall.sign_of_life)
        self.ignored_events = frozenset() if stall is None else stall.ignore_events
        self.ignored_types = frozenset() if stall is None else stall.ignore_types

    @property
    def looks(self) -> bool:
        """Whether blocks have to be looked into: some are rewritten, or no sign of life."""
        return bool(self.unname or (self.least and (self.ignored_events or self.ignored_types)))

    def counts(self, block: bytes) -> bool:
        """Whether one block is a sign of life where some events are not."""
        read = parse(block)
        if not read.is_event:
            return self.least < 2 and read.is_comment
        if (read.name or b"message").decode("utf-8", "replace") in self.ignored_events:
            return False
        return not self.ignored_types or read.json_type not in self.ignored_types


class Relay(asyncio.Protocol):
    """A stream from its response head to its last byte.

    Made while upstream is asked (`connecting`), so that limits and metrics see it; `begin` takes the
    client's transport. Ends with exactly one `close_reason`, or with none when it never began.
    """

    __slots__ = (
        "_chunked",
        "_exchange",
        "_form",
        "_framer",
        "_id_seen",
        "_least",
        "_lf_given",
        "_looks",
        "_loop",
        "_now",
        "_paused",
        "_route",
        "_timer",
        "_timer_at",
        "_transport",
        "_written",
        "client",
        "comments",
        "event_at",
        "events",
        "life",
        "opened_at",
        "pings",
        "sent_synthetic",
        "sent_upstream",
        "stalls",
        "stream_id",
        "target",
        "upstream_bytes",
    )

    def __init__(self, route: StreamRoute, *, stream_id: str, client: str, target: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._route = route
        self.stream_id, self.client, self.target = stream_id, client, target
        self.opened_at = self._now()
        self.life = Lifecycle(route.policy, self.opened_at)
        self._framer = Framer(route.policy.max_event)
        self._exchange: Exchange | None = None
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._form: ConfirmForm | None = None
        self._chunked = False
        self._paused = False
        self._id_seen = False
        self._lf_given = False
        self._looks = route.looks
        self._least = route.least
        self._written = 0
        self.event_at: float | None = None
        self.upstream_bytes = self.events = self.comments = self.pings = self.stalls = 0
        self.sent_upstream = self.sent_synthetic = 0

    @property
    def route(self) -> StreamRoute:
        """The route it belongs to."""
        return self._route

    @property
    def route_name(self) -> str:
        """The route's name, as in labels."""
        return self._route.name

    # The beginning.

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
        self._route.metrics.opened()
        self._route.metrics.time_to_headers.observe(now - self.opened_at)
        try:
            transport = take_over(self)
        except ConnectionError:
            self._route.metrics.confirm_failures.inc()
            self._tell(life.ClientGone())
            self._route.registry.remove(self)
            return
        self._transport = transport
        transport.set_write_buffer_limits(high=0)
        _watch_peer(transport, self._route.policy.write_timeout)
        confirm = self._route.policy.confirm
        wait = confirm.wait if confirm is not None and form is ConfirmForm.EVENT else 0.0
        for command in self.life.handle(life.Opened(wait), now):
            if isinstance(command, life.Commit):
                self._commit(head, confirm=command.confirm, now=now)
        access.info("stream open", extra=self._who(client=self.client, target=self.target))
        exchange.attach(self)
        self._arm()

    def _commit(self, head: bytes, *, confirm: bool, now: float) -> None:
        first = self._route.frames.first(
            self._form, confirm=confirm, stream_id=self.stream_id, now=now_rfc3339()
        )
        self._put(head + self._coded(first) if first else head)
        self.sent_synthetic += len(first)
        if first:
            self._route.metrics.time_to_first_byte.observe(now - self.opened_at)
        if self._form is not None and (confirm or self._form is ConfirmForm.COMMENT):
            self._route.metrics.confirmed(self._form)

    # The way of a byte: upstream's sink.

    def data(self, data: bytes) -> None:
        """Bytes of upstream's body."""
        self.upstream_bytes += len(data)
        try:
            blocks = self._framer.feed(data)
            if blocks:
                self._forward(blocks)
            elif commands := self.life.received(self._now(), self._least == 0):
                self._do(commands)
                self._arm()
        except EventTooLarge as error:
            if error.blocks:
                self._forward(error.blocks)
            self._tell(life.Fault(CloseReason.EVENT_TOO_LARGE))
        except Exception:
            logger.exception("a stream failed inside the proxy; please report this", extra=self._who())
            self._tell(life.Fault(CloseReason.INTERNAL))

    def _forward(self, blocks: bytes) -> None:
        events, comments, plain = tally(blocks)
        least = self._least
        alive = events > 0 if least == 2 else events + comments > 0 or least == 0
        if not plain:
            blocks, alive = self._look(blocks, alive)
        now = self._now()
        commands = self.life.received(now, alive)
        if events:
            if not self.events:
                self._route.metrics.time_to_first_event.observe(now - self.opened_at)
            self.events += events
            self.event_at = now
        self.comments += comments
        if self._lf_given:
            self._lf_given = False
            blocks = blocks.removeprefix(b"\n")
        transport = self._transport
        if transport is not None:
            frame = b"%x\r\n%b\r\n" % (len(blocks), blocks) if self._chunked else blocks
            self._written += len(frame)
            self.sent_upstream += len(blocks)
            self.life.written_at = now
            transport.write(frame)
            if self.life.blocked:
                self._mind_buffer()
        if commands:
            self._do(commands)
            self._arm()

    def _look(self, blocks: bytes, alive: bool) -> tuple[bytes, bool]:
        """What plain data never needs: has an id been seen, which events count as life, which lose their
        name.
        """
        route = self._route
        if not self._id_seen:
            self._id_seen = carries_id(blocks)
        if not self._looks:
            return blocks, alive
        if alive and (route.ignored_events or route.ignored_types):
            alive = any(map(route.counts, split(blocks)))
        if route.unname:
            blocks = unname(blocks, route.unname)
        return blocks, alive

    def end(self) -> None:
        """Upstream's body is whole. A block without its blank line is dropped: a client would drop it."""
        if self.events == 1:
            self._route.metrics.eof_after_first_event.inc()
        self._tell(life.UpstreamEnded())

    def failed(self, error: ProxyError) -> None:
        """Upstream's body broke off."""
        if isinstance(error, UpstreamError):
            self._route.metrics.upstream_error(error)
        self._tell(life.UpstreamEnded(reset=True))

    # The client's side: asyncio's protocol.

    def data_received(self, data: bytes) -> None:
        """What a client sends behind its request is no part of a stream."""

    def pause_writing(self) -> None:
        self._tell(life.Blocked())
        self._mind_buffer()

    def resume_writing(self) -> None:
        self._tell(life.Unblocked())
        if self._paused and self._exchange is not None:
            self._paused = False
            self._tell(life.Resumed())
            self._exchange.resume()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        self._tell(life.ClientGone())
        self._transport = None
        self._disarm()
        self._route.registry.remove(self)

    # Orders from above.

    def drain(self, at: float) -> None:
        """End this stream at `at` (loop time), at a block boundary."""
        self._tell(life.DrainAt(at))

    def abort(self) -> None:
        """Drop the client's connection now, whatever still waits for it."""
        if self._transport is not None:
            self._transport.abort()

    # What the lifecycle wants done.

    def _tell(self, event: life.Event) -> None:
        self._do(self.life.handle(event, self._now()))
        self._arm()

    def _do(self, commands: tuple[life.Command, ...]) -> None:
        metrics = self._route.metrics
        for command in commands:
            match command:
                case life.Ping(idle_for=idle_for):
                    self._ping(idle_for)
                case life.Confirm():
                    self._inject(self._route.frames.confirm(self.stream_id, now_rfc3339()))
                    metrics.confirmed(ConfirmForm.EVENT)
                case life.Stalled(silent_for=silent_for):
                    self._stalled(silent_for)
                case life.Recovered(silent_for=silent_for):
                    metrics.recovered(silent_for)
                case life.SilenceEnded(seconds=seconds):
                    metrics.silence.observe(seconds)
                case life.Close(reason=reason):
                    self._close(reason)
                case life.Abort():
                    self.abort()
                case life.Commit():
                    raise AssertionError("a stream is committed once, in begin()")

    def _ping(self, idle_for: float) -> None:
        self.pings += 1
        self._inject(
            self._route.frames.ping(
                after_id=self._id_seen, idle_for=idle_for, stream_id=self.stream_id, now=now_rfc3339()
            )
        )

    def _stalled(self, silent_for: float) -> None:
        self.stalls += 1
        self._route.metrics.stalled()
        logger.warning(
            "upstream stalled: no sign of life; look at upstream, the client is kept alive by pings",
            extra=self._who(silent_s=round(silent_for)),
        )
        if self._route.notifies:
            self._inject(
                self._route.frames.stalled(event=self._form is ConfirmForm.EVENT, silent_for=silent_for)
            )

    def _close(self, reason: CloseReason) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close()
        transport = self._transport
        if transport is not None:
            if reason in _OURS and self._form is ConfirmForm.EVENT:
                retry = random.randint(*_RETRY_MS)  # noqa: S311 (spreads clients, guards nothing)
                self._inject(self._route.frames.closing(reason, retry))
            if reason is CloseReason.CLIENT_STALLED:
                transport.abort()
            elif self._chunked and reason not in _BROKEN:
                self._put(b"0\r\n\r\n")
            transport.close()
        age = self._now() - self.opened_at
        self._route.metrics.closed(self, reason.value, age)
        access.info(
            "stream closed",
            extra=self._who(
                reason=reason.value,
                age_s=round(age, 3),
                events=self.events,
                comments=self.comments,
                pings=self.pings,
                stalls=self.stalls,
                bytes=self.sent_upstream + self.sent_synthetic,
                client=self.client,
            ),
        )

    # Bytes to the client.

    def _inject(self, frame: bytes) -> None:
        """Write a frame of our own: always between two blocks, since only whole ones were forwarded.
        Where the last one ended in a bare CR, the LF comes first and upstream's own is dropped (law 2).
        """
        if self._framer.after_cr and not self._lf_given:
            self._lf_given = True
            frame = b"\n" + frame
        self.sent_synthetic += len(frame)
        self._put(self._coded(frame))
        self.life.written_at = self._now()

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
        if transport.get_write_buffer_size() > self._route.policy.max_buffer:
            self._paused = True
            exchange.pause()
            self._tell(life.Paused())

    # Time.

    def _arm(self) -> None:
        """Have the timer fire at the next deadline. An earlier timer stays: it will find out."""
        due = self.life.next_deadline()
        if due is None or self._transport is None:
            self._disarm()
            return
        if self._timer is not None:
            if self._timer_at <= due:
                return
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._loop.call_at(due, self._fire)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        transport = self._transport
        waiting = transport.get_write_buffer_size() if transport is not None and self.life.blocked else 0
        self._do(self.life.handle_timer(self._now(), self._written - waiting))
        self._arm()

    # What operators see.

    def _who(self, **fields: Any) -> dict[str, Any]:
        return {"fields": {"route": self.route_name, "id": self.stream_id, **fields}}

    def snapshot(self, now: float) -> dict[str, Any]:
        """This stream as `/streams` shows it: times in seconds, nothing secret."""
        return {
            "id": self.stream_id,
            "route": self.route_name,
            "state": self.life.state.value,
            "client": self.client,
            "age_s": round(now - self.opened_at, 3),
            "since_upstream_byte_s": round(now - self.life.upstream_at, 3),
            "since_upstream_event_s": None if self.event_at is None else round(now - self.event_at, 3),
            "events": self.events,
            "comments": self.comments,
            "pings": self.pings,
            "stalls": self.stalls,
            "bytes": self.sent_upstream + self.sent_synthetic,
        }


def _watch_peer(transport: asyncio.Transport, write_timeout: float) -> None:
    """Let the kernel find a client that has vanished: writing alone does not for hours (FACTS 6)."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        option = getattr(socket, "TCP_USER_TIMEOUT", None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, round(write_timeout * 1000))
