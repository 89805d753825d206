"""What all streams of a route share: the policy made ready for use, and what is said by it."""

from __future__ import annotations

import logging
import random

from sse_keepalive_proxy.observe.metrics import RouteMetrics
from sse_keepalive_proxy.observe.registry import OpenStream, Registry, snapshot
from sse_keepalive_proxy.stream.frames import Frames
from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import ConfirmForm, SignOfLife, StallAction, StreamPolicy
from sse_keepalive_proxy.wire.block import parse, split, unname

__all__ = ["StreamRoute", "who"]

logger = logging.getLogger("sse_keepalive_proxy.stream")
access = logging.getLogger("sse_keepalive_proxy.access")

_RETRY_MS = (1000, 5000)
"""A client that we send away comes back after this many milliseconds, drawn anew for each."""

_OURS = frozenset({CloseReason.STALLED, CloseReason.EVENT_TOO_LARGE, CloseReason.DRAIN, CloseReason.INTERNAL})
"""Endings of our own making: these are announced with `stream_closing`. (A stalled client takes none.)"""


def who(stream: OpenStream, target: str) -> dict[str, dict[str, str]]:
    """What log lines say of a stream; `target` is redacted."""
    known = {"id": stream.stream_id, "route": stream.route_name, "client": stream.client, "target": target}
    return {"fields": known}


class StreamRoute:
    """The policy of a route with its frames, its metrics and the registry of its streams.

    `least` is the least that counts as life, as a number: 0 any byte, 1 a comment, 2 an event.
    `looks`: whether blocks have to be looked into, because some are rewritten or no sign of life.
    """

    __slots__ = (
        "_ignored_events",
        "_ignored_types",
        "_notifies",
        "_unname",
        "frames",
        "least",
        "looks",
        "metrics",
        "name",
        "policy",
        "registry",
    )

    def __init__(self, name: str, policy: StreamPolicy, metrics: RouteMetrics, registry: Registry) -> None:
        self.name, self.policy, self.metrics, self.registry = name, policy, metrics, registry
        self.frames = Frames(policy, name)
        self._unname = frozenset(event.encode() for event in policy.unname)
        stall = policy.stall
        self._notifies = stall is not None and stall.action is StallAction.NOTIFY
        self.least = 0 if stall is None else list(SignOfLife).index(stall.sign_of_life)
        self._ignored_events = frozenset() if stall is None else stall.ignore_events
        self._ignored_types = frozenset() if stall is None else stall.ignore_types
        self.looks = bool(self._unname) or self._ignores

    @property
    def _ignores(self) -> bool:
        return bool(self.least and (self._ignored_events or self._ignored_types))

    def opened(self, stream: OpenStream, target: str) -> None:
        """A stream has its response head and its first bytes."""
        access.info("stream open", extra=who(stream, target))

    def closed(self, stream: OpenStream, reason: CloseReason, now: float) -> None:
        """A stream is over."""
        self.metrics.closed(stream, reason.value, now - stream.opened_at)
        told = {key: value for key, value in snapshot(stream, now).items() if key != "state"}
        access.info("stream closed", extra={"fields": {"reason": reason.value, **told}})

    def stalled(self, stream_id: str, silent_for: float, form: ConfirmForm | None, after_id: bool) -> bytes:
        """Upstream gives a stream no sign of life: count it, log it. Returns what its client is told.
        `after_id`: upstream has sent a non-empty id (FACTS 5).
        """
        self.metrics.stalled()
        logger.warning(
            "upstream stalled: no sign of life; look at upstream, the client is kept alive by pings",
            extra={"fields": {"id": stream_id, "route": self.name, "silent_s": round(silent_for)}},
        )
        if not self._notifies:
            return b""
        return self.frames.stalled(event=form is ConfirmForm.EVENT, silent_for=silent_for, after_id=after_id)

    def closing(self, reason: CloseReason, form: ConfirmForm | None) -> bytes:
        """The last block of a stream: nothing where the end is not ours, or would break a client."""
        if reason not in _OURS or form is not ConfirmForm.EVENT:
            return b""
        retry = random.randint(*_RETRY_MS)  # noqa: S311 (spreads clients, guards nothing)
        return self.frames.closing(reason, retry)

    def look(self, blocks: bytes, alive: bool) -> tuple[bytes, bool]:
        """Whole blocks as the client gets them, and whether they still are a sign of life, when by their
        kind alone they are `alive`.
        """
        if alive and self._ignores:
            alive = any(map(self._counts, split(blocks)))
        return (unname(blocks, self._unname) if self._unname else blocks), alive

    def _counts(self, block: bytes) -> bool:
        """Whether one block is a sign of life where some events are not."""
        read = parse(block)
        if not read.is_event:
            return self.least < 2 and read.is_comment
        if (read.name or b"message").decode("utf-8", "replace") in self._ignored_events:
            return False
        return not self._ignored_types or read.json_type not in self._ignored_types
