"""Collect and limit a request head before a parser gets it.

A parser that gets a head in pieces limits single lines only, and spends time on any input. This module limits
the whole head, including the number of fields and the blank lines before it, and refuses input that is not
HTTP/1 at its first line. It does not interpret the head: the parser (aiohttp's llhttp, strict) and then
`request.admit` do. `RequestHead` keeps away from aiohttp what it refuses and other servers accept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from sse_keepalive_proxy.errors import RequestInvalid
from sse_keepalive_proxy.http.headers import Header

__all__ = ["CHUNKED", "MOST_FIELDS", "NOT_HTTP", "HeadReader", "RequestHead"]

CHUNKED: Final = -1
_END: Final = b"\r\n\r\n"
MOST_FIELDS: Final = 100
_METHOD: Final = re.compile(rb"[A-Z-]{1,24}(?: |\Z)")
_VERSION: Final = re.compile(rb" HTTP/1\.[01]\r\n")
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*\r\n")
_FRAMING: Final = re.compile(rb"(?i)\r\n(?:content-length|transfer-encoding):[^\r\n]*")
_PLAINLY_CHUNKED: Final = re.compile(rb"(?i)\r\ntransfer-encoding:[ \t]*chunked *")
_TLS: Final = b"\x16\x03"

_ONCE: Final = rb"content-(?:location|range|type)|etag|max-forwards|server|user-agent"
"""The fields that aiohttp accepts once, without those for the framing of a request and for its host."""

_NAMES: Final = re.compile(rb"\r\n(content-length|transfer-encoding|" + _ONCE + rb"):")
_REPEATED: Final = re.compile(rb"(?i)\r\n(" + _ONCE + rb"):[\t ]*([\t\x20-\x7e\x80-\xff]*)(?=\r\n[^\t ])")

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

    def _check_lines(self, end: int) -> None:
        """Check the new lines in the first `end` bytes for bare LFs. Each byte is checked once."""
        start, checked = self._checked, self.head.rfind(b"\n", self._checked, end) + 1
        if checked:
            if self.head.count(b"\n", start, checked) != self.head.count(b"\r\n", start, checked):
                raise RequestInvalid(400, NOT_HTTP)
            self._checked = checked


@dataclass(slots=True)
class RequestHead:
    """A whole head: the part that aiohttp gets, and the rest.

    aiohttp refuses bytes of UTF-8 in a target, and a second `User-Agent` or `Content-Type`. Other servers
    pass them on, and so does this proxy. `for_aiohttp` has the target `/`, and `target` is the received one.
    `repeated` holds the later fields of a name that aiohttp accepts once. `body` is the size of the body in
    bytes, or `CHUNKED`. It is not validated: the parser refuses a head with two sizes or an invalid one.
    """

    for_aiohttp: bytes
    target: bytes
    repeated: tuple[Header, ...]
    body: int

    @classmethod
    def of(cls, head: bytes) -> Self:
        """Return the parts of `head`, which a `HeadReader` has accepted."""
        line = head.index(b"\r\n")
        start, end = head.index(b" ") + 1, line - len(" HTTP/1.1")
        fields = head[line:]
        lower = fields.lower()
        repeated: list[Header] = []
        names = _NAMES.findall(lower)
        if len(names) > len(set(names)):
            seen: set[bytes] = set()

            def take_out(found: re.Match[bytes]) -> bytes:
                name = found[1].lower()
                if name not in seen:
                    seen.add(name)
                    return found[0]
                repeated.append((found[1], found[2].rstrip(b"\t ")))
                return b""

            fields = _REPEATED.sub(take_out, fields)
        body = 0
        if b"transfer-encoding" in names:
            body = CHUNKED
        elif b"content-length" in names and (found := _LENGTH.search(lower)) is not None:
            body = int(found[1])
        target = head[start:end].strip(b" ")
        return cls(head[:start] + b"/" + head[end:line] + fields, target, tuple(repeated), body)

    @property
    def may_end_empty(self) -> bool:
        """Whether an empty chunked body is the same as none. A `GET` or `HEAD` of HTTP/1.1 whose only framing
        is one `Transfer-Encoding: chunked` may end so. The strict checks get every other head as it came.
        """
        if not self.for_aiohttp.startswith((b"GET / HTTP/1.1\r\n", b"HEAD / HTTP/1.1\r\n")):
            return False
        framing = _FRAMING.findall(self.for_aiohttp)
        return len(framing) == 1 and _PLAINLY_CHUNKED.fullmatch(framing[0]) is not None

    def without_body(self) -> Self:
        """Return the head of the same request without `Transfer-Encoding`, because its body was empty."""
        return type(self)(_FRAMING.sub(b"", self.for_aiohttp), self.target, self.repeated, 0)
