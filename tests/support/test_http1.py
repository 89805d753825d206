"""The strict readers of HTTP/1.1."""

import pytest

from tests.support.http1 import (
    LAST_CHUNK,
    Dechunker,
    RequestReader,
    ResponseReader,
    chunk,
    joined,
    request,
    response,
    stream_head,
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_dechunking_does_not_depend_on_how_bytes_are_cut(size: int) -> None:
    coded = joined([b"hello", b"\r\n\r\n", b"x" * 300]) + b"0\r\nx-trailer: 1\r\n\r\nnext"
    reader = Dechunker()
    out = b"".join(reader.feed(coded[i : i + size]) for i in range(0, len(coded), size))
    assert out == b"hello\r\n\r\n" + b"x" * 300
    assert reader.ended
    assert reader.rest == b"next"
    assert reader.trailers == b"x-trailer: 1"
    assert reader.chunk_sizes == [5, 4, 300]


def test_part_of_a_chunk_is_given_out_as_it_comes() -> None:
    reader = Dechunker()
    assert reader.feed(b"a\r\nhel") == b"hel"
    assert reader.feed(b"lo") == b"lo"
    assert not reader.ended


@pytest.mark.parametrize("bad", [b"x\r\n", b"-1\r\n", b"\r\n", b"2\r\nabcd", b"0x2\r\nab\r\n"])
def test_a_malformed_chunk_is_an_error(bad: bytes) -> None:
    with pytest.raises(ValueError, match="chunk"):
        Dechunker().feed(bad)


def test_chunk_never_writes_a_last_chunk_by_accident() -> None:
    assert chunk(b"") == b""
    assert chunk(b"a" * 26) == b"1a\r\n" + b"a" * 26 + b"\r\n"


def test_pipelined_requests_are_told_apart() -> None:
    reader = RequestReader()
    reader.feed(request("/a?b=c", "X-Y: z", host="h") + request("/d", method="POST", body=b"12"))
    first, second = reader.requests
    assert (first.method, first.target, first.version, first.complete) == ("GET", "/a?b=c", "HTTP/1.1", True)
    assert first.header("x-y") == "z"
    assert first.raw_head == b"GET /a?b=c HTTP/1.1\r\nHost: h\r\nX-Y: z\r\n\r\n"
    assert (second.method, bytes(second.body), second.complete) == ("POST", b"12", True)
    assert second.header("missing") is None


def test_a_request_is_listed_before_its_body_is_whole() -> None:
    reader = RequestReader()
    reader.feed(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab")
    assert [request.complete for request in reader.requests] == [False]
    reader.feed(b"c\r\n" + LAST_CHUNK)
    assert [(request.complete, bytes(request.body)) for request in reader.requests] == [(True, b"abc")]


@pytest.mark.parametrize(
    "bad", [b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"G E T / H\r\n\r\n"]
)
def test_what_is_no_request_is_an_error(bad: bytes) -> None:
    with pytest.raises(ValueError, match="not a"):
        RequestReader().feed(bad)


def test_a_stream_grows_until_its_last_chunk() -> None:
    reader = ResponseReader()
    assert reader.feed(stream_head() + chunk(b"data: 1\n\n")) == b"data: 1\n\n"
    answer = reader.responses[0]
    assert (answer.status, answer.reason, answer.complete) == (200, "OK", False)
    assert answer.header_names == ["content-type", "cache-control", "transfer-encoding"]
    reader.feed(LAST_CHUNK)
    assert answer.complete


def test_a_given_header_replaces_the_default_one() -> None:
    head = stream_head("Cache-Control: private", "x: y", chunked=False, status="203 Odd")
    assert head == (
        b"HTTP/1.1 203 Odd\r\ncontent-type: text/event-stream\r\nCache-Control: private\r\nx: y\r\n\r\n"
    )


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    reader = ResponseReader()
    reader.feed(stream_head(chunked=False) + b"data")
    assert [answer.complete for answer in reader.responses] == [False]
    reader.end()
    assert [(answer.complete, bytes(answer.body)) for answer in reader.responses] == [(True, b"data")]


def test_a_chunked_body_cut_short_is_not_complete() -> None:
    reader = ResponseReader()
    reader.feed(stream_head() + b"5\r\nda")
    reader.end()
    assert not reader.responses[0].complete


def test_answers_without_a_body_do_not_swallow_the_next_one() -> None:
    reader = ResponseReader()
    reader.methods = ["HEAD", "GET", "GET"]
    reader.feed(
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n"
        b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n" + response("404 Not Found", b"gone")
    )
    assert [answer.status for answer in reader.responses] == [200, 304, 404]
    assert [answer.status for answer in reader.informational] == [100]
    assert reader.responses[2].body == b"gone"
    assert all(answer.complete for answer in reader.responses)
