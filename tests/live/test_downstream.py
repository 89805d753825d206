"""The only writer to a client: chunked coding, what the client has taken, how its connection ends."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, cast

import pytest

from sse_keepalive_proxy.live import downstream
from sse_keepalive_proxy.live.downstream import Downstream
from tests.support.clock import ManualClock

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Socket:
    """A socket that notes whether its close will be a reset."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.resets = False

    def setsockopt(self, level: int, option: int, value: object) -> None:
        self.resets = self.resets or (option == socket.SO_LINGER and value == struct.pack("ii", 1, 0))


class Transport(asyncio.Transport):
    """Keeps what is written; of that `waiting` bytes have not left."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.waiting = 0
        self.closed = self.aborted = False
        self.socket: Socket | None = None
        self._broken = broken

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if self._broken:
            raise RuntimeError("planned")
        assert high == 1

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def write(self, data: bytes) -> None:
        assert data
        self.writes.append(data)

    @property
    def written(self) -> bytes:
        return b"".join(self.writes)

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.socket if name == "socket" else default

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True


class Listener:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def client_blocked(self) -> None:
        self.told.append("blocked")

    def client_unblocked(self) -> None:
        self.told.append("unblocked")

    def client_left(self) -> None:
        self.told.append("left")

    def client_lost(self, exc: Exception | None) -> None:
        self.told.append(exc)


def begun(*, chunked: bool = True) -> tuple[Downstream, Transport, Listener]:
    transport, listener = Transport(), Listener()
    down = Downstream(listener, lambda _: transport, chunked=chunked, write_timeout=30.0)
    return down, transport, listener


def test_head_and_first_bytes_are_one_write_and_every_further_one_is_a_chunk() -> None:
    down, transport, _ = begun()
    down.write_head(HEAD, b":ok\n\n")
    assert transport.written == b""
    down.flush()
    assert transport.written == HEAD + b"5\r\n:ok\n\n\r\n"
    down.flush()
    down.write(b"data: 1234567890\n\n")
    assert transport.written.endswith(b"12\r\ndata: 1234567890\n\n\r\n")
    down.end()
    assert transport.written.endswith(b"\n\n\r\n0\r\n\r\n")
    assert transport.closed


def test_a_head_without_a_body_byte_holds_no_chunk_which_would_be_the_end() -> None:
    down, transport, _ = begun()
    down.write_head(HEAD, b"")
    down.flush()
    assert transport.written == HEAD


def test_what_is_written_next_leaves_with_the_head() -> None:
    down, transport, _ = begun()
    down.write_head(HEAD, b":ok\n\n")
    down.write(b"data: 1\n\n")
    assert transport.writes == [HEAD + b"5\r\n:ok\n\n\r\n" + b"9\r\ndata: 1\n\n\r\n"]
    down.flush()
    assert len(transport.writes) == 1


def test_a_head_that_nothing_follows_leaves_when_the_stream_ends() -> None:
    down, transport, _ = begun()
    down.write_head(HEAD, b":ok\n\n")
    down.cut(ManualClock().call_later)
    assert transport.written == HEAD + b"5\r\n:ok\n\n\r\n"
    assert transport.closed


def test_a_client_of_http_1_0_gets_plain_bytes_and_the_end_of_the_connection() -> None:
    down, transport, _ = begun(chunked=False)
    down.write_head(HEAD, b":ok\n\n")
    down.write(b"data: 1\n\n")
    down.end()
    assert transport.written == HEAD + b":ok\n\ndata: 1\n\n"
    assert transport.closed


def test_what_is_not_whole_has_no_last_chunk() -> None:
    down, transport, _ = begun()
    down.write_head(HEAD, b":ok\n\n")
    down.cut(ManualClock().call_later)
    assert not transport.written.endswith(b"0\r\n\r\n")
    assert transport.closed


@pytest.mark.parametrize(
    ("waits", "has_taken", "looks"),
    [
        ([0, 0], [9, 9], 1),
        ([7, 7, 0, 0], [2, 2, 9, 9], 3),
        ([0, 0, 0], [2, 9, 9], 2),  # as with TLS, where not all of what waits is counted
    ],
)
def test_without_chunked_coding_what_is_not_whole_ends_with_a_reset_once_it_was_taken(
    waits: list[int], has_taken: list[int], looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    down, transport, _ = begun(chunked=False)
    transport.socket = Socket()
    monkeypatch.setattr(downstream, "untaken", lambda _: waits.pop(0))
    monkeypatch.setattr(downstream, "taken", lambda *_: has_taken.pop(0))
    down.write_head(HEAD, b":ok\n\n")
    clock = ManualClock()
    down.cut(clock.call_later)
    assert transport.written == HEAD + b":ok\n\n"
    for _ in range(looks):
        assert not transport.closed
        clock.advance(0.06)
    assert transport.aborted
    assert transport.socket.resets
    assert clock.next_timer() is None


def test_a_client_that_leaves_before_it_has_taken_its_last_bytes_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    down, transport, _ = begun(chunked=False)
    monkeypatch.setattr(downstream, "untaken", lambda _: 7)
    clock = ManualClock()
    down.cut(clock.call_later)
    transport.closed = True
    clock.advance(1)
    assert clock.next_timer() is None
    assert not transport.aborted


@pytest.mark.parametrize("chunked", [True, False])
def test_an_aborted_body_does_not_look_whole(chunked: bool) -> None:
    down, transport, _ = begun(chunked=chunked)
    transport.socket = Socket()
    down.abort()
    assert transport.aborted
    assert transport.socket.resets is not chunked


def test_a_connection_that_is_closing_gets_no_last_chunk() -> None:
    down, transport, _ = begun()
    transport.close()
    down.end()
    assert transport.written == b""


@pytest.mark.parametrize("chunked", [True, False])
def test_taken_is_every_byte_that_does_not_wait_the_last_chunk_among_them(chunked: bool) -> None:
    down, transport, _ = begun(chunked=chunked)
    assert down.taken == 0
    down.write_head(HEAD, b":ok\n\n")
    down.write(b"data: 1\n\n")
    transport.waiting = 7
    assert down.waiting == 7
    assert down.taken == len(transport.written) - 7
    down.end()
    assert down.taken == len(transport.written) - 7


def test_the_listener_hears_what_asyncio_says_and_nothing_of_what_the_client_sends() -> None:
    down, _, listener = begun()
    down.data_received(b"GET / HTTP/1.1\r\n\r\n")
    assert listener.told == []
    down.pause_writing()
    down.resume_writing()
    assert cast(object, down.eof_received()) is None  # asyncio closes the transport then
    error = ConnectionResetError()
    down.connection_lost(error)
    assert listener.told == ["blocked", "unblocked", "left", error]


def test_reset_and_abort_drop_the_connection_whatever_waits() -> None:
    for end in (Downstream.reset, Downstream.abort):
        down, transport, _ = begun()
        end(down)
        assert transport.aborted


def test_a_connection_that_was_taken_over_and_cannot_be_kept_is_not_left_open() -> None:
    transport = Transport(broken=True)
    with pytest.raises(RuntimeError, match="planned"):
        Downstream(Listener(), lambda _: transport, chunked=True, write_timeout=30.0)
    assert transport.aborted
