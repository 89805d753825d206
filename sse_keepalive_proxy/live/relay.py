"""Relay upstream's body to the client, in whole blocks.

upstream's read -> `data` -> `Framer.feed` (whole blocks; the rest waits) -> one write to the client ->
two timestamps. This path has no task, queue or timer. It calls the stream only if the lifecycle returns
commands. `inject` writes frames of the proxy between the blocks.

Beside it, `release` forwards a block that stays unfinished, and a body that is no event stream. From then on
the block, or the body, is forwarded as it comes.
"""

from __future__ import annotations

from typing import Final

from sse_keepalive_proxy.errors import EventTooLarge, ProxyError
from sse_keepalive_proxy.http.chunked import chunk
from sse_keepalive_proxy.live.bridged import Bridged
from sse_keepalive_proxy.live.control import ENDED, Audience, Control
from sse_keepalive_proxy.live.downstream import Downstream
from sse_keepalive_proxy.live.reconnect import Reconnection
from sse_keepalive_proxy.live.route import StreamRoute
from sse_keepalive_proxy.stream.lifecycle import Lifecycle
from sse_keepalive_proxy.stream.messages import CloseReason, Fault, Finished, Missed
from sse_keepalive_proxy.wire.block import last_id, tally
from sse_keepalive_proxy.wire.framing import BOM, Framer, begins_event_stream
from sse_keepalive_proxy.wire.part import Part

__all__ = ["Relay"]


_COLON: Final = 0x3A
_LARGE = 64 * 1024
"""Bytes: the sum of all streams includes only larger unfinished blocks (`limits.max_buffered`). While such a
block is being received, its bytes are a sign of life.
"""


class Relay:
    """The sink of upstream's body, with counters. `down` is the client, or None. A group has an `audience`
    instead, and each of its members has a relay that gets its bytes by `share` and has no framer of its own.

    `opaque`: the body is no event stream, so nothing of the proxy may stand in it.
    """

    __slots__ = (
        "_control", "_ends", "_framer", "_inspects", "_least", "_lf_given", "_now", "_opened_at", "_part",
        "_passes", "_reconnection", "_route", "audience", "bridge", "comments", "down", "event_at", "events",
        "id_seen", "life", "opaque", "sent_synthetic", "sent_upstream", "upstream_bytes",
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
        self._least, self._inspects = route.inspection.least, route.inspection.needed
        self._ends = route.inspection.ends
        self._part: Part | None = None  # the block that is forwarded as it comes
        self._passes = False  # whether bytes are forwarded as they come
        self._lf_given = self.id_seen = self.opaque = False
        self.down: Downstream | None = None
        self.audience: Audience | None = None
        self.bridge: Bridged | None = None
        self.event_at: float | None = None
        self.upstream_bytes = self.events = self.comments = self.sent_upstream = self.sent_synthetic = 0

    # Upstream's sink.

    def data(self, data: bytes) -> None:
        """Relay bytes of upstream's body."""
        self.upstream_bytes += len(data)
        try:
            if self._passes and not (data := self._pass(data)):
                return
            framer = self._framer
            blocks = framer.feed(data)
            if blocks:
                self._forward(blocks)
            else:
                alive = self._least == 0 or framer.pending > _LARGE
                if (commands := self.life.received(self._now(), alive)) is not None:
                    self._control.execute(commands)
            if framer.held:
                self._hold(begun=bool(blocks) or framer.pending <= len(data))
        except EventTooLarge as error:
            if error.blocks:
                self._forward(error.blocks)
            self._control.execute(self.life.handle(Fault(CloseReason.EVENT_TOO_LARGE), self._now()))
        except Exception as error:  # noqa: BLE001 (it is logged)
            self._control.fail(error)

    def insert(self, data: bytes) -> None:
        """Relay the whole blocks in `data`, which came on another connection to upstream than the one that is
        read.
        """
        try:
            if blocks := Framer(self._route.policy.max_event, sure=True).feed(data):
                self._forward(blocks)
        except EventTooLarge:
            pass  # of a connection that is not read any more
        except Exception as error:  # noqa: BLE001 (it is logged)
            self._control.fail(error)

    def _forward(self, data: bytes, read: tuple[int, bool] | None = None) -> None:
        """Write whole blocks, or bytes that were `read` before: how many events begin in them, and whether
        they are a sign of life.
        """
        if read is not None:
            events, alive = read
        else:
            events, comments, plain = tally(data)
            alive = True  # a plain block is one line of data
            if not plain:
                alive = self._alive(events, comments)
                self.comments += comments
                self._read(data)
            if self._inspects:
                if events:
                    self._look_for_the_last(data)
                data, alive = self._route.inspection.look(data, alive)
                if self.bridge is not None and not (data := self.bridge.look(data)):
                    self._dropped(events, alive=alive)
                    return
        now = self._now()
        if not self.events:
            if self._framer.bom and self._is_first:
                data = BOM + data
            self.first_byte(now)
            if events:
                self._route.metrics.upstream_time_to_first_event_seconds.observe(now - self._opened_at)
                if self._reconnection is not None:
                    self._reconnection.saw_event()
                    self.life.reopens = self._reconnection.allowed
        if events:
            self.events += events
            self.event_at = now
        life = self.life
        commands = life.received(now, alive)
        if commands is not None:
            self._control.execute(commands)
        if self._lf_given:
            self._lf_given = False
            data = data.removeprefix(b"\n")
            if not data:
                return  # an empty chunk would end the body
        down = self.down
        if down is not None:
            self.sent_upstream += len(data)
            if events or not self._route.pings_by_event:
                life.written_at = now
            down.write(data)
            if life.blocked:
                self._control.apply_backpressure()
        elif self.audience is not None:
            self.audience.deliver(data, events, alive, now)

    def _dropped(self, events: int, *, alive: bool) -> None:
        """Note `events` of upstream that are not written: they are upstream's sign of life."""
        now = self._now()
        if events:
            self.events += events
            self.event_at = now
            if self._reconnection is not None:
                self._reconnection.saw_event()
                self.life.reopens = self._reconnection.allowed
        if (commands := self.life.received(now, alive)) is not None:
            self._control.execute(commands)

    # A member of a group.

    def join(self, other: Relay) -> None:
        """Relay what a group's relay `other` has read, from now on."""
        self._reconnection = None
        self.follow(other)
        self._lf_given = other._framer.after_cr

    def follow(self, other: Relay) -> None:
        """Note where `other` is after bytes that were shared: inside a block, or behind a bare CR."""
        self._part, self.life.in_block = other._part, other.life.in_block
        self._framer, self.id_seen = other._framer, other.id_seen

    def share(
        self,
        other: Relay,
        data: bytes,
        framed: bytes,
        events: int,
        alive: bool,
        now: float,
        *,
        upstreams: bool = True,
    ) -> None:
        """Write bytes that a group's relay `other` has got. `framed`: the same with chunked coding. The rest
        as for `Audience.deliver`.
        """
        life, down = self.life, self.down
        if events:
            self.events += events
            self.event_at = other.event_at
            if self._ends:
                self._look_for_the_last(data)
        commands = life.received(now, alive)
        if commands is not None:
            self._control.execute(commands)
        if down is None or (life.blocked and not self._control.has_room(len(data))):
            return
        if self._lf_given:
            self._lf_given = False
            data = data.removeprefix(b"\n")
            if not data:
                return
            framed = chunk(data)
        self.first_byte(now)
        if upstreams:
            self.sent_upstream += len(data)
        else:
            self.sent_synthetic += len(data)
        if events or not self._route.pings_by_event:
            life.written_at = now
        down.write_shared(data, framed)
        self._framer, self.id_seen = other._framer, other.id_seen
        if life.blocked:
            self._control.apply_backpressure()

    def _look_for_the_last(self, blocks: bytes) -> None:
        """Tell the lifecycle if an event of `blocks` is the last one of upstream, or follows the last one."""
        finished = self._route.inspection.finish(blocks)
        if finished != (self.life.finished_at is not None):
            self._control.execute(self.life.handle(Finished(finished), self._now()))

    def _alive(self, events: int, comments: int) -> bool:
        """Return whether so many events and comments are a sign of life."""
        least = self._least
        return events > 0 if least == 2 else events + comments > 0 or least == 0

    # What is forwarded before its end.

    def expect(self, early: bytes) -> None:
        """Look at the first bytes of the body, which came with its head, before anything is written."""
        if begins_event_stream(early) is False:
            self._turn_opaque()

    def _turn_opaque(self) -> None:
        self.become_opaque()
        self._control.not_an_event_stream()

    def become_opaque(self) -> None:
        """Pass the body as it comes: it is no event stream."""
        self.opaque = self._passes = True
        self.life.reopens = False  # another body could only be glued to this one

    def _hold(self, *, begun: bool) -> None:
        """Handle that bytes of an unfinished block are held. `begun`: the block has begun just now."""
        framer = self._framer
        if framer.opaque:
            self.release()
            return
        if framer.pending > _LARGE:
            self._control.apply_backpressure()
        commands = self.life.hold(self._now(), begun=begun, comment=framer.held[0] == _COLON)
        if commands is not None:
            self._control.execute(commands)

    def release(self) -> None:
        """Forward the held bytes now, and the rest of their block as it comes."""
        framer, doubtful = self._framer, not self._framer.begun
        held = framer.release()
        if not held:
            return
        if framer.opaque:
            self._turn_opaque()
        else:
            self._part, self._passes = Part(held, doubtful=doubtful), True
        self._pass(held)

    def _pass(self, data: bytes) -> bytes:
        """Forward `data` as far as they belong to what is forwarded as it comes. Return the rest."""
        part, life = self._part, self.life
        if part is not None:
            taken = part.take(data)
            if part.opaque:
                self._part = part = None
                self._turn_opaque()
        if part is None:
            self._forward(data, (0, True))
            return b""
        self.comments += part.comments
        self._read(part.lines)
        alive = self._alive(part.has_data, part.comments)
        if self._inspects:
            if part.in_data:
                self._look_for_the_last(part.so_far)
            alive = self._route.inspection.look(part.lines, alive)[1]
        self._forward(taken, (part.events, alive))
        self._framer.after_cr = taken.endswith(b"\r")
        life.in_block = not part.ended
        if part.ended:
            self._part, self._passes = None, False
        else:
            life.reopens = False  # the block of another upstream could only be glued to this one
        if self.audience is not None:
            self.audience.follow()
        return data[len(taken) :]

    def _read(self, blocks: bytes) -> None:
        """Read `id` and `retry`, which affect the form of pings and the reconnection."""
        if self._reconnection is not None:
            known = self._reconnection.read(blocks)
            self.life.reopens, self.life.retry = self._reconnection.allowed, self._reconnection.wait
        elif self.id_seen:
            return
        else:
            known = last_id(blocks)
        self.id_seen = self.id_seen or bool(known)

    def end(self) -> None:
        """Handle the end of upstream's body."""
        try:
            self._control.upstream_ended()
        except Exception as error:  # noqa: BLE001 (it is logged)
            self._control.fail(error)

    def failed(self, error: ProxyError) -> None:
        """Handle that upstream's body broke off."""
        self._control.upstream_failed(error)

    # What the proxy adds.

    def inject(self, frame: bytes, *, line: bool = False) -> bool:
        """Write a frame of the proxy between two blocks. If it is one comment `line`, it may also stand
        between two lines of a block of which a part was forwarded. Return whether it was written: not inside
        a line, and not into a body that is no event stream (behaviour.md#injections-between-blocks).

        If the last line ended in a bare CR, the frame gets an LF in front, and upstream's LF is dropped.
        """
        down, part = self.down, self._part
        if not frame or down is None or self.opaque:
            return False
        if part is not None and (part.mid_line or not line):
            return False
        now = self._now()
        self.first_byte(now)
        if frame[:1] != b":" or not self._route.pings_by_event:
            self.life.written_at = now
        frame = self._apart(frame)
        self.sent_synthetic += len(frame)
        down.write(frame)
        return True

    def missed(self) -> None:
        """Note that upstream has not delivered a message of NATS in time."""
        self._control.execute(self.life.handle(Missed(), self._now()))

    def fill(self, blocks: bytes, events: int, *, upstreams: bool) -> bool:
        """Write whole blocks of the bridge, with so many `events`, between two blocks of upstream. Return
        whether they were written, as `inject` does. `upstreams`: they are blocks that upstream has sent.
        """
        if self._part is not None or self.opaque:
            return False
        now, down, audience = self._now(), self.down, self.audience
        if audience is not None:
            audience.deliver(self._apart(blocks), events, False, now, upstreams=upstreams)
            return True
        if down is None or (self.life.blocked and not self._control.has_room(len(blocks))):
            return False
        self.first_byte(now)
        blocks = self._apart(blocks)
        if upstreams:
            self.sent_upstream += len(blocks)
        else:
            self.sent_synthetic += len(blocks)
        if events or not self._route.pings_by_event:
            self.life.written_at = now
        down.write(blocks)
        if self.life.blocked:
            self._control.apply_backpressure()
        return True

    def _apart(self, blocks: bytes) -> bytes:
        """Return `blocks` for a place behind upstream's last line. If that ended in a bare CR, they get an LF
        in front, and upstream's LF is dropped.
        """
        if not self._framer.after_cr or self._lf_given:
            return blocks
        self._lf_given = True
        return b"\n" + blocks

    def begin_with(self, head: bytes, body: bytes) -> None:
        """Write the response head and the first bytes of the body, if any, together with the first bytes of
        upstream. `flush` writes them at the latest.
        """
        if body:
            self.first_byte(self._now())
            self.sent_synthetic += len(body)
        if self.down is not None:
            self.down.write_head(head, body)

    def flush(self) -> None:
        """Write the kept head now: upstream has sent no more bytes."""
        if self.down is not None:
            self.down.flush()

    def first_byte(self, now: float) -> None:
        """Record the time to the first byte, if the next byte of the body is the first."""
        if self._is_first:
            self._route.metrics.time_to_first_byte_seconds.observe(now - self._opened_at)

    @property
    def _is_first(self) -> bool:
        """Whether the next byte of the body is the client's first."""
        return self.down is not None and not self.sent_upstream and not self.sent_synthetic

    def retire(self) -> None:
        """Stop relaying after the client has left. Release the stream, which refers to this object."""
        if self.bridge is not None:
            self.bridge.close()
        self.down = None
        self._control = ENDED

    def fail(self, error: BaseException) -> None:
        """End the stream after an unexpected exception."""
        self._control.fail(error)

    @property
    def passes(self) -> bool:
        """Whether bytes are forwarded as they come."""
        return self._passes

    @property
    def in_part(self) -> bool:
        """Whether a block of which a part was forwarded has not ended."""
        return self._part is not None

    @property
    def held(self) -> int:
        """The number of bytes of an unfinished block, 0 if there are few or a group holds them."""
        return self._framer.pending if self._framer.pending > _LARGE and not self.life.shared else 0

    @property
    def unfinished(self) -> bool:
        """Whether upstream has sent a part of a block. For a member of a group: one that it has got."""
        return self._part is not None or (self._framer.unfinished and not self.life.shared)

    def start_over(self) -> None:
        """Prepare for a new upstream connection: drop the unfinished block of the old one. If the last line
        ended in a bare CR, write the LF, because the old connection cannot send it any more.
        """
        if self._framer.after_cr and not self._lf_given and self.down is not None:
            self.sent_synthetic += 1
            self.down.write(b"\n")
        self._framer.held.clear()  # members of a group refer to it until they get the next bytes
        self._framer, self._lf_given = Framer(self._route.policy.max_event, sure=True), False
