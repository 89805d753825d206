"""The open streams of this instance. Limits count them; metrics and pages read them.

A stream is added when its request arrives, before the upstream connection, so that a limit also protects
upstream. It is removed when its connection is closed, or when the answer is not an event stream.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from sse_keepalive_proxy.observe.held import HeldStreams
from sse_keepalive_proxy.stream.lifecycle import Lifecycle
from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import Family
from sse_keepalive_proxy.stream.replay_log import ReplayLogs
from sse_keepalive_proxy.stream.states import State

__all__ = ["Flow", "OpenGroup", "OpenStream", "Registry", "Spread", "group_snapshot", "snapshot"]


_LATECOMER = 1.0
"""The longest time, in seconds, of a stream that is added near the end of a drain."""


class Bridged(Protocol):
    """A stream's place at the bridge of its route."""

    def snapshot(self) -> dict[str, Any]:
        """Return its values for pages."""


class Flow(Protocol):
    """The counts of bytes and blocks from upstream and to the client. `bridge`: see `Bridged`."""

    event_at: float | None
    events: int
    comments: int
    upstream_bytes: int
    sent_upstream: int
    sent_synthetic: int

    @property
    def bridge(self) -> Bridged | None:
        """Its place at the bridge, or None."""


class OpenGroup(Protocol):
    """A stream of upstream that several clients share. Times are on the loop's clock."""

    stream_id: str
    route_name: str
    client: str
    life: Lifecycle
    opened_at: float
    stalls: int
    reconnects: int

    @property
    def flow(self) -> Flow:
        """The counts of upstream's bytes and blocks."""

    @property
    def clients(self) -> int:
        """The number of its clients."""

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return its values for pages. `now` is on the loop's clock."""


class OpenStream(Protocol):
    """An open stream, as the registry, the metrics and the pages see it. Times are on the loop's clock."""

    stream_id: str
    route_name: str
    client: str
    life: Lifecycle
    opened_at: float
    pings: int
    stalls: int
    reconnects: int

    @property
    def family(self) -> Family:
        """The family of its client."""

    @property
    def comes_back(self) -> bool:
        """Whether its client opens it again after an end."""

    @property
    def state(self) -> State:
        """Its state."""

    @property
    def group(self) -> str | None:
        """The id of the group that shares upstream's stream with it, or None."""

    @property
    def flow(self) -> Flow:
        """The counts of its bytes and blocks."""

    def leave(self, at: float, reason: CloseReason) -> None:
        """End the stream at the time `at`, at a block boundary, with `reason`."""

    def cut(self) -> None:
        """End the stream now, and discard the bytes that wait for its client."""


def snapshot(stream: OpenStream, now: float) -> dict[str, Any]:
    """Return the values of a stream for pages and log lines: times in seconds, None for never, no secrets."""
    flow = stream.flow
    return {
        **_of_upstream(stream, now),
        "state": stream.state,
        "family": stream.family,
        "group": stream.group,
        "pings": stream.pings,
        "bytes": flow.sent_upstream + flow.sent_synthetic,
    }


def group_snapshot(group: OpenGroup, now: float, state: str, log_bytes: int) -> dict[str, Any]:
    """Return the values of a group for pages, like those of a stream."""
    return {
        **_of_upstream(group, now),
        "state": state,
        "family": None,
        "clients": group.clients,
        "pings": 0,
        "bytes": group.flow.upstream_bytes,
        "log_bytes": log_bytes,
    }


def _of_upstream(each: OpenStream | OpenGroup, now: float) -> dict[str, Any]:
    flow = each.flow
    return {
        "id": each.stream_id,
        "route": each.route_name,
        "client": each.client,
        "age_s": round(now - each.opened_at, 3),
        "since_upstream_byte_s": round(now - each.life.upstream_at, 3) if flow.upstream_bytes else None,
        "since_upstream_event_s": None if flow.event_at is None else round(now - flow.event_at, 3),
        "events": flow.events,
        "comments": flow.comments,
        "stalls": each.stalls,
        "reconnects": each.reconnects,
        "finished": each.life.finished_at is not None,
        "bridge": None if flow.bridge is None else flow.bridge.snapshot(),
    }


@dataclass(frozen=True, slots=True)
class Spread:
    """When the proxy ends its streams. Times are on the loop's clock.

    A stream whose client comes back ends at a random time between `now` and `until`. Any other may be an
    answer that its client has only once: it has until `last` to end by itself.
    """

    now: float
    until: float
    last: float

    def end_of(self, stream: OpenStream) -> float:
        """Return the time for `stream`."""
        return random.uniform(self.now, self.until) if stream.comes_back else self.last  # noqa: S311


class Registry:
    """The open streams and their limits, which a reload may change. `per_client` None means no limit.

    `held` are the streams of upstream that have lost their client, at most so many. `groups` are those that
    several clients share, `logs` their logs.
    """

    def __init__(self, limit: int, per_client: int | None, held: int = 0) -> None:
        self.limit = limit
        self.per_client = per_client
        self.held = HeldStreams(held)
        self.groups: set[OpenGroup] = set()
        self.logs = ReplayLogs(0)
        self._streams: dict[int, OpenStream] = {}
        self._connecting: set[int] = set()
        self._clients: dict[str, int] = {}
        self._draining: Spread | None = None
        self.leaving = asyncio.Event()  # set when a drain begins

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[OpenStream]:
        return iter(list(self._streams.values()))

    @property
    def connecting(self) -> int:
        """The number of streams that upstream has not accepted yet. The server owns their connections."""
        return len(self._connecting)

    def refusal(self, client: str) -> str | None:
        """Return the limit that refuses another stream of `client`, or None.

        It is a label of `streams_rejected_total`.
        """
        if len(self._streams) >= self.limit:
            return "max_streams"
        if self.per_client is not None and self._clients.get(client, 0) >= self.per_client:
            return "max_streams_per_client"
        return None

    def leave(self, which: Callable[[str], bool], spread: Spread, reason: CloseReason) -> None:
        """End the streams of every route for which `which` is true.

        This includes streams that upstream has not accepted yet.
        """
        for stream in self:
            if which(stream.route_name):
                stream.leave(spread.end_of(stream), reason)

    def drain(self, spread: Spread) -> None:
        """End every stream.

        A stream that is added later ends at most one second after `spread.until`, if its client comes back.
        """
        self._draining = spread
        self.leaving.set()
        self.leave(lambda _: True, spread, CloseReason.DRAIN)

    def drain_rest(self, now: float) -> float:
        """Return the seconds until the end of the drain, 0 without a drain."""
        return 0.0 if self._draining is None else max(self._draining.until - now, 0.0)

    def add(self, stream: OpenStream) -> None:
        """Add `stream` as connecting."""
        if (draining := self._draining) is not None:
            now = stream.opened_at
            rest = Spread(now, max(draining.until, now + _LATECOMER), draining.last)
            stream.leave(rest.end_of(stream), CloseReason.DRAIN)
        self._streams[id(stream)] = stream
        self._connecting.add(id(stream))
        self._clients[stream.client] = self._clients.get(stream.client, 0) + 1

    def begun(self, stream: OpenStream) -> None:
        """Note that `stream` now owns its client's connection."""
        self._connecting.discard(id(stream))

    def remove(self, stream: OpenStream) -> None:
        """Remove `stream`. It may have been removed already."""
        self._connecting.discard(id(stream))
        if self._streams.pop(id(stream), None) is None:
            return
        left = self._clients.pop(stream.client) - 1
        if left:
            self._clients[stream.client] = left
