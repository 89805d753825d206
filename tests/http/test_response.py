"""A response head of upstream: what it says of its body."""

from __future__ import annotations

import pytest

from sse_keepalive_proxy.http.response import ResponseHead

STREAM = (b"Content-Type", b"text/event-stream")


def head(status: int, *fields: tuple[bytes, bytes]) -> ResponseHead:
    return ResponseHead(status, b"", fields)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (head(200, STREAM), True),
        (head(201, (b"content-type", b"Text/Event-Stream ; charset=utf-8")), True),
        (head(200, STREAM, (b"Content-Encoding", b"gzip")), True),
        (head(204, STREAM), False),
        (head(205, STREAM), False),
        (head(301, STREAM), False),
        (head(404, STREAM), False),
        (head(500, STREAM), False),
        (head(200, (b"content-type", b"text/event-streams")), False),
        (head(200, (b"content-type", b"application/json")), False),
        (head(200), False),
    ],
)
def test_a_stream_is_a_2xx_with_that_type_and_a_body(answer: ResponseHead, expected: bool) -> None:
    assert answer.is_event_stream == expected
