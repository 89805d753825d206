"""Turns at one upstream: how many there are, who is next, and who has left the queue."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import cast

import pytest

from sse_keepalive_proxy.http import openings as module
from sse_keepalive_proxy.http.openings import Openings
from tests.support.clock import ManualClock
from tests.support.looping import in_loop


class Clock(ManualClock):
    """A manual clock whose futures belong to the running loop."""

    def create_future(self) -> asyncio.Future[int]:  # type: ignore[override]
        return asyncio.get_running_loop().create_future()


class Queue:
    """Openings on a manual clock, and the names of those that have had their turn, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
        self.clock = Clock()
        with monkeypatch.context() as patched:
            loop = cast(asyncio.AbstractEventLoop, self.clock)
            patched.setattr(module.asyncio, "get_running_loop", lambda: loop)
            self.openings = Openings(limit)
        self.begun: list[str] = []
        self.turns: dict[str, int] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, *names: str) -> None:
        """Ask for turns, in this order."""
        for name in names:
            self.tasks[name] = asyncio.get_running_loop().create_task(self._turn(name))
        await settled()

    async def _turn(self, name: str) -> None:
        self.turns[name] = await self.openings.turn()
        self.begun.append(name)

    async def over(self, *names: str) -> None:
        for name in names:
            self.openings.over(self.turns[name])
        await settled()

    async def end(self) -> None:
        """Leave no task behind."""
        for task in self.tasks.values():
            task.cancel()
        await settled()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def on_manual_clock(limit: int) -> Callable[[Callable[[Queue], Awaitable[None]]], Callable[..., None]]:
    def decorate(story: Callable[[Queue], Awaitable[None]]) -> Callable[..., None]:
        async def told(monkeypatch: pytest.MonkeyPatch) -> None:
            queue = Queue(monkeypatch, limit)
            try:
                await story(queue)
            finally:
                await queue.end()
            assert queue.openings.waiting == 0
            assert queue.clock.next_timer() is None

        functools.update_wrapper(told, story, ("__module__", "__name__", "__doc__"), ())
        del told.__wrapped__  # pytest asks it for the fixtures
        return in_loop(told)

    return decorate


@on_manual_clock(limit=2)
async def test_the_first_that_comes_is_the_first_that_is_served(queue: Queue) -> None:
    await queue.ask("a", "b", "c", "d", "e")
    assert queue.begun == ["a", "b"]
    assert queue.openings.waiting == 3
    await queue.over("b")
    assert queue.begun == ["a", "b", "c"]
    await queue.over("a", "c")
    assert queue.begun == ["a", "b", "c", "d", "e"]
    assert queue.openings.waiting == 0


@on_manual_clock(limit=1)
async def test_a_newcomer_passes_nobody_who_waits(queue: Queue) -> None:
    await queue.ask("a", "b")
    queue.openings.over(queue.turns["a"])  # `b` has its turn, and has not run yet
    await queue.ask("c")
    assert queue.begun == ["a", "b"]


@on_manual_clock(limit=1)
async def test_a_client_that_leaves_the_queue_holds_nobody_up(queue: Queue) -> None:
    await queue.ask("a", "b", "c")
    queue.tasks["b"].cancel()
    await settled()
    assert queue.openings.waiting == 1
    await queue.over("a")
    assert queue.begun == ["a", "c"]


@on_manual_clock(limit=1)
async def test_a_client_that_leaves_in_the_moment_of_its_turn_gives_it_to_the_next(queue: Queue) -> None:
    await queue.ask("a", "b", "c", "d")
    queue.openings.over(queue.turns["a"])
    queue.tasks["b"].cancel()  # it has its turn, and does not know it
    queue.tasks["c"].cancel()  # it is the next
    await settled()
    assert queue.begun == ["a", "d"]


@on_manual_clock(limit=1)
async def test_a_turn_that_is_over_is_given_on_once(queue: Queue) -> None:
    await queue.ask("a", "b", "c")
    await queue.over("a", "a")
    assert queue.begun == ["a", "b"]


@on_manual_clock(limit=1)
async def test_a_higher_limit_admits_at_once_and_a_lower_one_ends_no_turn(queue: Queue) -> None:
    await queue.ask("a", "b", "c", "d")
    queue.openings.set_limit(3)
    await settled()
    assert queue.begun == ["a", "b", "c"]
    queue.openings.set_limit(1)
    await queue.over("a", "b")
    assert queue.begun == ["a", "b", "c"]
    await queue.over("c")
    assert queue.begun == ["a", "b", "c", "d"]


@on_manual_clock(limit=2)
async def test_an_opening_without_an_answer_holds_its_turn_for_five_seconds(queue: Queue) -> None:
    await queue.ask("a")
    queue.clock.advance(1)
    await queue.ask("b", "c", "d", "e")
    queue.clock.advance(3.9)
    await settled()
    assert queue.begun == ["a", "b"]
    queue.clock.advance(0.2)
    await settled()
    assert queue.begun == ["a", "b", "c"]
    await queue.over("a")  # too late to give it on again
    assert queue.begun == ["a", "b", "c"]
    queue.clock.advance(1)
    await settled()
    assert queue.begun == ["a", "b", "c", "d"]
    await queue.over("d")
    assert queue.begun == ["a", "b", "c", "d", "e"]


@on_manual_clock(limit=1)
async def test_a_turn_that_is_too_old_ends_when_somebody_comes(queue: Queue) -> None:
    await queue.ask("a")
    queue.clock.advance(60)
    assert queue.clock.next_timer() is None  # nobody waits: there is no timer
    await queue.ask("b")
    queue.clock.advance(0)
    await settled()
    assert queue.begun == ["a", "b"]


# An upstream that is back.


class Stream:
    """A stream that has lost its upstream."""

    def __init__(self) -> None:
        self.hastened: list[float] = []

    def hasten(self, within: float) -> None:
        self.hastened.append(within)


@on_manual_clock(limit=1)
async def test_the_first_stream_that_gets_through_hastens_the_others(queue: Queue) -> None:
    streams = [Stream() for _ in range(3)]
    queue.openings.succeeded()
    queue.clock.advance(10)
    for stream in streams:
        queue.openings.expect(stream)
    queue.openings.forget(streams[0])  # it has got through
    queue.openings.succeeded()
    assert [stream.hastened for stream in streams] == [[], [2.0], [2.0]]


@on_manual_clock(limit=1)
async def test_while_upstream_opens_streams_nobody_is_hastened(queue: Queue) -> None:
    """A stream that fails alone, because of its credential for example, keeps its growing waits."""
    alone = Stream()
    queue.openings.succeeded()
    queue.clock.advance(5)
    queue.openings.expect(alone)
    for _ in range(10):
        queue.openings.succeeded()
        queue.clock.advance(1.9)
    assert alone.hastened == [2.0]  # before the first of them, upstream may have been away


@on_manual_clock(limit=1)
async def test_a_stream_that_fails_in_the_moment_of_the_return_is_hastened_too(queue: Queue) -> None:
    early, late = Stream(), Stream()
    queue.openings.succeeded()
    queue.clock.advance(1.9)
    queue.openings.expect(early)
    queue.clock.advance(0.2)
    queue.openings.expect(late)
    assert (early.hastened, late.hastened) == ([2.0], [])
