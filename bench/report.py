"""Everything that was measured as Markdown, and its place in the page. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bench.alone import Full, Growth, Routes, Storm
from bench.comparison import Outcome
from bench.figures import Figure, Summary, summarise, summarise_base
from bench.peers import BASE, OWN, TITLES

__all__ = ["BEGIN", "END", "Results", "insert", "markdown", "summaries"]

BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
PLOT = "performance.png"
_NOTHING = "-"


@dataclass(slots=True)
class Results:
    """All of a run. `machine` and `left_out` are label and text."""

    command: str
    date: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    left_out: dict[str, str] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    growth: list[Growth] = field(default_factory=list)
    routes: list[Routes] = field(default_factory=list)
    full: Full | None = None
    storms: list[Storm] = field(default_factory=list)

    @property
    def own_faults(self) -> int:
        """The faults of this proxy, over all tests."""
        compared = sum(
            pair.own.faults for o in self.outcomes for name in OWN for pair in o.pairs.get(name, ())
        )
        alone: list[Growth | Routes | Full | Storm] = [*self.growth, *self.routes, *self.storms]
        if self.full is not None:
            alone.append(self.full)
        return compared + sum(result.faults for result in alone)


def insert(page: str, generated: str) -> str:
    """The page with what is between its two markers replaced. ValueError where it has not one of each."""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(END) < page.index(BEGIN):
        raise ValueError(f"the page needs {BEGIN} and {END}, once each, in this order")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n{generated.strip()}\n\n{END}{after}"


def summaries(outcome: Outcome) -> dict[str, Summary]:
    """Who took part in a test, in the order of `TITLES`, the base among them."""
    figures = outcome.test.figures
    found = {name: summarise(pairs, figures) for name, pairs in outcome.pairs.items() if pairs}
    base = summarise_base((pair for pairs in outcome.pairs.values() for pair in pairs), figures)
    if base is not None:
        found[BASE] = base
    return {name: found[name] for name in TITLES if name in found}


def markdown(results: Results, *, plot: bool) -> str:
    """All of it."""
    parts = [_setting(results)]
    if plot:
        parts.append(f"![Bars of every figure below]({PLOT})")
    if results.outcomes:
        parts += [_overview(results.outcomes), *map(_test, results.outcomes), _behind(results.outcomes)]
    if results.growth or results.routes:
        parts.append(_growth(results.growth, results.routes))
    if results.full:
        parts.append(_full(results.full))
    if results.storms:
        parts.append(_storm(results.storms))
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, *rows]]
    lines.insert(1, "|---" + "|---:" * (len(head) - 1) + "|")
    return "\n".join(lines)


def _setting(results: Results) -> str:
    versions = ", ".join(f"{TITLES[name]} {number}".strip() for name, number in results.versions.items())
    rows = [
        *results.machine.items(),
        ("peers", versions or "none"),
        *((f"{TITLES.get(name, name)} left out", why) for name, why in results.left_out.items()),
    ]
    lines = "\n".join(f"- {label}: {text}" for label, text in rows)
    return f"Measured on {results.date} by `{results.command}`.\n\n{lines}"


def _name(name: str) -> str:
    return f"**{TITLES[name]}**" if name in OWN else TITLES[name]


def _number(value: float | None, digits: int) -> str:
    return _NOTHING if value is None else f"{value:,.{digits}f}"


def _short(summary: Summary | None, figure: Figure) -> str:
    """A cell of the overview: the ratio, or the figure itself where there is none."""
    if summary is None:
        return _NOTHING
    if figure.key in summary.ratios:
        return f"{summary.ratios[figure.key][0]:.2f}"
    value = summary.values.get(figure.key)
    return _NOTHING if value is None else f"{_number(value, figure.digits)} {figure.unit}"


def _overview(outcomes: Sequence[Outcome]) -> str:
    columns = [(o, figure) for o in outcomes for figure in o.test.figures if figure.key != "left_open"]
    found = {o.test.name: summaries(o) for o in outcomes}
    names = [name for name in TITLES if any(name in by_name for by_name in found.values())]
    rows = []
    for name in names:
        cells = [_short(found[o.test.name].get(name), figure) for o, figure in columns]
        faults = sum(by_name[name].faults for by_name in found.values() if name in by_name)
        rows.append([_name(name), *cells, f"{faults:,}"])
    head = ["", *(f"{figure.title} ({o.test.name})" for o, figure in columns), "faults"]
    return (
        f"### All in one\n\nRatios to nginx but where a unit stands; less is better.\n\n{_table(head, rows)}"
    )


def _test(outcome: Outcome) -> str:
    head = [""]
    for figure in outcome.test.figures:
        head.append(f"{figure.title}, {figure.unit}")
        if figure.ratio:
            head.append("times nginx (least to most)")
    rows = []
    for name, summary in summaries(outcome).items():
        row = [_name(name)]
        for figure in outcome.test.figures:
            row.append(_number(summary.values.get(figure.key), figure.digits))
            if figure.ratio:
                row.append(_ratio(summary, figure))
        rows.append([*row, f"{summary.faults:,}", str(summary.rounds)])
    text = f"### {outcome.test.name}: {outcome.test.title}\n\n{_table([*head, 'faults', 'readings'], rows)}"
    missing = [f"{TITLES[name]} is left out: {why}" for name, why in outcome.left_out.items()]
    return "\n\n".join([text, *missing])


def _ratio(summary: Summary, figure: Figure) -> str:
    if figure.key not in summary.ratios:
        return _NOTHING
    middle, least, most = summary.ratios[figure.key]
    return f"{middle:.2f}" if least == most else f"{middle:.2f} ({least:.2f} to {most:.2f})"


def _behind(outcomes: Sequence[Outcome]) -> str:
    lines = [line for outcome in outcomes for line in _losses(outcome)]
    if not lines:
        return ""
    told = "\n".join(lines)
    return f"### Where this proxy is behind\n\nBy how much it needs more than who needs less:\n\n{told}"


def _losses(outcome: Outcome) -> Iterator[str]:
    found = summaries(outcome)
    own = next((found[name] for name in OWN if name in found), None)
    for figure in outcome.test.figures if own else ():
        better = []
        for name, other in found.items():
            if (
                own is not None
                and name not in (*OWN, "limit")
                and (factor := _factor(own, other, figure.key)) > 1.005
            ):
                better.append(f"{factor:.2f} times {TITLES[name]}")
        if better:
            yield f"- {figure.title} ({outcome.test.name}): {', '.join(better)}"


def _factor(own: Summary, other: Summary, key: str) -> float:
    """How much of `other` this is: by their ratios to the base where there are any, for these were paired."""
    if key in own.ratios and key in other.ratios and other.ratios[key][0] > 0:
        return own.ratios[key][0] / other.ratios[key][0]
    if other.values.get(key, 0.0) > 0:
        return own.values.get(key, 0.0) / other.values[key]
    return 0.0


def _growth(growth: Sequence[Growth], routes: Sequence[Routes]) -> str:
    parts = ["### growth: what more streams and more routes do to the costs of this proxy"]
    if growth:
        head = [
            "streams",
            "CPU per event, µs",
            "CPU per open, µs",
            "memory per stream, KiB",
            "idle CPU, %",
            "faults",
        ]
        rows = [
            [
                f"{g.streams:,}",
                f"{g.cpu_per_event_us:.1f}",
                f"{g.cpu_per_open_us:,.0f}",
                f"{g.kib_per_stream:.1f}",
                f"{g.idle_cpu_percent:.2f}",
                f"{g.faults:,}",
            ]
            for g in growth
        ]
        parts.append(_table(head, rows))
    if routes:
        head = ["routes, the last one matches", "CPU per open, µs", "faults"]
        parts.append(
            _table(head, [[f"{r.routes:,}", f"{r.cpu_per_open_us:,.0f}", f"{r.faults:,}"] for r in routes])
        )
    return "\n\n".join(parts)


def _full(full: Full) -> str:
    return (
        "### full: every place of this proxy taken\n\n"
        f"With {full.descriptors:,} descriptors it had room for {full.streams:,} streams, and held them. "
        f"Of {full.asked} more, {full.refused} were refused with a whole 503 and `Retry-After`. "
        f"In the {full.seconds:.0f} s after that it used {full.cpu_percent:.2f} % of a core. "
        f"Then {full.events:,} events reached the held streams. Faults: {full.fault_kinds or 'none'}."
    )


def _storm(storms: Sequence[Storm]) -> str:
    head = [
        "streams",
        "all reopened after, s",
        "half of them, s",
        "worst lag of the loop, s",
        "CPU, s",
        "clients told of the gap",
        "clients that saw an end",
        "faults",
    ]
    rows = [
        [
            f"{s.streams:,}",
            f"{s.reopened_s:.2f}",
            f"{s.reopened_p50_s:.2f}",
            f"{s.worst_lag_s:.3f}",
            f"{s.cpu_s:.2f}",
            f"{s.told:,}",
            f"{s.ended:,}",
            f"{s.faults:,}",
        ]
        for s in storms
    ]
    return (
        "### storm: the origin dies under all streams, and is back after a second\n\n"
        "Times run from its return to the first event that a client gets of it, the random waits of "
        f"`reconnect` included.\n\n{_table(head, rows)}"
    )
