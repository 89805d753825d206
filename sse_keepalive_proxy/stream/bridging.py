"""Match the messages of NATS with the events of upstream, for one stream (behaviour.md#bridge).

A message and an event are the same if the n-th key of one equals the n-th key of the other, for any n. One
event stands for one message, the oldest that fits. Time is an argument, in seconds. `Matcher` decides; its
caller writes and counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Generic, TypeVar

from sse_keepalive_proxy.stream.policy import BridgeMode

__all__ = ["MOST", "MOST_AHEAD", "Fate", "Key", "Matcher", "Message", "Outcome", "remembered_for"]

Key = tuple[int, int, str]
"""The place of the subject in the configuration, that of the key in the subject, and the value."""

MOST = 4096
"""Messages, and events, that are remembered for one stream."""

MOST_AHEAD = 32
"""Events among them that `Matcher.ahead` names."""

_LEAST_MEMORY = 10.0  # seconds


class Outcome(StrEnum):
    """What became of a message: the values of the label `outcome`."""

    DELIVERED = "delivered"
    FILLED = "filled"
    DROPPED = "dropped"
    MISSED = "missed"
    NO_SUBSCRIBER = "no_subscriber"
    INVALID = "invalid"


class Fate(StrEnum):
    """What is done with an event of upstream: it passes, it passes and delivers a message, it is dropped as a
    copy, or it waits.
    """

    PASSES = "passes"
    DELIVERS = "delivers"
    DROPPED = "dropped"
    WAITS = "waits"


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """A message of NATS: for whom it is, what it is recognised by, and the `events` blocks of `frames`.
    `position`: its place in the stream that it was read from, 0 without one. `at`: when it was received.

    All streams of its recipients share one object, so it is compared by identity.
    """

    recipients: frozenset[str]
    keys: tuple[Key, ...]
    frames: bytes
    events: int = 1
    position: int = 0
    at: float = 0.0


class _Event:
    """An event of upstream, and when it came."""

    __slots__ = ("at", "keys")

    def __init__(self, at: float, keys: tuple[Key, ...]) -> None:
        self.at, self.keys = at, keys


_K = TypeVar("_K", Message, _Event)


class _Memory(Generic[_K]):
    """What is known, in the order of its arrival and by its keys. Of each one, the keys by which it may still
    fit are the bits of a number.

    Each stream has two, and with every message each stream of its recipients knows one more. So no object is
    made for this: Python's garbage collector looks at all of them.
    """

    __slots__ = ("_by_key", "_known")

    def __init__(self) -> None:
        self._known: dict[_K, int] = {}
        self._by_key: dict[Key, _K | list[_K]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def add(self, known: _K, but: tuple[Key, ...] = ()) -> None:
        """Remember `known`, the newest. It does not fit by the keys `but`."""
        fits = 0
        for nth, key in enumerate(known.keys):
            if key in but:
                continue
            fits |= 1 << nth
            found = self._by_key.setdefault(key, known)
            if isinstance(found, list):
                found.append(known)
            elif found is not known:
                self._by_key[key] = [found, known]
        self._known[known] = fits

    def oldest(self, keys: tuple[Key, ...]) -> _K | None:
        """Return the oldest one that has the first of `keys` that any has, or None. It does not fit again by
        any of `keys`.
        """
        for key in keys:
            found = self._by_key.get(key)
            if found is not None:
                known = found[0] if isinstance(found, list) else found
                self._close(known, keys)
                return known
        return None

    def all_oldest(self, keys: tuple[Key, ...]) -> tuple[list[_K], tuple[Key, ...]]:
        """Return the oldest one for each of `keys`, without repetition, and the keys that any has. They do
        not fit again by `keys`.
        """
        taken: list[_K] = []
        by: tuple[Key, ...] = ()
        for key in keys:
            if (known := self.oldest((key,))) is not None:
                by = (*by, key)
                if known not in taken:
                    taken.append(known)
        return taken, by

    def forget(self, before: float, most: int) -> bool:
        """Forget what came before `before`, and the oldest of more than `most`. Return whether any of the
        latter was forgotten.
        """
        over = len(self._known) - most
        gone: list[_K] = []
        for known in self._known:
            if known.at >= before and len(gone) >= over:
                break
            gone.append(known)
        for known in gone:
            self._close(known, known.keys)
            del self._known[known]
        return bool(gone) and gone[-1].at >= before

    def _close(self, known: _K, keys: tuple[Key, ...]) -> None:
        """Note that `known` does not fit by `keys` any more."""
        fits = self._known[known]
        for nth, key in enumerate(known.keys):
            if not fits >> nth & 1 or key not in keys:
                continue
            fits ^= 1 << nth
            found = self._by_key[key]
            if isinstance(found, list) and len(found) > 1:
                found.remove(known)
            else:
                del self._by_key[key]
        self._known[known] = fits


def remembered_for(grace: float) -> float:
    """Return the seconds for which a message is remembered, so that a late copy of it is recognised."""
    return max(10 * grace, _LEAST_MEMORY)


class Matcher:
    """The messages for one stream, and the events that upstream has sent on it.

    `grace`: the seconds for which a message waits for upstream, and with `replace` an event for its message.
    `overflows`: how often the memory was full. `most`: its limit, for messages and for events. `undelivered`:
    how many messages with keys had no event of upstream within `grace`; with `replace` only if `watches`.
    """

    __slots__ = (
        "_ahead", "_events", "_grace", "_memory", "_messages", "_mode", "_most", "_waiting", "_watches",
        "overflows", "undelivered",
    )  # fmt: skip

    def __init__(self, mode: BridgeMode, grace: float, most: int = MOST, *, watches: bool = False) -> None:
        self._mode, self._grace, self._most, self._watches = mode, grace, most, watches
        self.undelivered = 0
        self._memory = remembered_for(grace)
        self._messages: _Memory[Message] = _Memory()
        self._events: _Memory[_Event] = _Memory()
        self._waiting: dict[Message | _Event, Message | bytes | None] = {}  # and what is written in the end
        self._ahead: tuple[_Event, ...] = ()
        self.overflows = 0

    def message(self, message: Message, behind_since: float | None = None) -> tuple[Outcome | None, int]:
        """Take a message of NATS. Return what becomes of it, None if it waits for upstream, and the number of
        events that waited for it and are dropped. If it is `FILLED`, its frames are to be written now.

        `behind_since`: the time since which messages may come late, so that events are remembered from then
        on; None: they do not.
        """
        self._forget(message.at, behind_since)
        copies, by = self._events.all_oldest(message.keys)
        if copies and self._ahead:
            self._ahead = tuple(each for each in self._ahead if each not in copies)
        self._messages.add(message, by)
        if not copies and self._mode is not BridgeMode.REPLACE:
            self._waiting[message] = message
            return None, 0
        if self._watches and not copies:
            self._waiting[message] = None
        waited = sum(self._waiting.pop(copy, None) is not None for copy in copies)
        return Outcome.DELIVERED if waited < len(copies) else Outcome.FILLED, waited

    def known(self, message: Message, now: float) -> None:
        """Take a message that the client has already: a copy of upstream is dropped."""
        self._messages.add(replace(message, at=now))

    def event(
        self,
        keys: tuple[Key, ...],
        block: bytes,
        now: float,
        behind_since: float | None = None,
        *,
        may_wait: bool = True,
    ) -> Fate:
        """Take an event of upstream: its keys, and its block. `behind_since` as for `message`. `may_wait`: a
        message can still come for it soon.
        """
        if not keys:
            return Fate.PASSES
        self._forget(now, behind_since)
        message = self._messages.oldest(keys)
        if message is None:
            event = _Event(now, keys)
            self._events.add(event)
            if not may_wait or self._mode is not BridgeMode.REPLACE:
                self._passes(event)
                return Fate.PASSES
            self._waiting[event] = block
            return Fate.WAITS
        if self._waiting.pop(message, None) is not None:
            return Fate.DELIVERS
        return Fate.PASSES if self._mode is BridgeMode.OBSERVE else Fate.DROPPED

    def awaits(self, message: Message) -> bool:
        """Whether `message` waits for upstream."""
        return self._waiting.get(message) is not None

    @property
    def waiting(self) -> list[int]:
        """The positions of the messages that wait for upstream, in the order of their arrival."""
        return [each.position for each in self._waiting.values() if isinstance(each, Message)]

    @property
    def waits(self) -> int:
        """The number of messages that wait for upstream, and of events that wait for their message."""
        return sum(each is not None for each in self._waiting.values())

    @property
    def ahead(self) -> list[Key]:
        """A key of each event that has passed, and that no message has come for yet, the oldest first."""
        return [each.keys[0] for each in self._ahead]

    @property
    def is_full(self) -> bool:
        """Whether more wait than can be remembered: `due` then returns the oldest earlier."""
        return len(self._waiting) > self._most

    def due(self, now: float) -> list[Message | bytes]:
        """Return what has waited for `grace`, in the order of its arrival: messages that upstream has not
        delivered, and blocks of upstream that have no message.
        """
        waiting, over = self._waiting, len(self._waiting) - self._most
        gone: list[Message | _Event] = []
        for known in waiting:
            if now < known.at + self._grace and len(gone) >= over:
                break
            gone.append(known)
        due = []
        for known in gone:
            self.undelivered += isinstance(known, Message) and bool(known.keys)
            if (each := waiting.pop(known)) is not None:
                due.append(each)
                if isinstance(known, _Event):
                    self._passes(known)
        return due

    def _passes(self, event: _Event) -> None:
        self._ahead = (*self._ahead[1 - MOST_AHEAD :], event)

    def _forget(self, now: float, behind_since: float | None) -> None:
        before, most = now - self._memory, self._most
        if self._waiting:  # after a time in which the process stood still, also what waits is old
            before = min(before, next(iter(self._waiting)).at)
        events_before = before if behind_since is None else min(before, behind_since - self._memory)
        if self._ahead and self._ahead[0].at < events_before:
            self._ahead = tuple(each for each in self._ahead if each.at >= events_before)
        for full in (self._messages.forget(before, most), self._events.forget(events_before, most)):
            self.overflows += full
