"""What all streams of a route share: the policy made ready for use, and what is said by it."""

from __future__ import annotations

import asyncio
import logging
import math
import random

from sse_keepalive_proxy.errors import UpstreamError
from sse_keepalive_proxy.http.attempts import is_stream
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.live.signs_of_life import Inspection
from sse_keepalive_proxy.net.timers import TimerWheel
from sse_keepalive_proxy.observe.access import access
from sse_keepalive_proxy.observe.registry import OpenStream, Registry, snapshot
from sse_keepalive_proxy.observe.route_metrics import RouteMetrics
from sse_keepalive_proxy.stream.frames import Frames
from sse_keepalive_proxy.stream.messages import Announce, CloseReason
from sse_keepalive_proxy.stream.policy import ConfirmForm, StallAction, StreamPolicy

__all__ = ["BROKEN", "REFUSED", "StreamRoute", "log_fields"]

logger = logging.getLogger("sse_keepalive_proxy.stream")

_RETRY_MS = (1000, 5000)
"""A client that we send away comes back after this many milliseconds, drawn anew for each."""

_NOT_OURS = frozenset(
    {
        CloseReason.CLIENT_GONE,
        CloseReason.CLIENT_STALLED,
        CloseReason.UPSTREAM_END,
        CloseReason.UPSTREAM_RESET,
    }
)
"""Endings that another brought about. All others are announced with `stream_closing`."""


BROKEN = frozenset({CloseReason.UPSTREAM_RESET, CloseReason.CLIENT_STALLED, CloseReason.CLIENT_GONE})
"""Endings without a last chunk: two that must not look like the end of a whole body, one nobody hears."""

REFUSED = frozenset(
    {
        CloseReason.UPSTREAM_RESET,
        CloseReason.UPSTREAM_REFUSED,
        CloseReason.UPSTREAM_STATUS,
        CloseReason.UNAUTHORIZED,
        CloseReason.GIVE_UP,
    }
)
"""Endings in which upstream has the last word: behind an early commit, a status that came too late."""


def log_fields(stream: OpenStream, target: str) -> dict[str, dict[str, str]]:
    """What log records say of a stream, as `extra`; `target` is redacted."""
    return {"fields": _known(stream, target)}


def _known(stream: OpenStream, target: str) -> dict[str, str]:
    return {"id": stream.stream_id, "route": stream.route_name, "client": stream.client, "target": target}


class StreamRoute:
    """The policy of a route with its frames, its metrics and the registry of its streams."""

    __slots__ = (
        "_notifies",
        "frames",
        "inspection",
        "metrics",
        "name",
        "now",
        "ping_form",
        "policy",
        "registry",
        "timers",
    )

    def __init__(self, name: str, policy: StreamPolicy, metrics: RouteMetrics, registry: Registry) -> None:
        self.name, self.policy, self.metrics, self.registry = name, policy, metrics, registry
        self.frames = Frames(policy, name)
        self.timers = TimerWheel()
        self.now = asyncio.get_running_loop().time
        self.inspection = Inspection(policy)
        self.ping_form = policy.keepalive.form if policy.keepalive is not None else None
        self._notifies = policy.stall is not None and policy.stall.action is StallAction.NOTIFY

    def opened(self, stream: OpenStream, target: str) -> None:
        """A stream's response head and its first bytes are on their way."""
        access.line("stream open", _known(stream, target))

    def closed(
        self, stream: OpenStream, reason: CloseReason, now: float, refusal: tuple[int, str] | None
    ) -> None:
        """A stream is over. `refusal` as for `farewell`."""
        self.metrics.closed(stream, reason, now - stream.opened_at)
        told = snapshot(stream, now)
        del told["state"]
        why = {} if refusal is None else {"refusal": refusal[1]}
        access.line("stream closed", {"reason": reason.value, **why, **told})

    def stalled(self, stream_id: str, silent_for: float, form: ConfirmForm | None, after_id: bool) -> bytes:
        """Upstream gives a stream no sign of life: count it, log it. Returns what its client is told.
        `after_id`: upstream has sent a non-empty id (FACTS 5).
        """
        self.metrics.upstream_stalls += 1
        logger.warning(
            "upstream stalled: no sign of life; look at upstream, the client is kept alive by pings",
            extra={"fields": {"id": stream_id, "route": self.name, "silent_s": round(silent_for)}},
        )
        if not self._notifies:
            return b""
        return self.frames.stalled(event=form is ConfirmForm.EVENT, silent_for=silent_for, after_id=after_id)

    def lost(self, stream: OpenStream, target: str, reason: CloseReason) -> None:
        """A stream's upstream is gone, and will be asked again."""
        fields = {**_known(stream, target), "reason": reason.value}
        logger.info("upstream lost; it is asked again, the client is kept", extra={"fields": fields})

    def not_back(
        self, stream: OpenStream, target: str, cause: UpstreamError | ResponseHead, why: str, *, again: bool
    ) -> None:
        """An attempt to open upstream again has failed, `why` in words; `again`: as the one before."""
        if isinstance(cause, UpstreamError):
            self.metrics.upstream_error(cause)
            why = str(cause)
        elif is_stream(cause):
            self.metrics.uninspectable_streams += 1
        if not again:
            text = "upstream gives no stream to a client that waits for it: %s"
            logger.warning(text, why, extra=log_fields(stream, target))

    def recovered(
        self, stream: OpenStream, target: str, back: Announce, form: ConfirmForm | None, after_id: bool
    ) -> bytes:
        """It is back. Returns what the client is told. `after_id` as for `stalled`."""
        fields = {
            **_known(stream, target),
            "reason": back.reason.value,
            "gap_s": round(back.gap, 3),
            "resumed": back.resumed,
        }
        logger.info("upstream is back", extra={"fields": fields})
        if self.policy.reconnect is None or not self.policy.reconnect.announce:
            return b""
        return self.frames.recovered(
            event=form is ConfirmForm.EVENT,
            reason=back.reason,
            gap=back.gap,
            resumed=back.resumed,
            after_id=after_id,
        )

    def farewell(
        self, reason: CloseReason, form: ConfirmForm | None, refusal: tuple[int, str] | None
    ) -> bytes:
        """The last blocks of a stream: nothing where the end is not ours, or would break a client. `refusal`:
        the status and the words that a client should have got, whose response had begun too early for them.
        """
        error = b"" if refusal is None else self.frames.error(*refusal)
        if (reason in _NOT_OURS and not error) or form is not ConfirmForm.EVENT:
            return error
        drained = math.ceil(self.registry.drain_rest(self.now()) * 1000)  # nobody comes back to a drain
        retry = drained + random.randint(*_RETRY_MS)  # noqa: S311 (spreads clients, guards nothing)
        return error + self.frames.closing(reason, retry)
