"""Chunked coding, taken off strictly from a client, and leniently from upstream.

What is accepted strictly, llhttp reads in the same way.
"""

from __future__ import annotations

from itertools import pairwise

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sse_keepalive_proxy.errors import CodingInvalid
from sse_keepalive_proxy.http.chunked import LAST_CHUNK, LENIENT, ChunkedDecoder, chunk, size_line

ALLOWANCE = 4096
WHOLE = b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: r\r\n\r\n"


class Llhttp:
    """What llhttp makes of a chunked body: the data, and whether it is whole."""

    def __init__(self) -> None:
        self.data = b""
        self.complete = False
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        self.data += data

    def on_message_complete(self) -> None:
        self.complete = True

    def feed(self, data: bytes) -> None:
        """Raises `HttpParserError`."""
        self._parser.feed_data(data)


def decode(pieces: list[bytes], allowance: int = ALLOWANCE) -> tuple[bytes, bytes, bool]:
    """The data in `pieces`, what was not judged (it follows the body, or is an unfinished line), and whether
    the body is whole. Raises `CodingInvalid`.
    """
    decoder, data = ChunkedDecoder(allowance), b""
    for at, piece in enumerate(pieces):
        found, rest = decoder.feed(piece)
        data += found
        if decoder.complete:
            return data, rest + b"".join(pieces[at + 1 :]), True
        assert rest == b""
    return data, decoder._line, False


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces."""
    at = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in pairwise(at) if start < end]


# fmt: off
CODING = [
    b"0", b"1", b"a", b"F", b"3", b"10", b"00000003", b"fffffffffffffff", b"-1", b"+1", b"0x1",
    b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b" ", b"\t", b";", b"x=y", b'q="\""', b"abc",
    b"T: r", b"T : r", b" T: r", b"Content-Length: 3", b"Transfer-Encoding: chunked", b"Host: b",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x00", b"\xff", b"3\r\nabc\r\n", b"0\r\n\r\n",
]
# fmt: on
pieces_of_coding = st.lists(st.one_of(st.sampled_from(CODING), st.binary(max_size=3)), max_size=12).map(
    b"".join
)


@given(pieces_of_coding, st.lists(st.integers(0, 300), max_size=6))
@example(b"3 \r\nabc\r\n0\r\n\r\n", [])
@example(b"3\nabc\r\n0\r\n\r\n", [])
@example(b"0\r\nContent-Length: 3\r\n\r\nabc", [])
def test_what_is_accepted_is_what_llhttp_reads_however_it_is_cut(body: bytes, places: list[int]) -> None:
    try:
        data, rest, complete = decode(cut(body, places))
    except CodingInvalid:
        return
    reference = Llhttp()
    reference.feed(body[: len(body) - len(rest)])  # what llhttp refuses would fail here
    assert (reference.data, reference.complete) == (data, complete)


def leniently(pieces: list[bytes]) -> tuple[bytes, bytes | None, bool]:
    """The data in `pieces`, the bytes after the body (None: it is broken), and whether the body is whole. As
    upstream's exchange decodes them.
    """
    decoder, data = ChunkedDecoder(ALLOWANCE, LENIENT), b""
    for at, piece in enumerate(pieces):
        if found := decoder.only_chunk(piece):
            data += found
            continue
        try:
            found, rest = decoder.feed(piece)
        except CodingInvalid as error:
            return data + error.found, None, False
        data += found
        if decoder.complete:
            return data, rest + b"".join(pieces[at + 1 :]), True
    return data, b"", False


@given(pieces_of_coding, st.lists(st.integers(0, 300), max_size=6))
@example(b"3\r\nabc\r\n3\r\nabc\r\n", [8])
@example(b"3\r\nabc\n3 \nabc\r\n", [1, 2, 3, 6, 7])
def test_leniently_it_does_not_matter_where_the_coding_is_cut(body: bytes, places: list[int]) -> None:
    assert leniently(cut(body, places)) == leniently([body])


@given(pieces_of_coding)
def test_what_is_accepted_strictly_is_read_in_the_same_way_leniently(body: bytes) -> None:
    try:
        data, rest, complete = decode([body])
    except CodingInvalid:
        return
    assert leniently([body]) == (data, rest if complete else b"", complete)


@pytest.mark.parametrize(
    "bad", [b" 3\r\n", b"0x3\r\n", b"-3\r\n", b"+3\r\n", b"\r\n", b"x", b"3x", b"3\r\nabcd"]
)
def test_also_leniently_a_size_begins_with_its_digits_and_data_ends_with_a_line_end(bad: bytes) -> None:
    assert leniently([b"2\nhi\n", bad]) == (b"hi" + (b"abc" if b"abc" in bad else b""), None, False)


@given(
    st.lists(st.binary(min_size=1, max_size=3000), max_size=5), st.lists(st.integers(0, 20000), max_size=12)
)
def test_what_is_written_is_read_again_however_it_is_cut(chunks: list[bytes], places: list[int]) -> None:
    coded = b"".join(map(chunk, chunks)) + LAST_CHUNK
    assert decode(cut(coded + b"behind", places)) == (b"".join(chunks), b"behind", True)


@given(st.lists(st.integers(0, 200), max_size=12), st.binary(max_size=30))
def test_extensions_and_trailers_are_dropped_and_what_follows_is_left_alone(
    places: list[int], behind: bytes
) -> None:
    assert decode(cut(WHOLE + behind, places)) == (b"abcde", behind, True)


@pytest.mark.parametrize("size", [1, 9, 10, 2047, 2048, 65536])
def test_a_size_line_is_the_size_in_hexadecimal(size: int) -> None:
    assert size_line(size) == f"{size:x}\r\n".encode()


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\n",
        b"\r\n",
        b"3\nabc\r\n",
        b"3 \r\nabc\r\n",
        b" 3\r\nabc\r\n",
        b"3\r\r\n",
        b"-3\r\nabc\r\n",
        b"0x3\r\nabc\r\n",
        b"3\r\nabcd\r\n",
        b"3\r\nabc\n",
        b"3\r\nabc\r\r\n",
        b"3;x=\x00\r\n",
        b"3;x\ry\r\n",
        b"fffffffffffffffff\r\n",  # 16^17
        b"0\r\nT\r\n",
        b"0\r\nT : r\r\n",
        b"0\r\n T: r\r\n",
        b"0\r\nT: r\n",
        b"0\r\nT: r\r\n s\r\n",
        b"0\r\nT: \x00\r\n",
        b"0\r\nContent-Length: 3\r\n",
        b"0\r\nTRANSFER-ENCODING: chunked\r\n",
        b"0\r\n\n",
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(body: bytes) -> None:
    for pieces in ([body], [body[at : at + 1] for at in range(len(body))]):
        with pytest.raises(CodingInvalid, match="is not valid"):
            decode(pieces)


@pytest.mark.parametrize(
    "coding",
    [
        b"1;" + b"x" * 40 + b"\r\na\r\n",
        b"000000000000001\r\n\r\n",
        b"1;" + b"x" * 5000,
        b"0\r\n" + b"T: r\r\n" * 1000,
        b"0\r\nT: " + b"x" * 5000,
    ],
)
def test_coding_is_bounded_by_its_data(coding: bytes) -> None:
    with pytest.raises(CodingInvalid):
        decode([coding] * ALLOWANCE)


def test_a_byte_may_cost_sixteen_and_a_body_as_much_as_it_is_allowed() -> None:
    cheap = b"1;xxxx\r\na\r\n"  # 10 bytes of coding
    assert decode([cheap] * ALLOWANCE + [LAST_CHUNK]) == (b"a" * ALLOWANCE, b"", True)
    padded = b"1;" + b"x" * 40 + b"\r\na\r\n"  # 46
    assert decode([padded] * 10 + [LAST_CHUNK]) == (b"a" * 10, b"", True)
    with pytest.raises(CodingInvalid, match="more chunked coding than data"):
        decode([padded] * ALLOWANCE)


def test_a_short_body_may_have_about_a_hundred_trailers() -> None:
    few, many = (b"0\r\n" + b"T: r\r\n" * count + b"\r\n" for count in (90, 110))
    assert decode([few], 32 << 10) == (b"", b"", True)
    with pytest.raises(CodingInvalid, match="more chunked coding than data"):
        decode([many], 32 << 10)


def test_nothing_is_kept_of_data() -> None:
    decoder = ChunkedDecoder(ALLOWANCE)
    decoder.feed(b"fffffff\r\n")
    piece = b"x" * 65536
    for _ in range(10):
        assert decoder.feed(piece) == (piece, b"")
        assert decoder._line == b""
