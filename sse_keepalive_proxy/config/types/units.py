"""Durations and sizes. A file always has them with a unit.

A duration is a float in seconds, a size an int in bytes. Zero is refused, because it is ambiguous
(facts.md#zero-intervals). A concern that can be off has the value `off`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from typing import Annotated, Any

from sse_keepalive_proxy.config.types.fields import Fault, Text, refuse

__all__ = [
    "Duration",
    "KeepaliveDuration",
    "ShortDuration",
    "Size",
    "StallDuration",
    "format_duration",
    "format_size",
    "parse_duration",
    "parse_size",
]

_DURATIONS = {"h": Decimal(3600), "m": Decimal(60), "s": Decimal(1), "ms": Decimal("0.001")}
_SIZES = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}

# 20 digits are enough for every bound below, and Decimal stays exact.
_NUMBER = r"[0-9]{1,20}(?:\.[0-9]{1,20})?"
_DURATION = re.compile(rf"({_NUMBER})(ms|s|m|h)")
_SIZE = re.compile(rf"({_NUMBER})(B|KiB|MiB|GiB)")
_BARE = re.compile(r"[+-]?[0-9]*\.?[0-9]+")

_DURATION_HINT = "write it like 250ms, 15s, 2m or 1h"
_SIZE_HINT = "write it like 512B, 64KiB, 1MiB or 1GiB"

_SHORTEST, _LONGEST = Decimal("0.001"), Decimal(8760 * 3600)
_LARGEST = 1 << 40


def parse_duration(value: object) -> float:
    """Return the seconds of a duration such as `15s`. Raises `ValueError` with the right syntax."""
    number, unit = _split(value, _DURATION, "duration", _DURATION_HINT)
    seconds = number * _DURATIONS[unit]
    if seconds < _SHORTEST:
        raise refuse(Fault("the shortest duration is 1ms", _DURATION_HINT))
    if seconds > _LONGEST:
        raise refuse(Fault("the longest duration is 8760h (a year)", _DURATION_HINT))
    return float(seconds)


def parse_size(value: object) -> int:
    """Return the bytes of a size such as `64KiB`. Raises `ValueError` with the right syntax."""
    number, unit = _split(value, _SIZE, "size", _SIZE_HINT)
    size = number * _SIZES[unit]
    if size != int(size):
        raise refuse(Fault("a size is a whole number of bytes", _SIZE_HINT))
    if size > _LARGEST:
        raise refuse(Fault("the largest size is 1024GiB", _SIZE_HINT))
    return int(size)


def _split(value: object, shape: re.Pattern[str], kind: str, hint: str) -> tuple[Decimal, str]:
    """Return the number, which is above zero, and the unit of `value`."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise refuse(Fault(f"must be a {kind}", hint))
    text = str(value)
    if text.startswith("-"):
        raise refuse(Fault(f"a {kind} cannot be negative", hint))
    found = shape.fullmatch(text)
    if found is None:
        bare = not isinstance(value, str) or _BARE.fullmatch(text) or re.fullmatch(r"[0-9:.]+", text)
        wrong = f"a {kind} needs a unit" if bare else f"not a {kind}"
        raise refuse(Fault(wrong, hint))
    number = Decimal(found[1])
    if not number:
        raise refuse(Fault(f"a {kind} cannot be zero", hint))
    return number, found[2]


def format_duration(seconds: float) -> str:
    """Return a short text that `parse_duration` reads as exactly `seconds`."""
    exact = Decimal(repr(seconds))
    for unit, size in _DURATIONS.items():
        count = exact / size
        if count == int(count):
            return f"{int(count)}{unit}"
    return f"{exact.normalize():f}s"


def format_size(size: int) -> str:
    """Return `size` bytes as text in the largest unit that divides it."""
    unit, factor = next((unit, factor) for unit, factor in _SIZES.items() if size % factor == 0)
    return f"{size // factor}{unit}"


def _duration(off_hint: str) -> Text:
    return Text(
        "duration",
        parse_duration,
        _shown_duration,
        pattern=r"^[0-9]+(\.[0-9]+)?(ms|s|m|h)$",
        off_hint=off_hint,
    )


def _shown_duration(value: Any) -> str:
    return format_duration(float(value))


_BOUNDED_WAIT = _duration("every wait needs a limit; write a long one, e.g. 1h")
_BOUNDED_SIZE = Text(
    "size",
    parse_size,
    format_size,
    pattern=r"^[0-9]+(\.[0-9]+)?(B|KiB|MiB|GiB)$",
    off_hint="every buffer needs a limit; write a large one, e.g. 64MiB",
)

Duration = Annotated[float, _BOUNDED_WAIT]
KeepaliveDuration = Annotated[float, replace(_BOUNDED_WAIT, off_hint="write `keepalive: off` instead")]
ShortDuration = Annotated[float, replace(_BOUNDED_WAIT, off_hint="write a short one, e.g. 1ms")]
StallDuration = Annotated[float, replace(_BOUNDED_WAIT, off_hint="write `stall: off` instead")]
Size = Annotated[int, _BOUNDED_SIZE]
