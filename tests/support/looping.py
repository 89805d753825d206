"""Running a test inside an event loop, and waiting in it for something to change.

A test fails here when it hangs or when it leaves a task behind.
"""

from __future__ import annotations

import asyncio
import functools
import gc
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

__all__ = ["Changes", "in_loop", "run"]

P = ParamSpec("P")


def run(main: Coroutine[Any, Any, None], *, within: float = 20.0) -> None:
    """Run `main` in a loop of its own.

    Raises TimeoutError after `within` seconds, AssertionError when `main` leaves a task running
    (a task that is already ending gets a few turns of the loop to do so). A socket left open gives a
    ResourceWarning, which pytest is configured to make an error.
    """

    async def guarded() -> None:
        async with asyncio.timeout(within):
            await main
        me = asyncio.current_task()
        for _ in range(20):
            left = [task for task in asyncio.all_tasks() if task is not me]
            if not left:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"tasks left behind: {left}")

    try:
        asyncio.run(guarded())
    finally:
        gc.collect()  # a socket left open warns now, in this test and not in a later one


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Decorator: an async test function that pytest can call. Fixtures and parameters work as ever."""

    @functools.wraps(test)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return wrapped


class Changes:
    """Something that changes: whoever waits for a condition looks again on every change, never between."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Say that something changed."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until(
        self, condition: Callable[[], bool], within: float, describe: Callable[[], str] = str
    ) -> None:
        """Return once `condition()` is true. TimeoutError with `describe()` after `within` seconds."""
        try:
            async with asyncio.timeout(within):
                while not condition():
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters.add(waiter)
                    try:
                        await waiter
                    finally:
                        self._waiters.discard(waiter)
        except TimeoutError:
            raise TimeoutError(f"not within {within} s: {describe()}") from None
