"""The framer keeps behaviour.md#whole-blocks and behaviour.md#injections-between-blocks."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sse_keepalive_proxy.errors import EventTooLarge
from sse_keepalive_proxy.wire.framing import Framer, begins_event_stream, boundary_after
from tests.support import sse_reference
from tests.support.sse_reference import Comment, Event
from tests.wire.bodies import BOM, bodies, chunkings, cut_blocks, released_by
from tests.wire.effort import grows_no_faster_than_linear

LF = 0x0A
PLENTY = 1 << 20


class Client:
    """What a client has received: behaviour.md#injections-between-blocks as the relay carries it out."""

    def __init__(self, framer: Framer) -> None:
        self.bytes = b""
        self._framer = framer
        self._lf_given = False

    def forward(self, blocks: bytes) -> None:
        if self._lf_given and blocks:
            self._lf_given = False
            blocks = blocks.removeprefix(b"\n")
        self.bytes += blocks

    def inject(self, frame: bytes) -> None:
        if self._framer.after_cr and not self._lf_given:
            self._lf_given = True
            frame = b"\n" + frame
        self.bytes += frame


# What goes in comes out.


@given(chunkings())
def test_bytes_out_and_what_waits_are_bytes_in_without_a_leading_bom(chunks: list[bytes]) -> None:
    framer = Framer(PLENTY, sure=True)
    out = b"".join(map(framer.feed, chunks))
    body = b"".join(chunks)
    if not framer.begun:  # what could still become a BOM, or a field's name, waits
        assert (out, framer.pending) == (b"", len(body))
        assert begins_event_stream(body) is None
    else:
        assert out + bytes(framer.held) == body.removeprefix(BOM)
        assert framer.pending == len(framer.held)


@given(chunkings())
@example([b"data: 1\r\r", b"\ndata: 2\n\n"])
@example([b"data: 1\r", b"\n", b"\r", b"\n"])
@example([b"data: 1\n", b"\r", b"data: 2\r", b"\r"])
def test_each_feed_releases_everything_up_to_the_last_boundary(chunks: list[bytes]) -> None:
    framer = Framer(PLENTY, sure=True)
    fed = out = b""
    for chunk in chunks:
        fed += chunk
        out += framer.feed(chunk)
        assert len(out) == released_by(fed.removeprefix(BOM))
        assert framer.after_cr == out.endswith(b"\r")


@given(chunkings())
def test_any_chunking_gives_the_events_of_the_original_bytes(chunks: list[bytes]) -> None:
    framer = Framer(PLENTY, sure=True)
    out = b"".join(map(framer.feed, chunks))
    body = b"".join(chunks)
    assert sse_reference.parse(b":ok\n\n" + out).events == sse_reference.parse(body).events


@pytest.mark.parametrize(
    "body",
    [
        b"data: 1\r\r",
        b"data: 1\n\r",
        b"data: 1\r\n\r",
        b"\r",
        b": ping\r\r",
    ],
)
def test_a_block_that_ends_in_a_bare_cr_leaves_at_once(body: bytes) -> None:
    framer = Framer(PLENTY, sure=True)
    assert b"".join(framer.feed(body[at : at + 1]) for at in range(len(body))) == body
    assert framer.after_cr
    assert framer.feed(b"\n") == b"\n"
    assert not framer.after_cr
    assert framer.pending == 0


@given(bodies, st.sampled_from([LF, 0x0D, ord("x")]))
def test_boundary_after_agrees_with_reading_one_byte_at_a_time(data: bytes, before: int) -> None:
    # The block under way, up to `before`: none, or one line whose ending `before` belongs to.
    under_way = {LF: b"", 0x0D: b"y\r", ord("x"): b"x"}[before]
    expected = released_by(under_way + data, comments=False) - len(under_way)
    assert boundary_after(data, before) == max(expected, 0)


# Comments.


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("step", [1, 2, 100])
def test_a_comment_line_before_the_first_field_leaves_at_once(end: bytes, step: int) -> None:
    body = b"data: 1" + end + end + b": ping" + end + b":" + end
    framer = Framer(PLENTY, sure=True)
    assert b"".join(framer.feed(body[at : at + step]) for at in range(0, len(body), step)) == body
    assert framer.pending == 0
    assert framer.feed(b"data: 2" + end + end) == b"data: 2" + end + end


def test_a_comment_line_behind_a_field_waits_for_the_end_of_its_block() -> None:
    framer = Framer(PLENTY, sure=True)
    assert framer.feed(b": 1\nid: 4\n: 2\n") == b": 1\n"
    assert framer.feed(b": 3\n") == b""
    assert framer.feed(b"data: x\n\n: 4\n: 5") == b"id: 4\n: 2\n: 3\ndata: x\n\n: 4\n"
    assert framer.feed(b"\r") == b": 5\r"


def test_comment_lines_never_add_up_to_a_too_large_block() -> None:
    framer = Framer(20, sure=True)
    for _ in range(10):
        assert framer.feed(b": ping of upstream\n") == b": ping of upstream\n"
    assert framer.feed(b"data: 1\n") == b""
    with pytest.raises(EventTooLarge):
        framer.feed(b": ping of upstream\n")


# The byte order mark.


@pytest.mark.parametrize("chunks", [[BOM + b"data: 1\n\n"], [BOM[:1], BOM[1:2], BOM[2:], b"data: 1\n\n"]])
def test_a_leading_bom_is_dropped_even_when_it_comes_in_pieces(chunks: list[bytes]) -> None:
    framer = Framer(PLENTY, sure=True)
    assert b"".join(map(framer.feed, chunks)) == b"data: 1\n\n"


def test_a_bom_is_dropped_once_and_not_again_later() -> None:
    framer = Framer(PLENTY, sure=True)
    assert framer.feed(BOM + BOM + b"data: 1\n\n") == BOM + b"data: 1\n\n"
    assert framer.feed(BOM + b"data: 2\n\n") == BOM + b"data: 2\n\n"


@pytest.mark.parametrize("start", [BOM[:1], BOM[:2]])
def test_a_beginning_that_turns_out_to_be_no_bom_is_kept(start: bytes) -> None:
    framer = Framer(PLENTY, sure=True)
    assert framer.feed(start) == b""
    assert framer.feed(b"\n\n") == start + b"\n\n"


def test_nothing_fed_is_nothing_released() -> None:
    framer = Framer(PLENTY, sure=True)
    assert framer.feed(b"") == b""
    assert framer.feed(b"data: 1") == b""
    assert framer.feed(b"") == b""
    assert framer.feed(b"\n\n") == b"data: 1\n\n"


# Whether it is an event stream at all.


@pytest.mark.parametrize(
    ("body", "begins"),
    [
        (b"data: 1\n\n", True),
        (b"data\n", True),
        (b"retry\r", True),
        (b"id:", True),
        (b": comment", True),
        (b"\n", True),
        (b"\r\n", True),
        (BOM, True),
        (BOM + b"event: a", True),
        (b"x-trace_id: 7\n", True),
        (b"error: no such model", True),
        (b"", None),
        (BOM[:2], None),
        (b"dat", None),
        (b"event", None),
        (BOM + b"r", None),
        (b"Hel", False),
        (b"hello", False),
        (b"hello\n", False),
        (b"data science", False),
        (b"database\n", False),
        (b'{"span":0}\n', False),
        (b'[{"id":1}]', False),
        (b"<!DOCTYPE html>", False),
        (b"2026-01-01 12:00:00 INFO started\n", False),
        (b"INFO: started\n", False),
        (b"Internal Server Error", False),
        (b" data: 1\n\n", False),
        (b"\x1f\x8b\x08\x00:", False),
        (b"\x28\xb5\x2f\xfd", False),
        (BOM + b'{"a":1}', False),
        (BOM + BOM + b"data: 1\n\n", False),
        (b"x" * 65 + b": 1\n", False),
    ],
)
def test_a_body_begins_like_an_event_stream_or_it_does_not(body: bytes, begins: bool | None) -> None:
    assert begins_event_stream(body) is begins


@pytest.mark.parametrize("chunks", [[b"Hello: world"], [b"d", b"ogs"], [BOM[:1], BOM[1:] + b"x"]])
def test_a_body_that_is_no_event_stream_is_returned_whole_by_a_release(chunks: list[bytes]) -> None:
    framer = Framer(PLENTY)
    assert b"".join(map(framer.feed, chunks)) == b""
    assert framer.opaque
    assert framer.release() == b"".join(chunks)
    assert framer.pending == 0


@given(chunkings())
def test_what_a_framer_returns_and_releases_is_all_that_came(chunks: list[bytes]) -> None:
    framer = Framer(PLENTY)
    out = b"".join(map(framer.feed, chunks)) + framer.release()
    assert BOM * framer.bom + out == b"".join(chunks)


# A frame of our own, at every moment there is.


def expected_items(moments: list[bytes | None]) -> list[object]:
    """Upstream's items in their order, and ours (as their number) where they were injected. `moments`:
    bytes fed, or None for an injection.
    """
    fed = b""
    seen = ours = 0
    items: list[object] = []
    for moment in [*moments, b""]:
        if moment is None:
            items.append(ours)
            ours += 1
            continue
        fed += moment
        body = fed.removeprefix(BOM)
        parsed = sse_reference.parse(b"\n" + body[: released_by(body)]).items
        items += parsed[seen:]
        seen = len(parsed)
    return items


def received_items(stream: bytes) -> list[object]:
    items: list[object] = []
    for item in sse_reference.parse(stream).items:
        match item:
            case Event(type="injected", data=data):
                items.append(int(data))
            case Comment(text=text) if text.startswith("injected "):
                items.append(int(text.removeprefix("injected ")))
            case _:
                items.append(item)
    return items


FRAMES = {
    "event": b"event: injected\ndata: %d\n\n",
    "comment": b":injected %d\n\n",
    "one newline": b":injected %d\n",
}


def play(moments: list[bytes | None], frame: bytes) -> list[object]:
    framer = Framer(PLENTY, sure=True)
    client = Client(framer)
    client.bytes = b"\n"  # a byte of ours always goes first, so that no client looks for a BOM
    count = 0
    for moment in moments:
        if moment is None:
            client.inject(frame % count)
            count += 1
        else:
            client.forward(framer.feed(moment))
    return received_items(client.bytes)


@given(chunkings(), st.sampled_from(sorted(FRAMES)), st.integers(1, 3))
def test_a_frame_injected_between_any_two_reads_disturbs_no_event(
    chunks: list[bytes], form: str, times: int
) -> None:
    moments: list[bytes | None] = [None] * times
    for chunk in chunks:
        moments += [chunk, *[None] * times]
    assert play(moments, FRAMES[form]) == expected_items(moments)


@given(st.lists(st.one_of(st.none(), chunkings().map(b"".join), st.sampled_from([b"\r", b"\n"]))))
def test_frames_injected_now_and_then_disturb_no_event(moments: list[bytes | None]) -> None:
    assert play(moments, FRAMES["event"]) == expected_items(moments)


@pytest.mark.parametrize("form", FRAMES)
@pytest.mark.parametrize(
    "body",
    [
        b"data: 1\r\n\r\ndata: 2\r\n\r\n",
        b"data: 1\r\rdata: 2\r\r",
        b"id: 4\rdata: 1\r\ndata: 2\n\r\n\ndata: 3\r\n\r",
        BOM + b": hello\n\ndata: 1\n\n",
    ],
)
def test_a_frame_fits_between_any_two_bytes(body: bytes, form: str) -> None:
    for at in range(len(body) + 1):
        moments = [body[:at], None, body[at:]]
        assert play(moments, FRAMES[form]) == expected_items(moments)


def test_the_lf_that_an_injection_brought_is_not_given_twice() -> None:
    framer = Framer(PLENTY, sure=True)
    client = Client(framer)
    client.forward(framer.feed(b"data: 1\r\n\r"))
    client.inject(b":ping\n\n")
    client.inject(b":ping\n\n")
    client.forward(framer.feed(b"\ndata: 2\r\n\r\n"))
    assert client.bytes == b"data: 1\r\n\r\n:ping\n\n:ping\n\ndata: 2\r\n\r\n"


# Bounds.


def size(block: bytes) -> int:
    """The size of a block, or of a comment line, as `max_event` counts it: the LF of a CR LF at its very end
    is left out.
    """
    return len(block) - (released_by(block.removesuffix(b"\n")) == len(block) - 1)


def first_too_large(body: bytes, limit: int) -> bytes | None:
    """Everything before the first block of `body` that is larger than `limit`; None without one."""
    before = b""
    for block in cut_blocks(body, comments=True):
        if size(block) > limit:
            return before
        before += block
    return None


@given(chunkings(), st.integers(8, 40))
@example([b"data: 1\r\n\r", b"\n", b"x" * 12], 11)
@example([b"data: 1\r\n\r\n" + b"x" * 12], 11)
@example([b":note 1\n:note 2\r\n:note 3\r", b"\ndata\n\n"], 8)
def test_a_block_larger_than_the_limit_is_refused_however_the_body_is_cut(
    chunks: list[bytes], limit: int
) -> None:
    framer = Framer(limit, sure=True)
    fed = out = b""
    for chunk in chunks:
        fed += chunk
        body = b"" if begins_event_stream(fed) is None else fed.removeprefix(BOM)
        before = first_too_large(body, limit)
        if before is None:
            out += framer.feed(chunk)
            assert framer.pending <= limit
            continue
        with pytest.raises(EventTooLarge) as raised:
            framer.feed(chunk)
        assert raised.value.limit == limit
        assert out + raised.value.blocks == before
        assert framer.after_cr == before.endswith(b"\r")
        assert framer.pending == 0
        return


@pytest.mark.parametrize("end", [b"\n\n", b"\r\r", b"\r\n\r\n"])
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_block_of_exactly_the_limit_passes_and_one_more_byte_does_not(end: bytes, step: int) -> None:
    block = b"data: " + b"x" * 94 + end
    limit = size(block)
    framer = Framer(limit, sure=True)
    for at in range(0, len(block), step):
        framer.feed(block[at : at + step])
    assert framer.pending == 0
    framer = Framer(limit - 1, sure=True)
    pieces = [block[at : at + step] for at in range(0, len(block), step)]
    with pytest.raises(EventTooLarge, match=rf"larger than max_event \({limit - 1} bytes\)"):
        list(map(framer.feed, pieces))


def test_many_small_blocks_in_one_read_may_exceed_the_limit_together() -> None:
    blocks = b"data: 1\r\n\r\n" * 50
    framer = Framer(20, sure=True)
    assert framer.feed(blocks + b"data: 2") == blocks
    assert framer.pending == 7


# Effort.


def test_a_long_line_in_small_pieces_takes_linear_time() -> None:
    def line(length: int) -> None:
        framer = Framer(8 << 20, sure=True)
        for _ in range(length // 16):
            framer.feed(b"x" * 16)
        assert framer.pending == length

    assert grows_no_faster_than_linear(line, 1 << 20)


@pytest.mark.parametrize("block", [b"data: x\n\n", b"data: x\r\n\r\n", b"data: x\r\r", b": note\n", b":\r"])
def test_a_read_larger_than_the_limit_takes_linear_time(block: bytes) -> None:
    def read(blocks: int) -> None:
        framer = Framer(len(block) * blocks // 2, sure=True)
        assert len(framer.feed(block * blocks)) == len(block) * blocks

    assert grows_no_faster_than_linear(read, 20_000)


@pytest.mark.parametrize("line", [b": note\n", b":\r", b":\r\n"])
def test_many_comment_lines_before_an_unfinished_block_take_linear_time(line: bytes) -> None:
    def read(lines: int) -> None:
        framer = Framer(PLENTY, sure=True)
        assert framer.feed(line * lines + b"data") == line * lines

    assert grows_no_faster_than_linear(read, 20_000)
