"""The frames that the proxy itself writes on a stream: confirm, ping, notices, the last block.

A route prepares them once for each client family. No frame has an `id`, and only the confirm and the
last frame of a stream can have a `retry` (behaviour.md#injections-between-blocks). Every frame is whole
blocks, except a comment that ends in one newline: it is whole lines between two blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sse_keepalive_proxy.stream import claims as claims_
from sse_keepalive_proxy.stream.families import Treatment
from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import (
    Confirm,
    ConfirmForm,
    Keepalive,
    KeepaliveForm,
    StreamPolicy,
    Terminator,
)
from sse_keepalive_proxy.stream.replay_log import GapReason
from sse_keepalive_proxy.wire import encode

__all__ = ["Frames"]

_PADDING_LINE = 1024


class Frames:
    """The frames of one route for clients that get `gets`.

    `ok` is the confirm as a comment.
    """

    __slots__ = (
        "_confirm_claims",
        "_confirm_data",
        "_confirm_name",
        "_gets",
        "_keepalive",
        "_padding",
        "_ping",
        "_ping_data",
        "_ping_newline",
        "_retry",
        "ok",
    )

    def __init__(self, policy: StreamPolicy, route: str, gets: Treatment) -> None:
        self._gets = gets
        confirm = policy.confirm or Confirm()
        blank = self._ends_blank(after_id=False)
        self._retry = None
        if policy.client_retry is not None and gets.comes_back:
            self._retry = round(policy.client_retry * 1000)
        self.ok = encode.comment("ok", blank=blank, retry=self._retry)
        self._confirm_name = confirm.event
        self._confirm_data = _template(confirm.data, route)
        self._confirm_claims = claims_.names(confirm.data)
        self._padding = _padding(confirm.padding, blank=blank)
        self._keepalive = keepalive = policy.keepalive or Keepalive()
        self._ping = self._ping_comment(keepalive.text, blank=True)
        self._ping_newline = self._ping_comment(keepalive.text, blank=False)
        self._ping_data = _template(keepalive.data, route)

    def first(self, confirm: bytes) -> bytes:
        """Return the body bytes that are sent with the response head: the padding, then `confirm`.

        `confirm` is the confirm event, or `ok` if there is no event or it comes later.
        """
        return b"" if self._gets.confirm is None else self._padding + confirm

    def confirm(self, stream_id: str, now: str, claims: Mapping[str, Any] | None = None) -> bytes:
        """Return the confirm event. `now` is RFC 3339 text; `claims` are those of the client's token."""
        data = self._confirm_data
        if self._confirm_claims:
            data = claims_.fill(data, {"stream_id": stream_id, "now": now}, claims or {})
        else:
            data = _fill(data, stream_id, now)
        return encode.event(self._confirm_name, data, retry=self._retry)

    def ping(self, *, after_id: bool, idle_for: float, stream_id: str, now: str) -> bytes:
        """Return one ping. `after_id`: upstream has sent a non-empty id (facts.md#comment-terminators).

        `idle_for` is upstream's silence in seconds.
        """
        keepalive = self._keepalive
        if keepalive.form is KeepaliveForm.EVENT:
            return self._padded(encode.event(keepalive.event, _fill(self._ping_data, stream_id, now)))
        blank = self._ends_blank(after_id)
        if keepalive.report_idle:
            return self._ping_comment(f"{keepalive.text} upstream_idle={idle_for:.0f}s", blank=blank)
        return self._ping if blank else self._ping_newline

    def ping_line(self, idle_for: float) -> bytes:
        """Return one ping for the inside of a block: a comment that ends in one newline. `idle_for` as for
        `ping`.
        """
        keepalive = self._keepalive
        if keepalive.report_idle:
            return self._ping_comment(f"{keepalive.text} upstream_idle={idle_for:.0f}s", blank=False)
        return self._ping_newline

    def _ping_comment(self, text: str, *, blank: bool) -> bytes:
        return self._padded(encode.comment(text, blank=blank))

    def _padded(self, ping: bytes) -> bytes:
        """Return `ping` with comment lines before its end, as large as the route wants it."""
        missing = self._keepalive.padding - len(ping)
        if missing <= 0:
            return ping
        end = b"\n" if ping.endswith(b"\n\n") else b""
        return ping.removesuffix(end) + _padding(missing, blank=False) + end

    def stalled(self, *, silent_for: float, after_id: bool) -> bytes:
        """Return the notice that upstream has given no sign of life for `silent_for` seconds.

        It is an event, or a comment that ends like a ping comment. `after_id` as for `ping`.
        """
        if self._gets.notices is ConfirmForm.EVENT:
            data = {"type": "stalled", "silent_ms": round(silent_for * 1000)}
            return encode.event("stalled", encode.json_line(data))
        return self._comment(f"stalled silent_for={silent_for:.0f}s", after_id)

    def recovered(self, *, reason: CloseReason, gap: float, resumed: bool, after_id: bool) -> bytes:
        """Return the notice that upstream was lost for `gap` seconds, because of `reason`.

        Events of the gap are missing, unless `resumed` and upstream sends them now. It is an event or a
        comment; `after_id` as for `ping`.
        """
        data = {"reason": reason.value, "gap_ms": round(gap * 1000), "resumed": resumed}
        if self._gets.notices is ConfirmForm.EVENT:
            return encode.event("stream_recovered", encode.json_line(data))
        text = " ".join(f"{name}={encode.json_line(value).strip(chr(34))}" for name, value in data.items())
        return self._comment(f"stream_recovered {text}", after_id)

    def gap(self, reason: GapReason, *, after_id: bool) -> bytes:
        """Return the notice that events since the client's last id cannot be sent again, because of `reason`.

        It is an event or a comment; `after_id` as for `ping`.
        """
        if self._gets.notices is ConfirmForm.EVENT:
            data = {"type": "stream_gap", "reason": reason.value}
            return encode.event("stream_gap", encode.json_line(data))
        return self._comment(f"stream_gap reason={reason.value}", after_id)

    def _comment(self, text: str, after_id: bool) -> bytes:
        """Return a notice as a comment, or nothing for a family that gets no notices."""
        if self._gets.notices is None:
            return b""
        return encode.comment(text, blank=self._ends_blank(after_id))

    def closing(self, reason: CloseReason, retry: int) -> bytes:
        """Return the last block of a stream that the proxy itself ends.

        `retry` is in milliseconds. The caller draws it at random (facts.md#equal-waits).
        """
        data = {"type": "stream_closing", "reason": reason.value}
        return encode.event("stream_closing", encode.json_line(data), retry=retry)

    def _ends_blank(self, after_id: bool) -> bool:
        """Return whether a comment ends in a blank line now."""
        match self._gets.terminator:
            case Terminator.AUTO:
                return not after_id
            case Terminator.BLANK:
                return True
            case Terminator.NEWLINE:
                return False


def _template(data: Mapping[str, Any], route: str) -> str:
    """Encode `data` as JSON that keeps its placeholders.

    They are inside strings, and their values have no character that JSON escapes.
    """
    return encode.json_line(data).replace("{route}", route)


def _fill(template: str, stream_id: str, now: str) -> str:
    return template.replace("{stream_id}", stream_id).replace("{now}", now)


def _padding(size: int, *, blank: bool) -> bytes:
    """Return comment lines of `size` bytes in total (at least 2), with a final blank line if `blank`.

    They fill the buffer of a hop, so that it forwards the first bytes.
    """
    if not size:
        return b""
    end = b"\n" if blank else b""
    lines = []
    left = max(size - len(end), 2)
    while left:
        length = left if left < _PADDING_LINE + 2 else _PADDING_LINE
        lines.append(b":" + b" " * (length - 2) + b"\n")
        left -= length
    return b"".join(lines) + end
