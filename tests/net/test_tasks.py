"""Long work in slices: all of it, in order, with turns of the loop in between."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from sse_keepalive_proxy.net.tasks import in_slices
from tests.support.running import on_each_loop


@on_each_loop
@pytest.mark.parametrize("count", [0, 1, 50, 51, 120])
async def test_everything_is_handled_in_order_and_the_loop_turns_after_each_slice(count: int) -> None:
    slices: list[Sequence[int]] = []
    turns: list[int] = []

    def handle(part: Sequence[int]) -> None:
        slices.append(part)
        asyncio.get_running_loop().call_soon(lambda: turns.append(len(slices)))

    await in_slices(range(count), handle)
    assert [each for part in slices for each in part] == list(range(count))
    assert all(0 < len(part) <= 50 for part in slices)
    assert turns == list(range(1, len(slices) + 1))


@on_each_loop
async def test_what_a_slice_raises_ends_the_work() -> None:
    handled: list[Sequence[int]] = []

    def handle(part: Sequence[int]) -> None:
        handled.append(part)
        raise LookupError

    with pytest.raises(LookupError):
        await in_slices(range(100), handle)
    assert handled == [range(50)]
