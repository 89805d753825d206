"""The manual clock."""

import pytest

from tests.support.clock import ManualClock


def test_time_stands_still_until_it_is_advanced() -> None:
    clock = ManualClock(5.0)
    assert clock() == clock() == clock.time() == 5.0
    clock.advance(2.5)
    assert clock() == 7.5


def test_timers_run_in_the_order_of_their_times_and_see_their_own_time() -> None:
    clock = ManualClock(0.0)
    seen: list[tuple[str, float]] = []
    clock.call_later(3, lambda: seen.append(("c", clock())))
    clock.call_later(1, lambda name: seen.append((name, clock())), "a")
    clock.call_at(1, lambda: seen.append(("b", clock())))
    clock.advance(2)
    assert seen == [("a", 1.0), ("b", 1.0)]
    assert clock() == 2.0
    assert clock.next_timer() == 3.0
    clock.advance(1)
    assert seen[-1] == ("c", 3.0)
    assert clock.next_timer() is None


def test_a_timer_set_by_a_timer_runs_in_the_same_advance_when_due() -> None:
    clock = ManualClock(0.0)
    ticks: list[float] = []

    def tick() -> None:
        ticks.append(clock())
        clock.call_later(1, tick)

    clock.call_later(1, tick)
    clock.advance(3)
    assert ticks == [1.0, 2.0, 3.0]


def test_a_cancelled_timer_never_runs() -> None:
    clock = ManualClock()
    timer = clock.call_later(1, pytest.fail, "cancelled")
    timer.cancel()
    assert timer.cancelled()
    clock.advance(5)


def test_time_does_not_run_backwards() -> None:
    with pytest.raises(ValueError, match="backwards"):
        ManualClock().advance(-1)
