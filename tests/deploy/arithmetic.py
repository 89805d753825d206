"""Compute the tables of `docs/guides/scaling.md` from the figures on this page.

    python -m tests.deploy.arithmetic       # writes the tables again after a figure has changed

If a figure is still a name in braces, its tables have no numbers.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["GUIDE", "Figures", "Fleet", "busy", "fleet", "per_core", "per_gib", "written"]

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "scaling.md"

SHARE = 0.7
"""Of a core, on purpose: what is left is for the moment when a replica is lost."""

LARGEST = 20_000
"""Streams that a replica is given at most, whatever its core could carry: ports, and what its loss means."""

RESERVED = 200
TIME_WAIT = 60
PORTS = 60999 - 32768 + 1

RATES = {"none": 0.0, "one a minute": 1 / 60, "one in 10 s": 0.1, "one a second": 1.0}
LIVES = {"1 min": 60, "10 min": 600, "1 h": 3600}
TOTALS = (10_000, 100_000, 1_000_000)
RATE, LIFE = 0.1, 600


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured: KiB of the process and of the kernel for an idle stream, MiB of a process without
    one, per cent of a core for 5,000 idle streams, microseconds for an event and for an opening.
    """

    kib: float
    kernel: float
    start: float
    idle: float
    event: float
    open: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """How many replicas, and what each of them needs while one of the others is away."""

    replicas: int
    streams: int
    cpu: float
    mib: float
    descriptors: int
    ports: int
    moved: float


def busy(figures: Figures, events: float, life: float) -> float:
    """Microseconds of CPU that a stream takes in a second: `events` a second, opened again every `life` s."""
    idle = figures.idle / 100 * 1e6 / 5000
    return idle + events * figures.event + figures.open / life


def per_core(figures: Figures, events: float, life: float) -> int:
    """Streams that keep a core busy for `SHARE` of its time, two digits of them."""
    return _down(SHARE * 1e6 / busy(figures, events, life))


def per_gib(figures: Figures) -> int:
    """Idle streams of one process in a GiB, two digits of them."""
    return _down((1024 - figures.start) * 1024 / (figures.kib + figures.kernel))


def fleet(figures: Figures, total: int) -> Fleet:
    """What `total` streams need, with `RATE` events a second and a life of `LIFE` seconds each."""
    size = min(LARGEST, per_core(figures, RATE, LIFE))
    replicas = math.ceil(total / size) + 1
    streams = math.ceil(total / (replicas - 1))
    return Fleet(
        replicas=replicas,
        streams=streams,
        cpu=streams * busy(figures, RATE, LIFE) / 1e6,
        mib=figures.start + streams * (figures.kib + figures.kernel) / 1024,
        descriptors=2 * streams + RESERVED,
        ports=streams + round(TIME_WAIT * streams / LIFE),
        moved=total / replicas / (replicas - 1) * figures.open / 1e6,
    )


def written(page: str) -> str:
    """The page with its tables as they follow from the figures in it."""
    found = dict(re.findall(r"(?m)^\| `(\w+)` \| ([^ |]+) ", page))
    try:
        figures = Figures(**{name: float(found[name]) for name in Figures.__slots__})
    except ValueError:
        figures = None
    for name, table in (("core", _core(figures)), ("fleet", _fleet(figures))):
        begin, end = f"<!-- sums: {name} -->\n", f"<!-- /sums: {name} -->\n"
        before, rest = page.split(begin)
        page = before + begin + table + end + rest.split(end)[1]
    return page


def _core(figures: Figures | None) -> str:
    lines = [
        f"| events a stream | {' | '.join(f'opened again every {life}' for life in LIVES)} |",
        "|---|" + "---|" * len(LIVES),
    ]
    for name, rate in RATES.items():
        cells = ["…" if figures is None else f"{per_core(figures, rate, life):,}" for life in LIVES.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    fitting = "…" if figures is None else f"{per_gib(figures):,}"
    return "\n".join(lines) + f"\n\nIn a GiB: {fitting} idle streams.\n"


def _fleet(figures: Figures | None) -> str:
    rows: dict[str, list[str]] = {
        "replicas": [],
        "streams a replica, while one is away": [],
        "of a core for each": [],
        "memory of all": [],
        "descriptors a replica": [],
        f"ports a replica to one upstream address (of {PORTS:,})": [],
        "CPU of each other one when one is lost": [],
    }
    for total in TOTALS:
        cells = ["…"] * len(rows)
        if figures is not None:
            one = fleet(figures, total)
            cells = [
                f"{one.replicas:,}",
                f"{one.streams:,}",
                f"{one.cpu:.0%}",
                f"{one.mib * one.replicas / 1024:.1f} GiB",
                f"{one.descriptors:,}",
                f"{one.ports:,}",
                f"{one.moved:.1f} s",
            ]
        for row, cell in zip(rows.values(), cells, strict=True):
            row.append(cell)
    lines = [f"| streams | {' | '.join(f'{total:,}' for total in TOTALS)} |", "|---|" + "---|" * len(TOTALS)]
    lines += [f"| {name} | {' | '.join(row)} |" for name, row in rows.items()]
    return "\n".join(lines) + "\n"


def _down(value: float) -> int:
    digits = max(int(math.log10(value)) - 1, 0)
    return int(value // 10**digits) * 10**digits


if __name__ == "__main__":
    GUIDE.write_text(written(GUIDE.read_text()))
