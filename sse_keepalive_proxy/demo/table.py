"""Two streams side by side, as lines of text."""

from __future__ import annotations

from collections.abc import Callable

from sse_keepalive_proxy.demo.observer import Figures, Life

__all__ = ["duration", "lines"]

_LABEL = 17
_COLUMN = 27


def lines(direct: Figures, proxied: Figures) -> list[str]:
    """Return the table. It always has the same number of lines."""
    return [
        _line("", "direct", "through the proxy"),
        *(_line(label, show(direct), show(proxied)) for label, show in _ROWS),
    ]


def duration(seconds: float) -> str:
    """Format a duration for people: `4 ms`, `9.0 s`."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _line(*cells: str) -> str:
    label, direct, proxied = cells
    return f"  {label:<{_LABEL}}{direct:<{_COLUMN}}{proxied}".rstrip()


def _after(seconds: float | None) -> str:
    return "never" if seconds is None else f"after {duration(seconds)}"


def _first_byte(figures: Figures) -> str:
    if figures.first_byte_after is None:
        return f"none in {duration(figures.age)}"
    return _after(figures.first_byte_after)


def _gaps(figures: Figures) -> str:
    if figures.gap is None:
        return str(figures.gaps)
    return f"{figures.gaps}, the last of {duration(figures.gap.seconds)}"


def _state(figures: Figures) -> str:
    return "open, silent" if figures.life is Life.SILENT else figures.life.value


_ROWS: tuple[tuple[str, Callable[[Figures], str]], ...] = (
    ("state", _state),
    ("headers", lambda figures: _after(figures.headers_after)),
    ("first byte", _first_byte),
    ("confirm", lambda figures: _after(figures.confirm_after)),
    ("pings", lambda figures: str(figures.pings)),
    ("events", lambda figures: f"{figures.events}, onmessage received {figures.heard}"),
    ("gaps announced", _gaps),
    ("bytes", lambda figures: str(figures.bytes)),
    ("silent for", lambda figures: duration(figures.silence)),
    ("longest silence", lambda figures: duration(figures.longest_silence)),
)
