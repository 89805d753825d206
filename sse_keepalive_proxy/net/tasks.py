"""Start tasks, and divide long work into slices. No other module starts tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

__all__ = ["in_slices", "spawn"]

T = TypeVar("T")

_SLICE = 50
"""Items per turn of the event loop. A route takes about 100 µs."""


def spawn(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Run `work` in a task. The caller owns the task, and cancels it when its result is not needed."""
    return asyncio.get_running_loop().create_task(work)


async def in_slices(items: Sequence[T], handle: Callable[[Sequence[T]], object]) -> None:
    """Call `handle` with 50 of `items` at a time, in order. The event loop runs between two calls."""
    for start in range(0, len(items), _SLICE):
        handle(items[start : start + _SLICE])
        await asyncio.sleep(0)
