"""The place of one stream at the bridge of its route (behaviour.md#bridge).

It gets the messages for its stream, with what `stream.bridging` remembers for it. It sees upstream's blocks,
and writes what is filled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Any

from sse_keepalive_proxy.live.bridged import Bridgeable
from sse_keepalive_proxy.stream.bridging import MOST, Fate, Matcher, Message, Outcome
from sse_keepalive_proxy.stream.position import Position, mark
from sse_keepalive_proxy.stream.replay_log import GapReason
from sse_keepalive_proxy.wire.block import split

if TYPE_CHECKING:
    from sse_keepalive_proxy.live.bridge import RouteBridge

__all__ = ["Place"]

_ASIDE = 0.05  # seconds until another attempt, while upstream has sent a part of a block


class Place:
    """The place of one stream, or of a group of clients, at a bridge. `flow`: its relay. `held`: nothing is
    written yet.
    """

    __slots__ = (
        "_begun", "_bridge", "_closed", "_filled", "_flow", "_matcher", "_timer", "_unwritten", "held",
        "subscriber",
    )  # fmt: skip

    def __init__(self, bridge: RouteBridge, flow: Bridgeable, subscriber: str, *, held: bool = False) -> None:
        self._bridge, self._flow, self.subscriber, self.held = bridge, flow, subscriber, held
        self._matcher = Matcher(bridge.policy.mode, bridge.policy.grace, watches=bridge.policy.watched)
        self._unwritten: list[Message | bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closed, self._filled = False, 0
        self._begun = bridge.position or 0

    def snapshot(self) -> dict[str, Any]:
        """Return its values for pages. `waiting`: messages and events of upstream that wait."""
        waiting = self._matcher.waits + len(self._unwritten) + len(self._bridge.outgoing(self))
        return {"mode": self._bridge.policy.mode.value, "waiting": waiting, "filled": self._filled}

    # Messages of NATS.

    def offer(self, message: Message) -> None:
        """Take a message for this stream. An unexpected exception ends this stream, and no other."""
        try:
            if not self._closed:
                self._take(message)
        except Exception as error:  # noqa: BLE001 (it is logged)
            self._flow.fail(error)

    def _take(self, message: Message) -> None:
        bridge, matcher = self._bridge, self._matcher
        overflows = matcher.overflows
        outcome, dropped = matcher.message(message, bridge.behind_since)
        bridge.count(Outcome.DROPPED, dropped)
        if outcome is None:
            bridge.wait(message.at + bridge.policy.grace, self)
            if matcher.is_full:
                self.write_due(bridge.now())
        elif outcome is Outcome.FILLED:
            self._write([message])
            if bridge.policy.watched:
                bridge.wait(message.at + bridge.policy.grace, self)
        else:
            bridge.count(outcome)
        if matcher.overflows != overflows:
            bridge.overflowed("stream")

    def write_due(self, now: float) -> None:
        """Write what upstream has not delivered in time. An unexpected exception ends this stream only."""
        try:
            if not self._closed:
                self._write_due(now)
        except Exception as error:  # noqa: BLE001 (it is logged)
            self._flow.fail(error)

    def _write_due(self, now: float) -> None:
        matcher = self._matcher
        undelivered = matcher.undelivered
        self._write(matcher.due(now))
        if self._bridge.policy.watched and not self.held and matcher.undelivered != undelivered:
            self._flow.missed()

    def _write(self, due: Sequence[Message | bytes]) -> None:
        self._unwritten.extend(due)
        if not self._bridge.fills and not self.held:
            self._bridge.count(Outcome.MISSED, len(self._unwritten))
            self._unwritten.clear()
        self._flush()
        while len(self._unwritten) > MOST or (self._unwritten and self._flow.opaque):
            self._bridge.count(Outcome.MISSED, isinstance(self._unwritten.pop(0), Message))

    def _flush(self) -> None:
        """Write what waits, unless upstream has sent a part of a block."""
        if self.held:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        unwritten, flow = self._unwritten, self._flow
        while unwritten:
            each = unwritten.pop(0)  # then `position` counts it as written
            if isinstance(each, bytes):
                written = flow.fill(each, 1, upstreams=True)
            else:
                written = flow.fill(each.frames, each.events, upstreams=False)
            if not written:
                unwritten.insert(0, each)
                break
            if isinstance(each, Message):
                self._filled += 1
                self._bridge.count(Outcome.FILLED)
        if unwritten and not self._closed:
            self._timer = self._bridge.call_later(_ASIDE, self._flush)

    def begin(self) -> None:
        """Write from the next turn of the event loop on: the stream has begun by then."""
        if self.held and self._timer is None:
            self._timer = self._bridge.call_later(0.0, self._begin)

    def _begin(self) -> None:
        self.held, self._timer = False, None
        self._write(())

    # Blocks of upstream.

    def look(self, blocks: bytes) -> bytes:
        """Return whole `blocks` of upstream as the client gets them now."""
        if self._unwritten:
            self._flush()
        bridge, matcher = self._bridge, self._matcher
        passing, now, overflows = [], bridge.now(), matcher.overflows
        may_wait = bridge.connected
        for block in split(blocks):
            keys = bridge.mapping.upstream_keys(block)
            match matcher.event(keys, block, now, bridge.behind_since, may_wait=may_wait):
                case Fate.PASSES:
                    passing.append(block)
                case Fate.DELIVERS:
                    passing.append(block)
                    bridge.count(Outcome.DELIVERED)
                case Fate.DROPPED:
                    bridge.count(Outcome.DROPPED)
                case Fate.WAITS:
                    bridge.wait(now + bridge.policy.grace, self)
        if matcher.overflows != overflows:
            bridge.overflowed("stream")
        return b"".join(passing)

    # Positions in a JetStream stream.

    @property
    def position(self) -> Position | None:
        """What the stream has got, None without one."""
        last = self._bridge.position
        if last is None or not self._bridge.fills:
            return None
        unwritten = any(isinstance(each, bytes) for each in self._unwritten)  # not all are ahead yet
        ahead = [] if unwritten else self._matcher.ahead
        return Position.of(last, self.undelivered(), [mark(key) for key in ahead])

    def after(self, position: Position, flow: Bridgeable) -> list[tuple[Message, Position]] | GapReason:
        """Return the messages that a client of the group of `flow` with `position` has missed, and that the
        group will not deliver, each with its position then. Return the reason if they are not known.
        """
        found = self._bridge.after(self.subscriber, position)
        if isinstance(found, GapReason):
            return found
        group = flow.bridge
        later = group.undelivered() if isinstance(group, Place) else frozenset[int]()
        missed = position.missed([each for each in found if each.position <= self._begun], later)
        if group is self:
            now = self._bridge.now()
            for each, _ in missed:
                self._matcher.known(each, now)
        return missed

    def undelivered(self) -> frozenset[int]:
        """Return the positions of the messages that it will deliver, or that upstream may."""
        unwritten = [each.position for each in self._unwritten if isinstance(each, Message)]
        return frozenset((*self._matcher.waiting, *unwritten, *self._bridge.outgoing(self)))

    def covers(self, gap: float) -> bool:
        """Whether the last `gap` seconds without upstream cost no message."""
        return self._bridge.fills and self._bridge.connected_since(self._bridge.now() - gap)

    def move(self, flow: Bridgeable) -> None:
        """Serve the group of `flow` from now on, with all that is remembered. If it has a place already,
        write what does not wait there, and leave. What was held is the group's own: it was there meanwhile.
        """
        self._flow.bridge, other = None, flow.bridge
        if not isinstance(other, Place):
            self._flow, flow.bridge = flow, self
            return
        for place in (self, other):
            self._bridge.catch_up(place)
        if not self.held:
            due = self._matcher.due(inf)
            self._write([each for each in due if isinstance(each, bytes) or not other.awaits(each)])
        self.close()

    def awaits(self, message: Message) -> bool:
        """Whether `message` waits for upstream."""
        return self._matcher.awaits(message)

    def finish(self) -> None:
        """Write all that waits: the stream ends, and upstream delivers nothing any more."""
        if self._bridge.fills:
            self._bridge.catch_up(self)
            self._write(self._matcher.due(inf))

    def close(self) -> None:
        """Leave the bridge: the stream has ended."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._unwritten.clear()
        if self._flow.bridge is self:
            self._flow.bridge = None
        self._bridge.leave(self)
