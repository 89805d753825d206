"""Readings to figures: each is paired with one of the base taken just before it. Pure.

A machine that is shared runs faster and slower from minute to minute. Two readings taken one right after the
other have that in common, so their ratio holds where the figures themselves do not.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = ["Figure", "Measured", "Pair", "Summary", "Values", "median", "summarise", "summarise_base"]

Values: TypeAlias = dict[str, float]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a test; less is better in all of them.

    `ratio` is False where the base's is next to nothing, and a quotient would say nothing.
    """

    key: str
    title: str
    unit: str
    digits: int = 1
    ratio: bool = True


@dataclass(frozen=True, slots=True)
class Measured:
    """One reading of one proxy: its figures and how many faults there were."""

    values: Values
    faults: int = 0


@dataclass(frozen=True, slots=True)
class Pair:
    """A reading, and that of the base just before it; None where the base is not there."""

    base: Measured | None
    own: Measured


@dataclass(frozen=True, slots=True)
class Summary:
    """What the table shows of one proxy in one test. `ratios` has median, least and most, by figure."""

    values: Values
    ratios: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    faults: int = 0
    rounds: int = 0


def median(values: Iterable[float]) -> float:
    """The median; ValueError when there is nothing."""
    found = list(values)
    if not found:
        raise ValueError("no value has no median")
    return statistics.median(found)


def summarise(pairs: Sequence[Pair], figures: Sequence[Figure]) -> Summary:
    """Medians of the figures, and of their ratios, over all pairs."""
    values, ratios = {}, {}
    for figure in figures:
        own = [pair.own.values[figure.key] for pair in pairs if figure.key in pair.own.values]
        if own:
            values[figure.key] = median(own)
        quotients = [q for pair in pairs if (q := _quotient(pair, figure.key)) is not None]
        if figure.ratio and quotients:
            ratios[figure.key] = (median(quotients), min(quotients), max(quotients))
    return Summary(values, ratios, sum(pair.own.faults for pair in pairs), len(pairs))


def summarise_base(pairs: Iterable[Pair], figures: Sequence[Figure]) -> Summary | None:
    """The base itself, over all readings that were taken beside the others. Its ratio is 1 by definition."""
    readings = [pair.base for pair in pairs if pair.base is not None]
    if not readings:
        return None
    own = summarise([Pair(None, reading) for reading in readings], figures)
    ratios = {figure.key: (1.0, 1.0, 1.0) for figure in figures if figure.ratio and figure.key in own.values}
    return Summary(own.values, ratios, own.faults, own.rounds)


def _quotient(pair: Pair, key: str) -> float | None:
    if pair.base is None or key not in pair.own.values:
        return None
    base = pair.base.values.get(key, 0.0)
    return pair.own.values[key] / base if base > 0 else None
