"""Match the messages of NATS with the events of upstream, for one stream (behaviour.md#bridge).

A message and an event are the same if the n-th key of one equals the n-th key of the other, for any n. One
event stands for one message, the oldest that fits. Time is an argument, in seconds. `Matcher` decides; its
caller writes and counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from sse_keepalive_proxy.stream.policy import BridgeMode

__all__ = ["MOST", "Fate", "Key", "Matcher", "Message", "Outcome", "remembered_for"]

Key = tuple[int, int, str]
"""The place of the subject in the configuration, that of the key in the subject, and the value."""

MOST = 4096
"""Messages, and events, that are remembered for one stream."""

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


@dataclass(frozen=True, slots=True)
class Message:
    """A message of NATS: for whom it is, what it is recognised by, and the `events` blocks of `frames`.
    `position`: its place in the stream that it was read from, 0 without one.
    """

    recipients: frozenset[str]
    keys: tuple[Key, ...]
    frames: bytes
    events: int = 1
    position: int = 0


class _Known:
    """A message or an event in the memory. `keys`: those that may still fit another one."""

    __slots__ = ("at", "keys")

    def __init__(self, at: float, keys: tuple[Key, ...]) -> None:
        self.at, self.keys = at, keys


class _Published(_Known):
    """A message. `waits`: upstream may still deliver it. `came`: upstream has sent an event for it."""

    __slots__ = ("came", "message", "waits")

    def __init__(self, at: float, message: Message, keys: tuple[Key, ...], *, waits: bool) -> None:
        super().__init__(at, keys)
        self.message, self.waits = message, waits
        self.came = False


class _Event(_Known):
    """An event of upstream. `block`: what waits for its message, or None if it has passed."""

    __slots__ = ("block",)

    def __init__(self, at: float, keys: tuple[Key, ...], block: bytes | None) -> None:
        super().__init__(at, keys)
        self.block = block


_K = TypeVar("_K", bound=_Known)


class _Memory(Generic[_K]):
    """What is known, in the order of its arrival and by its keys.

    It is small, because each stream has two, and has few objects, because Python's garbage collector looks at
    all of them: lists (an empty deque is ten times larger), and none for a key that only one has.
    """

    __slots__ = ("_by_key", "_known")

    def __init__(self) -> None:
        self._known: list[_K] = []
        self._by_key: dict[Key, _K | list[_K]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def add(self, known: _K) -> None:
        """Remember `known`, the newest."""
        self._known.append(known)
        for key in known.keys:
            found = self._by_key.setdefault(key, known)
            if isinstance(found, list):
                found.append(known)
            elif found is not known:
                self._by_key[key] = [found, known]

    def _first(self, key: Key) -> _K | None:
        found = self._by_key.get(key)
        return found[0] if isinstance(found, list) else found

    def oldest(self, keys: tuple[Key, ...]) -> _K | None:
        """Return the oldest one that has the first of `keys` that any has, or None. It does not fit again by
        any of `keys`.
        """
        for key in keys:
            known = self._first(key)
            if known is not None:
                for each in keys:
                    if each in known.keys:
                        self._close(each, known)
                return known
        return None

    def all_oldest(self, keys: tuple[Key, ...]) -> tuple[list[_K], tuple[Key, ...]]:
        """Return the oldest one for each of `keys`, without repetition, and the keys that none has. They do
        not fit again by `keys`.
        """
        taken: list[_K] = []
        without = keys
        for key in keys:
            known = self._first(key)
            if known is not None:
                self._close(key, known)
                without = _less(without, key)
                if known not in taken:
                    taken.append(known)
        return taken, without

    def forget(self, before: float, most: int) -> bool:
        """Forget what came before `before`, and the oldest of more than `most`. Return whether any of the
        latter was forgotten.
        """
        known = self._known
        while known and known[0].at < before:
            self._drop(known.pop(0))
        if len(known) <= most:
            return False
        while len(known) > most:
            self._drop(known.pop(0))
        return True

    def _drop(self, known: _K) -> None:
        for key in known.keys:
            self._close(key, known)

    def _close(self, key: Key, known: _K) -> None:
        known.keys = _less(known.keys, key)
        found = self._by_key[key]
        if isinstance(found, list) and len(found) > 1:
            found.remove(known)
        else:
            del self._by_key[key]


def _less(keys: tuple[Key, ...], key: Key) -> tuple[Key, ...]:
    return tuple(each for each in keys if each != key)


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
        "_events", "_grace", "_memory", "_messages", "_mode", "_most", "_waiting", "_watches", "overflows",
        "undelivered",
    )  # fmt: skip

    def __init__(self, mode: BridgeMode, grace: float, most: int = MOST, *, watches: bool = False) -> None:
        self._mode, self._grace, self._most, self._watches = mode, grace, most, watches
        self.undelivered = 0
        self._memory = remembered_for(grace)
        self._messages: _Memory[_Published] = _Memory()
        self._events: _Memory[_Event] = _Memory()
        self._waiting: list[_Published | _Event] = []
        self.overflows = 0

    def message(
        self, message: Message, now: float, behind_since: float | None = None
    ) -> tuple[Outcome | None, int]:
        """Take a message of NATS. Return what becomes of it, None if it waits for upstream, and the number of
        events that waited for it and are dropped. If it is `FILLED`, its frames are to be written now.

        `behind_since`: the time since which messages may come late, so that events are remembered from then
        on; None: they do not.
        """
        self._forget(now, behind_since)
        copies, keys = self._events.all_oldest(message.keys)
        waits = not copies and self._mode is not BridgeMode.REPLACE
        known = _Published(now, message, keys, waits=waits)
        self._messages.add(known)
        if waits:
            self._waiting.append(known)
            return None, 0
        if self._watches and not copies:
            self._waiting.append(known)
        waited = [copy for copy in copies if copy.block is not None]
        for copy in waited:
            copy.block = None
        outcome = Outcome.DELIVERED if len(waited) < len(copies) else Outcome.FILLED
        return outcome, len(waited)

    def known(self, message: Message, now: float) -> None:
        """Take a message that the client has already: a copy of upstream is dropped."""
        self._messages.add(_Published(now, message, message.keys, waits=False))

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
        known = self._messages.oldest(keys)
        if known is None:
            waits = may_wait and self._mode is BridgeMode.REPLACE
            event = _Event(now, keys, block if waits else None)
            self._events.add(event)
            if waits:
                self._waiting.append(event)
            return Fate.WAITS if waits else Fate.PASSES
        known.came = True
        if known.waits:
            known.waits = False
            return Fate.DELIVERS
        return Fate.PASSES if self._mode is BridgeMode.OBSERVE else Fate.DROPPED

    def awaits(self, message: Message) -> bool:
        """Whether `message` waits for upstream."""
        return any(
            each.waits and each.message == message for each in self._waiting if isinstance(each, _Published)
        )

    @property
    def waiting(self) -> list[int]:
        """The positions of the messages that wait for upstream, in the order of their arrival."""
        return [
            each.message.position for each in self._waiting if isinstance(each, _Published) and each.waits
        ]

    @property
    def first_waiting(self) -> int | None:
        """The position of the first message that waits for upstream, None if none does."""
        waiting = self._waiting if self._mode is not BridgeMode.REPLACE else []
        while waiting and isinstance(first := waiting[0], _Published):
            if first.waits:
                return first.message.position
            waiting.pop(0)
        return None

    @property
    def is_full(self) -> bool:
        """Whether more wait than can be remembered: `due` then returns the oldest earlier."""
        return len(self._waiting) > self._most

    def due(self, now: float) -> list[Message | bytes]:
        """Return what has waited for `grace`, in the order of its arrival: messages that upstream has not
        delivered, and blocks of upstream that have no message.
        """
        over: list[Message | bytes] = []
        waiting, most = self._waiting, self._most
        while waiting and (now >= waiting[0].at + self._grace or len(waiting) > most):
            known = waiting.pop(0)
            if isinstance(known, _Published):
                self.undelivered += not known.came and bool(known.message.keys)
                if known.waits:
                    known.waits = False
                    over.append(known.message)
            elif known.block is not None:
                over.append(known.block)
                known.block = None
        return over

    def _forget(self, now: float, behind_since: float | None) -> None:
        before, most = now - self._memory, self._most
        events_before = before if behind_since is None else min(before, behind_since - self._memory)
        for full in (self._messages.forget(before, most), self._events.forget(events_before, most)):
            self.overflows += full
