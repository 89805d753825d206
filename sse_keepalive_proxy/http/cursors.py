"""Cursors: query parameters that carry the id of the last event that a client has seen.

A client names it there if it cannot set `Last-Event-ID`. Sent again unchanged after more events, a cursor
makes upstream repeat these events (behaviour.md#cursors).
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote_from_bytes, unquote_to_bytes

__all__ = ["Cursors", "find_cursors", "take_cursors"]

_CURSOR = b"cursor"
"""A position in upstream's own form, which may be no event id."""

_MOST_PARAMETERS = 100
"""The most parameters of a query that are read. Each costs time."""

_MOST_CURSORS = 4
"""The most cursors that are renewed: each gets the id, so many short ones would make a huge request head."""


class Cursors:
    """The cursors of one request. `renewable`: an event id can take the place of all of them."""

    __slots__ = ("_pieces", "renewable")

    def __init__(self, pieces: tuple[bytes, ...], *, renewable: bool) -> None:
        self._pieces, self.renewable = pieces, renewable

    def renewed(self, known: bytes) -> bytes:
        """Return the request head with the event id `known`, percent-encoded, as the value of each cursor."""
        return quote_from_bytes(known, safe="").encode().join(self._pieces)


def find_cursors(head: bytes, names: frozenset[bytes]) -> Cursors | None:
    """Return the parameters of `names`, and `cursor`, in the query of a request head. None if there are none.

    `names` are percent-decoded. The cursors of a query with more than 100 parameters are not looked for, and
    more than 4 are not renewed: both are not `renewable`.
    """
    begin, end = head.find(b"?") + 1, head.find(b" HTTP/1.1\r\n")
    if not 0 < begin <= end:
        return None
    if head.count(b"&", begin, end) >= _MOST_PARAMETERS:
        return Cursors((head,), renewable=False)
    pieces: list[bytes] = []
    renewable, kept_from, at = True, 0, begin
    longest = 3 * max(map(len, (*names, _CURSOR)))  # percent-encoded
    for part in head[begin:end].split(b"&"):
        name = part.partition(b"=")[0]
        decoded = unquote_to_bytes(name) if b"%" in name and len(name) <= longest else name
        if decoded in names:
            pieces.append(head[kept_from : at + len(name)] + b"=")
            kept_from = at + len(part)
        elif decoded == _CURSOR:
            renewable = False
        at += len(part) + 1
    if not pieces and renewable:
        return None
    return Cursors((*pieces, head[kept_from:]), renewable=renewable and len(pieces) <= _MOST_CURSORS)


def take_cursors(
    target: bytes, names: frozenset[bytes], taken: Callable[[bytes], bool]
) -> tuple[bytes, bytes]:
    """Return `target` without the parameters of `names` whose values are to be `taken`, and the last of these
    values, or `b""`. `names` are percent-decoded. A query with more than 100 parameters is not looked at.
    """
    path, mark, query = target.partition(b"?")
    if not query or query.count(b"&") >= _MOST_PARAMETERS:
        return target, b""
    kept, found = [], b""
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        if unquote_to_bytes(name) in names and taken(decoded := unquote_to_bytes(value)):
            found = decoded
        else:
            kept.append(part)
    return (path + mark + b"&".join(kept) if kept else path, found) if found else (target, b"")
