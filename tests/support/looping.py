"""Running a test inside an event loop, and waiting in it for something to change.

A test fails here when it hangs, when it leaves a task behind, or when its loop complains.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

import pytest
import uvloop

__all__ = ["LOOPS", "Changes", "in_loop", "on_each_loop", "on_loop", "run", "soon"]

P = ParamSpec("P")

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def on_loop(name: str, main: Coroutine[Any, Any, None], *, within: float = 60.0) -> None:
    """Run `main` in a new loop of that name. TimeoutError after `within` seconds; AssertionError for
    what it left running, or for what the loop's exception handler was told.
    """
    complaints: list[str] = []

    async def guarded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(str(context)))
        async with asyncio.timeout(within):
            await main
        await soon(lambda: len(asyncio.all_tasks()) == 1, lambda: f"tasks left behind: {asyncio.all_tasks()}")
        gc.collect()  # a task whose exception nobody asked for says so when it is collected

    try:
        with asyncio.Runner(loop_factory=LOOPS[name]) as runner:
            runner.run(guarded())
    finally:
        gc.collect()  # a socket left open warns now, in this test and not in a later one
    assert not complaints, complaints


def on_each_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Decorator: an async test, run on asyncio's own loop and on uvloop."""

    @functools.wraps(test)
    def wrapped(*args: P.args, loop: str, **kwargs: P.kwargs) -> None:
        on_loop(loop, test(*args, **kwargs))

    signature = inspect.signature(test)
    loop = inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)
    wrapped.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), loop]
    )
    return pytest.mark.parametrize("loop", list(LOOPS))(wrapped)


def run(main: Coroutine[Any, Any, None], *, within: float = 60.0) -> None:
    """Run `main` in a new loop of asyncio's own, as `on_loop` does."""
    on_loop("asyncio", main, within=within)


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Decorator: an async test, run on asyncio's own loop."""

    @functools.wraps(test)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return wrapped


async def soon(
    condition: Callable[[], object], describe: Callable[[], str] = str, within: float = 20.0
) -> None:
    """Wait until `condition()` holds, where nothing says that it changed. AssertionError with
    `describe()` after `within` seconds.
    """
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + within
    while not condition():
        assert loop.time() < give_up_at, describe()
        await asyncio.sleep(0.002)


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
