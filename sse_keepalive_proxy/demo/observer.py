"""A client of one stream that counts bytes, pings and the time since the last byte. A page cannot see these.

It sends the request of a browser's EventSource and counts the events that `onmessage` would receive: those
without a name (facts.md#notify-server-page). Like this page, it never reconnects.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from sse_keepalive_proxy.config.types.address import parse_upstream
from sse_keepalive_proxy.errors import ProxyError, UpstreamError
from sse_keepalive_proxy.http.dialer import Dialer
from sse_keepalive_proxy.http.exchange import Exchange
from sse_keepalive_proxy.wire.block import parse, split
from sse_keepalive_proxy.wire.framing import Framer

__all__ = ["Arrival", "Figures", "Gap", "Life", "Observer", "until"]

_PATIENCE = 10.0  # seconds for the connection, and the same for the response head, as in the page
_MAX_EVENT = 1 << 20
_KEPT = 200  # arrivals for the page to draw, and contents of messages
_GAP = b"stream_recovered"


class Life(StrEnum):
    """The state of a stream, as a person sees it."""

    CONNECTING = "connecting"  # no response head yet
    SILENT = "silent"  # open, and no event so far
    ALIVE = "alive"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A block that arrived `at` seconds after the request."""

    at: float
    kind: Literal["heard", "unheard", "ping", "gap"]


@dataclass(frozen=True, slots=True)
class Gap:
    """The data of a `stream_recovered`: the reason of the loss and its seconds."""

    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of a stream, `age` seconds after its request. Times are in seconds; None means never.

    `confirm_after`, `message_after`: the time when `onmessage` would receive a `connection_confirmed` and
    the latest `new_message`. `messages`: the number of these messages. `events`: all events without the
    notices of a gap. `gaps`: the number of these notices; `gap` is the latest. `silence`: since the last
    byte, or since the request. `end`: the reason for the end.
    """

    life: Life
    age: float
    headers_after: float | None
    first_byte_after: float | None
    confirm_after: float | None
    message_after: float | None
    bytes: int
    events: int
    heard: int
    messages: int
    pings: int
    gaps: int
    gap: Gap | None
    silence: float
    longest_silence: float
    end: str | None
    arrivals: tuple[Arrival, ...]


class Observer:
    """One stream. It calls `changed` when `figures` has changed."""

    def __init__(self, dialer: Dialer, changed: Callable[[], None]) -> None:
        self._dialer = dialer
        self._changed = changed
        self._clock = asyncio.get_running_loop().time
        self._exchange: Exchange | None = None
        self._framer = Framer(_MAX_EVENT)
        self._asked_at = self._last_at = self._clock()
        self._ended_at: float | None = None
        self._end: str | None = None
        self._headers_after: float | None = None
        self._first_byte_after: float | None = None
        self._confirm_after: float | None = None
        self._message_after: float | None = None
        self.last_id = b""  # the last event id, as an EventSource sends it when it comes back
        self.contents: deque[str] = deque(maxlen=_KEPT)  # of the messages that `onmessage` would receive
        self._bytes = self._events = self._heard = self._messages = self._pings = self._gaps = 0
        self._gap: Gap | None = None
        self._longest = 0.0
        self._arrivals: deque[Arrival] = deque(maxlen=_KEPT)

    async def open(self, url: str, token: str, last_id: bytes = b"") -> None:
        """Request `/events` from `url` (without a path). Return after the response head.

        `last_id`: the last event id of an earlier stream.

        A failure of the server does not raise: it ends the stream.
        """
        address = parse_upstream(url)
        self._asked_at = self._last_at = self._clock()
        try:
            self._exchange = await self._dialer.open(address, within=_PATIENCE)
            self._exchange.send(
                f"GET /events?access_token={token} HTTP/1.1\r\nHost: {address.authority}\r\n"
                "Accept: text/event-stream\r\nCache-Control: no-cache\r\n".encode()
                + (b"Last-Event-ID: %b\r\n" % last_id if last_id else b"")
                + b"\r\n"
            )
            head = await self._exchange.response(_PATIENCE)
        except UpstreamError as error:
            self.failed(error)
            return
        self._headers_after = self._clock() - self._asked_at
        if head.status == 200:
            self._exchange.attach(self)
        else:
            self.close()
            self._over(f"answered with status {head.status}")
        self._changed()

    def close(self) -> None:
        """Close the stream."""
        if self._exchange is not None:
            self._exchange.close()

    def figures(self) -> Figures:
        """Return the current figures or, for an ended stream, the figures at its end."""
        now = self._clock() if self._ended_at is None else self._ended_at
        silence = now - self._last_at
        return Figures(
            life=self._life(),
            age=now - self._asked_at,
            headers_after=self._headers_after,
            first_byte_after=self._first_byte_after,
            confirm_after=self._confirm_after,
            message_after=self._message_after,
            bytes=self._bytes,
            events=self._events,
            heard=self._heard,
            messages=self._messages,
            pings=self._pings,
            gaps=self._gaps,
            gap=self._gap,
            silence=silence,
            longest_silence=max(self._longest, silence),
            end=self._end,
            arrivals=tuple(self._arrivals),
        )

    # What the exchange calls (`upstream.http.Sink`).

    def data(self, data: bytes) -> None:
        now = self._clock()
        after = now - self._asked_at
        if self._first_byte_after is None:
            self._first_byte_after = after
        self._longest = max(self._longest, now - self._last_at)
        self._last_at = now
        self._bytes += len(data)
        for block in split(self._framer.feed(data)):
            self._take(block, after)
        self._changed()

    def end(self) -> None:
        self._over("closed by upstream after its first event" if self._events == 1 else "closed")

    def failed(self, error: ProxyError) -> None:
        self._over(str(error))

    # Inside.

    def _take(self, block: bytes, after: float) -> None:
        read = parse(block)
        if read.is_comment:
            self._pings += 1
            self._arrivals.append(Arrival(after, "ping"))
        if read.id is not None:
            self.last_id = read.id
        if read.data is None:
            return
        if read.name == _GAP:
            self._gaps += 1
            self._gap = _gap(read.data)
            self._arrivals.append(Arrival(after, "gap"))
            return
        self._events += 1
        if read.name not in (None, b"", b"message"):
            self._arrivals.append(Arrival(after, "unheard"))
            return
        self._heard += 1
        self._arrivals.append(Arrival(after, "heard"))
        if read.json_type == "connection_confirmed" and self._confirm_after is None:
            self._confirm_after = after
        elif read.json_type == "new_message":
            self._messages += 1
            self._message_after = after
            self.contents.append(_content(read.data))

    def _life(self) -> Life:
        if self._end is not None:
            return Life.ENDED
        if self._headers_after is None:
            return Life.CONNECTING
        return Life.ALIVE if self._events else Life.SILENT

    def _over(self, why: str) -> None:
        self._ended_at, self._end = self._clock(), why
        self._changed()


async def until(news: asyncio.Event, condition: Callable[[], bool], within: float) -> bool:
    """Wait until `condition` is true, for at most `within` seconds. Return whether it became true.

    It is checked whenever `news` is set.
    """
    try:
        async with asyncio.timeout(within):
            while not condition():
                news.clear()
                await news.wait()
    except TimeoutError:
        return False
    return True


def _content(data: bytes) -> str:
    """Return the content of a message: of its own fields, or of the message inside."""
    fields = json.loads(data)
    return str(fields.get("message", fields).get("content"))


def _gap(data: bytes) -> Gap:
    """Parse the notice of a gap. The reason is a question mark if it cannot be parsed."""
    try:
        said = json.loads(data)
        return Gap(str(said["reason"]), float(said["gap_ms"]) / 1000)
    except (ValueError, KeyError, TypeError):
        return Gap("?", 0.0)
