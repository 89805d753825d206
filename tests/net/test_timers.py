"""Many deadlines on one timer: never early, at most a grain late, each once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sse_keepalive_proxy.net.timers import TimerWheel
from tests.support.clock import ManualClock, Timer
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
    TimerWheel().schedule(sleeper, START + 10)
    clock.advance(20)
    assert sleeper.woken == [START + 10]


def test_an_earlier_deadline_comes_first_even_if_it_was_scheduled_later(clock: ManualClock) -> None:
    timers, late, early = TimerWheel(), Sleeper(clock), Sleeper(clock)
    timers.schedule(late, START + 10)
    timers.schedule(early, START + 1)
    clock.advance(5)
    assert (early.woken, late.woken) == ([START + 1], [])
    clock.advance(5)
    assert late.woken == [START + 10]


def test_a_cancelled_deadline_wakes_no_sleeper_and_the_others_stay(clock: ManualClock) -> None:
    timers, gone, stays = TimerWheel(), Sleeper(clock), Sleeper(clock)
    timers.schedule(gone, START + 1)
    timers.schedule(stays, START + 1)
    timers.cancel(gone, START + 1)
    clock.advance(2)
    assert (gone.woken, stays.woken) == ([], [START + 1])


def test_cancelling_a_deadline_that_was_not_scheduled_or_is_over_does_nothing(clock: ManualClock) -> None:
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


def test_a_deadline_in_the_past_wakes_its_sleeper_at_once(clock: ManualClock) -> None:
    sleeper = Sleeper(clock)
    TimerWheel().schedule(sleeper, START - 5)
    clock.advance(0)
    assert sleeper.woken == [START]


def test_a_sleeper_that_is_woken_can_cancel_another_one_of_the_same_tick(clock: ManualClock) -> None:
    timers = TimerWheel()
    pair = [Sleeper(clock, lambda: timers.cancel(pair[1], START + 1))]
    pair.append(Sleeper(clock, lambda: timers.cancel(pair[0], START + 1)))
    for sleeper in pair:
        timers.schedule(sleeper, START + 1)
    clock.advance(3)
    assert len(pair[0].woken) + len(pair[1].woken) == 1


def test_a_sleeper_that_is_woken_and_asks_for_the_same_time_again_is_woken_again(clock: ManualClock) -> None:
    timers, other = TimerWheel(), [Sleeper(clock) for _ in range(8)]
    sleeper = Sleeper(clock, lambda: timers.schedule(sleeper, START + 1) if len(sleeper.woken) < 3 else None)
    for each in (sleeper, *other):
        timers.schedule(each, START + 1)
    clock.advance(3)
    assert sleeper.woken == [START + 1] * 3
    assert [each.woken for each in other] == [[START + 1]] * 8
    assert not timers._sleepers


def test_a_sleeper_that_fails_is_reported_and_every_other_one_is_woken(clock: ManualClock) -> None:
    reported: list[Any] = []
    clock.call_exception_handler = reported.append  # type: ignore[attr-defined]
    timers = TimerWheel()

    def fail() -> None:
        raise RuntimeError("planned")

    sleepers = [Sleeper(clock, fail if number % 3 == 0 else lambda: None) for number in range(30)]
    for number, sleeper in enumerate(sleepers):
        timers.schedule(sleeper, START + 1 + number // 10)
    clock.advance(5)
    assert [sleeper.woken for sleeper in sleepers] == [[START + 1 + number // 10] for number in range(30)]
    assert [str(context["exception"]) for context in reported] == ["planned"] * 10


class Counting(ManualClock):
    """Counts the timers that ring."""

    def __init__(self) -> None:
        super().__init__(START)
        self.rung = 0

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> Timer:
        def counted() -> None:
            self.rung += 1
            callback(*args)

        return super().call_at(when, counted)


@pytest.mark.parametrize("kept", [1, 10, 300])
def test_an_hour_of_keep_alive_traffic_leaves_no_deadline_and_causes_no_useless_wake_up(
    kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request cancels its connection's deadline, an hour away, and sets a new one."""
    clock = Counting()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: clock)
    timers, sleepers = TimerWheel(), [Sleeper(clock) for _ in range(kept)]
    deadlines = [0.0] * kept
    for request in range(36_000):
        which = request % kept
        timers.cancel(sleepers[which], deadlines[which])
        deadlines[which] = clock() + 3630
        timers.schedule(sleepers[which], deadlines[which])
        clock.advance(0.1)
    assert len(timers._sleepers) <= kept
    assert len(timers._ticks) <= 2 * kept + 65
    assert clock.rung == 0
    clock.advance(3640)
    assert clock.rung == kept == sum(len(sleeper.woken) for sleeper in sleepers)
    assert not timers._sleepers
    assert not timers._ticks


def test_of_a_hundred_thousand_cancelled_deadlines_nothing_is_kept(clock: ManualClock) -> None:
    wheel, kept = TimerWheel(), Sleeper(clock)
    wheel.schedule(kept, START + 3600)
    sleepers = [Sleeper(clock) for _ in range(100_000)]
    for number, sleeper in enumerate(sleepers):
        wheel.schedule(sleeper, START + 1 + number * GRAIN)
    for number, sleeper in enumerate(sleepers):
        wheel.cancel(sleeper, START + 1 + number * GRAIN)
    assert list(wheel._sleepers.values()) == [{kept}]
    assert len(wheel._ticks) <= 70  # plain numbers


def test_what_was_cancelled_leaves_no_timer_set(clock: ManualClock) -> None:
    timers, sleeper = TimerWheel(), Sleeper(clock)
    timers.schedule(sleeper, START + 1)
    timers.schedule(sleeper, START + 2)
    timers.cancel(sleeper, START + 1)
    assert clock.next_timer() == START + 2
    timers.cancel(sleeper, START + 2)
    assert clock.next_timer() is None


ACTS = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from([None, -1.0, 0.01, 0.3, 0.31, 5.0])), max_size=60
)


@settings(max_examples=200, deadline=None)
@given(acts=ACTS)
def test_after_any_history_exactly_the_due_sleepers_are_woken(
    acts: list[tuple[int, float | None]],
) -> None:
    """Against a model that looks at every deadline. `None` lets time pass."""
    clock = Counting()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "get_running_loop", lambda: clock)
        timers = TimerWheel()
    sleepers = [Sleeper(clock) for _ in range(5)]
    due: list[float | None] = [None] * 5
    for which, wait in acts:
        if wait is None:
            clock.advance(0.2)
            for number, at in enumerate(due):
                if at is not None and at <= clock() - GRAIN:
                    assert sleepers[number].woken
                if sleepers[number].woken:
                    assert at is not None
                    assert at <= sleepers[number].woken.pop() + GRAIN * 1e-5
                    due[number] = None
        else:
            if (at := due[which]) is not None:
                timers.cancel(sleepers[which], at)
            due[which] = clock() + wait
            timers.schedule(sleepers[which], clock() + wait)
    left = {id(sleeper) for tick in timers._sleepers.values() for sleeper in tick}
    assert left == {id(sleepers[number]) for number, at in enumerate(due) if at is not None}
    assert all(timers._sleepers.values())


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
