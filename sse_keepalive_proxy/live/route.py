"""State shared by all streams of a route: the prepared policy, and the last blocks of a stream."""

from __future__ import annotations

import asyncio
import math
import random

from sse_keepalive_proxy.live.backlog import Backlog
from sse_keepalive_proxy.live.signs_of_life import Inspection
from sse_keepalive_proxy.net.timers import TimerWheel
from sse_keepalive_proxy.observe.registry import Registry
from sse_keepalive_proxy.observe.route_metrics import RouteMetrics
from sse_keepalive_proxy.stream.departures import Departures
from sse_keepalive_proxy.stream.frames import Frames
from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import ConfirmForm, StreamPolicy

__all__ = ["StreamRoute"]

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


class StreamRoute:
    """The policy of a route, with its frames, metrics and timers, and what all streams share: their registry,
    and the bytes that they hold.
    """

    __slots__ = (
        "backlog", "departures", "frames", "inspection", "metrics", "name", "now", "ping_form", "policy",
        "registry", "timers",
    )  # fmt: skip

    def __init__(
        self, name: str, policy: StreamPolicy, metrics: RouteMetrics, registry: Registry, backlog: Backlog
    ) -> None:
        self.name, self.policy, self.metrics, self.registry = name, policy, metrics, registry
        self.backlog, self.departures = backlog, Departures()
        self.frames = Frames(policy, name)
        self.timers = TimerWheel()
        self.now = asyncio.get_running_loop().time
        self.inspection = Inspection(policy)
        self.ping_form = policy.keepalive.form if policy.keepalive is not None else None

    def farewell(
        self, reason: CloseReason, form: ConfirmForm | None, late: tuple[int, str] | None
    ) -> tuple[bytes, bool]:
        """Return the last blocks of a stream, and whether its body is then whole. They are empty if the proxy
        did not cause the end, or if the client cannot read them.

        `late`: the status and the text that came too late for the client.
        """
        error = b"" if late is None else self.frames.error(*late)
        if (reason in _NOT_OURS and not error) or form is not ConfirmForm.EVENT:
            return error, reason is CloseReason.UPSTREAM_END
        drained = math.ceil(self.registry.drain_rest(self.now()) * 1000)  # not during a drain
        retry = drained + random.randint(*_RETRY_MS)  # noqa: S311 (spreads clients, guards nothing)
        return error + self.frames.closing(reason, retry), True
