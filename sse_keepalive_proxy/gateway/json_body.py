"""Look for a few members of the JSON object in a request's body, while the body passes in pieces.

Nothing is delayed, and little is kept: the beginning of one member of the object at a time. A body that is no
JSON object has no members.
"""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["JsonBody"]

_LONGEST = 1024
"""Bytes: the most that is kept of a member."""

_MOST_TOKENS = 2000
"""The most tokens of the object itself that are read, a nested value counted as two."""

_MOST_BRACKETS = 30_000
"""The most brackets and braces of nested values that are read."""

_NO_UTF_8 = (b"\x00", b"\xef", b"\xfe", b"\xff")
"""The first byte of a body with a byte order mark, and of one in UTF-16 or UTF-32 that begins with zeros."""

_STRING = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
_IN_STRING = re.compile(_STRING, re.DOTALL)
_IN_OBJECT = re.compile(rb'"' + _STRING + rb'"|["\[\]{},]', re.DOTALL)
_NESTED = re.compile(
    rb'[^"\[\]{}]*+(?:"' + _STRING + rb'"[^"\[\]{}]*+)*+(["\[\]{}]|\Z)',
    re.DOTALL,
)
_NAME = re.compile(rb'"(' + _STRING + rb')"\s*+:', re.DOTALL)


class JsonBody:
    """The members of a body's top-level object that have one of `names`: their last values in `found`. The
    value is None if it is nested or too long.
    """

    __slots__ = (
        "_brackets",
        "_cut",
        "_depth",
        "_in_string",
        "_member",
        "_names",
        "_tokens",
        "_whole",
        "found",
        "over",
        "unread",
    )

    def __init__(self, *names: str) -> None:
        self._names = names
        self._tokens, self._brackets = _MOST_TOKENS, _MOST_BRACKETS  # that may still be read
        self._depth = 0  # 1: in the top-level object
        self._in_string = False
        self._cut = b""  # a backslash that the last piece ended with
        self._member, self._whole = bytearray(), True  # the current one, and whether all of it is kept
        self.found: dict[str, Any] = {}
        self.over = False  # whether the rest is not read: no object, its end, a fault, or a bound
        self.unread = False  # whether an object has begun, but its valid end was not read; or no UTF-8

    def feed(self, data: bytes) -> None:
        """Read the next piece of the body."""
        data, self._cut = self._cut + data, b""
        at = 0
        while at < len(data) and not self.over:
            if self._in_string:
                at = self._finish_string(data, at)
            elif self._depth > 1:
                at = self._skip(data, at)
            elif self._depth == 1:
                at = self._read(data, at)
            else:
                at = self._begin(data, at)
            if self._tokens <= 0 or self._brackets <= 0:
                self.over = True

    def _begin(self, data: bytes, at: int) -> int:
        """Read the beginning of the body, up to the object."""
        body = data[at:].lstrip()
        if not body:
            return len(data)
        self.over = not body.startswith(b"{")
        self.unread = not self.over or body.startswith(_NO_UTF_8)
        self._depth = 1
        return len(data) - len(body) + 1

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
        """Read on until the value that is nested in the object ends, a bracket at a time."""
        depth, brackets = self._depth, self._brackets
        for found in _NESTED.finditer(data, at):
            at = found.end()
            match found[1]:
                case b"{" | b"[":
                    depth += 1
                case b"}" | b"]":
                    depth -= 1
                case token:
                    self._in_string = token == b'"'
                    break
            brackets -= 1
            if depth == 1 or brackets == 0:
                break
        self._depth, self._brackets = depth, brackets
        return at

    def _read(self, data: bytes, at: int) -> int:
        """Read the next token of the object, or its beginning."""
        self._tokens -= 1
        found = _IN_OBJECT.search(data, at)
        start = len(data) if found is None else found.start()
        self._keep(data[at:start])
        if found is None:
            return start
        end = found.end()
        match data[start]:
            case 0x2C:  # ,
                self._end_member()
            case 0x7D:  # }
                self._end_member()
                self.unread, self.over = self.over, True
            case 0x5D:  # ]
                self.over = True
            case 0x7B | 0x5B:  # { [
                self._whole = False
                self._depth += 1
            case _:
                self._keep(data[start:end])
                self._in_string = end == start + 1
        return end

    def _keep(self, part: bytes) -> None:
        if self._whole:
            self._member += part if self._member else part.lstrip()
            self._whole = len(self._member) <= _LONGEST
            del self._member[_LONGEST:]

    def _end_member(self) -> None:
        member, whole = bytes(self._member), self._whole
        self._member, self._whole = bytearray(), True
        found = _NAME.match(member)
        if found is None:
            self.over = bool(member) or not whole
            return
        try:
            name = found[1].decode()
            if "\\" in name:
                name = json.loads(f'"{name}"')
            if name in self._names:
                self.found[name] = json.loads(member[found.end() :].decode()) if whole else None
        except ValueError:
            self.over = True
