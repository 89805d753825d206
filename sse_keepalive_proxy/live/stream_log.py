"""Log and count the events of a stream. The targets passed here are already redacted."""

from __future__ import annotations

import logging
from typing import Protocol

from sse_keepalive_proxy.errors import UpstreamError
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.live.route import StreamRoute
from sse_keepalive_proxy.observe.log import log_line
from sse_keepalive_proxy.observe.registry import Flow, OpenStream, snapshot
from sse_keepalive_proxy.stream.late_error import LateStatus
from sse_keepalive_proxy.stream.messages import Announce, CloseReason

__all__ = [
    "closed",
    "failed",
    "group_closed",
    "lost",
    "not_an_event_stream",
    "not_reopened",
    "opened",
    "recovered",
    "shed",
    "stalled",
]

logger = logging.getLogger("sse_keepalive_proxy.stream")


class LoggedSource(Protocol):
    """Upstream's half of a stream: its id, its route, its client, and the target of its request."""

    stream_id: str
    route: StreamRoute
    route_name: str
    client: str
    target: str


class LoggedGroup(LoggedSource, Protocol):
    """A stream of upstream that clients share."""

    @property
    def flow(self) -> Flow:
        """The counts of its bytes and blocks."""


class LoggedStream(LoggedSource, OpenStream, Protocol):
    """A stream with its client."""


def opened(stream: LoggedStream) -> None:
    """Log that the response head and the first bytes were written."""
    log_line("stream open", {**_fields(stream), "family": stream.family})


def closed(stream: LoggedStream, reason: CloseReason, now: float, late: LateStatus | None) -> None:
    """Log and count the end. `late`: the status that came too late for the client, or None."""
    age = now - stream.opened_at
    stream.route.metrics.closed(stream, reason, age)
    known = snapshot(stream, now)
    del known["state"], known["bridge"]
    if stream.group is None:
        del known["group"]
    why = {} if late is None else {"refusal": late[1]}
    log_line("stream closed", {"reason": reason, **why, **known})
    if reason is CloseReason.CLIENT_GONE and (common := stream.route.departures.left(age, now)) is not None:
        _one_age(stream.route_name, common)


def group_closed(group: LoggedGroup, reason: CloseReason) -> None:
    """Log the end of a stream of upstream that clients shared, and keep its counts."""
    group.route.metrics.past.add_upstream(group.flow)
    group.route.metrics.saw_event(group.flow.event_at)
    log_line("shared stream closed", {**_fields(group), "reason": reason.value})


def _one_age(route: str, age: float) -> None:
    logger.warning(
        "most clients of this route leave at one age: a hop in front of the proxy limits the whole response, "
        "and pings do not help. Raise that limit, or set stream.max_age below it so that clients return in "
        "an orderly way",
        extra={"fields": {"route": route, "age_s": round(age, 1)}},
    )


def stalled(stream: LoggedSource, silent_for: float) -> None:
    """Log and count that upstream gives no sign of life."""
    stream.route.metrics.upstream_stalls += 1
    logger.warning(
        "upstream stalled: it gives no sign of life. The client is kept alive by pings",
        extra={"fields": {"id": stream.stream_id, "route": stream.route_name, "silent_s": round(silent_for)}},
    )


def shed(stream: LoggedSource, reason: CloseReason) -> None:
    """Log that the stream ends because all streams together hold too many bytes."""
    logger.warning(
        "the streams of this instance hold more bytes than limits.max_buffered: one stream is closed. Raise "
        "the limit if the machine has the memory; if not, find out why clients do not read",
        extra={"fields": {**_fields(stream), "reason": reason.value}},
    )


def lost(stream: LoggedSource, reason: CloseReason) -> None:
    """Log that upstream is lost, and that the stream reconnects."""
    fields = {**_fields(stream), "reason": reason.value}
    logger.info("upstream lost; it is asked again, the client is kept", extra={"fields": fields})


def not_reopened(
    stream: LoggedSource, cause: UpstreamError | ResponseHead, why: str, *, repeated: bool
) -> None:
    """Count a failed attempt, and log `why` unless it is the same as for the attempt before."""
    if isinstance(cause, UpstreamError):
        stream.route.metrics.upstream_error(cause)
        why = str(cause)
    elif cause.is_event_stream:
        stream.route.metrics.uninspectable_streams += 1
    if not repeated:
        text = "upstream gives no stream to a waiting client: %s"
        logger.warning(text, why, extra={"fields": _fields(stream)})


def not_an_event_stream(stream: LoggedSource) -> None:
    """Log and count a body that does not begin like an event stream."""
    stream.route.metrics.uninspectable_streams += 1
    logger.warning(
        "upstream labels a body as text/event-stream that does not begin like one: it is forwarded as it "
        "comes, without pings",
        extra={"fields": _fields(stream)},
    )


def recovered(stream: LoggedSource, back: Announce) -> None:
    """Log that upstream is back."""
    fields = {
        **_fields(stream),
        "reason": back.reason.value,
        "gap_s": round(back.gap, 3),
        "resumed": back.resumed,
    }
    logger.info("upstream is back", extra={"fields": fields})


def failed(stream: LoggedSource, error: BaseException) -> None:
    """Log an exception of the proxy itself."""
    text = "a stream failed inside the proxy; please report this"
    logger.error(text, extra={"fields": _fields(stream)}, exc_info=error)


def _fields(stream: LoggedSource) -> dict[str, str]:
    return {
        "id": stream.stream_id,
        "route": stream.route_name,
        "client": stream.client,
        "target": stream.target,
    }
