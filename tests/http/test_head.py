"""Bytes to one request head: the same however they are cut, never a byte of what follows it, and bounded."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_keepalive_proxy.errors import RequestInvalid
from sse_keepalive_proxy.http.head import CHUNKED, MOST_FIELDS, NOT_HTTP, HeadReader, RequestHead

LIMIT = 4096
GET = b"GET /a?b=c HTTP/1.1\r\nHost: a\r\nX: y \r\n\r\n"
POST = b"POST /p HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
SEARCH = b"M-SEARCH * HTTP/1.1\r\nHost: a\r\n\r\n"
TLS = "the client speaks TLS, and this port does not: use http://, or set `tls`"


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces."""
    at = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in pairwise(at) if start < end]


def read(pieces: list[bytes], limit: int = LIMIT) -> tuple[bytes, bytes]:
    """The head that `pieces` begin with, and all that follows it."""
    reader = HeadReader(limit)
    for at, piece in enumerate(pieces):
        rest = reader.feed(piece)
        if rest is not None:
            return reader.head, rest + b"".join(pieces[at + 1 :])
    raise AssertionError(f"the head is not whole: {reader.head!r}")


def refusal(pieces: list[bytes], limit: int = LIMIT) -> RequestInvalid | None:
    """What a head is refused with; None when it is not, whole or not."""
    reader = HeadReader(limit)
    try:
        for piece in pieces:
            if reader.feed(piece) is not None:
                return None
    except RequestInvalid as error:
        return error
    return None


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@given(
    st.sampled_from([GET, POST, SEARCH]),
    st.sampled_from([b"", b"\r\n", b"\r\n\r\n\n", b"\r\n" * 50]),
    st.binary(max_size=20),
    st.lists(st.integers(0, 200), max_size=12),
)
def test_a_head_is_the_same_however_its_bytes_are_cut(
    head: bytes, blank: bytes, behind: bytes, places: list[int]
) -> None:
    assert read(cut(blank + head + behind, places)) == (head, behind)


@given(st.binary(max_size=60), st.lists(st.integers(0, 200), max_size=12))
def test_a_refusal_is_the_same_however_its_bytes_are_cut(middle: bytes, places: list[int]) -> None:
    raw = b"GET / HTTP/1.1\r\nHost: a" + middle + b"\r\n\r\n"
    whole, pieces = refusal([raw]), refusal(cut(raw, places))
    assert (whole and whole.status) == (pieces and pieces.status)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"nonsense\r\n\r\n", NOT_HTTP),
        (b"get / HTTP/1.1\r\n", NOT_HTTP),
        (b"\x00", NOT_HTTP),
        (b" GET / HTTP/1.1\r\n", NOT_HTTP),
        (b"A" * 25, NOT_HTTP),
        (b"GET /\r\n", NOT_HTTP),
        (b"GET / HTTP/1.2\r\n", NOT_HTTP),
        (b"GET / HTTP/0.9\r\n", NOT_HTTP),
        (b"GET / http/1.1\r\n", NOT_HTTP),
        (b"GET / HTTP/1.1 \r\n", NOT_HTTP),
        (b"GET / HTTP/1.1\n", NOT_HTTP),
        (b"DESCRIBE / RTSP/1.0\r\n", NOT_HTTP),
        (b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n", NOT_HTTP),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", NOT_HTTP),
        (b"\x16\x03\x01\x02\x00\x01\x00", TLS),
    ],
)
def test_what_is_no_http_1_is_refused_at_its_first_line(raw: bytes, text: str) -> None:
    error = refusal([raw])
    assert error is not None
    assert (error.status, str(error)) == (400, text)


@pytest.mark.parametrize("target", [b"a:1", b"/", b"xn--]:1", b"*"])
def test_connect_is_refused(target: bytes) -> None:
    error = refusal([b"CONNECT " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n"])
    assert error is not None
    assert (error.status, str(error)) == (501, "CONNECT is not supported")


@pytest.mark.parametrize(
    "target", [b"http://b/x", b"http://xn--]", b"*", b"//[", b"/xn--]", b"a", b"/\xc3\xbc"]
)
def test_targets_are_left_to_who_admits_requests(target: bytes) -> None:
    raw = b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    assert read([raw]) == (raw, b"")


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\n\nX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\rX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n",
        b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_a_line_ends_with_cr_and_lf_and_holds_neither(raw: bytes) -> None:
    for pieces in ([raw], bytewise(raw)):
        error = refusal(pieces)
        assert error is not None
        assert (error.status, str(error)) == (400, NOT_HTTP)


def test_a_line_feed_alone_is_refused_before_the_head_is_whole() -> None:
    assert refusal([b"GET / HTTP/1.1\r\nHost: a\n"]) is not None


@pytest.mark.parametrize("pieces", [1, 7, LIMIT])
def test_a_head_may_have_as_many_bytes_as_the_limit_says_and_no_more(pieces: int) -> None:
    start = b"GET / HTTP/1.1\r\nX: "
    fits = start + b"y" * (LIMIT - len(start) - 4) + b"\r\n\r\n"
    step = len(fits) // pieces
    assert len(fits) == LIMIT
    assert read([fits[at : at + step] for at in range(0, LIMIT, step)] + [b"behind"]) == (fits, b"behind")
    error = refusal([b"\r\n", fits])
    assert error is not None
    assert (error.status, str(error)) == (431, f"the request head is larger than {LIMIT} bytes")
    assert refusal([fits[:-4] + b"y" * 5]) is not None


def test_what_follows_a_head_does_not_count() -> None:
    assert read([GET + b"x" * LIMIT]) == (GET, b"x" * LIMIT)


def test_blank_lines_in_front_count_and_are_bounded() -> None:
    reader = HeadReader(LIMIT)
    for _ in range(LIMIT // 2):
        assert reader.feed(b"\r\n") is None
    assert (reader.size, reader.head) == (LIMIT, b"")
    with pytest.raises(RequestInvalid) as caught:
        reader.feed(b"\r\n")
    assert caught.value.status == 431


class Counted(bytes):
    """Bytes that count how many of them are copied or looked at from Python."""

    looked_at = 0

    def lstrip(self, letters: bytes | None = None, /) -> bytes:  # type: ignore[override]
        Counted.looked_at += len(self)
        return Counted(super().lstrip(letters))

    def __radd__(self, other: bytes) -> bytes:
        Counted.looked_at += len(other) + len(self)
        return bytes(other) + bytes(self)


@pytest.mark.parametrize("size", [1, 2, 64, 1 << 16])
def test_blank_lines_are_looked_at_once_each(size: int) -> None:
    Counted.looked_at, blank = 0, b"\r\n" * (1 << 15)
    reader = HeadReader(1 << 16)
    for at in range(0, len(blank), size):
        assert reader.feed(Counted(blank[at : at + size])) is None
        assert reader.head == b""  # nothing is kept that could be looked at again
    assert Counted.looked_at <= 2 * len(blank)


def test_a_head_has_at_most_a_hundred_fields() -> None:
    line = b"GET / HTTP/1.1\r\n"
    most = line + b"X: y\r\n" * MOST_FIELDS + b"\r\n"
    assert read([most]) == (most, b"")
    error = refusal([line + b"X: y\r\n" * (MOST_FIELDS + 1) + b"\r\n"])
    assert error is not None
    assert (error.status, str(error)) == (431, "the request head has more than 100 fields")


@pytest.mark.parametrize(
    ("fields", "announced"),
    [
        (b"", 0),
        (b"Content-Length: 0\r\n", 0),
        (b"Content-Length: 5\r\n", 5),
        (b"CONTENT-LENGTH:\t0005 \r\n", 5),
        (b"X-Content-Length: 5\r\n", 0),
        (b"X: Content-Length: 5\r\n", 0),
        (b"Transfer-Encoding: chunked\r\n", CHUNKED),
        (b"transfer-encoding:CHUNKED\r\n", CHUNKED),
        (b"Transfer-Encoding: gzip\r\n", CHUNKED),
        (b"X-Transfer-Encoding: chunked\r\n", 0),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", CHUNKED),
    ],
)
def test_a_head_announces_its_body(fields: bytes, announced: int) -> None:
    assert RequestHead.of(b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n").body == announced


@pytest.mark.parametrize(
    "target", [b"/", b"*", b"/a?b=c", b"http://b/x", "/ü?测=试".encode(), b"//[", b"x y"]
)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_aiohttp_gets_no_target(target: bytes, version: bytes) -> None:
    head = RequestHead.of(b"GET " + target + b" HTTP/" + version + b"\r\nHost: a\r\n\r\n")
    assert head.target == target
    assert head.for_aiohttp == b"GET / HTTP/" + version + b"\r\nHost: a\r\n\r\n"


def test_more_blanks_around_a_target_are_no_part_of_it() -> None:
    head = RequestHead.of(b"GET  /a   HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (head.target, head.for_aiohttp[:14]) == (b"/a", b"GET / HTTP/1.1")


def test_a_field_that_aiohttp_accepts_once_is_given_to_it_once() -> None:
    fields = b"Host: a\r\nuser-agent: 1\r\nX: y\r\nX: z\r\nUser-Agent: \t2 \xff \r\nUSER-AGENT:\r\n"
    head = RequestHead.of(b"GET / HTTP/1.1\r\n" + fields + b"ETag: e\r\n\r\n")
    assert head.for_aiohttp == (
        b"GET / HTTP/1.1\r\nHost: a\r\nuser-agent: 1\r\nX: y\r\nX: z\r\nETag: e\r\n\r\n"
    )
    assert head.repeated == ((b"User-Agent", b"2 \xff"), (b"USER-AGENT", b""))


@pytest.mark.parametrize(
    "field",
    [
        b"Host: a",  # these decide who is asked, and where a body ends
        b"Content-Length: 1",
        b"Transfer-Encoding: chunked",
        b"Server : a",  # these can be read in two ways
        b" Server: a",
        b"Server: a\r\n b",
        b"Server: a\x00",
        b"Server: a\x7f",
    ],
)
def test_a_repeated_field_that_is_doubtful_is_left_to_the_parser(field: bytes) -> None:
    raw = b"GET / HTTP/1.1\r\nServer: a\r\n" + field + b"\r\n" + field + b"\r\n\r\n"
    head = RequestHead.of(raw)
    assert (head.for_aiohttp, head.repeated) == (raw, ())


def test_the_head_of_a_request_whose_body_was_empty_announces_none() -> None:
    head = RequestHead.of(b"GET /a HTTP/1.1\r\nHost: a\r\ntransfer-Encoding: chunked\r\nX: y\r\n\r\n")
    assert head.may_end_empty
    bare = head.without_body()
    assert bare.for_aiohttp == b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n"
    assert (bare.target, bare.body) == (b"/a", 0)


@pytest.mark.parametrize(
    "raw",
    [
        b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /a HTTP/1.0\r\nX: / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /a HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"GET /a HTTP/1.1\r\nTransfer-Encoding: xx\r\n\r\n",
        b"GET /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /a HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /a HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n",
    ],
)
def test_a_head_whose_framing_is_in_doubt_is_left_as_it_is(raw: bytes) -> None:
    assert not RequestHead.of(raw).may_end_empty
