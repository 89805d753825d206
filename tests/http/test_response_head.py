"""Response heads of upstream: what is read, what is mended, what is refused, and at what cost.

The shapes that nginx and HAProxy are compared by are in `tests/integration/upstream_shapes.py`.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sse_keepalive_proxy.errors import UpstreamInvalid
from sse_keepalive_proxy.http.response import ResponseHead
from sse_keepalive_proxy.http.response_head import CHUNKED, UNTIL_CLOSE, ResponseReader, body_size
from tests.integration.upstream_shapes import SHAPES


def read(raw: bytes) -> ResponseHead:
    """The head in `raw`."""
    head = ResponseReader().feed(raw)
    assert head is not None
    return head


def fields(*lines: bytes) -> ResponseHead:
    """A head with these lines behind its status line."""
    return read(b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"", b""]))


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (b"A:b", (b"A", b"b")),
        (b"A: \t b \t", (b"A", b"b")),
        (b"A:", (b"A", b"")),
        (b"A : b", (b"A", b"b")),
        (b"A: b: c", (b"A", b"b: c")),
        (b"A: b\r\n  c\n\td", (b"A", b"b c d")),
        (b"A: b\rc\x00d", (b"A", b"b c d")),
        (b"\xc3\xa9[]: \xff\x01", (b"\xc3\xa9[]", b"\xff\x01")),
    ],
)
def test_a_field_is_a_name_and_a_value_without_outer_blanks(line: bytes, field: tuple[bytes, bytes]) -> None:
    assert fields(b"Z: 1", line, b"Z: 2").headers == [(b"Z", b"1"), field, (b"Z", b"2")]


@pytest.mark.parametrize("line", [b"no colon", b"two words: b", b": b", b"A\x01: b", b"HTTP/1.1 500"])
def test_a_line_without_a_name_and_a_colon_is_dropped(line: bytes) -> None:
    assert fields(b"Z: 1", line, b"Z: 2").headers == [(b"Z", b"1"), (b"Z", b"2")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"HTTP/1.1 200 All right", b"All right"),
        (b"HTTP/1.1 200\t  OK ", b"OK"),
        (b"HTTP/1.1 200 ", b""),
        (b"HTTP/1.0 200", b""),
        (b"http/1.1 200 OK", b"OK"),
        (b"HTTP/1.1 200.1 Odd", b"Odd"),
        (b"HTTP/1.1 200 Qu\xfc", b"Qu\xfc"),
        (b"HTTP/1.1 200 O\x7fK", b""),
        (b"HTTP/1.1 200 O\rK", b"O K"),
    ],
)
def test_a_reason_is_what_follows_the_status_if_it_can_be_passed_on(line: bytes, reason: bytes) -> None:
    head = read(line + b"\r\n\r\n")
    assert (head.status, head.reason) == (200, reason)


@pytest.mark.parametrize(
    ("lines", "size", "length"),
    [
        ([], UNTIL_CLOSE, []),
        ([b"Content-Length: 5"], 5, [b"5"]),
        ([b"Content-Length: 5", b"content-length: 5"], 5, [b"5"]),
        ([b"Content-Length: 5, 5 ,5"], 5, [b"5"]),
        ([b"Content-Length: -1"], UNTIL_CLOSE, []),
        ([b"Content-Length:"], UNTIL_CLOSE, []),
        ([b"Content-Length: " + b"9" * 5000], UNTIL_CLOSE, []),
        ([b"Content-Length: \xb2"], UNTIL_CLOSE, []),
        ([b"Transfer-Encoding: Chunked"], CHUNKED, []),
        ([b"Content-Length: 5", b"Transfer-Encoding: chunked"], CHUNKED, []),
        ([b"Content-Length: 5", b"Content-Length: 6", b"Transfer-Encoding: chunked"], CHUNKED, []),
        ([b"Transfer-Encoding: identity", b"Content-Length: 5"], 5, [b"5"]),
        ([b"Transfer-Encoding: identity", b'Transfer-Encoding: "chunked" ;q=1'], CHUNKED, []),
        ([b"Transfer-Encoding: binary"], UNTIL_CLOSE, []),
    ],
)
def test_the_body_has_one_size_and_the_head_says_no_other(
    lines: list[bytes], size: int, length: list[bytes]
) -> None:
    head = fields(*lines)
    assert (body_size(head), head.get_all(b"content-length")) == (size, length)


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_none(status: int) -> None:
    assert body_size(read(b"HTTP/1.1 %d X\r\nTransfer-Encoding: chunked\r\n\r\n" % status)) == 0


@pytest.mark.parametrize("line", [b"gzip", b"chunked, x-gzip", b"DEFLATE", b"br;q=1", b"zstd"])
def test_a_compressed_transfer_is_refused(line: bytes) -> None:
    with pytest.raises(UpstreamInvalid, match="not asked for"):
        body_size(fields(b"Transfer-Encoding: " + line))


def test_a_head_ends_with_the_first_blank_line_and_gives_the_rest_back() -> None:
    for end in (b"\r\n\r\n", b"\n\n", b"\r\n\n", b"\n\r\n"):
        reader = ResponseReader()
        assert reader.feed(b"HTTP/1.1 200 OK\r\nA: b" + end + b"\n\nbody") is not None
        assert reader.rest == b"\n\nbody"


@given(st.sampled_from(sorted(SHAPES)), st.lists(st.integers(1, 70_000), max_size=4))
def test_it_does_not_matter_where_a_head_is_cut(name: str, cuts: list[int]) -> None:
    raw = SHAPES[name][0]
    at = [0, *sorted({cut % len(raw) for cut in cuts} - {0}), len(raw)]

    def outcome(pieces: list[bytes]) -> object:
        reader = ResponseReader()
        try:
            for number, piece in enumerate(pieces):
                if (head := reader.feed(piece)) is not None:
                    return head, reader.rest + b"".join(pieces[number + 1 :])
        except UpstreamInvalid as error:
            return str(error)
        return None

    pieces = [raw[start:end] for start, end in pairwise(at)]
    assert outcome(pieces) == outcome([raw])


@pytest.mark.parametrize(
    "raw", [b"S", b"<", b"\x15\x03", b"\x00\x00\x12\x04", b"HTTP\n", b"https", b"HTTP/1.1 x\n"]
)
def test_what_is_no_http_is_refused_with_its_first_bytes_or_its_first_line(raw: bytes) -> None:
    with pytest.raises(UpstreamInvalid):
        ResponseReader().feed(raw)


def test_each_byte_of_a_head_is_looked_at_once() -> None:
    reader = ResponseReader()
    assert reader.feed(b"\r\n" * 65_536) is None
    assert reader._head == b""  # blank lines are not kept
    with pytest.raises(UpstreamInvalid, match="larger than"):
        reader.feed(b"\r\n" * 65_537)
