"""Header fields on their way through: which end here, which are vouched for, what a stream's head says."""

from __future__ import annotations

import pytest

from sse_keepalive_proxy.http.headers import (
    Header,
    connection_tokens,
    encode_head,
    end_to_end,
    stream_head,
)

HOP_BY_HOP = [
    "Connection",
    "Keep-Alive",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "Proxy-Connection",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
]


def fields(*lines: str) -> list[Header]:
    """Header lines (`Name: value`) as raw fields."""
    pairs = (line.partition(":") for line in lines)
    return [(name.encode(), value.strip().encode("latin-1")) for name, _, value in pairs]


# What passes from one connection to the other.


@pytest.mark.parametrize("name", HOP_BY_HOP)
def test_a_hop_by_hop_field_ends_here_in_any_case(name: str) -> None:
    given = fields("A: 1", f"{name}: x", f"{name.upper()}: x", f"{name.lower()}: x", "B: 2")
    assert end_to_end(given) == fields("A: 1", "B: 2")


@pytest.mark.parametrize("name", [name for name in HOP_BY_HOP if "-" in name] + ["Content-Length"])
def test_what_a_server_that_takes_underscores_for_hyphens_would_read_as_one_ends_here_too(name: str) -> None:
    assert end_to_end(fields(f"{name.replace('-', '_')}: x", "A_B: 1")) == fields("A_B: 1")


def test_all_else_keeps_its_order_its_case_its_repeats_and_its_bytes() -> None:
    given = fields("set-cookie: a=1", "X-ONE: é", "Set-Cookie: b=2", "x-one:", "Content-Length: 3", "Host: a")
    assert end_to_end(given) == given


@pytest.mark.parametrize(
    "connection",
    [
        ["Connection: x-one, X-TWO"],
        ["Connection: X-One", "connection:x-two ,"],
        ["CONNECTION: ,x-one,,x-two"],
    ],
)
def test_fields_named_in_connection_end_here(connection: list[str]) -> None:
    assert end_to_end(fields("X-One: 1", *connection, "x-two: 2", "X-Three: 3")) == fields("X-Three: 3")


def test_naming_host_or_a_length_in_connection_takes_neither_out() -> None:
    given = fields("Host: a", "Content-Length: 3")
    assert end_to_end([*given, *fields("Connection: host, content-length")]) == given


def test_the_tokens_of_every_connection_field_count() -> None:
    given = fields("Connection: keep-alive, Upgrade", "connection: X-One", "Other: x-two")
    assert connection_tokens(given) == {b"keep-alive", b"upgrade", b"x-one"}


def test_a_head_is_written_line_by_line() -> None:
    head = encode_head(b"GET / HTTP/1.1", fields("A: 1", "B:"))
    assert head == b"GET / HTTP/1.1\r\nA: 1\r\nB: \r\n\r\n"
    assert encode_head(b"HTTP/1.1 204 ", []) == b"HTTP/1.1 204 \r\n\r\n"


# The head of a stream.


def test_a_streams_head_loses_what_would_be_a_lie_about_its_body() -> None:
    given = fields("Content-Length: 3", "ETag: x", "Content-Encoding: identity", "X-Accel-Buffering: yes")
    assert stream_head(given) == fields("Cache-Control: no-cache, no-transform", "X-Accel-Buffering: no")


@pytest.mark.parametrize(
    ("upstream", "merged"),
    [
        ([], "no-cache, no-transform"),
        (["Cache-Control: no-cache"], "no-cache, no-transform"),
        (["cache-control: NO-Transform"], "NO-Transform, no-cache"),
        (["Cache-Control: private, max-age=0"], "private, max-age=0, no-cache, no-transform"),
        (["Cache-Control: no-store,", "Cache-Control:no-cache"], "no-store, no-cache, no-transform"),
    ],
)
def test_cache_control_is_merged_into_one_field(upstream: list[str], merged: str) -> None:
    head = stream_head(fields(*upstream, "Content-Type: text/event-stream"))
    assert head == fields(
        "Content-Type: text/event-stream", f"Cache-Control: {merged}", "X-Accel-Buffering: no"
    )
