"""The streams of the stand-in, and its three modes of delivery (facts.md#notify-server-builds).

This module has no sockets: a `Stream` is a queue that the HTTP side empties. `Hub.handle` takes a message as
NATS would deliver it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import Any

from sse_keepalive_proxy.demo import frames

__all__ = [
    "DEFAULT_CHATS",
    "Aborted",
    "Event",
    "Hub",
    "Mode",
    "Outcome",
    "Signal",
    "Stream",
    "cuts_a_character",
]

DEFAULT_CHATS: Mapping[int, Collection[int]] = {2: (2, 3, 4)}

_LOGGED = 50  # bytes of a message, or of a refused token, in a log line
_REMEMBERED = 4096  # messages of users that are remembered, to deliver or count each once


class Aborted(Exception):
    """The server has ended as a process that aborts (facts.md#notify-server-abort)."""


class Mode(StrEnum):
    """The behaviour of the stand-in."""

    SILENT = "silent"  # the build of the incident
    FIXED = "fixed"  # the build with the authors' repair
    HEALTHY = "healthy"  # a correct server


class Signal(Enum):
    """An item of a stream's queue that is not a frame."""

    END = auto()  # a clean end of the response
    RESET = auto()  # RST
    LOOK = auto()  # an interval was changed
    FREEZE = auto()  # nothing more, for ever


class Event(bytes):
    """The frame of an event. `message`: the id and the content of the chat's message that it is made of."""

    message: tuple[str, str] | None = None


class _Remembered:
    """The newest keys."""

    def __init__(self) -> None:
        self._keys: OrderedDict[tuple[str, str, int], None] = OrderedDict()

    def add(self, key: tuple[str, str, int]) -> bool:
        """Remember `key`. Return whether it is new."""
        if key in self._keys:
            return False
        self._keys[key] = None
        if len(self._keys) > _REMEMBERED:
            self._keys.popitem(last=False)
        return True


@dataclass(slots=True, eq=False)
class Stream:
    """One request for `/events`, from the moment it is registered until its response has ended.

    `registered` is False for a stream that is open but gets no more events. `answered` is True when its
    response head was sent.
    """

    user_id: int
    opened_at: float
    last_byte_at: float
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    queue: asyncio.Queue[bytes | Signal] = field(default_factory=asyncio.Queue)
    registered: bool = True
    answered: bool = False
    events: int = 0
    last_event_at: float | None = None

    def describe(self, now: float) -> dict[str, Any]:
        """Return the values for `GET /demo/state`. Times are in seconds."""
        return {
            "id": self.id,
            "user_id": self.user_id,
            "registered": self.registered,
            "answered": self.answered,
            "age": now - self.opened_at,
            "silence": now - self.last_byte_at,
            "since_event": None if self.last_event_at is None else now - self.last_event_at,
            "events": self.events,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one message: the delivered frames, the frames for users without a registered stream,
    and whether the server dropped the message.
    """

    delivered: int = 0
    lost: int = 0
    dropped: bool = False


class Hub:
    """The streams of all users, and the counts.

    `now`: seconds of a monotonic clock. `wall_ns`: nanoseconds since the epoch, for timestamps.
    """

    def __init__(
        self,
        mode: Mode,
        chats: Mapping[int, Collection[int]],
        *,
        now: Callable[[], float],
        wall_ns: Callable[[], int],
    ) -> None:
        self.mode = mode
        self.chats = {chat: tuple(members) for chat, members in chats.items()}
        self.streams: list[Stream] = []
        self.opened_total = 0
        self.closed_total = 0
        self.delivered = 0
        self.lost = 0
        self.dropped = 0
        self.written = 0
        self.written_messages = 0
        self.changed = asyncio.Event()  # set whenever a stream opens or closes
        self.freezes = True  # whether a message for a user whose client has left freezes the server
        self.frozen = False
        self._deserted: set[int] = set()  # users that are registered although their client has left
        self._now = now
        self._wall_ns = wall_ns
        self._seen, self._written = _Remembered(), _Remembered()

    def open(self, user_id: int) -> Stream:
        """Register a stream of a user, before its response head. It takes the user's only place."""
        now = self._now()
        if self.mode is not Mode.HEALTHY:
            for stream in self.of_users({user_id}):
                self._unregister(stream)
        self._deserted.discard(user_id)
        stream = Stream(user_id, now, now)
        self.streams.append(stream)
        self.opened_total += 1
        self.changed.set()
        return stream

    def begin(self, stream: Stream) -> None:
        """Note that the response head of a stream was sent. All modes but the silent one confirm it.

        The clean-up after each event counts the confirm frame, and the messages that came before the head.
        """
        stream.answered = True
        if self.mode is not Mode.SILENT:
            stream.queue.put_nowait(self._confirm(stream))
        if stream.registered and (self.mode is Mode.FIXED or (self.mode is Mode.SILENT and stream.events)):
            self._unregister(stream)

    def wrote(self, stream: Stream, event: Event) -> None:
        """Count an event that was written to an open stream: a message of the chat once for each user, even
        if both of its frames were written.
        """
        self.written += 1
        if event.message is not None:
            self.written_messages += self._written.add((*event.message, stream.user_id))

    def close(self, stream: Stream) -> None:
        """Remove an ended stream. If it is still registered, its client has left, and its user stays so."""
        if stream in self.streams:
            self.streams.remove(stream)
            self.closed_total += 1
            self.changed.set()
            if stream.registered and self.mode is not Mode.HEALTHY:
                self._deserted.add(stream.user_id)

    async def unless_frozen(self) -> None:
        """Return at once. In a frozen server, never."""
        if self.frozen:
            await asyncio.Event().wait()

    def start_over(self) -> None:
        """Forget who has left, as a new process does."""
        self.frozen = False
        self._deserted.clear()

    def of_users(self, user_ids: Collection[int]) -> list[Stream]:
        """Return the registered streams of some users."""
        users = set(user_ids)
        return [stream for stream in self.streams if stream.registered and stream.user_id in users]

    def chats_of(self, user_id: int) -> list[int]:
        """Return the chats of a user."""
        return [chat for chat, members in self.chats.items() if user_id in members]

    def join(self, chat_id: int) -> int:
        """Add a new user to a chat. Return the id of the user."""
        user_id = max((user for members in self.chats.values() for user in members), default=0) + 1
        self.chats[chat_id] = (*self.chats.get(chat_id, ()), user_id)
        return user_id

    def heartbeat(self, stream: Stream, heartbeat_id: int) -> bytes:
        """Return the next heartbeat of a stream."""
        return frames.heartbeat(self._wall_ns(), user_id=stream.user_id, heartbeat_id=heartbeat_id)

    def look(self) -> None:
        """Tell every stream that an interval may have changed."""
        for stream in self.streams:
            stream.queue.put_nowait(Signal.LOOK)

    def end_all(self, how: Signal) -> int:
        """End every stream after its queued frames. Return the number of streams."""
        for stream in self.streams:
            stream.registered = False
            stream.queue.put_nowait(how)
        return len(self.streams)

    def handle(self, subject: str, payload: Mapping[str, Any]) -> Outcome:
        """Take one NATS message and put its frames into the queues of the streams.

        An invalid message is dropped. The real server logs it and goes on. A frozen server does nothing.
        Raises `Aborted`.
        """
        if self.frozen:
            return Outcome(dropped=True)
        try:
            outcome = self._dispatch(subject, payload)
        except (KeyError, TypeError, ValueError, AttributeError):
            outcome = Outcome(dropped=True)
        self.delivered += outcome.delivered
        self.lost += outcome.lost
        self.dropped += outcome.dropped
        return outcome

    def state(self) -> dict[str, Any]:
        """Return the values for `GET /demo/state`."""
        now = self._now()
        users = sorted({stream.user_id for stream in self.streams})
        return {
            "mode": self.mode,
            "frozen": self.frozen,
            "open": {str(user): sum(s.user_id == user for s in self.streams) for user in users},
            "delivered": self.delivered,
            "lost": self.lost,
            "dropped": self.dropped,
            "written": self.written,
            "written_messages": self.written_messages,
            "opened_total": self.opened_total,
            "closed_total": self.closed_total,
            "streams": [stream.describe(now) for stream in self.streams],
        }

    def _confirm(self, stream: Stream) -> bytes:
        return frames.connection_confirmed(
            self._wall_ns(),
            user_id=stream.user_id,
            connection_id=stream.id,
            connected_chats=len(self.chats_of(stream.user_id)),
        )

    def _dispatch(self, subject: str, payload: Mapping[str, Any]) -> Outcome:
        if subject == "fechatter.message.new":
            members = self.chats.get(int(payload["chat_id"]), ())
            recipients = [user for user in members if user != int(payload["sender_id"])]
            key = (str(payload.get("message_id", uuid.uuid4())), str(payload["content"]))
            frame = frames.new_message(
                self._wall_ns(),
                chat_id=int(payload["chat_id"]),
                sender_id=int(payload["sender_id"]),
                content=str(payload["content"]),
            )
            return self._deliver(self._once(key, recipients), frame, key)
        if subject == "fechatter.user.status":
            return self._status_changed(payload)
        if self.mode is Mode.SILENT or not subject.startswith("fechatter.realtime."):
            return Outcome(dropped=True)
        if (received := payload.get("MessageReceived")) is not None:
            message = received["message"]
            content = str(message.get("content", ""))
            key = (str(message["id"]), content)
            frame = frames.message_received(
                self._wall_ns(), chat_id=int(received["chat_id"]), message=message
            )
            if self.mode is Mode.FIXED and cuts_a_character(content):
                raise Aborted
            return self._deliver(self._once(key, [int(user) for user in received["recipients"]]), frame, key)
        if self.mode is Mode.HEALTHY:
            return self._presence(payload)
        return Outcome(dropped=True)

    def _status_changed(self, payload: Mapping[str, Any]) -> Outcome:
        """Unregister a user who is offline. This ends the harm that its client does by leaving."""
        if (payload["event_type"], payload["status"]) != ("status_changed", "offline"):
            return Outcome(dropped=True)
        user_id = int(payload["user_id"])
        self._deserted.discard(user_id)
        for stream in self.of_users({user_id}):
            self._unregister(stream)
        return Outcome()

    def _presence(self, payload: Mapping[str, Any]) -> Outcome:
        """Deliver the other realtime messages. Only a correct server does."""
        ((kind, fields),) = payload.items()
        types = {
            "MessageRead": ("message_read", "reader_id"),
            "TypingStarted": ("typing_started", "user_id"),
            "TypingStopped": ("typing_stopped", "user_id"),
            "UserPresence": ("user_presence", "user_id"),
        }
        name, who = types[kind]
        author = int(fields[who])
        chats = [int(fields["chat_id"])] if "chat_id" in fields else self.chats_of(author)
        members = sorted({user for chat in chats for user in self.chats.get(chat, ()) if user != author})
        frame = frames.generic({**fields, "timestamp": frames.rfc3339(self._wall_ns()), "type": name})
        return self._deliver(members, frame)

    def _once(self, key: tuple[str, str], recipients: Iterable[int]) -> list[int]:
        """Return the recipients who have not received this message. Only the healthy mode filters them.

        Each message comes on two subjects, and an edit has another content.
        """
        users = list(recipients)
        if self.mode is not Mode.HEALTHY:
            return users
        return [user for user in users if self._seen.add((*key, user))]

    def _deliver(
        self, recipients: Collection[int], frame: bytes, message: tuple[str, str] | None = None
    ) -> Outcome:
        if self.freezes and not self._deserted.isdisjoint(recipients):
            self.frozen = True
            for stream in self.streams:
                stream.queue.put_nowait(Signal.FREEZE)
            return Outcome(lost=len(set(recipients)))
        reached, event = self.of_users(recipients), Event(frame)
        event.message = message
        for stream in reached:
            stream.queue.put_nowait(event)
            stream.events += 1
            stream.last_event_at = self._now()
            if stream.answered and self.mode is not Mode.HEALTHY:
                self._unregister(stream)  # the clean-up after each event, the bug of the real server
        lost = set(recipients) - {stream.user_id for stream in reached}
        return Outcome(len(reached), len(lost))

    def _unregister(self, stream: Stream) -> None:
        """Unregister a stream. The silent mode also ends it, after its queued frames."""
        stream.registered = False
        if self.mode is Mode.SILENT:
            stream.queue.put_nowait(Signal.END)


def cuts_a_character(text: str) -> bool:
    """Whether the first 50 bytes of a longer text end inside a character. Its log line aborts the server."""
    data = text.encode("utf-8", "replace")
    return len(data) > _LOGGED and data[_LOGGED] & 0xC0 == 0x80
