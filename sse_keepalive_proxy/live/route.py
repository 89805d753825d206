"""What all streams of a route share: its policy made ready for use, and the last words of a stream."""

from __future__ import annotations

import asyncio
import math
import random

from sse_keepalive_proxy.live.signs_of_life import Inspection
from sse_keepalive_proxy.net.timers import TimerWheel
from sse_keepalive_proxy.observe.registry import Registry
from sse_keepalive_proxy.observe.route_metrics import RouteMetrics
from sse_keepalive_proxy.stream.frames import Frames
from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import ConfirmForm, StreamPolicy

__all__ = ["StreamRoute"]

_RETRY_MS = (1000, 5000)
"""A client that the proxy sends away comes back after this many milliseconds, drawn anew for each."""

_NOT_OURS = frozenset(
    {
        CloseReason.CLIENT_GONE,
        CloseReason.CLIENT_STALLED,
        CloseReason.UPSTREAM_END,
        CloseReason.UPSTREAM_RESET,
    }
)
"""Endings that another brought about. All others are announced with `stream_closing`."""


class StreamRoute:
    """The policy of a route with its frames, its metrics, its timers and the registry of all streams."""

    __slots__ = (
        "frames", "inspection", "metrics", "name", "now", "ping_form", "policy", "registry", "timers",
    )  # fmt: skip

    def __init__(self, name: str, policy: StreamPolicy, metrics: RouteMetrics, registry: Registry) -> None:
        self.name, self.policy, self.metrics, self.registry = name, policy, metrics, registry
        self.frames = Frames(policy, name)
        self.timers = TimerWheel()
        self.now = asyncio.get_running_loop().time
        self.inspection = Inspection(policy)
        self.ping_form = policy.keepalive.form if policy.keepalive is not None else None

    def farewell(self, reason: CloseReason, form: ConfirmForm | None, late: tuple[int, str] | None) -> bytes:
        """Return the last blocks of a stream: nothing where the end is not ours, or would break a client.

        `late`: the status and the words that a client should have got, whose response had begun too early.
        """
        error = b"" if late is None else self.frames.error(*late)
        if (reason in _NOT_OURS and not error) or form is not ConfirmForm.EVENT:
            return error
        drained = math.ceil(self.registry.drain_rest(self.now()) * 1000)  # nobody comes back to a drain
        retry = drained + random.randint(*_RETRY_MS)  # noqa: S311 (spreads clients, guards nothing)
        return error + self.frames.closing(reason, retry)
