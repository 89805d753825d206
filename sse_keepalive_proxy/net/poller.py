"""Watch many sockets with one epoll, which the event loop watches as a single descriptor.

In the loop's own transports each socket has C structures, a handle and callbacks. Here a socket costs one
place in a list, and one turn of the loop calls all watchers whose sockets are ready. On systems without epoll
(not Linux) the loop watches each socket itself.
"""

from __future__ import annotations

import asyncio
import select
from typing import Final, Protocol

__all__ = ["READ", "WRITE", "Poller", "Watcher", "open_poller"]

READ: Final = 1
WRITE: Final = 4
"""Events, as bits: epoll's EPOLLIN and EPOLLOUT (epoll_ctl(2))."""

_AT_ONCE: Final = 128
"""The most watchers that are called in one turn of the loop. Timers run between two turns."""


class Watcher(Protocol):
    """Read and write one socket."""

    def ready(self, events: int) -> None:
        """Handle a socket that is readable (READ), writable (WRITE), or broken (any other bit)."""


class Poller(Protocol):
    """Call watchers as long as their sockets are ready.

    Call `forget` before a descriptor is closed, and do not close it inside `ready`: the next socket can get
    the same number, and its watcher could be called for the events of the closed one.
    """

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that calls the watchers."""

    def watch(self, descriptor: int, watcher: Watcher, events: int, before: int) -> None:
        """Call `watcher` for `events` from now on. `before` holds the events until now. With `events` 0 the
        watcher is not called, not even for a broken connection.

        Raises OSError if the kernel refuses (epoll_ctl(2): ENOMEM, ENOSPC, EPERM). If `before` was 0, the
        watcher is then not kept.
        """

    def forget(self, descriptor: int) -> None:
        """Remove the watcher of a socket that is about to be closed."""

    def close(self) -> None:
        """Stop calling watchers."""


class _Epoll:
    __slots__ = ("_epoll", "_watchers", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._watchers: list[Watcher | None] = []  # index: the descriptor, a small number
        self.loop.add_reader(self._epoll.fileno(), self._call_ready)

    def watch(self, descriptor: int, watcher: Watcher, events: int, before: int) -> None:
        if not events:
            self._epoll.unregister(descriptor)
        elif before:
            self._epoll.modify(descriptor, events)
        else:
            self._epoll.register(descriptor, events)
            missing = descriptor + 1 - len(self._watchers)
            if missing > 0:
                self._watchers += [None] * missing
            self._watchers[descriptor] = watcher

    def forget(self, descriptor: int) -> None:
        self._watchers[descriptor] = None  # the kernel drops a socket that is closed

    def close(self) -> None:
        if not self._epoll.closed:
            self.loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._watchers[:] = [None] * len(self._watchers)

    def _call_ready(self) -> None:
        watchers = self._watchers
        for descriptor, events in self._epoll.poll(0, _AT_ONCE):
            watcher = watchers[descriptor]
            if watcher is not None:
                try:
                    watcher.ready(events)
                except Exception as error:  # noqa: BLE001 (reported to the loop's handler; the others are called)
                    context = {"message": "a watcher of a socket failed", "exception": error}
                    self.loop.call_exception_handler(context)


class _Loop:
    __slots__ = ("_watched", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._watched: set[int] = set()

    def watch(self, descriptor: int, watcher: Watcher, events: int, before: int) -> None:  # noqa: ARG002
        self._watched.add(descriptor)
        try:
            if events & READ:
                self.loop.add_reader(descriptor, watcher.ready, READ)
            else:
                self.loop.remove_reader(descriptor)
            if events & WRITE:
                self.loop.add_writer(descriptor, watcher.ready, WRITE)
            else:
                self.loop.remove_writer(descriptor)
        except BaseException:
            self.forget(descriptor)
            raise

    def forget(self, descriptor: int) -> None:
        self._watched.discard(descriptor)
        self.loop.remove_reader(descriptor)
        self.loop.remove_writer(descriptor)

    def close(self) -> None:
        for descriptor in list(self._watched):
            self.forget(descriptor)


def open_poller(*, epoll: bool = hasattr(select, "epoll")) -> Poller:
    """Return a poller of the running loop."""
    return _Epoll() if epoll else _Loop()
