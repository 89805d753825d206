"""A block that is forwarded before its end has come, read line by line."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sse_keepalive_proxy.wire.block import parse, split, tally
from sse_keepalive_proxy.wire.framing import Framer
from sse_keepalive_proxy.wire.part import Part
from tests.wire.bodies import chunkings, cut_blocks, released_by

LINES = pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])


def unfinished(chunks: list[bytes]) -> tuple[bytes, list[bytes]]:
    """The first bytes that a framer holds, and what comes behind them."""
    framer = Framer(1 << 20, sure=True)
    for number, chunk in enumerate(chunks):
        framer.feed(chunk)
        if framer.begun and framer.pending:
            return framer.release(), chunks[number + 1 :]
    return b"", []


@settings(deadline=None)
@given(chunkings())
@example([b"data: 1\r", b"\n", b"\r\n"])
@example([b"data: 1\r", b"\r", b"\n"])
@example([b":no", b"te\r", b"\ndata: 1\n\n"])
def test_a_block_is_forwarded_to_its_end_and_read_as_if_it_were_whole(chunks: list[bytes]) -> None:
    held, rest = unfinished(chunks)
    if not held:
        return
    part = Part(held)
    assert part.take(held) == held
    taken, events, comments = held, part.events, part.comments
    lines = part.lines
    body = held + b"".join(rest)
    for data in rest:
        if part.ended or not data:
            continue
        taken += part.take(data)
        events, comments, lines = events + part.events, comments + part.comments, lines + part.lines
    block = next(cut_blocks(body, comments=True))
    assert taken == block or taken + b"\n" == block  # the LF of a CR LF may come later
    assert part.ended == (released_by(taken) > 0)
    if part.ended:
        assert (events, comments) == tally(taken)[:2]
        assert parse(lines).id == parse(taken).id


@LINES
def test_each_line_is_read_once_it_is_whole_and_the_name_goes_before(end: bytes) -> None:
    part = Part(b"event: a")
    part.take(b"event: a")
    assert part.lines == b""
    part.take(end + b"data: 1" + end + b"id: 4")
    assert parse(part.lines).name == b"a"
    assert (part.events, part.has_data) == (1, True)
    part.take(b"2" + end + b"data: 2" + end)
    assert [line for line in part.lines.splitlines() if line] == [b"event: a", b"id: 42", b"data: 2"]
    assert (part.events, part.has_data) == (0, True)
    rest = end + b"data: another" + end + end
    assert part.take(rest) == end
    assert part.ended
    assert (part.events, part.has_data) == (0, False)


def test_an_event_counts_from_the_beginning_of_its_first_line_of_data() -> None:
    part = Part(b"dat")
    part.take(b"dat")
    assert (part.events, part.has_data) == (0, False)
    part.take(b"a: 1")
    assert (part.events, part.has_data) == (1, False)
    part.take(b"2\n")
    assert (part.events, part.has_data) == (0, True)


def test_of_a_long_line_only_the_beginning_is_kept() -> None:
    part = Part(b"data: ")
    part.take(b"data: ")
    for number in range(1, 101):
        part.take(b"x" * 1000)
        assert part.has_data == (number > 8)
    part.take(b"y\nid: 4\n")
    assert len(part.lines) < 10_000
    assert parse(part.lines).id == b"4"


@pytest.mark.parametrize(
    ("sent", "mid_line"), [(b"data: 1", True), (b"data: 1\n", False), (b"data: 1\r", False), (b":", True)]
)
def test_it_says_whether_a_line_is_unfinished(sent: bytes, mid_line: bool) -> None:
    part = Part(sent)
    part.take(sent)
    assert part.mid_line == mid_line


def test_a_comment_before_the_first_field_ends_with_its_line() -> None:
    part = Part(b":no")
    part.take(b":no")
    assert part.take(b"te\ndata: 1\n") == b"te\n"
    assert part.ended
    assert part.comments == 1


@given(st.sampled_from([b"d", b"event", b"\xef\xbb\xbfi"]), st.sampled_from([b"ogs", b"s run\n", b"\0"]))
def test_a_doubtful_beginning_that_is_no_event_stream_is_forwarded_as_it_comes(
    first: bytes, more: bytes
) -> None:
    part = Part(first, doubtful=True)
    part.take(first)
    assert not part.opaque
    part.take(more)
    assert part.opaque


def test_a_doubtful_beginning_may_become_an_event() -> None:
    part = Part(b"d", doubtful=True)
    part.take(b"d")
    part.take(b"at")
    assert part.take(b"a: 1\n\nx") == b"a: 1\n\n"
    assert not part.opaque
    assert part.ended
    assert [*split(part.lines)] == [b"data: 1\n\n"]
