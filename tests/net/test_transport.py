"""One socket as a transport: nothing lost or out of order, every end told once, and nothing left open."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import pytest

from sse_keepalive_proxy.net.poller import READ
from sse_keepalive_proxy.net.transport import SocketTransport
from tests.net.wires import Heard, gone, polling, read_all, tcp_pair, wired
from tests.support.running import on_each_loop, soon

MUCH = bytes(range(256)) * 40_000

either_poller = pytest.mark.parametrize("epoll", [True, False], ids=["epoll", "loop"])


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


@either_poller
@on_each_loop
async def test_much_arrives_whole_and_in_order_and_then_the_end(epoll: bool) -> None:
    with wired(epoll) as (transport, heard, peer):
        await asyncio.to_thread(peer.sendall, MUCH)
        peer.shutdown(socket.SHUT_WR)
        await gone(heard)
        assert heard.data == MUCH
        assert heard.told == ["made", "eof", "lost"]
        assert heard.error is None
        assert transport.is_closing()


@either_poller
@on_each_loop
async def test_what_the_kernel_does_not_take_waits_and_leaves_in_order_behind_a_close(epoll: bool) -> None:
    with wired(epoll) as (transport, heard, peer):
        for start in range(0, len(MUCH), 1_000_000):
            transport.write(MUCH[start : start + 1_000_000])
        assert transport.get_write_buffer_size() > 0
        assert heard.told == ["made", "pause"]
        transport.close()
        transport.write(b"too late")
        assert await read_all(peer) == MUCH
        await gone(heard)
        assert heard.told == ["made", "pause", "lost"]


@either_poller
@on_each_loop
async def test_writing_goes_on_once_everything_has_left(epoll: bool) -> None:
    with wired(epoll) as (transport, heard, peer):
        transport.set_write_buffer_limits(high=0)
        transport.write(MUCH)
        assert heard.told[-1] == "pause"
        reading = asyncio.ensure_future(read_all(peer))
        await soon(lambda: heard.told[-1] == "resume")
        assert transport.get_write_buffer_size() == 0
        transport.write(b"more")
        transport.close()
        assert await reading == MUCH + b"more"
        await gone(heard)


@on_each_loop
async def test_a_limit_that_is_set_later_counts_for_what_waits_already() -> None:
    with wired(True) as (transport, heard, _):
        transport.set_write_buffer_limits(high=1 << 30)
        transport.write(MUCH)
        assert heard.told == ["made"]
        transport.set_write_buffer_limits(high=0)
        assert heard.told == ["made", "pause"]
        transport.abort()
        await gone(heard)


@either_poller
@on_each_loop
async def test_an_end_can_be_told_while_reading_goes_on(epoll: bool) -> None:
    with wired(epoll) as (transport, heard, peer):
        assert transport.can_write_eof()
        transport.write(MUCH)
        transport.write_eof()
        transport.write(b"too late")
        assert await read_all(peer) == MUCH
        peer.sendall(b"still heard")
        peer.close()
        await gone(heard)
        assert heard.data == b"still heard"


@either_poller
@on_each_loop
async def test_an_abort_drops_what_waits_and_is_told_once_and_later(epoll: bool) -> None:
    with wired(epoll) as (transport, heard, _):
        transport.write(MUCH)
        transport.abort()
        transport.abort()
        transport.close()
        assert not heard.lost  # never inside a call of the protocol's
        await gone(heard)
        await asyncio.sleep(0)
        assert heard.told.count("lost") == 1


@either_poller
@on_each_loop
async def test_a_reset_is_told_as_the_error_it_is(epoll: bool) -> None:
    with wired(epoll) as (_, heard, peer):
        reset(peer)
        await gone(heard)
        assert isinstance(heard.error, ConnectionResetError)


@either_poller
@on_each_loop
async def test_a_write_to_a_peer_that_has_gone_ends_the_connection_later(epoll: bool) -> None:
    with wired(epoll) as (transport, heard, peer):
        transport.pause_reading()
        reset(peer)
        transport.write(b"anybody?")
        assert not heard.lost
        await gone(heard)
        assert isinstance(heard.error, OSError)


@either_poller
@on_each_loop
async def test_nothing_is_read_while_paused_and_nothing_is_lost_by_it(epoll: bool) -> None:
    with wired(epoll) as (transport, heard, peer):
        transport.pause_reading()
        transport.pause_reading()
        peer.sendall(b"waits")
        for _ in range(20):
            await asyncio.sleep(0)
        assert not heard.data
        assert not transport.is_reading()
        transport.resume_reading()
        await soon(lambda: heard.data == b"waits")
        transport.abort()
        await gone(heard)


@on_each_loop
async def test_a_paused_connection_that_is_reset_keeps_nobody_busy(monkeypatch: pytest.MonkeyPatch) -> None:
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
async def test_another_protocol_hears_of_everything_from_then_on(epoll: bool) -> None:
    with wired(epoll) as (transport, heard, peer):
        other = Heard()
        transport.set_protocol(other)
        assert transport.get_protocol() is other
        peer.sendall(b"for the other")
        peer.close()
        await gone(other)
        assert (other.data, heard.data, heard.told) == (b"for the other", b"", ["made"])


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


@either_poller
@on_each_loop
async def test_a_protocol_may_close_while_it_is_told_of_bytes(epoll: bool) -> None:
    class Enough(Heard):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            assert self.transport is not None
            self.transport.close()
            assert not self.lost

    with wired(epoll, Enough()) as (_, heard, peer):
        peer.sendall(b"enough")
        assert await read_all(peer) == b""
        await gone(heard)
        assert heard.told == ["made", "lost"]


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


@on_each_loop
async def test_it_knows_its_socket_and_its_peer() -> None:
    with wired(True) as (transport, heard, peer):
        sock = transport.get_extra_info("socket")
        assert sock.getpeername() == peer.getsockname() == transport.get_extra_info("peername")
        assert transport.get_extra_info("sslcontext") is None
        assert transport.get_extra_info("other", 7) == 7
        transport.abort()
        await gone(heard)
        assert transport.get_extra_info("peername") is None


@on_each_loop
async def test_a_poller_that_is_closed_tells_nobody_and_can_be_closed_again() -> None:
    for epoll in (True, False):
        with polling(epoll) as poller:
            mine, peer = tcp_pair()
            with mine, peer:
                told: list[int] = []

                class Watcher:
                    def ready(self, events: int, told: list[int] = told) -> None:
                        told.append(events)

                poller.watch(mine.fileno(), Watcher(), READ, 0)
                poller.close()
                peer.sendall(b"x")
                for _ in range(5):
                    await asyncio.sleep(0)
                assert not told
