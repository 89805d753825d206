"""A look inside whole blocks: what kind they are, and what they carry.

Everything here takes bytes that `framing.Framer` has let go, so every block is whole. `tally` is on
the way of every byte and counts without reading; `parse` reads one block to the letter of WHATWG
HTML 9.2.6 and is called only where a policy asks.

Lines come from `bytes.splitlines`, which knows CR, LF and CR LF and nothing else. (`str.splitlines`
would also split on U+2028: facts.md#line-ends.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Final

__all__ = ["Block", "last_id", "last_retry", "parse", "split", "tally", "unname"]

_CR: Final = 0x0D
_LF: Final = 0x0A
_BLANK = frozenset({b"\n", b"\r", b"\r\n"})
_EVENT_FIELD = (b"event:", b"event\n", b"event\r")
_ONE_LINE: Final = (1, 0, True)
_MOST_DIGITS = 18
"""More milliseconds than these digits can say are for ever."""


@dataclass(frozen=True, slots=True)
class Block:
    """One block, read. `data`, `name` and `id` are None where no such field stands in it; `retry` is in
    milliseconds.
    """

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
            # Decoded as a client does it: left to itself, `json` would take some bytes for UTF-16.
            value = json.loads(self.data.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            return None
        kind = value.get("type")
        return kind if isinstance(kind, str) else None


def split(blocks: bytes) -> Iterator[bytes]:
    """Whole blocks, one by one; joined they are `blocks` again."""
    start = end = 0
    for line in blocks.splitlines(keepends=True):
        end += len(line)
        if line in _BLANK:
            yield blocks[start:end]
            start = end


def parse(block: bytes) -> Block:
    """Read one whole block (WHATWG HTML 9.2.6, "process the field")."""
    data: list[bytes] = []
    name = last_id = retry = None
    comments = 0
    for line in block.splitlines():
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
        elif field == b"id" and b"\0" not in value:
            last_id = value
        elif field == b"retry" and value.isdigit():
            retry = _milliseconds(value)
        elif line.startswith(b":"):
            comments += 1
    return Block(b"\n".join(data) if data else None, name, last_id, retry, comments)


def _milliseconds(digits: bytes) -> int:
    """Digits of any number: `int` itself refuses some thousands of them."""
    digits = digits.lstrip(b"0")
    return int(digits or b"0") if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS


def tally(blocks: bytes) -> tuple[int, int, bool]:
    """How many events and how many comment-only blocks stand in `blocks`, and whether there is certainly
    nothing in them but one line of data each: no name, no id, nothing that a policy could ask for.
    """
    # Slices are compared: calling `find` and `startswith` takes twice as long.
    if _LF not in blocks[:-2] and blocks[:5] == b"data:" and _CR not in blocks:
        return _ONE_LINE  # and its blank line
    if _CR in blocks:  # how lines end changes no count
        blocks = blocks.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if blocks.startswith(b"data:"):
        found = BytesIO(blocks).readlines()  # finds LF with memchr: half of what `split` costs, or less
        texts = found[::2]
        if found.count(b"\n") == len(texts) and all(line.startswith(b"data:") for line in texts):
            return len(texts), 0, True
        count = blocks.count(b"\n\n")
        if blocks.count(b"\n\ndata:") == count - 1:
            return count, 0, False
    events = comments = 0
    for block in blocks.split(b"\n\n"):
        lines = b"\n%b\n" % block
        if b"\ndata:" in lines or b"\ndata\n" in lines:
            events += 1
        elif b"\n:" in lines:
            comments += 1
    return events, comments, False


def last_id(blocks: bytes) -> bytes | None:
    """The last `id` in `blocks`, which is the id that a client now knows; None where there is none.

    Every block is whole, so each has set it, one without data as well (WHATWG HTML 9.2.6). Empty, it says
    that there is no id any more.
    """
    start = blocks.rfind(b"\nid:") + 4  # in most streams the last one can be read without all the others
    if start == 3 and not blocks.startswith(b"id:"):
        if not _may_hold(blocks, b"id"):
            return None
    elif _CR not in blocks and blocks.find(b"\nid\n", start) < 0:
        value = blocks[start : blocks.find(b"\n", start)]
        if b"\0" not in value:
            return value.removeprefix(b" ")
    found = None
    for block in split(blocks):
        if (id_ := parse(block).id) is not None:
            found = id_
    return found


def last_retry(blocks: bytes) -> int | None:
    """The last `retry` in `blocks`, in milliseconds; None where there is none."""
    if b"retry" not in blocks:
        return None
    found = [retry for block in split(blocks) if (retry := parse(block).retry) is not None]
    return found[-1] if found else None


def _may_hold(blocks: bytes, field: bytes) -> bool:
    """Whether a line of `blocks` begins with `field`: cheap, and right but for longer names."""
    return blocks.startswith(field) or b"\n" + field in blocks or b"\r" + field in blocks


def unname(blocks: bytes, names: frozenset[bytes]) -> bytes:
    """`blocks` without the `event` lines that give one of `names`: `onmessage` hears only events
    without a name (facts.md#notify-server-page). Every other line stays as it was.
    """
    if b"event" not in blocks:
        return blocks
    return b"".join(_without_name(block, names) if b"event" in block else block for block in split(blocks))


def _without_name(block: bytes, names: frozenset[bytes]) -> bytes:
    if parse(block).name not in names:
        return block
    kept: list[bytes] = []
    for line in block.splitlines(keepends=True):
        if not line.startswith(_EVENT_FIELD):
            kept.append(line)
        elif kept and kept[-1].endswith(b"\r"):
            # A bare CR in front goes too, and the line's own ending stays in its place: together with
            # an LF behind, that CR would make one ending of two and the blank line would be lost.
            kept[-1] = kept[-1][:-1] + line[len(line.rstrip(b"\r\n")) :]
    return b"".join(kept)
