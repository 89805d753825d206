"""One suite for every transport that a connection may have: ours, asyncio's and uvloop's.

A protocol that works on one works on the others. Where they differ, `DIFFERENCES` says how, and why ours is
as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import inspect
import socket
import struct
import sys
import termios
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, ParamSpec, cast

import pytest

from sse_keepalive_proxy.net.poller import open_poller
from sse_keepalive_proxy.net.transport import SocketTransport
from tests.net.wires import Heard, gone, read_all, tcp_pair
from tests.support.running import on_loop, soon

P = ParamSpec("P")

MUCH = bytes(range(256)) * 40_000

DIFFERENCES: dict[str, dict[str, object]] = {
    "connection_made is called": {
        "ours": "at once",
        "asyncio": "in a later turn of the loop",
        "uvloop": "in a later turn of the loop",
        "why": "an accepted connection can be read one turn earlier",
    },
    "a connection_made that raises": {
        "ours": "ends the connection",
        "asyncio": "leaves it open",
        "uvloop": "leaves it open",
        "why": "the protocol knows of no transport then: nobody would close it",
    },
    "what the peer sent before a write failed": {
        "ours": "is passed on",
        "asyncio": "is lost",
        "uvloop": "is lost",
        "why": "it is the early answer to an upload",
    },
    "what the peer sent before a write failed, while reading is paused": {
        "ours": "is passed on",
        "asyncio": "is lost",
        "uvloop": "is lost",
        "why": "there is no later moment: the connection is gone, and nobody may ever resume reading",
    },
    "by default writing resumes": {
        "ours": "at 16384 bytes",
        "asyncio": "at 16384 bytes",
        "uvloop": "at 16 bytes",
        "why": "asyncio documents a quarter of the upper limit",
    },
    "a write after the loss": {
        "ours": "is dropped",
        "asyncio": "is dropped",
        "uvloop": "is an error",
        "why": "so is one before the loss is passed on",
    },
    "a write between close and the end of what waits": {
        "ours": "is dropped",
        "asyncio": "is sent",
        "uvloop": "is sent",
        "why": "after close nothing is written, however fast the peer has read",
    },
    "after its end, a peer that is still written to": {
        "ours": "is not read",
        "asyncio": "is read",
        "uvloop": "is not read",
        "why": "is_reading() says whether more can come",
    },
    "an end of input, after pausing and resuming": {
        "ours": "is passed on once",
        "asyncio": "is passed on again",
        "uvloop": "is passed on again",
        "why": "asyncio documents one call",
    },
    "the peer's name, once the connection is gone": {
        "ours": "is unknown",
        "asyncio": "is known",
        "uvloop": "is known",
        "why": "the kernel is asked: keeping it costs every idle stream memory, and every opening two calls",
    },
}


@dataclass(frozen=True)
class Kind:
    """A transport's class, and what it runs on."""

    family: str
    loop: str
    epoll: bool = False

    def __str__(self) -> str:
        poller = ("-epoll" if self.epoll else "-loop") if self.family == "ours" else ""
        return f"{self.family}{poller}-on-{self.loop}"

    @contextlib.asynccontextmanager
    async def connected(self, heard: Heard | None = None) -> AsyncIterator[tuple[Any, Heard, socket.socket]]:
        """The transport, its protocol, and the peer: a blocking socket with a time limit. In the end nothing
        of them is left.
        """
        heard = heard or Heard()
        mine, peer = tcp_pair()
        peer.settimeout(5)
        with peer:
            if self.family == "ours":
                poller = open_poller(epoll=self.epoll)
                transport = cast(asyncio.Transport, SocketTransport(poller, mine, heard))
            else:
                poller = None
                loop = asyncio.get_running_loop()
                transport, _ = await loop.connect_accepted_socket(lambda: heard, mine)
            try:
                yield transport, heard, peer
            finally:
                with contextlib.suppress(AttributeError):  # CPython 3.11's, once it is closed
                    transport.abort()
                await turns()
                assert mine.fileno() == -1 or self.family == "uvloop"
                if poller is not None:
                    poller.close()


KINDS = [
    *(Kind("ours", loop, epoll) for loop in ("asyncio", "uvloop") for epoll in (True, False)),
    Kind("asyncio", "asyncio"),
    Kind("uvloop", "uvloop"),
]


def on_each_transport(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Decorator: an async test that gets each `kind` of transport."""

    @functools.wraps(test)
    def wrapped(kind: Kind, *args: P.args, **kwargs: P.kwargs) -> None:
        on_loop(kind.loop, cast(Any, test)(kind, *args, **kwargs))

    wrapped.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return pytest.mark.parametrize("kind", KINDS, ids=str)(wrapped)


def test_what_is_named_as_a_difference_is_one_and_has_a_reason() -> None:
    for what in DIFFERENCES.values():
        assert set(what) == {"ours", "asyncio", "uvloop", "why"}
        assert what["ours"] != what["asyncio"] or what["ours"] != what["uvloop"]


def check(kind: Kind, name: str, outcome: str) -> None:
    """The outcome is the one that is named for this kind of transport."""
    assert outcome == DIFFERENCES[name][kind.family]


def reported() -> list[str]:
    """What the loop's exception handler receives from now on."""
    found: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: found.append(str(context.get("exception")))
    )
    return found


async def turns() -> None:
    """So many turns of the loop that whatever is pending has been done."""
    for _ in range(8):
        await asyncio.sleep(0)


def reset(peer: socket.socket) -> None:
    """Close with RST and nothing else."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def passed_on(heard: Heard) -> str:
    return "is passed on" if heard.data == ANSWER else "is lost"


# Order.


@on_each_transport
async def test_bytes_come_in_order_then_the_end_then_the_loss(kind: Kind) -> None:
    async with kind.connected() as (transport, heard, peer):
        await asyncio.to_thread(peer.sendall, MUCH)
        peer.shutdown(socket.SHUT_WR)
        await gone(heard)
        assert heard.data == MUCH
        assert heard.told == ["made", "eof", "lost"]
        assert heard.error is None
        assert transport.is_closing()


@on_each_transport
async def test_a_reset_is_passed_on_as_the_error_it_is(kind: Kind) -> None:
    async with kind.connected() as (_, heard, peer):
        reset(peer)
        await gone(heard)
        assert heard.told == ["made", "lost"]
        assert isinstance(heard.error, ConnectionResetError)


@on_each_transport
async def test_connection_made_comes_first(kind: Kind) -> None:
    mine, peer = tcp_pair()
    with peer:
        heard = Heard()
        peer.sendall(b"x")
        if kind.family == "ours":
            poller = open_poller(epoll=kind.epoll)
            SocketTransport(poller, mine, heard)
            outcome = "at once" if heard.told == ["made"] else "later"
        else:
            opening = asyncio.ensure_future(
                asyncio.get_running_loop().connect_accepted_socket(lambda: heard, mine)
            )
            await asyncio.sleep(0)
            outcome = "at once" if heard.told == ["made"] else "in a later turn of the loop"
            await opening
        check(kind, "connection_made is called", outcome)
        await soon(lambda: heard.data)
        assert heard.told == ["made"]
        assert heard.transport is not None
        heard.transport.abort()
        await gone(heard)
        await turns()
        if kind.family == "ours":
            poller.close()


@on_each_transport
async def test_a_small_write_arrives_and_a_large_one_waits_in_order(kind: Kind) -> None:
    async with kind.connected() as (transport, heard, peer):
        transport.write(b"first,")
        transport.write(MUCH)
        assert transport.get_write_buffer_size() > 0
        transport.write(b",last")
        transport.close()
        assert await read_all(peer) == b"first," + MUCH + b",last"
        await gone(heard)
        assert heard.error is None


# Half-close.


class StaysOpen(Heard):
    """Keeps the connection when the peer sends no more."""

    def eof_received(self) -> bool:  # type: ignore[override]
        super().eof_received()
        return True


@on_each_transport
async def test_an_end_of_output_leaves_after_what_waits_and_reading_goes_on(kind: Kind) -> None:
    async with kind.connected() as (transport, heard, peer):
        assert transport.can_write_eof()
        transport.write(MUCH)
        transport.write_eof()
        transport.write_eof()
        assert await read_all(peer) == MUCH
        peer.sendall(b"still heard")
        await soon(lambda: heard.data == b"still heard")
        peer.close()
        await gone(heard)
        assert heard.told[-2:] == ["eof", "lost"]


@on_each_transport
async def test_a_protocol_may_keep_a_connection_whose_peer_sends_no_more(kind: Kind) -> None:
    async with kind.connected(StaysOpen()) as (transport, heard, peer):
        peer.sendall(b"all")
        peer.shutdown(socket.SHUT_WR)
        await soon(lambda: "eof" in heard.told)
        await turns()
        assert heard.told == ["made", "eof"]
        assert not transport.is_closing()
        check(
            kind,
            "after its end, a peer that is still written to",
            "is read" if transport.is_reading() else "is not read",
        )
        transport.write(MUCH)
        transport.close()
        assert await read_all(peer) == MUCH
        await gone(heard)
        assert heard.told.count("eof") == 1


@on_each_transport
async def test_an_end_that_has_been_passed_on_is_over(kind: Kind) -> None:
    async with kind.connected(StaysOpen()) as (transport, heard, peer):
        peer.shutdown(socket.SHUT_WR)
        await soon(lambda: "eof" in heard.told)
        transport.pause_reading()
        transport.resume_reading()
        await turns()
        times = heard.told.count("eof")
        outcome = "is passed on once" if times == 1 else "is passed on again"
        check(kind, "an end of input, after pausing and resuming", outcome)


@on_each_transport
async def test_an_end_of_input_closes_after_what_waits(kind: Kind) -> None:
    async with kind.connected() as (transport, heard, peer):
        transport.write(MUCH)
        peer.shutdown(socket.SHUT_WR)
        await soon(lambda: "eof" in heard.told)
        assert transport.is_closing()
        assert await read_all(peer) == MUCH
        await gone(heard)
        assert heard.error is None


# Pause and resume.


@on_each_transport
async def test_nothing_is_read_while_paused_and_nothing_is_lost_by_it(kind: Kind) -> None:
    async with kind.connected() as (transport, heard, peer):
        await turns()
        assert transport.is_reading()
        for _ in range(2):
            transport.pause_reading()
            assert not transport.is_reading()
        peer.sendall(b"waits, ")
        await turns()
        assert not heard.data
        for _ in range(2):
            transport.resume_reading()
            assert transport.is_reading()
        peer.sendall(b"comes")
        await soon(lambda: heard.data == b"waits, comes")


@on_each_transport
async def test_a_protocol_may_pause_while_it_receives(kind: Kind) -> None:
    class Once(Heard):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            assert self.transport is not None
            self.transport.pause_reading()

    async with kind.connected(Once()) as (transport, heard, peer):
        peer.sendall(b"one")
        await soon(lambda: heard.data == b"one")
        peer.sendall(b"two")
        peer.close()
        await turns()
        assert heard.data == b"one"
        transport.resume_reading()
        await soon(lambda: heard.data == b"onetwo")
        assert heard.told == ["made"]
        transport.resume_reading()
        await gone(heard)
        assert heard.told == ["made", "eof", "lost"]


@on_each_transport
async def test_pausing_and_resuming_once_closed_does_nothing(kind: Kind) -> None:
    async with kind.connected() as (transport, heard, peer):
        await turns()
        transport.write(MUCH)
        transport.close()
        assert not transport.is_reading()
        for change in (transport.pause_reading, transport.resume_reading):
            with contextlib.suppress(RuntimeError):  # uvloop may say so
                change()
        peer.sendall(b"not read any more")
        await turns()
        assert not heard.data
        assert not transport.is_reading()


# Flow control.


@on_each_transport
async def test_pausing_and_resuming_of_writing_alternate(kind: Kind) -> None:
    async with kind.connected() as (transport, heard, peer):
        # Else the kernel gives a fast reader ever more room, and the next writes may all find place in it.
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
        for _ in range(3):
            transport.write(MUCH)
            transport.write(MUCH)
            await soon(lambda: heard.told[-1] == "pause")
            reading = asyncio.ensure_future(asyncio.to_thread(read_exactly, peer, 2 * len(MUCH)))
            await soon(lambda: heard.told[-1] == "resume")
            assert transport.get_write_buffer_size() <= 16 * 1024
            await reading
        assert heard.told == ["made", *["pause", "resume"] * 3]


@on_each_transport
async def test_writing_resumes_at_the_lower_limit_and_not_only_when_nothing_waits(kind: Kind) -> None:
    async with kind.connected() as (transport, heard, peer):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
        transport.set_write_buffer_limits(high=len(MUCH) // 2, low=len(MUCH) // 3)
        transport.write(MUCH)
        await soon(lambda: heard.told[-1] == "pause")
        while heard.told[-1] == "pause":
            await asyncio.to_thread(peer.recv, 1 << 16)
        assert transport.get_write_buffer_size() <= len(MUCH) // 3
        if kind.family != "uvloop":  # it keeps one large buffer, and knows of it only when all has left
            assert transport.get_write_buffer_size() > 0


@on_each_transport
async def test_a_limit_that_is_set_later_counts_for_what_waits_already(kind: Kind) -> None:
    async with kind.connected() as (transport, heard, _):
        transport.set_write_buffer_limits(high=1 << 30)
        transport.write(MUCH)
        await turns()
        assert heard.told == ["made"]
        transport.set_write_buffer_limits(high=0)
        assert heard.told == ["made", "pause"]


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        ({}, (16_384, 65_536)),
        ({"high": 1000}, (250, 1000)),
        ({"low": 1000}, (1000, 4000)),
        ({"high": 0}, (0, 0)),
        ({"high": 10, "low": 10}, (10, 10)),
        ({"high": 10, "low": 11}, None),
        ({"high": 10, "low": -1}, None),
        ({"high": -1}, None),
    ],
    ids=str,
)
@on_each_transport
async def test_limits_are_as_documented(
    kind: Kind, given: dict[str, int], limits: tuple[int, int] | None
) -> None:
    async with kind.connected() as (transport, _, _peer):
        before = transport.get_write_buffer_limits()
        assert before[1] == 65_536
        check(kind, "by default writing resumes", f"at {before[0]} bytes")
        if limits is None:
            with pytest.raises(ValueError, match="high"):
                transport.set_write_buffer_limits(**given)
        else:
            transport.set_write_buffer_limits(**given)
        assert transport.get_write_buffer_limits() == (limits or before)


# Close and abort.


@on_each_transport
async def test_closing_sends_what_waits_and_reads_no_more(kind: Kind) -> None:
    async with kind.connected() as (transport, heard, peer):
        transport.write(MUCH)
        transport.close()
        transport.close()
        await turns()
        assert not heard.lost
        assert await asyncio.to_thread(read_exactly, peer, len(MUCH)) == MUCH
        await gone(heard)
        assert heard.told == ["made", "pause", "resume", "lost"]
        assert heard.error is None


@on_each_transport
async def test_an_abort_drops_what_waits_and_is_passed_on_once_and_later(kind: Kind) -> None:
    async with kind.connected() as (transport, heard, _):
        transport.write(MUCH)
        transport.abort()
        assert transport.is_closing()
        transport.abort()
        transport.close()
        assert not heard.lost  # never inside a call of the protocol's
        await gone(heard)
        await turns()
        assert heard.told.count("lost") == 1
        assert heard.error is None


@on_each_transport
async def test_an_abort_ends_a_close_that_waits(kind: Kind) -> None:
    async with kind.connected() as (transport, heard, _):
        transport.write(MUCH)
        transport.close()
        await turns()
        assert not heard.lost
        transport.abort()
        await gone(heard)


@pytest.mark.parametrize("how", ["close", "abort"])
@on_each_transport
async def test_a_protocol_may_close_while_it_receives(kind: Kind, how: str) -> None:
    class Enough(Heard):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            assert self.transport is not None
            getattr(self.transport, how)()
            assert not self.lost

    async with kind.connected(Enough()) as (_, heard, peer):
        peer.sendall(b"enough")
        with contextlib.suppress(ConnectionResetError):
            assert await read_all(peer) == b""
        await gone(heard)
        assert heard.told == ["made", "lost"]
        assert heard.data == b"enough"


@on_each_transport
async def test_a_protocol_may_close_as_soon_as_it_is_connected(kind: Kind) -> None:
    class Unwilling(Heard):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            cast(asyncio.Transport, transport).write(b"no")
            transport.close()

    async with kind.connected(Unwilling()) as (_, heard, peer):
        assert await read_all(peer) == b"no"
        await gone(heard)
        assert heard.told == ["made", "lost"]


# Writing.


@pytest.mark.parametrize("how", ["close", "abort"])
@on_each_transport
async def test_a_write_after_the_end_is_dropped(kind: Kind, how: str) -> None:
    async with kind.connected() as (transport, heard, peer):
        await turns()
        getattr(transport, how)()
        transport.write(b"too late")
        if kind.family != "asyncio":  # CPython's own fails here from 3.12 on
            transport.writelines([b"too", b"late"])
        await gone(heard)
        try:
            transport.write(b"too late")
            check(kind, "a write after the loss", "is dropped")
        except RuntimeError:
            check(kind, "a write after the loss", "is an error")
        assert await read_all(peer) == b""


@on_each_transport
async def test_a_write_while_closing_waits_for_the_peer(kind: Kind) -> None:
    async with kind.connected() as (transport, heard, peer):
        transport.write(MUCH)
        transport.close()
        transport.write(b"late")
        received = await read_all(peer)
        assert received.startswith(MUCH)
        rest = received[len(MUCH) :]
        check(
            kind,
            "a write between close and the end of what waits",
            {b"": "is dropped", b"late": "is sent"}[rest],
        )
        await gone(heard)


@on_each_transport
async def test_a_write_after_the_end_of_output_is_an_error(kind: Kind) -> None:
    async with kind.connected() as (transport, _, _peer):
        transport.write_eof()
        with pytest.raises(RuntimeError, match="write_eof"):
            transport.write(b"too late")


@on_each_transport
async def test_anything_like_bytes_can_be_written_and_nothing_else(kind: Kind) -> None:
    async with kind.connected() as (transport, _, peer):
        transport.write(b"")
        changing = bytearray(b"b" * 3)
        transport.write(changing)
        transport.write(memoryview(b"__mm__")[2:4])
        transport.writelines([b"1", bytearray(b"2"), memoryview(b"3")])
        if kind.family != "asyncio":  # CPython's own fails here from 3.12 on
            transport.writelines(iter([]))
        transport.write(MUCH)
        waiting = bytearray(b"w" * 5)
        transport.write(waiting)
        transport.write(memoryview(b"v" * 5))
        changing[:] = waiting[:] = b"?" * 5
        with pytest.raises(TypeError):
            transport.write("text")
        transport.write_eof()
        received = await read_all(peer)
        if kind.family == "ours":
            assert received == b"bbbmm123" + MUCH + b"wwwwwvvvvv"
        else:  # uvloop, and asyncio from 3.12 on, take no copy of what they cannot send at once
            assert len(received) == 8 + len(MUCH) + 10


@on_each_transport
async def test_a_write_to_a_peer_that_has_left_ends_the_connection_later(kind: Kind) -> None:
    async with kind.connected() as (transport, heard, peer):
        await turns()
        transport.pause_reading()
        reset(peer)
        transport.write(b"anybody?")
        assert not heard.lost
        await gone(heard)
        assert isinstance(heard.error, OSError)
        assert heard.told == ["made", "lost"]  # a reset is no end of input
        assert transport.is_closing()


async def answered(transport: asyncio.Transport, peer: socket.socket, answer: bytes) -> None:
    """Wait until the whole answer has arrived, then close. It is small enough for the kernel to hold it."""
    mine = transport.get_extra_info("socket")
    mine.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * len(answer))
    await asyncio.to_thread(peer.sendall, answer)
    await soon(lambda: unread(mine.fileno()) == len(answer))
    peer.close()


def unread(descriptor: int) -> int:
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


ANSWER = MUCH[:150_000]
"""More than one read."""


@pytest.mark.parametrize("ended", [False, True], ids=["reset", "ended and reset"])
@pytest.mark.parametrize("paused", [False, True], ids=["reading", "paused"])
@on_each_transport
async def test_bytes_that_the_peer_sent_before_a_write_failed_are_received(
    kind: Kind, paused: bool, ended: bool
) -> None:
    """A server answers an upload early and closes: what it did not read resets the connection."""
    async with kind.connected() as (transport, heard, peer):
        await turns()
        transport.pause_reading()
        if not ended:
            transport.write(b"which the peer leaves unread")
            await turns()
        await answered(transport, peer, ANSWER)
        if ended:  # what comes after the peer's end is answered with a reset
            transport.write(b"too much")
            await turns()
        if not paused:
            transport.resume_reading()
        transport.write(b"more")
        assert not heard.lost
        assert not heard.data
        await gone(heard)
        name = "what the peer sent before a write failed"
        check(kind, f"{name}, while reading is paused" if paused else name, passed_on(heard))
        if kind.family == "ours":
            assert type(heard.error) is (BrokenPipeError if ended else ConnectionResetError)
            assert heard.told == (["made", "eof", "lost"] if ended else ["made", "lost"])


@on_each_transport
async def test_bytes_that_the_peer_sent_before_a_buffered_write_failed_are_received(kind: Kind) -> None:
    """As above, and the failing write is the transport's own."""
    async with kind.connected() as (transport, heard, peer):
        await turns()
        transport.pause_reading()
        transport.write(MUCH)
        await turns()
        await answered(transport, peer, ANSWER)
        transport.resume_reading()
        await gone(heard)
        assert heard.data == ANSWER


@pytest.mark.parametrize("how", ["close", "abort"])
@on_each_transport
async def test_a_protocol_that_closes_while_the_rest_is_read_gets_no_more_of_it(kind: Kind, how: str) -> None:
    class Enough(Heard):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            assert self.transport is not None
            getattr(self.transport, how)()

    async with kind.connected(Enough()) as (transport, heard, peer):
        await turns()
        transport.pause_reading()
        transport.write(b"which the peer leaves unread")
        await turns()
        await answered(transport, peer, ANSWER)
        transport.write(b"more")
        await gone(heard)
        assert len(heard.data) <= 64 * 1024
        assert heard.told == ["made", "lost"]


# The protocol is switched.


@on_each_transport
async def test_a_switch_while_receiving_counts_from_the_next_bytes(kind: Kind) -> None:
    second = Heard()

    class First(Heard):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            assert self.transport is not None
            self.transport.set_protocol(second)

    async with kind.connected(First()) as (transport, first, peer):
        peer.sendall(b"first")
        await soon(lambda: first.data)
        assert transport.get_protocol() is second
        peer.sendall(b"second")
        peer.close()
        await gone(second)
        assert (first.data, first.told) == (b"first", ["made"])
        assert (second.data, second.told) == (b"second", ["eof", "lost"])


@on_each_transport
async def test_a_switch_when_connected_counts_at_once(kind: Kind) -> None:
    second = Heard()

    class First(Heard):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            cast(asyncio.Transport, transport).set_protocol(second)

    async with kind.connected(First()) as (_, first, peer):
        peer.sendall(b"second")
        peer.close()
        await gone(second)
        assert (first.data, first.told) == (b"", ["made"])
        assert (second.data, second.told) == (b"second", ["eof", "lost"])


@on_each_transport
async def test_a_switch_at_the_end_of_input_has_the_loss_passed_on_to_the_second(kind: Kind) -> None:
    second = Heard()

    class First(Heard):
        def eof_received(self) -> None:
            super().eof_received()
            assert self.transport is not None
            self.transport.set_protocol(second)

    async with kind.connected(First()) as (_, first, peer):
        peer.close()
        await gone(second)
        assert (first.told, second.told) == (["made", "eof"], ["lost"])


@on_each_transport
async def test_a_switch_after_a_close_has_the_loss_passed_on_to_the_second(kind: Kind) -> None:
    second = Heard()
    async with kind.connected() as (transport, first, _):
        transport.close()
        transport.set_protocol(second)
        await gone(second)
        assert (first.told, second.told) == (["made"], ["lost"])


# A protocol that raises.


class Raises(Heard):
    """Raises in one of its calls, once it has noted it."""

    def __init__(self, where: str) -> None:
        super().__init__()
        call = getattr(self, where)

        def raising(*args: Any) -> None:
            call(*args)
            raise RuntimeError(where)

        setattr(self, where, raising)


@pytest.mark.parametrize("where", ["data_received", "eof_received"])
@on_each_transport
async def test_a_protocol_that_raises_while_it_receives_loses_its_connection(kind: Kind, where: str) -> None:
    found = reported()
    async with kind.connected(Raises(where)) as (transport, heard, peer):
        transport.write(MUCH)  # nobody waits for it to be read
        peer.sendall(b"x")
        peer.shutdown(socket.SHUT_WR)
        await gone(heard)
        assert found == [where]
        assert str(heard.error) == where
        assert heard.told.count("lost") == 1


@pytest.mark.parametrize("where", ["pause_writing", "resume_writing"])
@on_each_transport
async def test_a_protocol_that_raises_in_flow_control_keeps_its_connection(kind: Kind, where: str) -> None:
    found = reported()
    async with kind.connected(Raises(where)) as (transport, heard, peer):
        transport.write(MUCH)
        await soon(lambda: "pause" in heard.told)
        reading = asyncio.ensure_future(asyncio.to_thread(read_exactly, peer, len(MUCH)))
        await soon(lambda: "resume" in heard.told)
        await reading
        assert found == [where]
        transport.write(b"more")
        transport.close()
        assert await read_all(peer) == b"more"
        await gone(heard)


@on_each_transport
async def test_a_protocol_that_raises_when_connected(kind: Kind) -> None:
    found = reported()
    with contextlib.suppress(RuntimeError):  # uvloop raises it to who opens the connection, too
        async with kind.connected(Raises("connection_made")) as (_, heard, _peer):
            await turns()
            outcome = "ends the connection" if heard.lost else "leaves it open"
            check(kind, "a connection_made that raises", outcome)
            assert found == ["connection_made"]


@on_each_transport
async def test_a_protocol_that_raises_at_the_loss_leaves_no_socket(kind: Kind) -> None:
    found = reported()
    async with kind.connected(Raises("connection_lost")) as (transport, heard, peer):
        await turns()
        transport.close()
        await gone(heard)
        assert await read_all(peer) == b""
        await turns()
    assert found == ["connection_lost"]


# What it knows.


@on_each_transport
async def test_it_knows_its_socket_and_both_addresses(kind: Kind) -> None:
    async with kind.connected() as (transport, heard, peer):
        sock = transport.get_extra_info("socket")
        assert sock.getpeername() == peer.getsockname() == transport.get_extra_info("peername")
        assert sock.getsockname() == peer.getpeername() == transport.get_extra_info("sockname")
        assert sock.family == socket.AF_INET
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert transport.get_extra_info("sslcontext") is None
        assert transport.get_extra_info("other", 7) == 7
        transport.abort()
        await gone(heard)
        await turns()
        known = transport.get_extra_info("peername") is not None
        check(kind, "the peer's name, once the connection is gone", "is known" if known else "is unknown")


def read_exactly(peer: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        found += peer.recv(min(1 << 16, size - len(found)))
    return bytes(found)
