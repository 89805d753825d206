"""The states of a stream, every change from one to another, the reasons for its end, and what comes of
asking upstream again.

Data only: `stream.lifecycle` moves through it and refuses any other way, `stream.diagram` draws it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self

__all__ = ["TRANSITIONS", "CloseReason", "ReconnectResult", "State"]


class State(StrEnum):
    """What operators see of a stream; the values are the labels of `streams_active`.

    Each member carries its `meaning` in a few words.
    """

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        state = str.__new__(cls, value)
        state._value_ = value
        state.meaning = meaning
        return state

    CONNECTING = "connecting", "asked upstream, no answer yet"
    WAITING = "waiting", "upstream answered, and has sent nothing"
    FLOWING = "flowing", "upstream sent something within the last keepalive interval"
    IDLE = "idle", "upstream sent nothing for that long, which is normal"
    STALLED = "stalled", "upstream gave no sign of life for `stall.after`"
    RECONNECTING = "reconnecting", "upstream was lost, and is asked again behind the live client"
    DRAINING = "draining", "ended; the last bytes are on their way to the client"


class CloseReason(StrEnum):
    """Why a stream ended: one word for label, log, page and docs."""

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
    """What came of asking upstream again: a stream, nothing yet, or the end of the client's stream."""

    REOPENED = "reopened"
    FAILED = "failed"
    ENDED = "ended"


_LIFELESS = "no sign of life for stall.after"
_CLOSED = "the first reason to close"
_LOST = "upstream ends or breaks"

TRANSITIONS: dict[State, dict[State, str]] = {
    State.CONNECTING: {
        State.WAITING: "upstream answers with an event stream",
        State.RECONNECTING: "it fails behind an early commit",
        State.DRAINING: "it ends before it began",
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
        State.RECONNECTING: "upstream ends or breaks, or is given up for another (stall.action)",
        State.DRAINING: _CLOSED,
    },
    State.RECONNECTING: {
        State.WAITING: "upstream answers with an event stream",
        State.STALLED: "it does, and has given no sign of life for long",
        State.DRAINING: _CLOSED,
    },
    State.DRAINING: {},
}
"""Every change of state there is, and what brings it about."""
