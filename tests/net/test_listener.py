"""Accepting: everybody gets a connection, and a system without room for one does not keep the loop busy."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable

import pytest

from sse_keepalive_proxy.net import listener as module
from sse_keepalive_proxy.net.listener import Listener
from sse_keepalive_proxy.net.poller import Poller
from sse_keepalive_proxy.net.tcp import prepare
from sse_keepalive_proxy.net.transport import SocketTransport
from tests.net.wires import Heard, Refusing, gone, polling
from tests.support.looping import in_loop
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


def transports(poller: Poller, factory: Callable[[], Heard]) -> Callable[[socket.socket], object]:
    """Have every accepted socket in a transport, over a protocol of its own."""
    return lambda accepted: SocketTransport(poller, accepted, factory())


def listening() -> socket.socket:
    made = socket.create_server(("127.0.0.1", 0), backlog=200)
    made.setblocking(False)
    return made


@pytest.mark.parametrize("epoll", [True, False], ids=["epoll", "loop"])
@on_each_loop
async def test_every_waiting_client_gets_a_connection(epoll: bool) -> None:
    made: list[Heard] = []

    def factory() -> Heard:
        made.append(Heard())
        return made[-1]

    with polling(epoll) as poller:
        sock = listening()
        where = sock.getsockname()
        clients = [socket.create_connection(where) for _ in range(100)]
        listener = Listener(poller, sock, transports(poller, factory))
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
    monkeypatch.setattr(module, "_RETRY_DELAY", 0.05)
    made: list[Heard] = []

    def factory() -> Heard:
        made.append(Heard())
        return made[-1]

    with polling(True) as poller:
        full = Full(listening(), times=2)
        with socket.create_connection(full.real.getsockname()):
            listener = Listener(poller, full, transports(poller, factory))  # type: ignore[arg-type]
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
    monkeypatch.setattr(module, "_RETRY_DELAY", 0.01)
    with polling(True) as poller:
        full = Full(listening(), times=1_000_000)
        with socket.create_connection(full.real.getsockname()):
            listener = Listener(poller, full, transports(poller, Heard))  # type: ignore[arg-type]
            await soon(lambda: full.tries)
            listener.close()
            before = full.tries
            await asyncio.sleep(0.05)  # several rests long
            assert full.tries == before


@pytest.mark.parametrize("epoll", [True, False], ids=["epoll", "loop"])
@on_each_loop
async def test_closing_accepts_all_waiting_connections_and_resets_none(epoll: bool) -> None:
    accepted: list[socket.socket] = []
    with polling(epoll) as poller:
        sock = listening()
        listener = Listener(poller, sock, accepted.append)
        clients = [socket.create_connection(sock.getsockname()) for _ in range(150)]
        listener.close()
        assert {server.getpeername() for server in accepted} == {client.getsockname() for client in clients}
        for server, client in zip(accepted, clients, strict=True):
            assert not server.getblocking()
            server.send(b"x")
            assert client.recv(1) == b"x"
            server.close()
            client.close()


@in_loop
async def test_clients_that_come_while_it_closes_get_the_other_process_that_listens_there() -> None:
    with contextlib.ExitStack() as stack:
        old, new = (stack.enter_context(socket.socket()) for _ in range(2))
        for sock in (old, new):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("127.0.0.1", 0) if sock is old else old.getsockname())
            sock.listen(100)
            sock.setblocking(False)
        clients = [stack.enter_context(socket.socket()) for _ in range(30)]

        class Late(Full):
            def accept(self) -> tuple[socket.socket, object]:
                try:
                    return self.real.accept()
                except BlockingIOError:  # the last look, and it finds nobody
                    for client in clients:
                        client.setblocking(False)
                        client.connect_ex(self.real.getsockname())
                    raise

        late = Late(old, times=0)
        late.family, late.setsockopt = old.family, old.setsockopt  # type: ignore[attr-defined]
        served: list[socket.socket] = []
        with polling(True) as poller:
            Listener(poller, late, served.append).close(leaves_newcomers=True)  # type: ignore[arg-type]
            assert not served
            listener = Listener(poller, new, served.append)
            await soon(lambda: len(served) == len(clients))  # some begin again, after a second
            listener.close()
            assert {s.getpeername() for s in served} == {client.getsockname() for client in clients}
            for each in served:
                each.close()


@on_each_loop
async def test_closing_without_room_says_that_waiting_connections_are_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with polling(True) as poller:
        full = Full(listening(), times=1_000_000)
        Listener(poller, full, transports(poller, Heard)).close()  # type: ignore[arg-type]
    assert [record.getMessage() for record in caplog.records] == [
        "waiting connections are lost: Too many open files"
    ]


@on_each_loop
async def test_a_client_that_left_before_it_was_accepted_does_not_block_the_next_ones() -> None:
    accepted: list[socket.socket] = []

    class Aborted(Full):
        def accept(self) -> tuple[socket.socket, object]:
            self.tries += 1
            if self.tries == 1:
                raise ConnectionAbortedError(errno.ECONNABORTED, "gone")
            return self.real.accept()

    with polling(True) as poller:
        sock = Aborted(listening(), times=0)
        with socket.create_connection(sock.real.getsockname()):
            listener = Listener(poller, sock, accepted.append)  # type: ignore[arg-type]
            listener.close()
            assert len(accepted) == 1
            accepted[0].close()


@on_each_loop
async def test_a_connection_that_cannot_be_watched_is_closed_and_accepting_rests(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel has no room for another watched descriptor (epoll_ctl(2), ENOSPC), and then has."""
    monkeypatch.setattr(module, "_RETRY_DELAY", 0.02)

    made: list[Heard] = []

    def factory() -> Heard:
        made.append(Heard())
        return made[-1]

    with polling(True) as real:
        poller, sock = Refusing(real, full=False), listening()
        listener = Listener(poller, sock, transports(poller, factory))
        poller.full = True
        with socket.create_connection(sock.getsockname()) as lost:
            lost.settimeout(5)
            await soon(lambda: len(caplog.records) >= 3)  # nor can the listening socket be watched again
            assert lost.recv(1) == b""
            assert not made[0].told
        assert {record.getMessage().partition(": ")[2].partition(" (")[0] for record in caplog.records} == {
            "No space left on device"
        }
        poller.full = False
        with socket.create_connection(sock.getsockname()):
            await soon(lambda: made[-1].told == ["made"])
        await gone(made[-1])
        listener.close()


@on_each_loop
async def test_a_connection_that_cannot_be_served_is_reported_and_the_next_one_is_served() -> None:
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.append(str(context["exception"]))
    )
    served: list[socket.socket] = []

    def accepted(sock: socket.socket) -> None:
        served.append(sock)
        if len(served) == 1:
            sock.close()
            raise RuntimeError("planned")

    with polling(True) as poller:
        sock = listening()
        listener = Listener(poller, sock, accepted)
        with socket.create_connection(sock.getsockname()), socket.create_connection(sock.getsockname()):
            await soon(lambda: len(served) == 2)
            listener.close()
            served[1].close()
    assert reported == ["planned"]


@on_each_loop
async def test_accepted_connections_inherit_probes_and_deadlines() -> None:
    """A client that lost its power, and to which nothing is written, is found by SO_KEEPALIVE alone."""
    accepted: list[socket.socket] = []
    with polling(True) as poller:
        sock = listening()
        prepare(sock, 60.0)
        listener = Listener(poller, sock, accepted.append)
        with socket.create_connection(sock.getsockname()):
            listener.close()
            with accepted[0] as served:
                assert served.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                tcp = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT]
                assert [served.getsockopt(socket.IPPROTO_TCP, option) for option in tcp] == [
                    60,
                    15,
                    4,
                    60_000,
                ]
