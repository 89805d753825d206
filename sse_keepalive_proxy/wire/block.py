"""A look inside whole blocks: what kind they are, and what they carry.

Everything here takes bytes that `framing.Framer` has let go, so every block is whole. `tally` is on
the way of every byte and has a short cut for each common shape; `parse` reads one block to the
letter of WHATWG HTML 9.2.6 and is called only where a policy asks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from sse_keepalive_proxy.wire.framing import first_boundary

__all__ = ["Block", "carries_id", "parse", "split", "tally", "unname"]

_LINE = re.compile(rb"([^\r\n]*)(\r\n|\r|\n)")
_CR = 0x0D
_LF = 0x0A


@dataclass(frozen=True, slots=True)
class Block:
    """One block, read. `data`, `name` and `id` are None where no such field stands in it."""

    data: bytes | None
    name: bytes | None
    id: bytes | None
    retry: int | None
    comments: int

    @property
    def is_event(self) -> bool:
        """Whether a client dispatches something: only a block with data does."""
        return self.data is not None

    @property
    def is_comment(self) -> bool:
        """Whether the block says nothing to a client but that the sender lives."""
        return self.comments > 0 and self.data is None

    @property
    def json_type(self) -> str | None:
        """The `type` of an event whose data is a JSON object, None for all others."""
        if self.data is None or not self.data.lstrip().startswith(b"{"):
            return None
        try:
            value = json.loads(self.data)
        except (ValueError, RecursionError):
            return None
        kind = value.get("type")
        return kind if isinstance(kind, str) else None


def split(blocks: bytes) -> Iterator[bytes]:
    """Whole blocks, one by one; joined they are `blocks` again."""
    start = 0
    while start < len(blocks):
        if blocks.find(b"\r", start) < 0:
            yield from _split_plain(blocks[start:])
            return
        end = first_boundary(blocks[start:], _LF) or len(blocks) - start
        yield blocks[start : start + end]
        start += end


def _split_plain(blocks: bytes) -> Iterator[bytes]:
    """The same where no CR occurs."""
    start = 0
    while start < len(blocks):
        if blocks[start] == _LF:
            end = start + 1
        else:
            found = blocks.find(b"\n\n", start)
            end = found + 2 if found >= 0 else len(blocks)
        yield blocks[start:end]
        start = end


def parse(block: bytes) -> Block:
    """Read one whole block (WHATWG HTML 9.2.6, "process the field")."""
    data: list[bytes] = []
    name = last_id = retry = None
    comments = 0
    for match in _LINE.finditer(block):
        line = match[1]
        if line.startswith(b":"):
            comments += 1
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
        elif field == b"id" and b"\0" not in value:
            last_id = value
        elif field == b"retry" and value.isdigit():
            retry = int(value[:18])
    return Block(b"\n".join(data) if data else None, name, last_id, retry, comments)


def tally(blocks: bytes) -> tuple[int, int, bool]:
    """How many events and how many comment-only blocks stand in `blocks`, and whether there is nothing
    in them but data: no name, no id, nothing that a policy could ask for.
    """
    if _CR not in blocks and blocks.startswith(b"data:"):
        if _LF not in blocks[:-2]:
            return 1, 0, True  # one line of data and its blank line
        count = blocks.count(b"\n\n")
        if blocks.count(b"\n\ndata:") == count - 1:
            return count, 0, blocks.count(b"\n") == 2 * count
    events = comments = 0
    for block in split(blocks):
        read = parse(block)
        events += read.is_event
        comments += read.is_comment
    return events, comments, False


def carries_id(blocks: bytes) -> bool:
    """Whether a non-empty `id` stands in `blocks`: from then on some clients mistake a blank line
    behind a ping for an event (FACTS 5). A field that only begins with `id` costs one `parse`.
    """
    if not (blocks.startswith(b"id") or b"\nid" in blocks or b"\rid" in blocks):
        return False
    return any(parse(block).id for block in split(blocks))


def unname(blocks: bytes, names: frozenset[bytes]) -> bytes:
    """`blocks` without the `event` lines that give one of `names`: `onmessage` hears only events
    without a name (FACTS 1). Every other byte stays as it was.
    """
    return b"".join(_without_name(block, names) if b"event" in block else block for block in split(blocks))


def _without_name(block: bytes, names: frozenset[bytes]) -> bytes:
    if parse(block).name not in names:
        return block
    return b"".join(match[0] for match in _LINE.finditer(block) if match[1].partition(b":")[0] != b"event")
