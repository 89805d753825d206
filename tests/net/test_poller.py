"""Who is told, of what, and how often: the same with an epoll of our own and with the loop's watching."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import gc
import operator
import select
import socket
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sse_keepalive_proxy.net.poller import READ, WRITE, Poller, open_poller
from tests.net.wires import polling
from tests.support.running import LOOPS, on_each_loop, on_loop, soon

either_poller = pytest.mark.parametrize("epoll", [True, False], ids=["epoll", "loop"])


class Told:
    """A watcher that keeps what it is told, and then does what it was made for."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.events: list[int] = []
        self._then = then

    def ready(self, events: int) -> None:
        self.events.append(events)
        self._then()

    @property
    def of(self) -> int:
        """All that it was told of, as a sum."""
        return functools.reduce(operator.or_, self.events, 0)


async def turns() -> None:
    """So many turns of the loop that whoever is to be told has been."""
    for _ in range(8):
        await asyncio.sleep(0)


@contextlib.contextmanager
def pairs(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Connected pairs, non-blocking."""
    with contextlib.ExitStack() as stack:
        made = [socket.socketpair() for _ in range(count)]
        for end in (end for ends in made for end in ends):
            stack.enter_context(end).setblocking(False)
        yield made


@contextlib.contextmanager
def one(epoll: bool) -> Iterator[tuple[Poller, socket.socket, socket.socket]]:
    """A poller, and a pair to watch the first end of."""
    with pairs(1) as [(mine, peer)], polling(epoll) as poller:
        yield poller, mine, peer


def test_the_epoll_is_chosen_where_there_is_one() -> None:
    async def opened() -> None:
        kinds = {type(open_poller()), type(open_poller(epoll=hasattr(select, "epoll")))}
        assert len(kinds) == 1

    on_loop("asyncio", opened())


@on_each_loop
async def test_a_watcher_is_called_again_until_it_has_read() -> None:
    with one(True) as (poller, mine, peer):
        told = Told()
        poller.watch(mine.fileno(), told, READ, 0)
        await turns()
        assert not told.events
        peer.send(b"x")
        await soon(lambda: len(told.events) >= 3)
        assert set(told.events) == {READ}
        mine.recv(1)
        told.events.clear()
        await turns()
        assert not told.events


@either_poller
@on_each_loop
async def test_what_is_watched_for_can_change_from_anything_to_anything(epoll: bool) -> None:
    with one(epoll) as (poller, mine, peer):
        peer.send(b"x")
        told, before = Told(), 0
        for wanted in (READ, WRITE, READ | WRITE, READ, 0, WRITE, READ | WRITE, WRITE, 0, READ | WRITE, 0):
            poller.watch(mine.fileno(), told, wanted, before)
            told.events.clear()
            await turns()
            assert told.of == wanted
            before = wanted


@either_poller
@on_each_loop
async def test_a_watcher_of_a_full_socket_is_called_when_there_is_room(epoll: bool) -> None:
    with one(epoll) as (poller, mine, peer):
        with contextlib.suppress(BlockingIOError):
            while True:
                mine.send(bytes(1 << 16))
        told = Told()
        poller.watch(mine.fileno(), told, WRITE, 0)
        await turns()
        assert not told.events
        with contextlib.suppress(BlockingIOError):
            while peer.recv(1 << 16):
                pass
        await soon(lambda: told.events)
        assert set(told.events) == {WRITE}


@either_poller
@on_each_loop
async def test_a_watcher_without_events_is_not_called_not_even_for_an_end(epoll: bool) -> None:
    with one(epoll) as (poller, mine, peer):
        told = Told()
        poller.watch(mine.fileno(), told, READ, 0)
        poller.watch(mine.fileno(), told, 0, READ)
        mine.send(b"never read: so that the end is an error")
        peer.close()
        await turns()
        assert not told.events
        poller.watch(mine.fileno(), told, READ, 0)
        await soon(lambda: told.events)
        with pytest.raises(ConnectionResetError):
            mine.recv(1)


@either_poller
@on_each_loop
async def test_a_watcher_that_another_one_forgets_in_the_same_turn_is_not_called(epoll: bool) -> None:
    """Both are ready at once: whoever is told first has the other one forgotten."""
    with pairs(2) as made, polling(epoll) as poller:
        (first, _), (second, _) = made
        told = [Told(lambda: poller.forget(second.fileno())), Told(lambda: poller.forget(first.fileno()))]
        for watcher, (mine, peer) in zip(told, made, strict=True):
            peer.send(b"x")
            poller.watch(mine.fileno(), watcher, READ, 0)
        await soon(lambda: told[0].events or told[1].events)
        heard = told.index(next(watcher for watcher in told if watcher.events))
        await turns()
        assert not told[1 - heard].events
        poller.forget(made[heard][0].fileno())


@either_poller
@on_each_loop
async def test_a_number_that_is_free_again_belongs_to_its_new_watcher_alone(epoll: bool) -> None:
    with polling(epoll) as poller:
        earlier, later = Told(), Told()
        with pairs(1) as [(mine, peer)]:
            number = mine.fileno()
            peer.send(b"x")
            poller.watch(number, earlier, READ, 0)
            await soon(lambda: earlier.events)
            poller.forget(number)
        earlier.events.clear()
        with pairs(1) as [(mine, peer)]:
            assert number in (mine.fileno(), peer.fileno())
            if mine.fileno() != number:
                mine, peer = peer, mine
            poller.watch(number, later, READ, 0)
            await turns()
            assert not later.events
            peer.send(b"y")
            await soon(lambda: later.events)
            assert not earlier.events
            poller.forget(number)


@either_poller
@on_each_loop
async def test_a_large_number_is_as_good_as_a_small_one(epoll: bool) -> None:
    with (
        one(epoll) as (poller, mine, peer),
        socket.socket(fileno=fcntl.fcntl(mine, fcntl.F_DUPFD_CLOEXEC, 700)) as far,
    ):
        low, high = Told(), Told()
        poller.watch(far.fileno(), high, READ, 0)
        poller.watch(mine.fileno(), low, READ, 0)
        peer.send(b"x")
        await soon(lambda: low.events and high.events)
        poller.forget(mine.fileno())
        poller.forget(far.fileno())


@either_poller
@on_each_loop
async def test_of_very_many_that_are_ready_none_is_left_out(epoll: bool) -> None:
    """More than are told of in one turn, and none of them ever reads: nobody may take all the turns."""
    with pairs(300) as made, polling(epoll) as poller:
        told = [Told() for _ in made]
        for watcher, (mine, peer) in zip(told, made, strict=True):
            peer.send(b"x")
            poller.watch(mine.fileno(), watcher, READ, 0)
        await soon(lambda: all(watcher.events for watcher in told))


@either_poller
@on_each_loop
async def test_a_watcher_that_fails_does_not_stop_the_calls_of_others(epoll: bool) -> None:
    def fail() -> None:
        raise RuntimeError("planned")

    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: complaints.append(str(context["exception"]))
    )
    with pairs(9) as made, polling(epoll) as poller:
        failing, told = Told(fail), [Told() for _ in range(8)]
        for watcher, (mine, peer) in zip([failing, *told], made, strict=True):
            peer.send(b"x")
            poller.watch(mine.fileno(), watcher, READ, 0)
        await soon(lambda: failing.events and all(watcher.events for watcher in told))
    assert set(complaints) == {"planned"}
    assert len(complaints) == len(failing.events)


@either_poller
@on_each_loop
async def test_two_pollers_of_one_loop_are_independent(epoll: bool) -> None:
    with pairs(2) as made, polling(epoll) as first, polling(epoll) as second:
        told = [Told(), Told()]
        for poller, watcher, (mine, peer) in zip((first, second), told, made, strict=True):
            peer.send(b"x")
            poller.watch(mine.fileno(), watcher, READ, 0)
        first.close()
        await soon(lambda: told[1].events)
        assert not told[0].events


@either_poller
@on_each_loop
async def test_a_closed_poller_calls_no_watcher_and_can_be_closed_again(epoll: bool) -> None:
    with one(epoll) as (poller, mine, peer):
        told = Told()
        poller.watch(mine.fileno(), told, READ, 0)
        poller.close()
        poller.close()
        peer.send(b"x")
        await turns()
        assert not told.events


@either_poller
@on_each_loop
async def test_a_watcher_may_close_the_poller_and_no_other_is_called_after_it(epoll: bool) -> None:
    with pairs(3) as made, polling(epoll) as poller:
        told = [Told(poller.close) for _ in made]
        for watcher, (mine, peer) in zip(told, made, strict=True):
            peer.send(b"x")
            poller.watch(mine.fileno(), watcher, READ, 0)
        await turns()
        assert sum(len(watcher.events) for watcher in told) == 1


# Against a model: what is told is what is wanted and can be done, whatever came before.

ACTS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["send", "read", "leave", 0, READ, WRITE, READ | WRITE])),
    max_size=25,
)


@pytest.mark.parametrize("loop", list(LOOPS))
@settings(max_examples=30, deadline=None)
@given(acts=ACTS)
def test_after_any_history_watchers_are_called_for_exactly_the_wanted_and_possible_events(
    loop: str, acts: list[tuple[int, Any]]
) -> None:
    on_loop(loop, _as_the_model_says(acts))


async def _as_the_model_says(acts: list[tuple[int, Any]]) -> None:
    with pairs(3) as made, polling(True) as poller:
        told = [Told() for _ in made]
        wanted, readable = [0] * 3, [False] * 3
        for which, act in acts:
            mine, peer = made[which]
            if act == "send":
                readable[which] = True
                with contextlib.suppress(OSError):  # it has left
                    peer.send(b"x")
            elif act == "leave":
                readable[which] = True
                with contextlib.suppress(OSError):
                    peer.shutdown(socket.SHUT_WR)
            elif act == "read":
                readable[which] = _read_all(mine)
            else:
                if act != wanted[which]:
                    poller.watch(mine.fileno(), told[which], act, wanted[which])
                wanted[which] = act
            for watcher in told:
                watcher.events.clear()
            await turns()
            for watcher, wants, can in zip(told, wanted, readable, strict=True):
                assert watcher.of == wants & (WRITE | READ * can)


def _read_all(sock: socket.socket) -> bool:
    """Whether it can still be read: it has ended, which is told for ever."""
    try:
        while sock.recv(1 << 16):
            pass
    except BlockingIOError:
        return False
    return True


@either_poller
@on_each_loop
async def test_what_the_kernel_refuses_to_watch_leaves_no_entry(epoll: bool, tmp_path: Path) -> None:
    """A file is nothing to be watched (epoll_ctl(2), EPERM)."""
    with polling(epoll) as poller, (tmp_path / "file").open("w") as file:
        told = Told()
        reference = weakref.ref(told)
        with pytest.raises(OSError):  # noqa: PT011 (uvloop's has a number of its own)
            poller.watch(file.fileno(), told, READ, 0)
        del told
        gc.collect()
        assert reference() is None
