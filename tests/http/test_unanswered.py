"""When an upstream is silent: which openings show it, and what ends it."""

from __future__ import annotations

import pytest

from sse_keepalive_proxy.http.unanswered import Unanswered
from tests.support.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def unanswered(clock: ManualClock) -> Unanswered:
    return Unanswered(clock.time)


def test_an_upstream_that_nobody_asks_is_not_silent(clock: ManualClock, unanswered: Unanswered) -> None:
    clock.advance(100)
    assert (unanswered.seconds, list(unanswered.oldest())) == (0, [])


def test_silence_begins_with_the_first_opening_and_ends_with_any_answer(
    clock: ManualClock, unanswered: Unanswered
) -> None:
    unanswered.accepted("events")
    clock.advance(10)
    second = unanswered.accepted("events")
    clock.advance(5)
    assert unanswered.seconds == 15
    unanswered.answered(second)
    clock.advance(100)
    assert unanswered.seconds == 0  # the first one may wait for its first event
    assert list(unanswered.oldest()) == [("events", 115)]


def test_an_opening_after_the_latest_answer_shows_silence_again(
    clock: ManualClock, unanswered: Unanswered
) -> None:
    unanswered.accepted("events")
    unanswered.answered(unanswered.accepted("events"))
    clock.advance(50)
    unanswered.accepted("events")
    clock.advance(15)
    assert unanswered.seconds == 15


def test_the_waits_of_impatient_clients_add_up_and_the_time_between_them_does_not_count(
    clock: ManualClock, unanswered: Unanswered
) -> None:
    impatient = unanswered.accepted("events")
    clock.advance(10)
    unanswered.given_up(impatient)
    clock.advance(100)
    assert unanswered.seconds == 0  # nobody waits
    unanswered.accepted("events")
    clock.advance(5)
    assert unanswered.seconds == 15


def test_an_upstream_that_refuses_is_down_and_not_frozen(clock: ManualClock, unanswered: Unanswered) -> None:
    unanswered.accepted("events")
    clock.advance(20)
    unanswered.answered()
    assert unanswered.seconds == 0


def test_each_route_has_its_oldest_opening(clock: ManualClock, unanswered: Unanswered) -> None:
    unanswered.accepted("events")
    clock.advance(1)
    unanswered.accepted("events")
    unanswered.accepted("news")
    clock.advance(1)
    assert list(unanswered.oldest()) == [("events", 2), ("news", 1)]
