"""Read the content of whole blocks: their kind and their fields.

Every function takes bytes that `framing.Framer` has returned: whole blocks, the last of which may be comment
lines without a blank line. `tally` runs for every read and counts without parsing. `parse` reads one block as
WHATWG HTML 9.2.6 says; it runs only when a policy needs it.

`bytes.splitlines` splits at CR, LF and CR LF only. `str.splitlines` splits at more (facts.md#line-ends).
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
_COLON: Final = 0x3A
_D: Final = 0x64
_BLANK = frozenset({b"\n", b"\r", b"\r\n"})
_DATA_FIELD = (b"data:", b"data\n")
_EVENT_FIELD = (b"event:", b"event\n", b"event\r")
_ONE_LINE: Final = (1, 0, True)
_MOST_DIGITS = 18
"""A number of milliseconds with more digits counts as infinite."""


@dataclass(frozen=True, slots=True)
class Block:
    """The fields of one block. A field that is absent is None. `retry` is in milliseconds."""

    data: bytes | None
    name: bytes | None
    id: bytes | None
    retry: int | None
    comments: int

    @property
    def is_event(self) -> bool:
        """Whether a client dispatches an event for this block: only if it has data."""
        return self.data is not None

    @property
    def is_comment(self) -> bool:
        """Whether the block has comments and no data."""
        return self.comments > 0 and self.data is None

    @property
    def json_type(self) -> str | None:
        """The string `type` of the JSON object in `data`, or None."""
        if self.data is None or not self.data.lstrip().startswith(b"{"):
            return None
        try:
            # Clients decode UTF-8. `json.loads` on bytes would guess UTF-16 for some of them.
            value = json.loads(self.data.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            return None
        kind = value.get("type")
        return kind if isinstance(kind, str) else None


def split(blocks: bytes) -> Iterator[bytes]:
    """Yield each block of `blocks`. The joined result equals `blocks`."""
    start = end = 0
    for line in blocks.splitlines(keepends=True):
        end += len(line)
        if line in _BLANK:
            yield blocks[start:end]
            start = end
    if start < end:
        yield blocks[start:]


def parse(block: bytes) -> Block:
    """Parse one whole block (WHATWG HTML 9.2.6, "process the field")."""
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
    """Convert digits to a number. `int` alone raises on thousands of digits."""
    digits = digits.lstrip(b"0")
    return int(digits or b"0") if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS


def tally(blocks: bytes) -> tuple[int, int, bool]:
    """Count the events and the comment lines in `blocks`.

    The third value is True if every block is certainly one line of data and nothing else: no name, no id,
    no other field.
    """
    # Comparing slices is faster than calling `find` and `startswith`.
    if _LF not in blocks[:-2] and blocks[:5] == b"data:" and _CR not in blocks:
        return _ONE_LINE  # one line of data and a blank line
    if _CR in blocks:  # the kind of line end does not change the counts
        blocks = blocks.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    found = BytesIO(blocks).readlines()  # faster than `split`: it finds LF with memchr
    if blocks.startswith(b"data:"):
        texts = found[::2]
        if found.count(b"\n") == len(texts) and all(line.startswith(b"data:") for line in texts):
            return len(texts), 0, True
    events = comments = 0
    has_data = False
    for line in found:
        first = line[0]
        if first == _LF:
            has_data = False
        elif first == _COLON:
            comments += 1
        elif first == _D and not has_data and line[:5] in _DATA_FIELD:
            has_data = True
            events += 1
    return events, comments, False


def last_id(blocks: bytes) -> bytes | None:
    """Return the last `id` in `blocks`, or None. It is the last event ID of a client that got `blocks`.

    A block without data sets the id too (WHATWG HTML 9.2.6). An empty value removes the id.
    """
    start = blocks.rfind(b"\nid:") + 4  # usually the last id can be read without parsing the other blocks
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
    """Return the last `retry` in `blocks`, in milliseconds, or None."""
    if b"retry" not in blocks:
        return None
    found = [retry for block in split(blocks) if (retry := parse(block).retry) is not None]
    return found[-1] if found else None


def _may_hold(blocks: bytes, field: bytes) -> bool:
    """Whether a line of `blocks` begins with `field`. Cheap; a longer field name also matches."""
    if blocks.startswith(field) or b"\n" + field in blocks:
        return True
    return _CR in blocks and b"\r" + field in blocks


def unname(blocks: bytes, names: frozenset[bytes]) -> bytes:
    """Return `blocks` without the `event` lines of the events in `names`. Other lines do not change.

    `onmessage` receives only events without a name (facts.md#notify-server-page).
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
            # Replace the bare CR before the line with the line's own ending. Otherwise this CR and a
            # following LF would become one line ending, and the blank line would be lost.
            kept[-1] = kept[-1][:-1] + line[len(line.rstrip(b"\r\n")) :]
    return b"".join(kept)
