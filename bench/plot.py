"""Draws the bars. The only module that needs matplotlib (extra `bench`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.comparison import Outcome
from bench.figures import Figure, Summary
from bench.peers import OWN, TITLES
from bench.report import Results, summaries

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Bar", "Panel", "draw", "panels"]

_OWN, _PEER, _LIMIT = "#c8553d", "#8d99ae", "#d5dae3"
_COLUMNS = 3


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: whose, how long, what is written at its end, in which colour."""

    label: str
    value: float
    text: str
    colour: str


@dataclass(frozen=True, slots=True)
class Panel:
    """The bars of one figure, the first one on top."""

    title: str
    bars: Sequence[Bar]


def panels(results: Results) -> list[Panel]:
    """One for each figure that was measured; peers sorted, the least on top. Pure."""
    found = [_compared(outcome, figure) for outcome in results.outcomes for figure in outcome.test.figures]
    growth = results.growth
    labels = [f"{g.streams:,} streams" for g in growth]
    found += [
        _grown("CPU per event, µs (growth)", labels, [g.cpu_per_event_us for g in growth]),
        _grown("CPU per open, µs (growth)", labels, [g.cpu_per_open_us for g in growth]),
        _grown("memory per stream, KiB (growth)", labels, [g.kib_per_stream for g in growth]),
        _grown("idle CPU, % of a core (growth)", labels, [g.idle_cpu_percent for g in growth]),
        _grown(
            "CPU per open, µs (growth)",
            [f"{r.routes:,} routes" for r in results.routes],
            [r.cpu_per_open_us for r in results.routes],
        ),
    ]
    return [panel for panel in found if any(bar.value > 0 for bar in panel.bars)]


def _compared(outcome: Outcome, figure: Figure) -> Panel:
    found = summaries(outcome)
    paired = figure.ratio and any(figure.key in summary.ratios for summary in found.values())
    bars = []
    for name, summary in found.items():
        value = _value(summary, figure, paired=paired)
        if value is not None:
            text = f"{value:.2f}" if paired else f"{value:,.{figure.digits}f}"
            colour = _OWN if name in OWN else _LIMIT if name == "limit" else _PEER
            bars.append(Bar(TITLES[name], max(value, 0.0), text, colour))
    unit = "times nginx" if paired else figure.unit
    return Panel(f"{figure.title}, {unit} ({outcome.test.name})", sorted(bars, key=lambda bar: bar.value))


def _value(summary: Summary, figure: Figure, *, paired: bool) -> float | None:
    if paired:
        return summary.ratios[figure.key][0] if figure.key in summary.ratios else None
    return summary.values.get(figure.key)


def _grown(title: str, labels: Sequence[str], values: Sequence[float]) -> Panel:
    bars = [
        Bar(
            label,
            value,
            f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}",
            _OWN,
        )
        for label, value in zip(labels, values, strict=True)
    ]
    return Panel(title, bars)


def draw(results: Results, file: Path) -> None:
    """Write the PNG, 1200 pixels wide. ImportError where there is no matplotlib."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    found = panels(results)
    if not found:
        return
    with mpl.rc_context({"font.size": 8, "svg.hashsalt": "bench"}):
        rows = math.ceil(len(found) / _COLUMNS)
        canvas = Canvas(figsize=(12, 0.5 + 1.75 * rows), dpi=100, layout="constrained")
        canvas.suptitle("sse-keepalive-proxy beside its peers: less is better", fontsize=11)
        axes = canvas.subplots(rows, _COLUMNS, squeeze=False)
        for number, place in enumerate(axes.flat):
            if number < len(found):
                _draw(place, found[number])
            else:
                place.set_axis_off()
        canvas.savefig(file, metadata={"Software": None})


def _draw(axes: Axes, panel: Panel) -> None:
    bars = list(reversed(panel.bars))
    longest = max(bar.value for bar in bars)
    axes.barh([bar.label for bar in bars], [bar.value for bar in bars], color=[bar.colour for bar in bars])
    for place, bar in enumerate(bars):
        axes.text(bar.value + longest * 0.02, place, bar.text, va="center")
    own = {TITLES[name] for name in OWN}
    for label, bar in zip(axes.get_yticklabels(), bars, strict=True):
        label.set_fontweight("bold" if bar.label in own else "normal")
    axes.set_xlim(0, longest * 1.18)
    axes.set_xticks([])
    axes.set_title(panel.title, fontsize=9, loc="left")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
