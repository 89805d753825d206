"""Clients that all leave at one age met a limit of a hop."""

from __future__ import annotations

import random

import pytest

from sse_keepalive_proxy.stream.departures import Departures


def reported(ages: list[float], *, every: float = 1.0) -> list[float]:
    departures = Departures()
    found = (departures.left(age, now=every * at) for at, age in enumerate(ages))
    return [age for age in found if age is not None]


@pytest.mark.parametrize("limit", [30.0, 60.0, 100.0, 3600.0])
def test_the_common_age_is_found(limit: float) -> None:
    draw = random.Random(1)
    (age,) = reported([limit + draw.uniform(0, 0.01 * limit) for _ in range(48)])
    assert limit <= age <= 1.01 * limit


def test_a_few_who_leave_earlier_do_not_hide_it() -> None:
    draw = random.Random(2)
    ages = [100.0] * 40 + [draw.uniform(5, 95) for _ in range(8)]
    draw.shuffle(ages)
    assert reported(ages) == [100.0]


def test_people_leave_at_any_age() -> None:
    draw = random.Random(3)
    assert reported([draw.expovariate(1 / 300) for _ in range(5000)]) == []


def test_it_takes_many_departures() -> None:
    assert reported([100.0] * 47) == []


def test_clients_that_leave_soon_are_no_sign_of_a_limit() -> None:
    assert reported([4.9] * 500) == []


def test_it_is_reported_once_an_hour() -> None:
    assert reported([100.0] * 100, every=100.0) == [100.0, 100.0]
