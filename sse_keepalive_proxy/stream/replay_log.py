"""The log of a group: its last blocks, for a client that comes back with an id (behaviour.md#replay).

Owns what is kept, the bounds, the ids that the proxy adds, and the look-up of an id. It knows no client and
no credential: the caller must know that the client may read the log.
"""

from __future__ import annotations

import re
from collections import OrderedDict, deque
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

from sse_keepalive_proxy.stream.policy import Replay, ReplayIds
from sse_keepalive_proxy.stream.position import PATTERN, Position
from sse_keepalive_proxy.wire.block import last_id, split, tally

__all__ = ["OVERHEAD", "GapReason", "ReplayLog", "ReplayLogs", "is_ours", "position_in"]

OVERHEAD: Final = 48
"""The bytes for which a block in a log counts besides its content: a `bytes` object and its place."""

_CR: Final = 0x0D
_COLON: Final = 0x3A
_COMMENTS = re.compile(rb"(?::[^\r\n]*+(?:\r\n?+|\n))*+")
_NOT_KEPT = frozenset({b"", b"\n", b"\r", b"\r\n"})
_OURS = re.compile(rb"skp-[0-9a-f]{8}-[0-9]{1,18}(?:-%b)?" % PATTERN)


class GapReason(StrEnum):
    """Why a log cannot say what a client has missed: its id was dropped, or the log never had it."""

    TOO_OLD = "too_old"
    UNKNOWN = "unknown"


def is_ours(id_: bytes) -> bool:
    """Whether a proxy with `ids: add` has made `id_`, this one or one before a restart.

    Upstream has never sent it, so it must never get it.
    """
    return _OURS.fullmatch(id_) is not None


def position_in(id_: bytes) -> Position | None:
    """Return the position in a JetStream stream that an id of a proxy carries, or None: what was delivered
    before the event with this id, or with it. Anybody can write such an id.
    """
    found = _OURS.fullmatch(id_)
    return None if found is None or found[1] is None else Position.read(*found.groups())


class ReplayLog:
    """The last blocks of one upstream stream and of those that followed it.

    `nonce`: 8 hexadecimal digits that no other log has. With them an id tells which log it is from. `adds`:
    whether events without an id get one. `size`: the bytes for which the log counts.
    """

    __slots__ = (
        "_before", "_blocks", "_given", "_most_blocks", "_most_bytes", "_position", "_prefix", "adds", "size",
    )  # fmt: skip

    def __init__(self, policy: Replay, nonce: str) -> None:
        self._most_blocks, self._most_bytes = policy.events, policy.bytes
        self.adds = policy.ids is ReplayIds.ADD
        self._prefix = b"skp-%b-" % nonce.encode()
        self._given = 0
        self._position: Position | None = None  # in the stream of a bridge, with the last block
        self._blocks: deque[bytes] = deque()
        # The id of a client that has all blocks before the first one of the log, and nothing after them.
        self._before: bytes | None = None
        self.size = 0

    def add(self, blocks: bytes, position: Position | None = None) -> bytes:
        """Take the next blocks, as `framing.Framer` returns them. Return them as the clients are to get them.

        With `ids: add`, an event without an id gets one of ours in front of its first field. Nothing else
        changes, and the result does not depend on how the blocks were cut into calls.

        `position`: that of the bridge in its stream once a client has all `blocks`. The last one gets it into
        its id.
        """
        before, self._position = self._position, position
        # The common case: one block without a comment.
        if blocks[:1] > b":" and _CR not in blocks and blocks.find(b"\n\n") == len(blocks) - 2:
            return self._add(blocks, position)
        return b"".join(self._add(each, at) for each, at in _with_positions(blocks, before, position))

    def name(self, blocks: bytes, before: Position, position: Position) -> bytes:
        """Return `blocks`, which are for one client only and are not kept, with ids. `before`: the position
        that this client has without them, `position` the one with all of them.
        """
        parts = [self._named(each, at) for each, at in _with_positions(blocks, before, position)]
        return b"".join(comments + fields for comments, fields in parts)

    def after(self, id_: bytes) -> list[bytes] | GapReason:
        """Return the blocks after the last one with this id, in their order, for a client whose last event id
        it is. Return the reason if the log does not know them all.

        A client keeps its last id while blocks without an id follow it, so it may have got some of these
        blocks already. With `ids: add` every event has an id.
        """
        if not id_:
            return GapReason.UNKNOWN
        blocks = list(self._blocks)
        for index in range(len(blocks) - 1, -1, -1):
            # Most blocks do not contain the id anywhere.
            if id_ in blocks[index] and last_id(blocks[index]) == id_:
                return blocks[index + 1 :]
        if id_ == self._before:
            return blocks
        return GapReason.TOO_OLD if self._has_given(id_) else GapReason.UNKNOWN

    def clear(self) -> None:
        """Drop all blocks, because the clients have got something that the log has not."""
        self._drop(before=None)

    def let_go(self) -> None:
        """Drop all blocks for their memory. A client that has them all has still missed nothing."""
        if self._blocks:
            self._drop(before=last_id(self._blocks[-1]))

    def _drop(self, before: bytes | None) -> None:
        self._before = before
        self._blocks.clear()
        self.size = 0

    def _add(self, block: bytes, position: Position | None) -> bytes:
        """Keep one block, from its first field on. Return it as the clients are to get it."""
        comments, fields = self._named(block, position)
        if fields not in _NOT_KEPT:
            self._keep(fields)
        return comments + fields

    def _named(self, block: bytes, position: Position | None) -> tuple[bytes, bytes]:
        """Return the comments before the first field of `block`, and the rest with its id."""
        # Comments in front of a block may come in a call of their own, so they are never a part of it.
        start = _end_of_comments(block) if block[0] == _COLON else 0
        fields = block[start:]
        if fields in _NOT_KEPT:
            return block[:start], fields
        if self.adds and last_id(fields) is None and (fields[:5] == b"data:" or tally(fields)[0]):
            self._given += 1
            at = b"" if position is None else b"-" + position.encoded
            fields = b"id: %b%d%b%b%b" % (self._prefix, self._given, at, _first_ending(fields), fields)
        return block[:start], fields

    def _keep(self, block: bytes) -> None:
        """Append `block`, and drop the oldest ones beyond the bounds: all, if it is too large itself."""
        blocks = self._blocks
        blocks.append(block)
        self.size += len(block) + OVERHEAD
        while self.size > self._most_bytes or len(blocks) > self._most_blocks:
            oldest = blocks.popleft()
            self.size -= len(oldest) + OVERHEAD
            # No id: a client with an earlier id may have missed this block.
            self._before = last_id(oldest)

    def _has_given(self, id_: bytes) -> bool:
        number = id_.removeprefix(self._prefix)
        return number != id_ and is_ours(id_) and 0 < int(number.partition(b"-")[0]) <= self._given


def _with_positions(
    blocks: bytes, before: Position | None, position: Position | None
) -> Iterator[tuple[bytes, Position | None]]:
    """Yield each of `blocks` with its position: only who has the last one has them all."""
    parts = list(split(blocks))
    for number, each in enumerate(parts, 1):
        yield each, position if number == len(parts) else before


def _end_of_comments(block: bytes) -> int:
    """Return the length of the comment lines in front of the first field of `block`."""
    found = _COMMENTS.match(block)
    return found.end() if found else 0


def _first_ending(block: bytes) -> bytes:
    """Return the line ending of the first line of `block`."""
    end = block.find(b"\r")
    if end < 0 or block.find(b"\n", 0, end) >= 0:
        return b"\n"
    return b"\r\n" if block[end + 1 : end + 2] == b"\n" else b"\r"


class ReplayLogs:
    """All logs of the process, which together count for at most `limit` bytes.

    `size`: the bytes for which they count now. `let_go`: the number of logs that were emptied for the limit.
    """

    __slots__ = ("_sizes", "let_go", "limit", "size")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = self.let_go = 0
        self._sizes: OrderedDict[ReplayLog, int] = OrderedDict()  # the one written longest ago is first

    def note(self, log: ReplayLog) -> None:
        """Take the new size of `log`, which has just got blocks. Above the limit, empty the log that got its
        last block the longest time ago, and the next one, until the others fit.
        """
        self.forget(log)
        if log.size:
            self._sizes[log] = log.size
            self.size += log.size
        while self.size > self.limit:
            oldest = next(iter(self._sizes))
            oldest.let_go()
            self.forget(oldest)
            self.let_go += 1

    def forget(self, log: ReplayLog) -> None:
        """Take `log` out of the count: its group has ended, or the log is empty."""
        self.size -= self._sizes.pop(log, 0)
