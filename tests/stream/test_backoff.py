"""How long a lost upstream is left alone, and when it is given up."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_keepalive_proxy.stream.backoff import Backoff, Outage
from sse_keepalive_proxy.stream.messages import CloseReason
from sse_keepalive_proxy.stream.policy import Reconnect

POLICY = Reconnect(delay=0.25, max_delay=15, give_up_after=300)
LOST = CloseReason.UPSTREAM_RESET

policies = st.builds(
    lambda delay, times: Reconnect(delay=delay, max_delay=delay * times),
    st.floats(0.001, 60),
    st.floats(1, 1000),
)
draws = st.floats(0, 1, exclude_max=True)


def always(number: float) -> Callable[[], float]:
    return lambda: number


def ceilings(policy: Reconnect, count: int) -> list[float]:
    backoff = Backoff(policy, always(1.0))
    return [backoff.next_wait() for _ in range(count)]


# Waits.


def test_the_ceiling_of_a_wait_doubles_up_to_its_maximum() -> None:
    assert ceilings(POLICY, 9) == [0.25, 0.5, 1, 2, 4, 8, 15, 15, 15]
    assert ceilings(Reconnect(delay=3, max_delay=3), 3) == [3, 3, 3]


@given(policies, st.lists(draws, min_size=1, max_size=40))
def test_every_wait_is_the_drawn_part_of_its_whole_ceiling(policy: Reconnect, numbers: list[float]) -> None:
    backoff = Backoff(policy, iter(numbers).__next__)
    expected = [
        ceiling * drawn for ceiling, drawn in zip(ceilings(policy, len(numbers)), numbers, strict=True)
    ]
    assert [backoff.next_wait() for _ in numbers] == expected


@given(policies, st.integers(0, 60), draws)
def test_a_wait_is_within_its_bounds_however_many_there_were(
    policy: Reconnect, before: int, drawn: float
) -> None:
    backoff = Backoff(policy, always(drawn))
    waits = [backoff.next_wait() for _ in range(before + 1)]
    assert all(0 <= wait <= policy.max_delay for wait in waits)
    assert waits[0] <= policy.delay
    assert waits == sorted(waits)


@given(policies, st.floats(0, 1e6), draws, draws)
def test_what_upstream_demands_comes_on_top_and_leaves_clients_spread(
    policy: Reconnect, at_least: float, one: float, other: float
) -> None:
    waits = [Backoff(policy, always(drawn)).next_wait(at_least) for drawn in (one, other)]
    bare = [Backoff(policy, always(drawn)).next_wait() for drawn in (one, other)]
    assert waits == [at_least + wait for wait in bare]
    assert min(waits) >= at_least


def test_what_upstream_demands_does_not_make_the_ceiling_grow_any_faster() -> None:
    backoff = Backoff(POLICY, always(1.0))
    assert [backoff.next_wait(100), backoff.next_wait(), backoff.next_wait(7)] == [100.25, 0.5, 8]


@given(policies, st.integers(0, 20))
def test_after_starting_over_waits_are_as_in_the_beginning(policy: Reconnect, before: int) -> None:
    backoff = Backoff(policy, always(1.0))
    for _ in range(before):
        backoff.next_wait()
    backoff.start_over()
    assert [backoff.next_wait() for _ in range(5)] == ceilings(policy, 5)


# Outages.


def outage(policy: Reconnect = POLICY, draw: Callable[[], float] = lambda: 1.0) -> Outage:
    return Outage(policy, draw)


def waits_of(lost: Outage, began: float, attempts: int) -> Iterator[float]:
    for _ in range(attempts):
        assert lost.ask_again(0.0, began)
        assert lost.reopens_at is not None
        yield lost.reopens_at - began


def test_waits_grow_over_outages_until_upstream_gives_a_sign_of_life() -> None:
    lost = outage()
    lost.begin(LOST, 10.0, 20.0)
    assert list(waits_of(lost, 20.0, 3)) == [0.25, 0.5, 1]
    lost.begin(LOST, 10.0, 30.0)
    assert list(waits_of(lost, 30.0, 2)) == [2, 4]
    lost.begin(LOST, 39.0, 40.0)
    assert list(waits_of(lost, 40.0, 2)) == [0.25, 0.5]


def test_an_outage_knows_what_its_last_beginning_was() -> None:
    lost = outage()
    lost.begin(LOST, 0.0, 20.0)
    lost.begin(CloseReason.STALLED, 0.0, 50.0)
    assert (lost.reason, lost.began_at, lost.gives_up_at) == (CloseReason.STALLED, 50.0, 350.0)


def test_while_upstream_is_asked_giving_up_is_what_is_due_next() -> None:
    lost = outage()
    lost.begin(LOST, 0.0, 20.0)
    assert lost.due_at == 320
    lost.ask_again(4, 21)
    assert lost.due_at == lost.reopens_at == 25.25
    lost.reopens_at = None
    assert lost.due_at == 320


@pytest.mark.parametrize(("at_least", "again"), [(9.5, True), (9.75, False), (10, False), (1e15, False)])
def test_an_attempt_that_would_come_when_upstream_is_given_up_is_not_waited_for(
    at_least: float, again: bool
) -> None:
    lost = outage(Reconnect(delay=0.25, give_up_after=30))
    lost.begin(LOST, 0.0, 20.0)
    assert lost.ask_again(at_least, 40) is again


@given(policies, draws, st.floats(0, 1e3), st.floats(0, 1e3), st.floats(0, 1e3))
def test_nothing_is_ever_due_after_giving_up(
    policy: Reconnect, drawn: float, began: float, passed: float, at_least: float
) -> None:
    lost = outage(policy, always(drawn))
    lost.begin(LOST, 0.0, began)
    if lost.ask_again(at_least, began + passed):
        assert began + passed + at_least <= lost.due_at < lost.gives_up_at
