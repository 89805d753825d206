"""The way of a byte: from upstream's body to the client, whole block by whole block.

upstream's read -> `data` -> `Framer.feed` (whole blocks; the tail waits) -> one write to the client ->
two timestamps. No task, queue or timer on that way; the stream is asked only when the lifecycle wants
something done. What the proxy says in its own name goes the same last step: `inject`.
"""

from __future__ import annotations

from typing import Protocol

from sse_keepalive_proxy.errors import EventTooLarge, ProxyError
from sse_keepalive_proxy.live.downstream import Downstream
from sse_keepalive_proxy.live.reconnect import Reconnection
from sse_keepalive_proxy.live.route import StreamRoute
from sse_keepalive_proxy.stream.lifecycle import Lifecycle
from sse_keepalive_proxy.stream.messages import CloseReason, Command, Fault
from sse_keepalive_proxy.wire.block import last_id, tally
from sse_keepalive_proxy.wire.framing import Framer

__all__ = ["Control", "Relay"]


class Control(Protocol):
    """The stream that this is the way of."""

    def execute(self, commands: tuple[Command, ...]) -> None:
        """Do what the lifecycle wants done."""

    def apply_backpressure(self) -> None:
        """More bytes wait for a client that takes them slowly."""

    def fail(self, error: BaseException) -> None:
        """An exception that nothing foresaw ends this stream and no other."""

    def upstream_ended(self) -> None:
        """Upstream's body is whole."""

    def upstream_failed(self, error: ProxyError) -> None:
        """Upstream's body broke off."""


class _Nobody:
    """Stands for the stream once that has ended: does nothing, and holds nothing in memory."""

    def execute(self, commands: tuple[Command, ...]) -> None:
        pass

    def apply_backpressure(self) -> None:
        pass

    def fail(self, error: BaseException) -> None:
        pass

    def upstream_ended(self) -> None:
        pass

    def upstream_failed(self, error: ProxyError) -> None:
        pass


_NOBODY = _Nobody()


class Relay:
    """The sink of a stream's upstream, and what has passed through it. `down` is its client, if any."""

    __slots__ = (
        "_control", "_framer", "_least", "_lf_given", "_looks", "_now", "_opened_at", "_reconnection",
        "_route", "comments", "down", "event_at", "events", "id_seen", "life", "sent_synthetic",
        "sent_upstream", "upstream_bytes",
    )  # fmt: skip

    def __init__(
        self, control: Control, route: StreamRoute, life: Lifecycle, reconnection: Reconnection | None
    ) -> None:
        self._control, self._route, self.life, self._reconnection = control, route, life, reconnection
        self._now = route.now
        self._opened_at = life.written_at
        if reconnection is not None:
            life.reopens = reconnection.allowed
        self._framer = Framer(route.policy.max_event)
        self._least, self._looks = route.inspection.least, route.inspection.needed
        self._lf_given = self.id_seen = False
        self.down: Downstream | None = None
        self.event_at: float | None = None
        self.upstream_bytes = self.events = self.comments = self.sent_upstream = self.sent_synthetic = 0

    # Upstream's sink.

    def data(self, data: bytes) -> None:
        """Bytes of upstream's body."""
        self.upstream_bytes += len(data)
        try:
            blocks = self._framer.feed(data)
            if blocks:
                self._forward(blocks)
            elif (commands := self.life.received(self._now(), self._least == 0)) is not None:
                self._control.execute(commands)
        except EventTooLarge as error:
            if error.blocks:
                self._forward(error.blocks)
            self._control.execute(self.life.handle(Fault(CloseReason.EVENT_TOO_LARGE), self._now()))
        except Exception as error:  # noqa: BLE001 (it is logged)
            self._control.fail(error)

    def _forward(self, blocks: bytes) -> None:
        events, comments, plain = tally(blocks)
        alive = True  # as one line of data always is
        if not plain:
            least = self._least
            alive = events > 0 if least == 2 else events + comments > 0 or least == 0
            self.comments += comments
            self._read(blocks)
        if self._looks:
            blocks, alive = self._route.inspection.look(blocks, alive)
        now = self._now()
        if not self.events:
            self.first_byte(now)
            if events:
                self._route.metrics.upstream_time_to_first_event_seconds.observe(now - self._opened_at)
        if events:
            self.events += events
            self.event_at = now
        life = self.life
        commands = life.received(now, alive)
        if commands is not None:
            self._control.execute(commands)
        if self._lf_given:
            self._lf_given = False
            blocks = blocks.removeprefix(b"\n")
            if not blocks:
                return  # as a chunk, nothing would be the end
        down = self.down
        if down is not None:
            self.sent_upstream += len(blocks)
            life.written_at = now
            down.write(blocks)
            if life.blocked:
                self._control.apply_backpressure()

    def _read(self, blocks: bytes) -> None:
        """What fields of upstream change: how pings end, and how it is asked again."""
        if self._reconnection is not None:
            known = self._reconnection.read(blocks)
            self.life.reopens, self.life.retry = self._reconnection.allowed, self._reconnection.wait
        elif self.id_seen:
            return
        else:
            known = last_id(blocks)
        self.id_seen = self.id_seen or bool(known)

    def end(self) -> None:
        """Upstream's body is whole. A block without its blank line is dropped: a client would drop it."""
        self._control.upstream_ended()

    def failed(self, error: ProxyError) -> None:
        """Upstream's body broke off."""
        self._control.upstream_failed(error)

    # What the proxy adds.

    def inject(self, frame: bytes) -> None:
        """Write a frame of our own: always between two blocks, since only whole ones were forwarded. Where
        the last one ended in a bare CR, the LF comes first and upstream's own is dropped
        (behaviour.md#injections-between-blocks).
        """
        down = self.down
        if not frame or down is None:
            return
        now = self._now()
        self.first_byte(now)
        if self._framer.after_cr and not self._lf_given:
            self._lf_given = True
            frame = b"\n" + frame
        self.sent_synthetic += len(frame)
        down.write(frame)
        self.life.written_at = now

    def begin_with(self, head: bytes, body: bytes) -> None:
        """Write the response head, and with it the first bytes of the body, if any: in one piece with what
        upstream has sent behind its own, `flush` at the latest.
        """
        if body:
            self.first_byte(self._now())
            self.sent_synthetic += len(body)
        if self.down is not None:
            self.down.write_head(head, body)

    def flush(self) -> None:
        """Upstream has sent nothing more yet."""
        if self.down is not None:
            self.down.flush()

    def first_byte(self, now: float) -> None:
        """A body byte is about to be written: is it the first?"""
        if not self.sent_upstream and not self.sent_synthetic:
            self._route.metrics.time_to_first_byte_seconds.observe(now - self._opened_at)

    def retire(self) -> None:
        """The client is gone: nothing more passes. Lets go of the stream, which holds this."""
        self.down = None
        self._control = _NOBODY

    @property
    def unfinished(self) -> bool:
        """Whether upstream is in the middle of a block."""
        return bool(self._framer.pending)

    def start_over(self) -> None:
        """Upstream is another one from now on: what the old one has not finished is never glued to what that
        sends. A line that ended in a bare CR ends here, since nobody will send its LF any more.
        """
        if self._framer.after_cr and not self._lf_given and self.down is not None:
            self.sent_synthetic += 1
            self.down.write(b"\n")
        self._framer, self._lf_given = Framer(self._route.policy.max_event), False
