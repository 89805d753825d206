"""The cost of opening a stream, as measured with notify-server (facts.md#notify-server-herd)."""

import asyncio

import pytest

from sse_keepalive_proxy.demo import openings
from sse_keepalive_proxy.demo.openings import CONNECTIONS, OPENING_COST, Openings, seconds_of_a_turn
from tests.support.looping import in_loop


def heads(asked: int, at_once: int, within: float) -> int:
    """How many of `asked` streams are open after a time, when at most `at_once` of them ask at a time."""
    now, opened = 0.0, 0
    while opened < asked:
        now += seconds_of_a_turn(OPENING_COST, min(at_once, asked - opened))
        if now > within:
            break
        opened += 1
    return opened


def test_of_a_thousand_at_one_instant_about_four_hundred_have_a_head_after_twenty_seconds() -> None:
    assert 388 <= heads(1000, 1000, within=20.0) <= 415


def test_a_thousand_sixty_four_at_a_time_have_their_heads_within_ten_seconds() -> None:
    assert heads(1000, 64, within=9.6) == 1000
    assert heads(1000, 64, within=8.5) < 1000


def test_a_turn_costs_the_same_up_to_as_many_as_the_database_has_connections() -> None:
    assert seconds_of_a_turn(OPENING_COST, 1) == seconds_of_a_turn(OPENING_COST, CONNECTIONS) == OPENING_COST
    assert seconds_of_a_turn(OPENING_COST, CONNECTIONS + 1) > OPENING_COST


async def opened(queue: Openings, cost: float, order: list[int], number: int) -> None:
    await queue.take_turn(cost)
    order.append(number)


@in_loop
async def test_openings_are_served_in_order_one_after_the_other() -> None:
    queue, order = Openings(), list[int]()
    clock = asyncio.get_running_loop().time
    began_at = clock()
    await asyncio.gather(*(opened(queue, 0.005, order, number) for number in range(20)))
    assert order == list(range(20))
    assert clock() - began_at >= 20 * 0.005 - 0.001  # the loop's clock is coarse
    assert queue.under_way == 0


@in_loop
async def test_openings_above_the_connections_of_the_database_delay_all() -> None:
    queue, order = Openings(), list[int]()
    clock = asyncio.get_running_loop().time
    began_at = clock()
    many = 3 * CONNECTIONS
    await asyncio.gather(*(opened(queue, 0.001, order, number) for number in range(many)))
    assert clock() - began_at >= 1.3 * many * 0.001
    assert len(order) == many


@in_loop
async def test_an_opening_whose_client_has_gone_leaves_the_queue() -> None:
    queue, order = Openings(), list[int]()
    first, gone, last = (asyncio.create_task(opened(queue, 0.01, order, number)) for number in range(3))
    await asyncio.sleep(0)
    assert queue.under_way == 3
    gone.cancel()
    await asyncio.gather(first, gone, last, return_exceptions=True)
    assert order == [0, 2]
    assert queue.under_way == 0


@in_loop
async def test_after_half_a_minute_the_pool_is_given_up_and_the_stream_is_opened_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openings, "_PATIENCE", 0.01)
    queue = Openings()
    await asyncio.gather(*(queue.take_turn(3600.0) for _ in range(3)))
    assert queue.under_way == 0
