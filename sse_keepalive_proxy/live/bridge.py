"""The bridge of a route: messages of NATS for its streams (behaviour.md#bridge).

`RouteBridge` gets every message once, and finds the places of its recipients' streams (`live.place`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from sse_keepalive_proxy.errors import InvalidMessage
from sse_keepalive_proxy.live.bridged import Bridgeable
from sse_keepalive_proxy.live.leave_notice import LeaveNotice
from sse_keepalive_proxy.live.place import Place
from sse_keepalive_proxy.live.subscriptions import Receive, Subscriptions
from sse_keepalive_proxy.observe.route_metrics import RouteMetrics
from sse_keepalive_proxy.stream.bridge_mapping import Mapping as Expressions
from sse_keepalive_proxy.stream.bridge_mapping import identifier
from sse_keepalive_proxy.stream.bridging import Message, Outcome
from sse_keepalive_proxy.stream.claims import claim
from sse_keepalive_proxy.stream.policy import Bridge, BridgeMode, LeavePublish
from sse_keepalive_proxy.stream.position import Position
from sse_keepalive_proxy.stream.recent import Recent
from sse_keepalive_proxy.stream.replay_log import GapReason

__all__ = ["RouteBridge"]

logger = logging.getLogger("sse_keepalive_proxy.bridge")

_QUIET = 60.0  # seconds between two lines of one kind
_SLICE = 0.005  # seconds: messages are given to streams for so long, then the event loop runs
_FIRST_WAIT, _LAST_WAIT = 0.02, 2.0
"""Seconds: a client that comes back waits for the messages that it has missed. Each wait is twice as long as
the one before it, and shorter than the last one.
"""

_OVERFLOWS = {
    "stream": "a stream has more messages than the bridge remembers: a late copy may be delivered twice",
    "replay": "more messages than the bridge keeps for clients that come back: some get `stream_gap`",
    "audiences": "more audiences than the bridge remembers: what is for the oldest ones reaches no client",
}


class RouteBridge:
    """The streams of a route by their subscribers, and what they wait for.

    `released` is called when the bridge needs its connection no more: it is retired, and has no stream.
    `remembers`: the seconds for which messages of a JetStream stream are kept for clients that come back.
    """

    def __init__(
        self,
        name: str,
        policy: Bridge,
        metrics: RouteMetrics,
        connection: Subscriptions,
        released: Callable[[], None],
        remembers: float | None = None,
    ) -> None:
        self.name, self.policy, self.metrics = name, policy, metrics
        self._connection, self._released, self.remembers = connection, released, remembers
        self._recent: Recent | None = None
        if remembers is not None:
            self._recent = Recent(remembers, forgot=lambda: self.overflowed("replay"))
        self._loop = asyncio.get_running_loop()
        self.now, self.call_later = self._loop.time, self._loop.call_later
        self.mapping = Expressions(policy.subjects, lambda: self.overflowed("audiences"))
        self._places: dict[str, dict[Place, None]] = {}
        self._handed_out = asyncio.Event()
        self._outgoing: deque[tuple[Message, dict[Place, None]]] = deque()  # and the streams that wait for it
        self._due: deque[tuple[float, list[Place]]] = deque()  # in the order of time: all wait equally long
        self._timer: asyncio.Handle | None = None
        self._logged: dict[str, float] = {}
        self._retired, self._publishing = False, 0
        self._receivers = [
            (subject.subject, self._receiver(index)) for index, subject in enumerate(policy.subjects)
        ]
        self._subjects = frozenset(subject for subject, _ in self._receivers)
        for subject, receive in self._receivers:
            connection.receive(subject, receive)

    def _receiver(self, index: int) -> Receive:
        return lambda payload, position: self.received(index, payload, position)

    @property
    def fills(self) -> bool:
        """Whether it delivers messages."""
        return self.policy.mode is not BridgeMode.OBSERVE

    @property
    def connected(self) -> bool:
        """Whether there is a connection to NATS, and it permits every subject."""
        connection = self._connection
        return connection.connected_since is not None and self._subjects.isdisjoint(connection.refused)

    @property
    def lost(self) -> int:
        """The messages that were lost because they came faster than they were handled."""
        return self._connection.lost

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return the state of its connection, and its counts, for pages. No secrets."""
        return {
            "route": self.name,
            "mode": self.policy.mode.value,
            "state": "connected" if self.connected else "away",
            "server": self._connection.server,
            "since_s": round(now - self._connection.changed_at, 3),
            "stream": self.policy.durable,
            "position": self.position,
            "streams": sum(map(len, self._places.values())),
            **{outcome.value: count for outcome, count in self.metrics.bridge_events.items()},
        }

    def connected_since(self, at: float) -> bool:
        """Whether no message was lost since `at` (loop time)."""
        since = self._connection.connected_since
        return since is not None and since <= at and self.connected

    @property
    def position(self) -> int | None:
        """The position in the stream up to which every message was handled, None without a stream."""
        return self._connection.position

    @property
    def behind_since(self) -> float | None:
        """The time from which on messages may not have been read yet, None if all have been."""
        return self._connection.behind_since

    async def reached(self, position: int) -> None:
        """Wait until the messages up to `position` are known, but not for long."""
        wait, connection = _FIRST_WAIT, self._connection
        while self._recent is not None and wait < _LAST_WAIT:
            if connection.behind_since is None and position <= (connection.position or 0):
                return
            await asyncio.sleep(wait)
            wait *= 2

    def after(self, subscriber: str, position: Position) -> list[Message] | GapReason:
        """Return the messages for `subscriber` behind the first one that `position` lacks, or the reason if
        they are not known.
        """
        recent, last, first = self._recent, self._connection.position, position.first
        if recent is None or last is None or position.last > last:
            return GapReason.UNKNOWN
        found = recent.after(subscriber, first, self.now())
        return found if first >= max(recent.floor, self._connection.begun) else GapReason.TOO_OLD

    # Streams.

    def expect(self, flow: Bridgeable, claims: Mapping[str, Any]) -> None:
        """Keep the messages for the subscriber that `claims` name until `flow` is served, which upstream is
        asked for now. Without it, upstream's copies of these messages would not be recognised.
        """
        if self.policy.durable is None:
            self._take(flow, claims, held=True)

    def serve(self, flow: Bridgeable, claims: Mapping[str, Any]) -> None:
        """Give `flow` a place for the subscriber that `claims` name, unless it has one, and write there."""
        if flow.bridge is None:
            self._take(flow, claims, held=False)
        else:
            flow.bridge.begin()

    def _take(self, flow: Bridgeable, claims: Mapping[str, Any], *, held: bool) -> None:
        subscriber = self._subscriber(claims)
        if subscriber is not None:
            place = Place(self, flow, subscriber, held=held)
            flow.bridge = place
            self._places.setdefault(subscriber, {})[place] = None

    def _subscriber(self, claims: Mapping[str, Any]) -> str | None:
        value = claim(claims, self.policy.claim)
        if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
            return None
        return identifier(value)

    def serves(self, subscriber: str) -> bool:
        """Whether any stream of `subscriber` is open."""
        return any(not place.held for place in self._places.get(subscriber, ()))

    def leave(self, place: Place) -> None:
        """Give a stream no more messages."""
        places = self._places.get(place.subscriber)
        if places is None or place not in places:
            return
        del places[place]
        if not places:
            del self._places[place.subscriber]
            self._release_if_unused()

    def retire(self) -> None:
        """Take no further streams. Those that it has are served until they end."""
        self._retired = True
        self._release_if_unused()

    def _release_if_unused(self) -> None:
        if self._retired and not self._places and not self._publishing and self._receivers:
            for subject, receive in self._receivers:
                self._connection.ignore(subject, receive)
            self._receivers = []
            self._released()

    # What is published.

    @property
    def can_publish(self) -> bool:
        """Whether there is a connection to publish on."""
        return self._connection.can_publish

    def notice(
        self, policy: LeavePublish, claims: Mapping[str, Any], values: Mapping[str, str]
    ) -> LeaveNotice | None:
        """Return what is published when the last client with `claims` has gone, or None if they do not name
        it. `values`: other placeholders.
        """
        subscriber = self._subscriber(claims)
        return None if subscriber is None else LeaveNotice.of(self, subscriber, policy, values, claims)

    def publish(self, subject: str, payload: bytes) -> asyncio.Task[str | None]:
        """Publish `payload`. The result is None when the server has it, otherwise why it has not."""
        self._publishing += 1
        publishing = self._connection.publish(subject, payload)
        publishing.add_done_callback(self._published)
        return publishing

    def _published(self, publishing: asyncio.Task[str | None]) -> None:
        self._publishing -= 1
        if not publishing.cancelled() and (why := publishing.result()) is not None:
            self.say("not published", "that a client has left could not be published on NATS: %s", why)
        self._release_if_unused()

    # Messages.

    def received(self, index: int, payload: bytes, position: int) -> asyncio.Event | None:
        """Handle a message on the subject at `index`. It harms nothing, whatever it contains. Return what is
        set when the next one may come, None for at once.
        """
        now = self.now()
        try:
            message = self.mapping.read(index, payload, position, now)
        except InvalidMessage as error:
            self._invalid(index, str(error))
            return None
        if message is None:
            return None
        if self._recent is not None:
            self._recent.add(message, now)
        if position and position <= self._connection.history:
            return None  # it is older than any stream here
        if self.fills and not message.frames:  # so upstream's own event is no copy of it, and passes
            self._invalid(index, "the data of all its events is null")
            return None
        places = dict.fromkeys(each for to in message.recipients for each in self._places.get(to, ()))
        if not places:
            self.count(Outcome.NO_SUBSCRIBER)
            return None
        self._outgoing.append((message, places))
        if len(self._outgoing) == 1:
            self._hand_out()
        return self._handed_out if self._outgoing else None

    def _hand_out(self) -> None:
        """Give messages to their streams, one after the other: some now, the others in the next turns of the
        event loop. Meanwhile `received` asks for no further ones.
        """
        outgoing, until = self._outgoing, self.now() + _SLICE
        try:
            while outgoing:
                message, places = outgoing[0]
                if not places:
                    outgoing.popleft()
                elif self.now() < until:
                    places.popitem()[0].offer(message)
                else:
                    break
        finally:
            if outgoing:
                self._handed_out.clear()
                self._loop.call_soon(self._hand_out)
            else:
                self._handed_out.set()

    def catch_up(self, place: Place) -> None:
        """Give `place` at once what others of the same messages may still wait for."""
        for message, places in self._outgoing:
            if place in places:
                del places[place]
                place.offer(message)

    def outgoing(self, place: Place) -> list[int]:
        """Return the positions of the messages that `place` has still to be given."""
        return [message.position for message, places in self._outgoing if place in places]

    def _invalid(self, index: int, why: str) -> None:
        self.count(Outcome.INVALID)
        subject = self.policy.subjects[index].subject
        self.say(f"invalid {index} {why}", "a message of NATS cannot be read: %s", why, subject=subject)

    def count(self, outcome: Outcome, times: int = 1) -> None:
        """Count an outcome."""
        self.metrics.bridge_events[outcome] += times

    def overflowed(self, memory: str) -> None:
        """Note that a memory is full, and has forgotten something: one of `_OVERFLOWS`."""
        self.metrics.bridge_overflows[memory] += 1
        self.say(memory, _OVERFLOWS[memory])

    def say(self, kind: str, text: str, *values: object, **fields: str) -> None:
        """Log a line, one of a `kind` in a minute."""
        now = self.now()
        if now >= self._logged.get(kind, -_QUIET) + _QUIET:
            self._logged[kind] = now
            logger.warning(text, *values, extra={"fields": {"route": self.name, **fields}})

    # Time.

    def wait(self, at: float, place: Place) -> None:
        """Call `place.write_due` at `at`, not earlier than any other that waits."""
        due = self._due
        if due and due[-1][0] == at:  # streams of one message
            due[-1][1].append(place)
        else:
            due.append((at, [place]))
        if self._timer is None:
            self._timer = self._loop.call_at(at, self._on_time)

    def _on_time(self) -> None:
        self._timer, due = None, self._due
        now = began = self.now()
        try:
            while due and due[0][0] <= now and self.now() < began + _SLICE:
                if due[0][1]:
                    due[0][1].pop().write_due(now)
                else:
                    due.popleft()
        finally:
            if due and self._timer is None:
                soon = due[0][0] <= now
                call = self._loop.call_soon(self._on_time) if soon else None
                self._timer = call or self._loop.call_at(due[0][0], self._on_time)
