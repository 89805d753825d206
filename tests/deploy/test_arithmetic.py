"""The sums of `docs/guides/scaling.md`, and that its tables are what they come to."""

from __future__ import annotations

import math
import re

import pytest

from tests.deploy.arithmetic import GUIDE, Figures, busy, fleet, per_core, per_gib, written

MEASURED = Figures(kib=6.0, kernel=8.0, start=55.0, idle=3.0, event=20.0, open=300.0)


def test_the_guides_tables_follow_from_its_figures() -> None:
    page = GUIDE.read_text()
    assert written(page) == page, "run `python -m tests.deploy.arithmetic`"


def test_a_stream_costs_its_pings_its_events_and_its_openings() -> None:
    assert busy(MEASURED, events=0, life=math.inf) == pytest.approx(6.0)  # 3 % of a second over 5,000
    assert busy(MEASURED, events=0.1, life=60) == pytest.approx(6 + 2 + 5)
    assert per_core(MEASURED, events=0.1, life=60) == 53_000  # 700,000 / 13
    assert per_gib(MEASURED) == 70_000  # (1024 - 55) * 1024 / 14


def test_a_fleet_has_one_replica_more_than_it_needs() -> None:
    many = fleet(MEASURED, 100_000)
    assert (many.replicas, many.streams, many.descriptors) == (6, 20_000, 40_200)
    assert many.ports == 22_000  # 20,000 open ones, and those that have ended in the last minute
    assert many.cpu == pytest.approx(20_000 * 8.5e-6)
    assert fleet(MEASURED, 10_000).replicas == 2


def test_figures_that_are_still_to_come_leave_the_tables_empty() -> None:
    page = GUIDE.read_text()
    unknown = re.sub(r"(?m)^(\| `kib` \| )\S+", r"\1{KIB_PER_STREAM}", page)
    known = re.sub(r"(?m)^(\| `(?:kib|idle|event|open)` \| )\S+", r"\g<1>10", page)
    assert "| one in 10 s | … |" in written(unknown)
    assert "…" not in written(known)
