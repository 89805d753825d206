"""Many deadlines on one timer: never early, at most a grain late, each once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_keepalive_proxy.net.timers import TimerWheel
from tests.support.clock import ManualClock
from tests.support.running import on_each_loop, soon

GRAIN = 0.05
START = 1000.0


class Sleeper:
    """Notes when it is woken, and then does `then`."""

    def __init__(self, clock: ManualClock, then: Callable[[], None] = lambda: None) -> None:
        self.woken: list[float] = []
        self._clock, self._then = clock, then

    def wake(self) -> None:
        self.woken.append(self._clock())
        self._then()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    clock = ManualClock(START)
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: clock)
    return clock


@given(st.lists(st.floats(0.001, 30), min_size=1, max_size=30))
def test_every_sleeper_is_woken_once_never_early_and_at_most_a_grain_late(waits: list[float]) -> None:
    clock = ManualClock(START)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "get_running_loop", lambda: clock)
        timers = TimerWheel()
    sleepers = [(Sleeper(clock), START + wait) for wait in waits]
    for sleeper, at in sleepers:
        timers.schedule(sleeper, at)
    clock.advance(60)
    for sleeper, at in sleepers:
        (woken,) = sleeper.woken
        assert at - GRAIN * 1e-5 <= woken <= at + GRAIN * 1.00001
    assert clock.next_timer() is None


def test_a_deadline_on_the_grain_is_met_to_the_moment(clock: ManualClock) -> None:
    sleeper = Sleeper(clock)
    TimerWheel().set(sleeper, START + 10)
    clock.advance(20)
    assert sleeper.woken == [START + 10]


def test_an_earlier_deadline_rings_first_though_it_was_set_later(clock: ManualClock) -> None:
    timers, late, early = TimerWheel(), Sleeper(clock), Sleeper(clock)
    timers.schedule(late, START + 10)
    timers.schedule(early, START + 1)
    clock.advance(5)
    assert (early.woken, late.woken) == ([START + 1], [])
    clock.advance(5)
    assert late.woken == [START + 10]


def test_what_is_unset_does_not_ring_and_its_neighbours_do(clock: ManualClock) -> None:
    timers, gone, stays = TimerWheel(), Sleeper(clock), Sleeper(clock)
    timers.schedule(gone, START + 1)
    timers.schedule(stays, START + 1)
    timers.cancel(gone, START + 1)
    clock.advance(2)
    assert (gone.woken, stays.woken) == ([], [START + 1])


def test_to_unset_what_was_never_set_or_has_rung_is_harmless(clock: ManualClock) -> None:
    timers, sleeper = TimerWheel(), Sleeper(clock)
    timers.cancel(sleeper, START + 1)
    timers.schedule(sleeper, START + 1)
    clock.advance(2)
    timers.cancel(sleeper, START + 1)
    assert sleeper.woken == [START + 1]


def test_a_sleeper_that_is_woken_can_set_its_next_deadline(clock: ManualClock) -> None:
    timers = TimerWheel()
    sleeper = Sleeper(clock, lambda: timers.schedule(sleeper, clock() + 1))
    timers.schedule(sleeper, START + 1)
    clock.advance(3.5)
    assert sleeper.woken == [START + 1, START + 2, START + 3]


def test_a_sleeper_that_is_woken_can_take_another_ones_deadline_back(clock: ManualClock) -> None:
    timers, other = TimerWheel(), Sleeper(clock)
    sleeper = Sleeper(clock, lambda: timers.cancel(other, START + 2))
    timers.schedule(sleeper, START + 1)
    timers.schedule(other, START + 2)
    clock.advance(3)
    assert (sleeper.woken, other.woken) == ([START + 1], [])


def test_a_deadline_in_the_past_rings_at_once(clock: ManualClock) -> None:
    sleeper = Sleeper(clock)
    TimerWheel().set(sleeper, START - 5)
    clock.advance(0)
    assert sleeper.woken == [START]


@on_each_loop
async def test_a_deadline_can_be_set_while_one_that_is_due_at_once_has_not_rung() -> None:
    timers, now = TimerWheel(), asyncio.get_running_loop().time
    rung: list[str] = []

    class Named:
        def __init__(self, name: str) -> None:
            self._name = name

        def wake(self) -> None:
            rung.append(self._name)

    timers.schedule(Named("at once"), now() - 1)
    timers.schedule(Named("before that"), now() - 2)  # uvloop's timer of the first has no time to ask for
    timers.schedule(Named("later"), now() + 0.1)
    await soon(lambda: len(rung) == 3)
    assert rung == ["before that", "at once", "later"]
