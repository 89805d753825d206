"""Collect and limit a request head before a parser gets it.

A parser that gets a head in pieces limits single lines only, and spends time on any input. This module limits
the whole head, including the number of fields and the blank lines before it, and refuses input that is not
HTTP/1 at its first line. It does not interpret the head: the parser (aiohttp's llhttp, strict) and then
`request.admit` do.
"""

from __future__ import annotations

import re
from typing import Final

from yarl import URL

from sse_keepalive_proxy.errors import RequestInvalid

__all__ = ["CHUNKED", "MOST_FIELDS", "NOT_HTTP", "HeadReader", "announced_body"]

CHUNKED: Final = -1
_END: Final = b"\r\n\r\n"
_SLASH: Final = ord("/")
MOST_FIELDS: Final = 100
_METHOD: Final = re.compile(rb"[A-Z-]{1,24}(?: |\Z)")
_VERSION: Final = re.compile(rb" HTTP/1\.[01]\r\n")
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*\r\n")
_TLS: Final = b"\x16\x03"

NOT_HTTP = "this is not a valid HTTP/1.1 request"
_SPEAKS_TLS = "the client speaks TLS, and this port does not: use http://, or set `tls`"


class HeadReader:
    """Collect one request head of at most `limit` bytes, including blank lines before it.

    `size` is the number of bytes received. `head` is whole after `feed` has returned bytes.
    """

    __slots__ = ("_checked", "_limit", "head", "size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._checked = 0  # bytes of `head` in lines that were checked
        self.head = b""
        self.size = 0

    def feed(self, data: bytes) -> bytes | None:
        """Add the next bytes. Return the bytes after the head, or None if the head is not whole.

        Raises `RequestInvalid`: 400 if this is not an HTTP/1 request, 431 if the head is too large, 501 for
        CONNECT.
        """
        searched = max(len(self.head) - len(_END) + 1, 0)
        self.size += len(data)
        if not self.head:
            data = data.lstrip(b"\r\n")  # a server ignores blank lines before a request (RFC 9112 2.2)
        self.head = head = self.head + data
        found = head.find(_END, searched)
        end = found + len(_END) if found >= 0 else len(head)
        if self.size - (len(head) - end) > self._limit:
            raise RequestInvalid(431, f"the request head is larger than {self._limit} bytes")
        if not self._checked:
            self._check_first_line(end)
        if found < 0:
            self._check_lines(end)
            return None
        self.head = head[:end]
        lines = self.head.count(b"\n")
        if not lines == self.head.count(b"\r\n") == self.head.count(b"\r"):
            raise RequestInvalid(400, NOT_HTTP)
        if lines > MOST_FIELDS + 2:
            raise RequestInvalid(431, f"the request head has more than {MOST_FIELDS} fields")
        return head[end:]

    def _check_first_line(self, end: int) -> None:
        """Raise `RequestInvalid` if the first line is not the beginning of a request line."""
        head = self.head
        line = head.find(b"\n", 0, end) + 1
        method = _METHOD.match(head, 0, line or end)
        if (head and method is None) or (line and not _VERSION.fullmatch(head, max(line - 11, 0), line)):
            raise RequestInvalid(400, _SPEAKS_TLS if head.startswith(_TLS) else NOT_HTTP)
        if line and head.startswith(b"CONNECT "):
            raise RequestInvalid(501, "CONNECT is not supported")
        if line and method is not None and head[method.end()] != _SLASH:
            _check_host(head[method.end() : line - 11])

    def _check_lines(self, end: int) -> None:
        """Check the new lines in the first `end` bytes for bare LFs. Each byte is checked once."""
        start, checked = self._checked, self.head.rfind(b"\n", self._checked, end) + 1
        if checked:
            if self.head.count(b"\n", start, checked) != self.head.count(b"\r\n", start, checked):
                raise RequestInvalid(400, NOT_HTTP)
            self._checked = checked


def _check_host(target: bytes) -> None:
    """Raise `RequestInvalid` for a target in absolute form whose host cannot be decoded. aiohttp does not
    expect this error, and would leave the connection without an answer.
    """
    try:
        _ = URL(target.decode("utf-8", "surrogateescape"), encoded=True).host
    except (LookupError, ValueError):
        raise RequestInvalid(400, NOT_HTTP) from None


def announced_body(head: bytes) -> int:
    """Return the size of the body in bytes according to `head`, or `CHUNKED`.

    Nothing is validated here. The parser reads the same bytes, and refuses a head with two sizes or with an
    invalid one.
    """
    lower = head.lower()
    if b"\r\ntransfer-encoding:" in lower:
        return CHUNKED
    found = _LENGTH.search(lower)
    return 0 if found is None else int(found[1])
