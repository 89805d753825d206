"""What the proxy says in its own name on a stream: confirm, ping, stalled, closing.

Made ready once per route; a frame that changes with the moment is one `str.replace` away. No frame
carries an `id`; only the last one of a stream carries a `retry` (behaviour.md#injections-between-blocks).
Every frame is whole blocks. The exception is a ping that ends in one newline: it is a whole line between two
blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sse_keepalive_proxy.stream import claims as claims_
from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import (
    Confirm,
    ConfirmForm,
    Keepalive,
    KeepaliveForm,
    StreamPolicy,
    Terminator,
)
from sse_keepalive_proxy.wire import encode

__all__ = ["OK", "Frames", "confirm_form"]

OK = encode.comment("ok")
"""The confirm that every client survives: a comment."""

_PADDING_LINE = 1024


def confirm_form(confirm: Confirm | None, *, event_source: bool) -> ConfirmForm | None:
    """The form of the confirm for one request: EVENT, COMMENT or None.

    `event_source`: a GET without a body that accepts `text/event-stream` and nothing else, as a
    browser sends it. Others get the comment (facts.md#named-events).
    """
    if confirm is None:
        return None
    if confirm.form is ConfirmForm.AUTO:
        return ConfirmForm.EVENT if event_source else ConfirmForm.COMMENT
    return confirm.form


class Frames:
    """The frames of one route."""

    __slots__ = (
        "_confirm_claims",
        "_confirm_data",
        "_confirm_name",
        "_keepalive",
        "_padding",
        "_ping",
        "_ping_data",
        "_ping_newline",
    )

    def __init__(self, policy: StreamPolicy, route: str) -> None:
        confirm = policy.confirm or Confirm()
        self._confirm_name = confirm.event
        self._confirm_data = _template(confirm.data, route)
        self._confirm_claims = claims_.names(confirm.data)
        self._padding = _padding(confirm.padding)
        self._keepalive = keepalive = policy.keepalive or Keepalive()
        self._ping = encode.comment(keepalive.text)
        self._ping_newline = encode.comment(keepalive.text, blank=False)
        self._ping_data = _template(keepalive.data, route)

    def first(self, form: ConfirmForm | None, confirm: bytes = OK) -> bytes:
        """The body bytes that leave with the response head: padding, then the confirm event, or `:ok` where
        there is none or it still waits for upstream to answer, or to speak first.
        """
        return b"" if form is None else self._padding + confirm

    def confirm(self, stream_id: str, now: str, claims: Mapping[str, Any] | None = None) -> bytes:
        """The confirm event. `now` is RFC 3339, `claims` those of the client's token."""
        data = self._confirm_data
        if self._confirm_claims:
            data = claims_.fill(data, {"stream_id": stream_id, "now": now}, claims or {})
        else:
            data = _fill(data, stream_id, now)
        return encode.event(self._confirm_name, data)

    def ping(self, *, after_id: bool, idle_for: float, stream_id: str, now: str) -> bytes:
        """Return one ping. `after_id`: upstream has sent a non-empty id (facts.md#comment-terminators).

        `idle_for` is upstream's silence in seconds.
        """
        keepalive = self._keepalive
        if keepalive.form is KeepaliveForm.EVENT:
            return encode.event(keepalive.event, _fill(self._ping_data, stream_id, now))
        blank = _ends_blank(keepalive, after_id)
        if keepalive.report_idle:
            return encode.comment(f"{keepalive.text} upstream_idle={idle_for:.0f}s", blank=blank)
        return self._ping if blank else self._ping_newline

    def stalled(self, *, event: bool, silent_for: float, after_id: bool) -> bytes:
        """Tells the client that upstream gives no sign of life, for `silent_for` seconds now: as an event
        or as a comment, which ends as a ping comment does. `after_id` as for `ping`.
        """
        if not event:
            blank = _ends_blank(self._keepalive, after_id)
            return encode.comment(f"stalled silent_for={silent_for:.0f}s", blank=blank)
        data = {"type": "stalled", "silent_ms": round(silent_for * 1000)}
        return encode.event("stalled", encode.json_line(data))

    def recovered(
        self, *, event: bool, reason: CloseReason, gap: float, resumed: bool, after_id: bool
    ) -> bytes:
        """Tells the client that upstream was lost for `reason` and `gap` seconds: what it would have sent in
        them is missing, unless it is `resumed` and sends it now. As an event or as a comment; `after_id` as
        for `ping`.
        """
        data = {"reason": reason.value, "gap_ms": round(gap * 1000), "resumed": resumed}
        if event:
            return encode.event("stream_recovered", encode.json_line(data))
        text = " ".join(f"{name}={encode.json_line(value).strip(chr(34))}" for name, value in data.items())
        return encode.comment(f"stream_recovered {text}", blank=_ends_blank(self._keepalive, after_id))

    def error(self, status: int, message: str) -> bytes:
        """Return the `proxy_error` event for a client that got 200 before upstream answered.

        `status` and `message` are upstream's real answer. It is an event for every client
        (behaviour.md#early-commit).
        """
        data = {"type": "proxy_error", "status": status, "message": message}
        return encode.event("proxy_error", encode.json_line(data))

    def closing(self, reason: CloseReason, retry: int) -> bytes:
        """The last block where the proxy itself ends a stream. `retry`: milliseconds, jittered by the
        caller so that clients do not come back at once together.
        """
        data = {"type": "stream_closing", "reason": reason.value}
        return encode.event("stream_closing", encode.json_line(data), retry=retry)


def _ends_blank(keepalive: Keepalive, after_id: bool) -> bool:
    match keepalive.terminator:
        case Terminator.AUTO:
            return not after_id
        case Terminator.BLANK:
            return True
        case Terminator.NEWLINE:
            return False


def _template(data: Mapping[str, Any], route: str) -> str:
    """JSON with its placeholders still in it: they stand inside strings, and what replaces them holds
    no character that JSON would escape.
    """
    return encode.json_line(data).replace("{route}", route)


def _fill(template: str, stream_id: str, now: str) -> str:
    return template.replace("{stream_id}", stream_id).replace("{now}", now)


def _padding(size: int) -> bytes:
    """Comment lines of `size` bytes in all (at least 3), ending in a blank line, so that a hop that
    buffers lets go.
    """
    if not size:
        return b""
    lines = []
    left = max(size - 1, 2)
    while left:
        length = left if left < _PADDING_LINE + 2 else _PADDING_LINE
        lines.append(b":" + b" " * (length - 2) + b"\n")
        left -= length
    return b"".join(lines) + b"\n"
