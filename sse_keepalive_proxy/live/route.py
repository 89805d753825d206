"""State shared by the streams of a route: the policy and the frames, prepared for each client family."""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import replace

from sse_keepalive_proxy.live.backlog import Backlog
from sse_keepalive_proxy.live.signs_of_life import Inspection
from sse_keepalive_proxy.net.timers import TimerWheel
from sse_keepalive_proxy.observe.registry import Registry
from sse_keepalive_proxy.observe.route_metrics import RouteMetrics
from sse_keepalive_proxy.stream.departures import Departures
from sse_keepalive_proxy.stream.families import TREATMENTS, Treatment, treated, treatment
from sse_keepalive_proxy.stream.frames import Frames
from sse_keepalive_proxy.stream.late_error import LateStatus, late_error
from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import ConfirmForm, Family, KeepaliveForm, StreamPolicy, Terminator

__all__ = ["StreamRoute", "StreamRoutes"]

_RETRY_MS = (1000, 5000)
"""Milliseconds: the range of a random `retry` for each client that the proxy disconnects."""

_NOT_OURS = frozenset(
    {
        CloseReason.CLIENT_GONE,
        CloseReason.CLIENT_STALLED,
        CloseReason.UPSTREAM_END,
        CloseReason.UPSTREAM_RESET,
    }
)
"""Ends caused by the client or upstream. All others are announced with `stream_closing`."""


class StreamRoutes:
    """The streams of a route: its metrics, its timers, a `StreamRoute` for each client family, and what all
    streams share: their registry, and the bytes that they hold.

    `policy` is the policy of the route, before it is treated for a family.
    """

    __slots__ = (
        "_group",
        "_prepared",
        "backlog",
        "call_later",
        "departures",
        "metrics",
        "name",
        "now",
        "policy",
        "registry",
        "timers",
    )

    def __init__(
        self, name: str, policy: StreamPolicy, metrics: RouteMetrics, registry: Registry, backlog: Backlog
    ) -> None:
        self.name, self.policy, self.metrics, self.registry = name, policy, metrics, registry
        self.backlog, self.departures = backlog, Departures()
        self.timers = TimerWheel()
        loop = asyncio.get_running_loop()
        self.now, self.call_later = loop.time, loop.call_later
        self._group: StreamRoute | None = None
        self._prepared: dict[tuple[Family, Terminator, bool], StreamRoute] = {}

    def for_client(self, family: Family, terminator: Terminator, *, library: bool = False) -> StreamRoute:
        """Return the route for clients of `family` whose comments end with `terminator` (see `treatment`).

        It is made for the first of these clients.
        """
        key = family, terminator, library
        found = self._prepared.get(key)
        if found is None:
            gets = treatment(self.policy, family, terminator, library=library)
            found = self._prepared[key] = StreamRoute(self, family, gets)
        return found

    def for_group(self) -> StreamRoute:
        """Return the route for upstream's half of streams that clients share. Its clients have their own."""
        if self._group is None:
            gets = replace(TREATMENTS[Family.BROWSER], confirm=None, notices=None)
            policy = replace(self.policy, confirm=None, keepalive=None, max_age=None)
            self._group = StreamRoute(self, Family.BROWSER, gets, policy)
        return self._group


class StreamRoute:
    """What the streams of one client family on a route share.

    `gets` is the treatment of the family, `policy` the policy of the route for it. `pings_by_event`: pings
    are events, so only events put them off. `confirm_wait`: seconds for which upstream may speak first.
    The rest is the route's.
    """

    __slots__ = (
        "backlog", "call_later", "confirm_wait", "departures", "family", "frames", "gets", "inspection",
        "metrics", "name", "now", "pings_by_event", "policy", "registry", "timers",
    )  # fmt: skip

    def __init__(
        self, shared: StreamRoutes, family: Family, gets: Treatment, policy: StreamPolicy | None = None
    ) -> None:
        self.name, self.metrics, self.registry = shared.name, shared.metrics, shared.registry
        self.timers = shared.timers
        self.now, self.call_later = shared.now, shared.call_later
        self.backlog, self.departures = shared.backlog, shared.departures
        self.family, self.gets = family, gets
        self.policy = policy = treated(policy or shared.policy, gets)
        by_event = gets.confirm is ConfirmForm.EVENT
        self.confirm_wait = policy.confirm.wait if policy.confirm is not None and by_event else 0.0
        self.pings_by_event = policy.keepalive is not None and policy.keepalive.form is KeepaliveForm.EVENT
        self.frames = Frames(policy, shared.name, gets)
        self.inspection = Inspection(policy, gets.last_events)

    def farewell(
        self, reason: CloseReason, late: LateStatus | None, request_id: str | int | None, *, early: bool
    ) -> tuple[bytes, bool]:
        """Return the last blocks of a stream, and whether it ends whole (behaviour.md#cut-looks-cut).

        `late`: the last answer of upstream that was no stream, if it caused the end. `early`: the client got
        its status before upstream had opened a stream. `request_id` as for `late_error`.
        """
        gets, error = self.gets, b""
        announces = gets.notices is ConfirmForm.EVENT
        # A client that comes back needs no words for a cut, and may hand over every event to its user.
        if (early and late is not None) or not (announces or gets.comes_back):
            error = late_error(gets.error, reason, late, request_id)
        if not announces:
            return error, reason is CloseReason.UPSTREAM_END
        if reason in _NOT_OURS and not error:
            return b"", reason is CloseReason.UPSTREAM_END
        drained = math.ceil(self.registry.drain_rest(self.now()) * 1000)  # not during a drain
        retry = drained + random.randint(*_RETRY_MS)  # noqa: S311 (spreads clients, guards nothing)
        return error + self.frames.closing(reason, retry), True
