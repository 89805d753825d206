"""Bytes to one request: the same however they are cut, and never a byte of what is behind it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sse_keepalive_proxy.http.request_reader import RequestReader

from sse_keepalive_proxy.errors import BodyInvalid, RequestInvalid
from sse_keepalive_proxy.http.body import BufferedBody

MAX_HEAD = 4096
GET = b"GET /a?b=c HTTP/1.1\r\nHost: a\r\nX: y \r\n\r\n"
SIZED = b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
EMPTY = b"POST /e HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
CHUNKED_HEAD = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED = CHUNKED_HEAD + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: r\r\n\r\n"
UPGRADE = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
UPGRADE_WITH_BODY = UPGRADE.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n") + b"hello"
UPGRADE_CHUNKED = (
    UPGRADE.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n") + b"5\r\nhello\r\n0\r\n\r\n"
)


@dataclass
class Source:
    """Counts what it is asked."""

    asked: list[str] = field(default_factory=list)

    def pause(self) -> None:
        self.asked.append("pause")

    def resume(self) -> None:
        self.asked.append("resume")


def reader() -> RequestReader:
    return RequestReader(Source(), MAX_HEAD)


def body_of(pulled: BufferedBody | None) -> bytes | None:
    """All of a body that is whole."""
    if pulled is None:
        return None
    assert pulled.whole
    loop = asyncio.new_event_loop()
    try:
        found = b""
        while data := loop.run_until_complete(pulled.read()):
            found += data
        return found
    finally:
        loop.close()


def read(pieces: list[bytes]) -> tuple[list[tuple[str, str, bytes | None]], bytes]:
    """What requests `pieces` hold, each by a reader of its own, and what is left."""
    found = []
    rest = b""
    mine = reader()
    for piece in pieces:
        rest += piece
        while rest:
            rest = mine.feed(rest)
            if not mine.whole:
                assert not rest
                break
            assert mine.request is not None
            found.append((mine.request.method, mine.request.target, body_of(mine.request.body)))
            mine = reader()
    return found, rest


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces."""
    at = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in pairwise(at) if start < end]


@given(
    st.lists(st.sampled_from([GET, SIZED, EMPTY, b"\r\n" + GET, UPGRADE_WITH_BODY]), min_size=1, max_size=4),
    st.lists(st.integers(0, 2000), max_size=12),
)
def test_requests_are_the_same_however_their_bytes_are_cut(requests: list[bytes], places: list[int]) -> None:
    data = b"".join(requests)
    found, rest = read(cut(data, places))
    assert len(found) == len(requests)
    assert found == read([data])[0]
    assert rest == b""


@given(st.lists(st.integers(0, 200), max_size=12))
def test_a_chunked_body_is_the_same_however_it_is_cut_and_its_trailer_is_no_header(places: list[int]) -> None:
    mine = reader()
    for piece in cut(CHUNKED, places):
        assert mine.feed(piece) == b""
    assert mine.whole
    assert mine.request is not None
    assert body_of(mine.request.body) == b"abcde"
    assert mine.request.headers == [(b"Host", b"a"), (b"Transfer-Encoding", b"chunked")]


def test_a_request_is_told_as_it_came() -> None:
    mine = reader()
    assert mine.feed(GET) == b""
    assert mine.request is not None
    assert (mine.request.method, mine.request.target, mine.request.version) == ("GET", "/a?b=c", "1.1")
    assert mine.request.headers == [(b"Host", b"a"), (b"X", b"y")]
    assert mine.request.keep_alive
    assert mine.request.whole
    assert mine.head_size == len(GET)


@pytest.mark.parametrize("raw", [GET, SIZED, EMPTY, UPGRADE, UPGRADE_WITH_BODY])
def test_what_is_behind_a_request_is_left_alone(raw: bytes) -> None:
    mine = reader()
    assert mine.feed(raw + b"\x00 anything at all") == b"\x00 anything at all"
    assert mine.whole


@pytest.mark.parametrize("raw", [UPGRADE_WITH_BODY, UPGRADE_CHUNKED])
def test_a_body_beside_an_upgrade_is_a_body_and_no_request(raw: bytes) -> None:
    mine = reader()
    for position in range(len(raw)):
        assert not mine.whole
        assert mine.feed(raw[position : position + 1]) == b""
    assert mine.whole
    assert mine.request is not None
    assert body_of(mine.request.body) == b"hello"


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01",  # TLS
        b"GET / HTTP/1.1\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n",
        b"FETCH / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
    ],
)
def test_what_is_no_head_is_seen_before_the_head_is_whole(raw: bytes) -> None:
    with pytest.raises(RequestInvalid):
        reader().feed(raw)


def test_a_broken_chunk_is_told_behind_what_was_good() -> None:
    mine = reader()
    with pytest.raises(BodyInvalid, match="is not valid"):
        mine.feed(CHUNKED_HEAD + b"3\r\nabc\r\nzz\r\n")
    assert mine.request is not None
    assert mine.request.body is not None
    assert mine.request.body.size == 3


def test_coding_without_data_has_an_end() -> None:
    mine = reader()
    mine.feed(CHUNKED_HEAD)
    padded = b"1;" + b"x" * 40 + b"\r\na\r\n"
    assert mine.feed(padded * 10) == b""  # a little is nothing
    with pytest.raises(BodyInvalid, match="more chunked coding than data"):
        mine.feed(padded * MAX_HEAD)


# A body between the two sides.


def test_a_source_is_paused_while_much_waits_and_goes_on_when_it_was_taken() -> None:
    source = Source()
    body = BufferedBody(source)
    body.data(b"x" * (256 << 10))
    assert source.asked == []
    body.data(b"y")
    assert source.asked == ["pause"]
    loop = asyncio.new_event_loop()
    try:
        assert len(loop.run_until_complete(body.read())) == (256 << 10) + 1
        assert source.asked == ["pause", "resume"]
        body.end()
        assert loop.run_until_complete(body.read()) == b""
    finally:
        loop.close()


def test_what_came_before_a_failure_is_read_before_it() -> None:
    body = BufferedBody(Source())
    body.data(b"good")
    body.failed(BodyInvalid("broke"))
    body.failed(BodyInvalid("and once more"))
    loop = asyncio.new_event_loop()
    try:
        assert loop.run_until_complete(body.read()) == b"good"
        with pytest.raises(BodyInvalid, match="broke"):
            loop.run_until_complete(body.read())
    finally:
        loop.close()


def test_a_body_that_nobody_wants_is_thrown_away_and_still_has_an_end() -> None:
    source = Source()
    body = BufferedBody(source)
    body.data(b"x" * (300 << 10))
    body.drop()
    assert source.asked == ["pause", "resume"]
    body.data(b"y" * (300 << 10))
    body.end()
    assert source.asked == ["pause", "resume"]
    assert body.whole
