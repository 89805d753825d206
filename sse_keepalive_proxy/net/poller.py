"""Which sockets are ready: one epoll for all of them, which the event loop watches as a single descriptor.

With transports of the loop's own each socket has its C structures, its handle, its callbacks. Here it costs
a place in a list, and all that are ready are told in one turn of the loop. Where there is no epoll (not
Linux), the loop watches each socket itself.
"""

from __future__ import annotations

import asyncio
import select
from typing import Final, Protocol

__all__ = ["READ", "WRITE", "Poller", "Watcher", "open_poller"]

READ: Final = 1
WRITE: Final = 4
"""What a watcher wants to know of, as a sum; epoll's EPOLLIN and EPOLLOUT (epoll_ctl(2))."""

_AT_ONCE: Final = 128
"""Sockets told of in one turn of the loop: others, and timers, get theirs in between."""


class Watcher(Protocol):
    """Whoever is told that its socket is ready."""

    def ready(self, events: int) -> None:
        """The socket can be read (READ), written (WRITE), or has ended (any other bit): trying tells."""


class Poller(Protocol):
    """Tells watchers, again and again until they have read or written.

    A descriptor that is closed is forgotten first, and never closed inside `ready`: what takes its number
    could be told of its events.
    """

    def watch(self, descriptor: int, watcher: Watcher, events: int, before: int) -> None:
        """Tell `watcher` of `events` from now on; `before` is what it was told of until now. Of nothing (0),
        not even a broken connection is told.
        """

    def forget(self, descriptor: int) -> None:
        """Its socket is about to be closed."""

    def close(self) -> None:
        """Tell nobody any more."""


class _Epoll:
    __slots__ = ("_epoll", "_loop", "_watchers")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._watchers: list[Watcher | None] = []  # by descriptor, which are small numbers
        self._loop.add_reader(self._epoll.fileno(), self._tell)

    def watch(self, descriptor: int, watcher: Watcher, events: int, before: int) -> None:
        if not events:
            self._epoll.unregister(descriptor)
        elif before:
            self._epoll.modify(descriptor, events)
        else:
            missing = descriptor + 1 - len(self._watchers)
            if missing > 0:
                self._watchers += [None] * missing
            self._watchers[descriptor] = watcher
            self._epoll.register(descriptor, events)

    def forget(self, descriptor: int) -> None:
        self._watchers[descriptor] = None  # the kernel forgets a socket when it is closed

    def close(self) -> None:
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._watchers[:] = [None] * len(self._watchers)

    def _tell(self) -> None:
        watchers = self._watchers
        for descriptor, events in self._epoll.poll(0, _AT_ONCE):
            watcher = watchers[descriptor]
            if watcher is not None:
                try:
                    watcher.ready(events)
                except Exception as error:  # noqa: BLE001 (the loop's handler hears of it, the others are told)
                    context = {"message": "a watcher of a socket failed", "exception": error}
                    self._loop.call_exception_handler(context)


class _Loop:
    __slots__ = ("_loop", "_watched")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._watched: set[int] = set()

    def watch(self, descriptor: int, watcher: Watcher, events: int, before: int) -> None:  # noqa: ARG002
        self._watched.add(descriptor)
        if events & READ:
            self._loop.add_reader(descriptor, watcher.ready, READ)
        else:
            self._loop.remove_reader(descriptor)
        if events & WRITE:
            self._loop.add_writer(descriptor, watcher.ready, WRITE)
        else:
            self._loop.remove_writer(descriptor)

    def forget(self, descriptor: int) -> None:
        self._watched.discard(descriptor)
        self._loop.remove_reader(descriptor)
        self._loop.remove_writer(descriptor)

    def close(self) -> None:
        for descriptor in list(self._watched):
            self.forget(descriptor)


def open_poller(*, epoll: bool = hasattr(select, "epoll")) -> Poller:
    """A poller of the running loop."""
    return _Epoll() if epoll else _Loop()
