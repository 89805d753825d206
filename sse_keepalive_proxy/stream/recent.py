"""The latest messages of a JetStream stream, for clients that come back (behaviour.md#durable).

Time is an argument, in seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from sse_keepalive_proxy.stream.bridging import Message

__all__ = ["MOST_BYTES", "Recent"]

MOST_BYTES: Final = 32 << 20
"""The bytes for which the messages of one route may count."""

_OVERHEAD = 256  # bytes: what a message takes besides its frames
_PLACE = 96  # bytes: its place in the list of one recipient


class Recent:
    """The messages of the last `age` seconds by their recipients, which count for at most `most` bytes. Above
    it the oldest one is forgotten, and `forgot` is called.

    `floor`: every message with a higher position is here.
    """

    __slots__ = ("_age", "_by_recipient", "_forgot", "_messages", "_most", "floor", "size")

    def __init__(self, age: float, most: int = MOST_BYTES, forgot: Callable[[], None] = lambda: None) -> None:
        self._age, self._most, self._forgot = age, most, forgot
        self._messages: deque[tuple[float, Message]] = deque()
        self._by_recipient: dict[str, list[Message]] = {}
        self.floor = self.size = 0

    def add(self, message: Message, now: float) -> None:
        """Take the next message. If its position is not a later one, the stream was made again, and the older
        ones are forgotten.
        """
        if self._messages and message.position < self._messages[-1][1].position:
            self._messages.clear()
            self._by_recipient.clear()
            self.floor = self.size = 0
        self._messages.append((now, message))
        self.size += _cost(message)
        for recipient in message.recipients:
            self._by_recipient.setdefault(recipient, []).append(message)
        self._forget(now)

    def after(self, recipient: str, position: int, now: float) -> list[Message]:
        """Return the messages for `recipient` behind `position`, in their order."""
        self._forget(now)
        return [each for each in self._by_recipient.get(recipient, ()) if each.position > position]

    def _forget(self, now: float) -> None:
        messages = self._messages
        while messages and (messages[0][0] < now - self._age or self.size > self._most):
            at, message = messages.popleft()
            if at >= now - self._age:
                self._forgot()
            self.floor = message.position
            self.size -= _cost(message)
            for recipient in message.recipients:
                found = self._by_recipient[recipient]
                del found[0]
                if not found:
                    del self._by_recipient[recipient]


def _cost(message: Message) -> int:
    return len(message.frames) + _OVERHEAD + _PLACE * len(message.recipients)
