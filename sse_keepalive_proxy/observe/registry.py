"""The open streams of this instance: what limits count, what metrics and pages read.

A stream enters when its request arrives, before upstream is asked, so that a limit protects upstream
too. It leaves when its connection is gone, or when its request turns out to be no stream.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from sse_keepalive_proxy.stream.lifecycle import Lifecycle
from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import KeepaliveForm

__all__ = ["Flow", "OpenStream", "Registry", "snapshot"]


_LATECOMER = 1.0
"""Seconds that a stream has at most which comes when a drain is nearly over."""


class Flow(Protocol):
    """What has come from upstream, and what has gone to the client."""

    event_at: float | None
    events: int
    comments: int
    upstream_bytes: int
    sent_upstream: int
    sent_synthetic: int


class OpenStream(Protocol):
    """What is known of an open stream. Its own counts are read when somebody asks; times are on the
    loop's clock.
    """

    stream_id: str
    route_name: str
    ping_form: KeepaliveForm | None
    client: str
    life: Lifecycle
    opened_at: float
    pings: int
    stalls: int
    reconnects: int

    @property
    def flow(self) -> Flow:
        """What has passed through it."""

    def leave(self, at: float, reason: CloseReason) -> None:
        """End it for `reason` at `at`, at a block boundary."""

    def cut(self) -> None:
        """End it now, whatever still waits for its client."""


def snapshot(stream: OpenStream, now: float) -> dict[str, Any]:
    """A stream as pages and log lines show it: times in seconds, None for never, nothing secret."""
    flow = stream.flow
    return {
        "id": stream.stream_id,
        "route": stream.route_name,
        "state": stream.life.state.value,
        "client": stream.client,
        "age_s": round(now - stream.opened_at, 3),
        "since_upstream_byte_s": round(now - stream.life.upstream_at, 3) if flow.upstream_bytes else None,
        "since_upstream_event_s": None if flow.event_at is None else round(now - flow.event_at, 3),
        "events": flow.events,
        "comments": flow.comments,
        "pings": stream.pings,
        "stalls": stream.stalls,
        "reconnects": stream.reconnects,
        "bytes": flow.sent_upstream + flow.sent_synthetic,
    }


class Registry:
    """Open streams, with their limits, which a reload may change. `per_client` None is no limit."""

    def __init__(self, limit: int, per_client: int | None) -> None:
        self.limit = limit
        self.per_client = per_client
        self._streams: dict[int, OpenStream] = {}
        self._connecting: set[int] = set()
        self._clients: dict[str, int] = {}
        self._drain_ends_at: float | None = None
        self.leaving = asyncio.Event()  # set once every stream has been told to end

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[OpenStream]:
        return iter(list(self._streams.values()))

    @property
    def connecting(self) -> int:
        """Those that upstream has not accepted yet: their clients' connections are still the server's."""
        return len(self._connecting)

    def refusal(self, client: str) -> str | None:
        """Why one more stream of `client` has no room: a label of `streams_rejected_total`, or None."""
        if len(self._streams) >= self.limit:
            return "max_streams"
        if self.per_client is not None and self._clients.get(client, 0) >= self.per_client:
            return "max_streams_per_client"
        return None

    def leave(self, which: Callable[[str], bool], at: Callable[[], float], reason: CloseReason) -> None:
        """End for `reason` the streams of every route of which `which` holds, those too that upstream has not
        accepted yet, each at its own `at()`.
        """
        for stream in self:
            if which(stream.route_name):
                stream.leave(at(), reason)

    def drain(self, now: float, until: float) -> None:
        """End every stream at a moment of its own between `now` and `until`, or up to a second later where it
        is still to come. Times are the loop's.
        """
        self._drain_ends_at = until
        self.leaving.set()
        self.leave(lambda _: True, lambda: random.uniform(now, until), CloseReason.DRAIN)  # noqa: S311

    def drain_rest(self, now: float) -> float:
        """Return the seconds until the last stream has left, 0 without a drain."""
        return 0.0 if self._drain_ends_at is None else max(self._drain_ends_at - now, 0.0)

    def add(self, stream: OpenStream) -> None:
        """Count `stream` from now on, as connecting."""
        if self._drain_ends_at is not None:
            last = max(self._drain_ends_at, stream.opened_at + _LATECOMER)
            stream.leave(random.uniform(stream.opened_at, last), CloseReason.DRAIN)  # noqa: S311
        self._streams[id(stream)] = stream
        self._connecting.add(id(stream))
        self._clients[stream.client] = self._clients.get(stream.client, 0) + 1

    def begun(self, stream: OpenStream) -> None:
        """It has its client's connection to itself from now on."""
        self._connecting.discard(id(stream))

    def remove(self, stream: OpenStream) -> None:
        """Count `stream` no longer. Harmless when it has left already."""
        self._connecting.discard(id(stream))
        if self._streams.pop(id(stream), None) is None:
            return
        left = self._clients.pop(stream.client) - 1
        if left:
            self._clients[stream.client] = left
