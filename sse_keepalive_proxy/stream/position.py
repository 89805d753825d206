"""What a client has of a JetStream stream: the position in the ids that it gets (behaviour.md#durable).

Upstream delivers messages in an order of its own, so what a client has is not a beginning of the stream. The
position has the few exceptions, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, Self

from sse_keepalive_proxy.stream.bridging import MOST_AHEAD, Key, Message

__all__ = ["MOST", "PATTERN", "Position", "mark"]

MOST: Final = MOST_AHEAD
"""The exceptions of each kind in a position. With more, a client gets some messages twice, none is lost."""

PATTERN: Final = rb"([0-9]{1,18})((?:\.[0-9]{1,18}){0,%d})((?:_[0-9a-f]{12}){0,%d})" % (MOST, MOST)
"""A position as `encoded` writes it. `Position.read` takes its three groups."""


_NOT_YET: Final = 10**18  # behind every position


def mark(key: Key) -> bytes:
    """Return 12 hexadecimal digits for `key`, which every instance of the proxy has in common."""
    text = "{} {} {}".format(*key).encode(errors="surrogatepass")
    return hashlib.blake2b(text, digest_size=6).hexdigest().encode()


@dataclass(frozen=True, slots=True)
class Position:
    """All messages up to `last` but `lacks`, and behind it those of `ahead`: the marks of events of upstream
    whose messages had not come from NATS, one for each event.
    """

    last: int
    lacks: tuple[int, ...] = ()
    ahead: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, last: int, lacks: Iterable[int], ahead: Sequence[bytes] = ()) -> Self:
        """Return a position within the bounds. `lacks` behind `last` do not matter, the oldest of `ahead`
        matter least.
        """
        before = sorted({at for at in lacks if at <= last})
        if len(before) > MOST:
            last = before[MOST] - 1
        return cls(last, tuple(before[:MOST]), tuple(ahead[-MOST:]))

    @classmethod
    def read(cls, last: bytes, lacks: bytes, ahead: bytes) -> Self:
        """Return the position of an id, which anybody can write."""
        number = int(last)
        found = tuple(number - int(each) for each in lacks.split(b".")[1:])
        return cls(number, found, tuple(ahead.split(b"_")[1:]))

    @property
    def encoded(self) -> bytes:
        """The position in an id: `4711.3.1_9f86d0818847` has all up to 4711 but 4708 and 4710."""
        lacks = b"".join(b".%d" % (self.last - at) for at in self.lacks)
        return b"%d%b%b" % (self.last, lacks, b"".join(b"_" + each for each in self.ahead))

    @property
    def first(self) -> int:
        """The position up to which nothing is lacking."""
        return min((self.last, *(at - 1 for at in self.lacks)))

    def missed(self, messages: Iterable[Message], later: Collection[int]) -> list[tuple[Message, Position]]:
        """Return which of `messages` a client lacks, each with its position once it has this one, too.

        `messages`: those for the client behind `first`, in their order. `later`: the positions of those that
        it gets in another way.
        """
        missed: list[Message] = []
        ahead = [(each, _NOT_YET) for each in self.ahead]  # each with the position of its message
        for each in messages:
            if each.position <= self.last and each.position not in self.lacks:
                continue
            known = next((it for key in each.keys if (it := (mark(key), _NOT_YET)) in ahead), None)
            if known is not None:
                ahead[ahead.index(known)] = known[0], each.position
            elif each.frames and each.position not in later:
                missed.append(each)
        early = [each.position for each in missed if each.position <= self.last]
        found = []
        for each, following in zip_longest(missed, missed[1:]):
            at = each.position
            last = max(self.last, at)
            lacks = [*later, *(it for it in early if it > at)]
            if following is not None and following.position == at:  # one message can have several subjects
                lacks.append(at)
            marks = [it for it, position in ahead if position > last]
            found.append((each, Position.of(last, lacks, marks)))
        return found
