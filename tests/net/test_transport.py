"""What is particular to our transport. What every transport does: `test_transport_behaviour.py`."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import threading
from typing import Any

import pytest

from sse_keepalive_proxy.net.transport import SocketTransport
from tests.net.wires import Heard, Refusing, gone, polling, tcp_pair, wired
from tests.support.running import on_each_loop, soon

UPLOAD = 40 * 1024 * 1024
ANSWER = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\nmuch"

either_poller = pytest.mark.parametrize("epoll", [True, False], ids=["epoll", "loop"])


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


@on_each_loop
async def test_a_paused_connection_that_is_reset_causes_no_busy_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    with wired(True) as (transport, heard, peer):
        told: list[int] = []
        ready = SocketTransport.ready
        monkeypatch.setattr(
            SocketTransport, "ready", lambda self, events: (told.append(events), ready(self, events))[1]
        )
        transport.pause_reading()
        peer.sendall(b"unread")
        reset(peer)
        for _ in range(50):
            await asyncio.sleep(0)
        assert not told
        transport.resume_reading()
        await gone(heard)
        assert heard.data in (b"", b"unread")  # what a reset leaves of it is up to the kernel


@either_poller
@on_each_loop
async def test_a_protocol_that_fails_loses_its_own_connection_and_no_other(epoll: bool) -> None:
    class Fails(Heard):
        def data_received(self, data: bytes) -> None:
            raise RuntimeError("planned")

    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    with polling(epoll) as poller:
        first, its_peer = tcp_pair()
        second, other_peer = tcp_pair()
        failing, fine = Fails(), Heard()
        SocketTransport(poller, first, failing)
        SocketTransport(poller, second, fine)
        with its_peer, other_peer:
            its_peer.sendall(b"x")
            other_peer.sendall(b"y")
            await gone(failing)
            await soon(lambda: fine.data == b"y")
            assert [str(error) for error in told] == ["planned"]
        await gone(fine)


@on_each_loop
async def test_a_number_that_is_used_again_is_not_taken_for_the_socket_it_was_before() -> None:
    with polling(True) as poller:
        mine, peer = tcp_pair()
        heard = Heard()
        transport = SocketTransport(poller, mine, heard)
        number = mine.fileno()
        with peer:
            peer.sendall(b"for the one that is about to close")
            transport.abort()
            await gone(heard)
        again, other_peer = tcp_pair()
        with other_peer:
            assert number in (again.fileno(), other_peer.fileno())
            newer = Heard()
            SocketTransport(poller, again, newer)
            other_peer.sendall(b"for the new one")
            await soon(lambda: newer.data == b"for the new one")
        await gone(newer)
        assert heard.data == b""


class Uploads(Heard):
    """Writes 40 MB as fast as the peer takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.left = UPLOAD
        self.held_back = threading.Event()  # as much waits as may: the peer does not read

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.resume_writing()

    def pause_writing(self) -> None:
        self.held_back.set()

    def resume_writing(self) -> None:
        assert self.transport is not None
        self.held_back.clear()
        while self.left and not self.held_back.is_set() and not self.transport.is_closing():
            self.transport.write(bytes(65_536))
            self.left -= 65_536


def answer_early(listening: socket.socket, uploads: Uploads) -> None:
    """Read a little of an upload, answer, and close: with bytes unread, the kernel sends a reset."""
    peer, _ = listening.accept()
    with peer:
        peer.recv(100_000)
        assert uploads.held_back.wait(5)
        peer.sendall(ANSWER)


@either_poller
@on_each_loop
async def test_the_early_answer_to_a_large_upload_arrives_every_time(epoll: bool) -> None:
    with polling(epoll) as poller, socket.create_server(("127.0.0.1", 0)) as listening:
        answers = []
        for _ in range(20):
            uploads = Uploads()
            server = threading.Thread(target=answer_early, args=[listening, uploads])
            server.start()
            mine = socket.create_connection(listening.getsockname())
            mine.setblocking(False)
            SocketTransport(poller, mine, uploads)
            await gone(uploads)
            assert uploads.left
            server.join()
            answers.append(uploads.data)
        assert answers == [ANSWER] * 20


@on_each_loop
async def test_a_socket_that_cannot_be_watched_is_closed_and_no_protocol_hears_of_it() -> None:
    with polling(True) as real:
        mine, peer = tcp_pair()
        heard = Heard()
        with peer:
            with pytest.raises(OSError, match="No space"):
                SocketTransport(Refusing(real, full=True), mine, heard)
            assert mine.fileno() == -1
            assert not heard.told


@on_each_loop
async def test_a_connection_that_cannot_be_watched_any_more_ends_with_the_kernels_error() -> None:
    with polling(True) as real:
        poller = Refusing(real, full=True)
        poller.full = False
        mine, peer = tcp_pair()
        heard = Heard()
        transport = SocketTransport(poller, mine, heard)
        with peer:
            transport.pause_reading()
            poller.full = True
            transport.resume_reading()
            await gone(heard)
            assert isinstance(heard.error, OSError)
            assert heard.error.errno == errno.ENOSPC
            await soon(lambda: mine.fileno() == -1)


@either_poller
@on_each_loop
async def test_what_the_kernel_has_can_be_read_at_once_also_in_a_pause(epoll: bool) -> None:
    with wired(epoll) as (transport, heard, peer):
        transport.read_now(4)
        assert heard.data == b""
        transport.pause_reading()
        peer.sendall(b"x" * 100_000)
        transport.read_now(1)
        assert 0 < len(heard.data) <= 65536
        peer.close()
        transport.read_now(4)
        assert heard.data == b"x" * 100_000
        assert heard.told == ["made", "eof"]
        transport.read_now(4)
        await gone(heard)
        transport.read_now(4)
        assert heard.told == ["made", "eof", "lost"]
