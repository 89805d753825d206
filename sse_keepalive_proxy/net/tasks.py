"""The only place that starts tasks. Each has an owner that ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["spawn"]

T = TypeVar("T")


def spawn(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Run `work` beside the caller, who keeps the task and cancels it when nobody wants its result."""
    return asyncio.get_running_loop().create_task(work)
