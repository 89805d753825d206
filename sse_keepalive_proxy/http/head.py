"""A request head before any parser sees it: whole, bounded, and of HTTP/1.

A parser that is fed piece by piece limits single lines, and works on whatever it is sent. Here the whole head
is limited, with its fields and the blank lines in front of it, and what is not HTTP/1 is refused at its first
line. What a head means is the business of the parser (aiohttp's llhttp, strict), and then of `request.admit`.
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
    """Collect one request head of at most `limit` bytes, blank lines in front included.

    `size` is how many bytes have come. `head` is the whole head once `feed` has returned what follows it.
    """

    __slots__ = ("_checked", "_limit", "head", "size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._checked = 0  # bytes of `head` in lines that are known to be good
        self.head = b""
        self.size = 0

    def feed(self, data: bytes) -> bytes | None:
        """Take the next bytes. Return those after the head, None as long as the head is not whole.

        Raises `RequestInvalid`: 400 for what is no HTTP/1 request, 431 for a head that is too large, 501 for
        CONNECT.
        """
        searched = max(len(self.head) - len(_END) + 1, 0)
        self.size += len(data)
        if not self.head:
            data = data.lstrip(b"\r\n")  # a server ignores blank lines in front (RFC 9112 2.2)
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
        """Refuse what is no request line, or cannot become one."""
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
        """Look at the lines that are new in the first `end` bytes: each byte is looked at once."""
        start, checked = self._checked, self.head.rfind(b"\n", self._checked, end) + 1
        if checked:
            if self.head.count(b"\n", start, checked) != self.head.count(b"\r\n", start, checked):
                raise RequestInvalid(400, NOT_HTTP)
            self._checked = checked


def _check_host(target: bytes) -> None:
    """Refuse a target that is no path and whose host cannot be decoded. aiohttp decodes it where it expects
    no error: the connection would stay without an answer.
    """
    try:
        _ = URL(target.decode("utf-8", "surrogateescape"), encoded=True).host
    except (LookupError, ValueError):
        raise RequestInvalid(400, NOT_HTTP) from None


def announced_body(head: bytes) -> int:
    """Return how many bytes of body a whole head announces, or `CHUNKED`.

    Nothing is judged here. A head that announces in two ways, or in none that can be read, is refused by the
    parser, which reads the same bytes.
    """
    lower = head.lower()
    if b"\r\ntransfer-encoding:" in lower:
        return CHUNKED
    found = _LENGTH.search(lower)
    return 0 if found is None else int(found[1])
