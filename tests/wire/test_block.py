"""What stands in blocks, against the reference parser."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sse_keepalive_proxy.wire.block import Block, last_id, last_retry, parse, split, tally, unname
from tests.support import sse_reference
from tests.wire.bodies import cut_blocks, released_by, whole_bodies
from tests.wire.effort import grows_no_faster_than_linear

ENDINGS = pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])


def reference(blocks: bytes) -> sse_reference.Parsed:
    """What a client in the middle of a stream makes of `blocks`: no BOM is looked for."""
    return sse_reference.parse(b"\n" + blocks)


def text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


# split


@given(whole_bodies)
def test_split_gives_the_blocks_one_by_one_and_all_of_them(blocks: bytes) -> None:
    assert list(split(blocks)) == list(cut_blocks(blocks))
    assert b"".join(split(blocks)) == blocks


def test_nothing_has_no_blocks() -> None:
    assert list(split(b"")) == []


# parse


@given(whole_bodies)
def test_parse_reads_each_block_as_a_client_does(blocks: bytes) -> None:
    for block in split(blocks):
        read, meant = parse(block), reference(block)
        assert read.comments == len(meant.comments)
        assert read.is_event == bool(meant.events)
        assert read.is_comment == (bool(meant.comments) and not meant.events)
        assert text(read.id or b"") == meant.last_event_id
        assert read.retry == meant.reconnection_time
        if read.data is not None:
            assert (text(read.name or b"message"), text(read.data)) == (
                meant.events[0].type,
                meant.events[0].data,
            )


@ENDINGS
def test_parse_knows_every_field(end: bytes) -> None:
    lines = [b"event: add", b"data: 1", b":note", b"data:2", b"id: 7", b"retry: 0250", b"other", b"", b""]
    assert parse(end.join(lines)) == Block(data=b"1\n2", name=b"add", id=b"7", retry=250, comments=1)


def test_parse_tells_a_field_without_value_from_none() -> None:
    assert parse(b"data\nevent\nid\nretry\n\n") == Block(data=b"", name=b"", id=b"", retry=None, comments=0)
    assert parse(b":\n\n") == Block(data=None, name=None, id=None, retry=None, comments=1)


@pytest.mark.parametrize("digits", [b"1" * 19, b"9" * 5000])
def test_a_retry_beyond_all_bounds_is_for_ever(digits: bytes) -> None:
    assert parse(b"retry: " + digits + b"\n\n").retry == 10**18


def test_a_retry_may_begin_with_any_number_of_zeros() -> None:
    assert parse(b"retry: " + b"0" * 5000 + b"7\n\n").retry == 7
    assert parse(b"retry: 000\n\n").retry == 0


# the JSON type


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'{"type":"new_message"}', "new_message"),
        (b' \t{"a":{"type":"inner"},"type":"outer"}', "outer"),
        (b'{"type":"a\xff"}', "a\ufffd"),
        (b'{"type":7}', None),
        (b'{"other":"x"}', None),
        (b'["type"]', None),
        (b'"type"', None),
        (b'{"type":"unfinished"', None),
        ('{"type":"utf-16"}'.encode("utf-16-le"), None),
        (b'{"a":' * 100_000, None),
        (b'{"a":' + b"9" * 5000 + b"}", None),
        (b"", None),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_the_json_type_is_that_of_an_object_and_of_nothing_else(data: bytes, kind: str | None) -> None:
    assert Block(data=data, name=None, id=None, retry=None, comments=0).json_type == kind


@given(st.binary() | st.binary().map(lambda junk: b"{" + junk) | st.binary().map(lambda junk: b'{"' + junk))
def test_no_junk_makes_the_json_type_raise(data: bytes) -> None:
    assert Block(data=data, name=None, id=None, retry=None, comments=0).json_type is None or b"type" in data


def test_a_comment_has_no_json_type() -> None:
    assert parse(b":{}\n\n").json_type is None


# tally


@given(whole_bodies)
@example(b"data: 1\n\n\n\ndata: 2\n\n")
@example(b"data: 1\n\n\ndata: 2\n\n\n")
@example(b"data: 1\n\n\n\n:note\n\n")
@example(b"\n\ndata: 1\n\n")
@example(b"\ndata: 1\r\n\r\n")
def test_tally_counts_exactly(blocks: bytes) -> None:
    events, comments, plain = tally(blocks)
    meant = [reference(block) for block in split(blocks)]
    assert events == sum(len(block.events) for block in meant)
    assert comments == sum(len(block.comments) for block in meant)
    if plain:
        assert len(list(split(blocks))) == events
        assert all(line.startswith(b"data:") or not line for line in blocks.splitlines())


@ENDINGS
@pytest.mark.parametrize("count", [1, 2, 300])
def test_blocks_of_one_data_line_are_plain(end: bytes, count: int) -> None:
    assert tally((b"data: x" + end + end) * count) == (count, 0, True)


@ENDINGS
@pytest.mark.parametrize(
    "line", [b"event: a", b"id: 7", b"retry: 1", b":note", b"id", b"other: x", b"data"], ids=text
)
def test_blocks_with_anything_but_data_are_not_plain(end: bytes, line: bytes) -> None:
    plain = b"data: x" + end + end
    for block in (line + end + plain, b"data: y" + end + line + end + end):
        for blocks in (block, plain + block, block + plain, plain + block + plain):
            assert tally(blocks) == (blocks.count(b"data: "), blocks.count(b":note"), False)


@ENDINGS
def test_each_comment_line_counts_wherever_it_stands(end: bytes) -> None:
    assert tally(b": ping" + end) == (0, 1, False)
    assert tally(b": ping" + end + end) == (0, 1, False)
    assert tally(b": ping" + end + b": pong" + end + end) == (0, 2, False)
    assert tally(b"event: a" + end + b":" + end + end) == (0, 1, False)
    assert tally(b"data: 1" + end + end + b":" + end) == (1, 1, False)
    assert tally(b":" + end + b"data: 1" + end + b":" + end + end) == (1, 2, False)


def test_the_lf_of_a_cr_lf_that_was_cut_counts_for_nothing() -> None:
    assert tally(b"\n") == (0, 0, False)


# last_id and last_retry

NUMBERED = [
    b"id:1\n",
    b"id: 2\n",
    b"id:  3 \n",
    b"id:\n",
    b"id: \n",
    b"id\n",
    b"id: a\0b\n",
    b"id:4\r",
    b"id: 5\r\n",
    b"id\r",
    b"identity: 6\n",
    b"id : 7\n",
    b" id: 8\n",
    b":id: 9\n",
    b"data:\n",
    b"data: \nid: 10\n",
    b"data: id: 11\n",
    b"retry: 250\n",
    b"retry:0099\n",
    b"retry: 1x\n",
    b"retry\n",
    b"retry:\r\n",
    b"retry:7\r",
    b"retry:  8\n",
    b"retrying: 9\n",
    b"\n",
    b"\n",
    b"\n",
    b"\r",
]
numbered = (
    st.lists(st.sampled_from(NUMBERED), max_size=14).map(b"".join).map(lambda body: body[: released_by(body)])
)
"""Whole blocks that say little but ids and retries, in every shape that counts or does not."""


def known_after(blocks: bytes) -> str | None:
    """The id that a client knows afterwards: two clients, that knew another one before, do not agree where
    it is theirs still.
    """
    after = [sse_reference.parse(b"id: %b\n\n" % before + blocks).last_event_id for before in (b"x", b"y")]
    return after[0] if after[0] == after[1] else None


@given(whole_bodies | numbered)
@example(b"data: 1\nid: 1\n\n\nid:\n\n")
@example(b"data: 1\nid:\nid\n\n")
@example(b"data: 1\nid: 1\nid\n\n")
@example(b"id\ndata: 1\nid: 1\n\n")
@example(b"id: 1\n\nid: a\0b\n\n")
@example(b"data: 1\nid: 1\n\ndata: 2\rid\r\r")
@example(b"id: " + b"7" * 5000 + b"\n\n")
def test_the_last_id_is_the_one_a_client_knows_afterwards(blocks: bytes) -> None:
    known = last_id(blocks)
    assert (None if known is None else text(known)) == known_after(blocks)


@given(whole_bodies | numbered)
@example(b"retry: 10\n\nretry: 1x\n\n")
@example(b"data: 1\rretry: 10\r\r")
@example(b"retry: 0\n\n")
def test_the_last_retry_is_the_one_a_client_goes_by_afterwards(blocks: bytes) -> None:
    assert last_retry(blocks) == reference(blocks).reconnection_time


@pytest.mark.parametrize(
    ("blocks", "known"),
    [
        (b"id: 1\ndata: x\n\n", b"1"),
        (b"data: x\r\rdata: y\rid:1\r\r", b"1"),
        (b"data: x\n\nid: 1\n\nid: 2\n\n: bye\n\n", b"2"),
        (b"id: 1\n\n", b"1"),
        (b"id\ndata: x\n\n", b""),
        (b"id: a\0b\ndata: x\n\n", None),
        (b"id: 1\nid:\ndata: x\n\n", b""),
        (b"data: 1\nidentity: 5\n\n", None),
        (b"data: id: 5\n\n", None),
        (b"", None),
    ],
)
def test_an_id_counts_only_as_clients_count_it(blocks: bytes, known: bytes | None) -> None:
    assert last_id(blocks) == known


# unname

GENERIC = frozenset({b"Generic"})


@given(whole_bodies)
@example(b"data: x\revent: Generic\n\ndata: y\n\n")
@example(b"data: x\revent: Generic\r\n\ndata: y\n\n")
@example(b"data: x\revent: add\revent: Generic\n\n")
@example(b"data: x\r\revent: Generic\n\ndata: y\n\n")
def test_unname_changes_the_name_and_nothing_else(blocks: bytes) -> None:
    before, after = reference(blocks), reference(unname(blocks, GENERIC))
    assert after.last_event_id == before.last_event_id
    assert after.reconnection_time == before.reconnection_time
    assert after.items == [
        sse_reference.Event("message", item.data, item.last_event_id)
        if isinstance(item, sse_reference.Event) and item.type == "Generic"
        else item
        for item in before.items
    ]


@given(whole_bodies)
def test_unname_removes_only_the_lines_it_must(blocks: bytes) -> None:
    for block in split(blocks):
        kept = unname(block, GENERIC).splitlines()
        if parse(block).name == b"Generic":
            assert kept == [line for line in block.splitlines() if line.partition(b":")[0] != b"event"]
        else:
            assert kept == block.splitlines()


@ENDINGS
def test_unname_leaves_every_other_byte_as_it_was(end: bytes) -> None:
    other = end.join([b"event: Generics", b"data: event: Generic", b"", b""])
    last = end.join([b"event: Generic", b"event: add", b"data: 1", b"", b""])
    named = end.join([b"data: 1", b"event: Generic", b":note", b"", b""])
    bare = end.join([b"data: 1", b":note", b"", b""])
    assert unname(other + named + last, GENERIC) == other + bare + last


def test_unname_without_a_name_in_sight_returns_the_same_bytes() -> None:
    blocks = b"data: 1\n\n"
    assert unname(blocks, GENERIC) is blocks


# effort


@pytest.mark.parametrize(
    "block",
    [
        b"id: 1\ndata: x\n\n",
        b"id: 1\r\ndata: x\r\n\r\n",
        b"id: \0\ndata: x\n\n",
        b"retry: 1\n\n",
        b"data: x\r\n\r\n",
        b":\r\r",
    ],
    ids=repr,
)
def test_many_blocks_in_one_read_take_linear_time(block: bytes) -> None:
    def look(blocks: int) -> None:
        read = block * blocks
        tally(read)
        last_id(read)
        last_retry(read)
        unname(read, GENERIC)
        assert sum(1 for _ in split(read)) == blocks

    assert grows_no_faster_than_linear(look, 5_000)
