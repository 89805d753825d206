"""Look for a few members of the JSON object in a request's body, while the body passes in pieces.

Nothing is delayed, and little is kept: one member of the object at a time, and never one that is long or
nested. A body that is no JSON object has no members.
"""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["JsonBody"]

_LONGEST = 1024
"""Bytes: a longer member is not read."""

_MOST_TOKENS = 2000
"""The most tokens of the object itself that are read, a nested value counted as two."""

_DEEPEST = 1000

_STRING = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
_IN_STRING = re.compile(_STRING, re.DOTALL)
_IN_OBJECT = re.compile(rb'"' + _STRING + rb'("?)|[\[\]{},]', re.DOTALL)
_DEEPER = re.compile(rb'"' + _STRING + rb'("?)|[\[\]{}]', re.DOTALL)


class JsonBody:
    """The members of a body's top-level object that have one of `names`: their last values in `found`."""

    __slots__ = ("_cut", "_depth", "_in_string", "_left", "_member", "_names", "found", "over")

    def __init__(self, *names: str) -> None:
        self._names = [(name, b'"%b"' % name.encode()) for name in names]
        self._left = _MOST_TOKENS
        self._depth = 0  # 1: in the top-level object
        self._in_string = False
        self._cut = b""  # a backslash that the last piece ended with
        self._member: bytearray | None = bytearray()  # None: the current one is not read
        self.found: dict[str, Any] = {}
        self.over = False  # whether the rest is not read: no object, its end, or one beyond all bounds

    def feed(self, data: bytes) -> None:
        """Read the next piece of the body."""
        data, self._cut = self._cut + data, b""
        at = 0
        while at < len(data) and not self.over:
            if self._in_string:
                at = self._finish_string(data, at)
            elif self._depth > 1:
                at = self._skip(data, at)
            else:
                at = self._read(data, at)
            if self._left <= 0 or self._depth > _DEEPEST:
                self.over = True

    def _finish_string(self, data: bytes, at: int) -> int:
        found = _IN_STRING.match(data, at)
        end = at if found is None else found.end()
        if data[end : end + 1] == b'"':
            end, self._in_string = end + 1, False
        self._keep(data[at:end])
        if self._in_string:
            self._cut = data[end:]
            return len(data)
        return end

    def _skip(self, data: bytes, at: int) -> int:
        """Read on until the value that is nested in the object ends."""
        depth = self._depth
        for found in _DEEPER.finditer(data, at):
            match data[found.start()]:
                case 0x7B | 0x5B:  # { [
                    depth += 1
                case 0x7D | 0x5D:  # } ]
                    depth -= 1
                    if depth == 1:
                        self._depth = 1
                        return found.end()
                case _:
                    if not found[1]:
                        self._open_string(data, found.end())
        self._depth = depth
        return len(data)

    def _read(self, data: bytes, at: int) -> int:
        """Read the next token of the object, or its beginning."""
        self._left -= 1
        found = _IN_OBJECT.search(data, at)
        start = len(data) if found is None else found.start()
        if self._depth == 0 and data[at:start].strip():
            self.over = True
            return start
        self._keep(data[at:start])
        if found is None:
            return start
        end, token = found.end(), data[start]
        if self._depth == 0:
            self.over = token != 0x7B
            self._depth, self._member = 1, bytearray()
            return end
        match token:
            case 0x2C:  # ,
                self._end_member()
            case 0x7D | 0x5D:  # } ]
                self._end_member()
                self.over = True
            case 0x7B | 0x5B:  # { [
                self._member = None
                self._depth += 1
            case _:
                self._keep(data[start:end])
                if not found[1]:
                    self._open_string(data, end)
                    return len(data)
        return end

    def _open_string(self, data: bytes, end: int) -> None:
        """Note that the string before `end` goes on in the next piece."""
        self._in_string, self._cut = True, data[end:]

    def _keep(self, part: bytes) -> None:
        if self._member is not None:
            self._member += part
            if len(self._member) > _LONGEST:
                self._member = None

    def _end_member(self) -> None:
        member, self._member = self._member, bytearray()
        for name, quoted in self._names:
            if member is not None and quoted in member:
                try:
                    found = json.loads(b"{" + member + b"}")
                except ValueError:
                    return
                if name in found:
                    self.found[name] = found[name]
