"""A client of one stream that counts what a page cannot see: bytes, pings, and the time since the last byte.

It asks as a browser's EventSource does and sorts events by what `onmessage` would hear
(facts.md#notify-server-page): those
without a name. It opens its stream once and never again, as that client does.
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

__all__ = ["Arrival", "Figures", "Gap", "Life", "Observer"]

_PATIENCE = 10.0  # seconds for the connection, and again for the response head: the client's own limit
_MAX_EVENT = 1 << 20
_KEPT = 200  # arrivals a page may draw
_GAP = b"stream_recovered"


class Life(StrEnum):
    """What one would call a stream."""

    CONNECTING = "connecting"  # no response head yet
    SILENT = "silent"  # open, and no event so far
    ALIVE = "alive"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Arrival:
    """A block that came, `at` seconds after the request."""

    at: float
    kind: Literal["heard", "unheard", "ping", "gap"]


@dataclass(frozen=True, slots=True)
class Gap:
    """What a `stream_recovered` says: why upstream was lost, and for how many seconds."""

    reason: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of a stream `age` seconds after its request. Times are seconds; None is never.

    confirm_after, message_after: when `onmessage` would have heard a `connection_confirmed` and the latest
    `new_message`. messages: how many of these it would have heard. events: all but the announcements of a
    gap, which are `gaps`; the latest is `gap`. silence: since the last byte, or since the request. end: why
    it is over.
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
    """One stream. `changed` is called whenever `figures` would say something new."""

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
        self._bytes = self._events = self._heard = self._messages = self._pings = self._gaps = 0
        self._gap: Gap | None = None
        self._longest = 0.0
        self._arrivals: deque[Arrival] = deque(maxlen=_KEPT)

    async def open(self, url: str, token: str) -> None:
        """Ask `url` (without a path) for `/events`; returns with the response head. Never raises for what
        the other side does: that is the stream's end.
        """
        address = parse_upstream(url)
        self._asked_at = self._last_at = self._clock()
        try:
            self._exchange = await self._dialer.open(address, within=_PATIENCE)
            self._exchange.send(
                f"GET /events?access_token={token} HTTP/1.1\r\nHost: {address.authority}\r\n"
                "Accept: text/event-stream\r\nCache-Control: no-cache\r\n\r\n".encode()
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
        """Leave."""
        if self._exchange is not None:
            self._exchange.close()

    def figures(self) -> Figures:
        """What is known now; of a stream that is over, what was known at its end."""
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

    def _life(self) -> Life:
        if self._end is not None:
            return Life.ENDED
        if self._headers_after is None:
            return Life.CONNECTING
        return Life.ALIVE if self._events else Life.SILENT

    def _over(self, why: str) -> None:
        self._ended_at, self._end = self._clock(), why
        self._changed()


def _gap(data: bytes) -> Gap:
    """What an announcement says; a question mark where it says nothing."""
    try:
        said = json.loads(data)
        return Gap(str(said["reason"]), float(said["gap_ms"]) / 1000)
    except (ValueError, KeyError, TypeError):
        return Gap("?", 0.0)
