"""The settings of the stand-in that can change while it runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sse_keepalive_proxy.demo.openings import OPENING_COST

__all__ = ["Action", "Gzip", "Knobs", "changed"]


class Gzip(StrEnum):
    """Whether the stream is compressed, as by a middleware (facts.md#cloudflare-compression)."""

    OFF = "off"
    NEGOTIATED = "negotiated"  # when the request accepts gzip
    ALWAYS = "always"


class Action(StrEnum):
    """An action on all open streams."""

    CLOSE_STREAMS = "close_streams"  # a clean end
    RESET_STREAMS = "reset_streams"  # RST


@dataclass(frozen=True, slots=True)
class Knobs:
    """Settings. Intervals and delays are in seconds; an interval of None is off.

    `ping_interval`: axum sends a comment after this time without an event.
    `heartbeat_interval`: for the modes `fixed` and `healthy`.
    `opening_cost`: the turn of each stream at the database, before its response head (see `Openings`).
    `header_delay`: a time before the response head that does not hold up other streams.
    `status`: answer `/events` with this status instead of a stream.
    `refuse`: reset the connection of a request for `/events` before the response head.
    `freezes`: a message for a user whose client has left freezes the modes `silent` and `fixed`.
    """

    ping_interval: float | None = 25.0
    heartbeat_interval: float | None = 30.0
    opening_cost: float = OPENING_COST
    header_delay: float = 0.0
    status: int | None = None
    refuse: bool = False
    gzip: Gzip = Gzip.OFF
    freezes: bool = True


def changed(knobs: Knobs, values: Mapping[str, Any]) -> Knobs:
    """Return `knobs` with some values replaced by JSON values. Raises `ValueError` for a wrong value."""
    known = {field.name for field in dataclasses.fields(Knobs)}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"no such knob: {', '.join(unknown)} (there are {', '.join(sorted(known))})")
    return dataclasses.replace(knobs, **{name: _value(name, value) for name, value in values.items()})


def _value(name: str, value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match name:
        case "ping_interval" | "heartbeat_interval":
            if value is None or (number and value > 0):
                return value
            raise ValueError(f"{name} is a number of seconds above zero, or null for off")
        case "opening_cost" | "header_delay":
            if number and value >= 0:
                return value
            raise ValueError(f"{name} is a number of seconds")
        case "status":
            if value is None or (isinstance(value, int) and number and 200 <= value <= 599):
                return value
            raise ValueError("status is a number from 200 to 599, or null")
        case "gzip":
            return Gzip(value)
        case _:
            if isinstance(value, bool):
                return value
            raise ValueError(f"{name} is true or false")
