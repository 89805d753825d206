"""Accepting: everybody gets a connection, and a system without room for one does not keep the loop busy."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from sse_keepalive_proxy.net import listener as module
from sse_keepalive_proxy.net.listener import Listener
from tests.net.wires import Heard, gone, polling
from tests.support.running import on_each_loop, soon


class Full:
    """A listening socket that finds no room for the next `times` connections."""

    def __init__(self, real: socket.socket, times: int) -> None:
        self.real, self.times, self.tries = real, times, 0

    def fileno(self) -> int:
        return self.real.fileno()

    def accept(self) -> tuple[socket.socket, object]:
        self.tries += 1
        if self.tries <= self.times:
            raise OSError(errno.EMFILE, "Too many open files")
        return self.real.accept()

    def close(self) -> None:
        self.real.close()


def listening() -> socket.socket:
    made = socket.create_server(("127.0.0.1", 0), backlog=200)
    made.setblocking(False)
    return made


@pytest.mark.parametrize("epoll", [True, False], ids=["epoll", "loop"])
@on_each_loop
async def test_everybody_who_waits_gets_a_connection(epoll: bool) -> None:
    made: list[Heard] = []

    def factory() -> Heard:
        made.append(Heard())
        return made[-1]

    with polling(epoll) as poller:
        sock = listening()
        where = sock.getsockname()
        clients = [socket.create_connection(where) for _ in range(100)]
        listener = Listener(poller, sock, factory)
        await soon(lambda: len(made) == 100)
        listener.close()
        for client in clients:
            client.close()
        for heard in made:
            await gone(heard)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(where)


@on_each_loop
async def test_without_room_it_rests_says_so_once_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_REST", 0.05)
    made: list[Heard] = []

    def factory() -> Heard:
        made.append(Heard())
        return made[-1]

    with polling(True) as poller:
        full = Full(listening(), times=2)
        with socket.create_connection(full.real.getsockname()):
            listener = Listener(poller, full, factory)  # type: ignore[arg-type]
            await soon(lambda: made)
            assert full.tries <= 4  # two that failed, one that did not, and one that found nobody else
            lines = [
                record.getMessage() for record in caplog.records if "cannot accept" in record.getMessage()
            ]
            assert len(lines) == 2
            assert "Too many open files (raise `ulimit -n`, or lower the limits)" in lines[0]
            listener.close()
        await gone(made[0])


@on_each_loop
async def test_it_can_be_closed_while_it_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REST", 0.01)
    with polling(True) as poller:
        full = Full(listening(), times=1_000_000)
        with socket.create_connection(full.real.getsockname()):
            listener = Listener(poller, full, Heard)  # type: ignore[arg-type]
            await soon(lambda: full.tries)
            listener.close()
            before = full.tries
            await asyncio.sleep(0.05)  # several rests long
            assert full.tries == before
