"""The only place that starts tasks, each of which has an owner that ends it; and long work in slices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

__all__ = ["in_slices", "spawn"]

T = TypeVar("T")

_SLICE = 50
"""Items that are handled in one turn of the event loop: a route takes about 100 µs."""


def spawn(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Run `work` beside the caller, who keeps the task and cancels it when nobody wants its result."""
    return asyncio.get_running_loop().create_task(work)


async def in_slices(items: Sequence[T], handle: Callable[[Sequence[T]], object]) -> None:
    """Call `handle` with 50 of `items` at a time, in their order; between two calls the event loop turns."""
    for start in range(0, len(items), _SLICE):
        handle(items[start : start + _SLICE])
        await asyncio.sleep(0)
