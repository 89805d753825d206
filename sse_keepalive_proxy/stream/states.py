"""The states of a stream, their transitions, the close reasons, and the results of a reconnect.

This module is data. `stream.lifecycle` refuses every transition that is not in it; `make docs` draws it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self

__all__ = ["TRANSITIONS", "CloseReason", "Join", "ReconnectResult", "State"]


class State(StrEnum):
    """The state of a stream, as operators see it. The values are labels of `streams_active`.

    Each member has a `meaning` for the documentation.
    """

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        state = str.__new__(cls, value)
        state._value_ = value
        state.meaning = meaning
        return state

    CONNECTING = "connecting", "upstream has not answered yet"
    WAITING = "waiting", "upstream has answered and has not sent a byte yet"
    FLOWING = "flowing", "upstream has sent something within the last keepalive interval"
    IDLE = "idle", "upstream has sent nothing for one keepalive interval; this is normal"
    STALLED = "stalled", "upstream has given no sign of life for `stall.after`"
    RECONNECTING = "reconnecting", "upstream is lost and is opened again, while the client stays connected"
    DRAINING = "draining", "the stream has ended; its last bytes are on their way to the client"


class CloseReason(StrEnum):
    """The reason for the end of a stream: the same word in metrics, logs, pages and documentation."""

    CLIENT_GONE = "client_gone"
    UPSTREAM_END = "upstream_end"
    UPSTREAM_RESET = "upstream_reset"
    UPSTREAM_REFUSED = "upstream_refused"
    UPSTREAM_STATUS = "upstream_status"
    STALLED = "stalled"
    GIVE_UP = "give_up"
    CLIENT_STALLED = "client_stalled"
    EVENT_TOO_LARGE = "event_too_large"
    MAX_AGE = "max_age"
    DRAIN = "drain"
    ROUTE_REMOVED = "route_removed"
    UNAUTHORIZED = "unauthorized"
    INTERNAL = "internal"


class ReconnectResult(StrEnum):
    """The result of a reconnect: a new stream, a failed attempt, or the end of the client's stream."""

    REOPENED = "reopened"
    FAILED = "failed"
    ENDED = "ended"


class Join(StrEnum):
    """How a client came into a group: by its own request to upstream, or trusted without one."""

    ASKED = "asked"
    TRUSTED = "trusted"


_LIFELESS = "no sign of life for stall.after"
_CLOSED = "the first reason to close"
_LOST = "upstream ends or breaks"

TRANSITIONS: dict[State, dict[State, str]] = {
    State.CONNECTING: {
        State.WAITING: "upstream answers with an event stream",
        State.RECONNECTING: "upstream fails after an early commit",
        State.DRAINING: "the stream ends before upstream answers",
    },
    State.WAITING: {
        State.FLOWING: "the first bytes",
        State.STALLED: _LIFELESS,
        State.RECONNECTING: _LOST,
        State.DRAINING: _CLOSED,
    },
    State.FLOWING: {
        State.IDLE: "an interval without bytes",
        State.STALLED: _LIFELESS,
        State.RECONNECTING: _LOST,
        State.DRAINING: _CLOSED,
    },
    State.IDLE: {
        State.FLOWING: "bytes",
        State.STALLED: _LIFELESS,
        State.RECONNECTING: _LOST,
        State.DRAINING: _CLOSED,
    },
    State.STALLED: {
        State.FLOWING: "a sign of life",
        State.STALLED: "stall.action: a new stream was accepted in the place of the old one",
        State.RECONNECTING: _LOST,
        State.DRAINING: _CLOSED,
    },
    State.RECONNECTING: {
        State.WAITING: "upstream answers with an event stream",
        State.STALLED: "upstream answers, but stall.after has passed without a sign of life",
        State.DRAINING: _CLOSED,
    },
    State.DRAINING: {},
}
"""Every transition and its cause."""
