"""Bodies to try the wire modules on, and what is true of them, worked out the slow way."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import strategies as st

__all__ = ["BOM", "bodies", "chunkings", "cut_blocks", "released_by", "whole_bodies"]

BOM = b"\xef\xbb\xbf"

_ENDINGS = [b"\n", b"\r", b"\r\n"]
_LINES = [
    b"data",
    b"data:",
    b"data: x",
    b"data:  two spaces",
    b'data: {"type":"typing","n":1}',
    b"data: " + "\u2028\u2029\x85".encode(),
    b"data: \xff\xfe\xe2\x80",
    b"data: \x0b\x0c\x1c\x1d\x1e",
    b"database: no",
    b":",
    b": note",
    b":data: no",
    b"id",
    b"id:",
    b"id: 7",
    b"id: 7\x00",
    b"identity: 7",
    b"event",
    b"event:",
    b"event: Generic",
    b"event:Generic",
    b"event: add",
    b"events: no",
    b"retry: 10",
    b"retry: 1x",
    b"retry:",
    b"other: y",
    b" data: no",
    BOM + b"data: no",
    BOM,
    b"\x00",
]

_lines = st.tuples(st.sampled_from([*_LINES, b"", b"", b""]), st.sampled_from(_ENDINGS)).map(b"".join)
_scraps = st.one_of(st.sampled_from([*_ENDINGS, BOM, BOM[:2], *_LINES]), st.binary(max_size=4))
_huge = st.integers(1, 300).map(lambda size: b"data: " + b"x" * size)

bodies = st.builds(
    lambda bom, parts: bom + b"".join(parts),
    st.sampled_from([b"", b"", BOM, BOM + BOM, BOM[:1]]),
    st.lists(st.one_of(_lines, _lines, _scraps, _huge), max_size=20),
)
"""Bodies of every shape: mixed line endings, marks, junk, and often an unfinished end."""

whole_bodies = bodies.map(lambda body: body[: released_by(body)])
"""The same as far as they are whole blocks, and comment lines behind them."""


@st.composite
def chunkings(draw: st.DrawFn, of: st.SearchStrategy[bytes] = bodies) -> list[bytes]:
    """A body, cut anywhere: often after every byte."""
    body = draw(of)
    if draw(st.booleans()):
        return [body[at : at + 1] for at in range(len(body))]
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=8)))
    return [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]


def released_by(body: bytes, *, comments: bool = True) -> int:
    """Where the last whole block of `body` ends, or the last comment line before the next block's first
    field unless `comments` is false. One byte at a time, to be obviously right.
    """
    end = line_begins = at = 0
    has_field = False
    while at < len(body):
        if body[at] not in b"\r\n":
            at += 1
            continue
        is_blank = at == line_begins
        is_comment = comments and body[line_begins : line_begins + 1] == b":"
        at += 2 if body[at : at + 2] == b"\r\n" else 1
        line_begins = at
        has_field = not is_blank and (has_field or not is_comment)
        if not has_field:
            end = at
    return end


def cut_blocks(body: bytes, *, comments: bool = False) -> Iterator[bytes]:
    """The blocks of `body`, the last one perhaps unfinished: a byte is added until a block is whole. With
    `comments`, a comment line before a block's first field stands alone, as it leaves.
    """
    start = 0
    while start < len(body):
        end = start + 1
        while end < len(body) and not released_by(body[start:end], comments=comments):
            end += 1
        if body[end - 1 : end + 1] == b"\r\n":
            end += 1
        yield body[start:end]
        start = end
