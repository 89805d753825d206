"""Read the response heads of upstream, as leniently as nginx and HAProxy read them.

One request has one connection, so a strange head can harm only its own answer, and never the answer to
another request. What is passed on is written new (behaviour.md#lenient-towards-upstream). `http.head` reads
a client's head, strictly.
"""

from __future__ import annotations

import re
from typing import Final

from sse_keepalive_proxy.errors import UpstreamInvalid
from sse_keepalive_proxy.http.headers import connection_tokens
from sse_keepalive_proxy.http.response import SWITCHING_PROTOCOLS, ResponseHead

__all__ = ["CHUNKED", "UNTIL_CLOSE", "ResponseReader", "body_size", "invalid"]

CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2

_MAX_HEAD: Final = 256 * 1024
_MOST_FIELDS: Final = 3000
_MOST_INTERIM: Final = 1000

_BEGIN: Final = b"HTTP/"
_TLS: Final = (b"\x15\x03", b"\x16\x03")
_TLS_BEGINS: Final = (b"\x15", b"\x16")
_END: Final = re.compile(rb"\n\r?\n")
_STATUS_LINE: Final = re.compile(rb"(?i:HTTP)/[0-9]\.[0-9]+[ \t]+([1-9][0-9]{2})(?:\.[0-9]+)?(?:[ \t]+(.*))?")
_FIELD: Final = re.compile(rb"^([^\x00-\x20\x7f:]+)[ \t]*:(.*)$", re.MULTILINE)
_TO_SPACE: Final = re.compile(rb"\n[ \t]+|[\r\x00]")
_REASON: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_MOST_DIGITS: Final = 18
_NO_STATUS_LINE: Final = "its first line is no status line"
_NO_BODY: Final = frozenset({204, 304})
_COMPRESSED: Final = frozenset({b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress", b"br", b"zstd"})


def invalid(why: str) -> UpstreamInvalid:
    """Return the error for an answer that is not HTTP. The client reads `why` too: words of the proxy."""
    return UpstreamInvalid(f"upstream's answer is not valid HTTP: {why}")


class ResponseReader:
    """Collect the heads of one answer: interim ones (1xx), then the final one.

    `rest` holds the bytes after the head that `feed` returned. `is_empty` is true until the first byte.
    """

    __slots__ = ("_allowance", "_checked", "_head", "_heads", "is_empty", "rest")

    def __init__(self) -> None:
        self._head = bytearray()
        self._allowance = _MAX_HEAD
        self._heads = 0
        self._checked = False  # whether the status line of this head was checked
        self.rest = b""
        self.is_empty = True

    def feed(self, data: bytes) -> ResponseHead | None:
        """Add the next bytes. Return the head, or None if it is not whole. Raises `UpstreamInvalid`.

        Call it again with `rest` for the next head. Each byte is looked at once, and blank lines before a
        head count as its bytes.
        """
        self.is_empty = self.is_empty and not data
        head = self._head
        searched = max(len(head) - 2, 0)
        before = len(data)
        head += data if head else data.lstrip(b"\r\n")
        found = _END.search(head, searched)
        end = len(head) if found is None else found.end()
        self._allowance -= before - (len(head) - end)
        if self._allowance < 0:
            raise invalid(f"its head is larger than {_MAX_HEAD} bytes")
        if not self._checked:
            self._check_first_line(end, whole=found is not None)
        if found is None:
            return None
        raw, self.rest = bytes(head[:end]), bytes(head[end:])
        head.clear()
        self._checked = False
        self._heads += 1
        if self._heads > _MOST_INTERIM:
            raise invalid(f"it has more than {_MOST_INTERIM} interim heads")
        return _read(raw)

    def _check_first_line(self, end: int, *, whole: bool) -> None:
        """Raise `UpstreamInvalid` if the first line cannot become a status line. It need not be whole. Of a
        `whole` head, `_read` checks the rest of it.
        """
        head = self._head
        if not _BEGIN.startswith(head[: len(_BEGIN)].upper()):
            if bytes(head) in _TLS_BEGINS:
                return  # the next byte tells
            if head.startswith(_TLS):
                raise invalid("it speaks TLS: write an https:// url")
            raise invalid("it does not begin with HTTP/")
        line = -1 if whole else head.find(b"\n", 0, end)
        if line >= 0:
            self._checked = True
            if not _STATUS_LINE.fullmatch(head[:line].rstrip(b"\r")):
                raise invalid(_NO_STATUS_LINE)


def _read(raw: bytes) -> ResponseHead:
    """Return the head in `raw`, which ends with a blank line. Raises `UpstreamInvalid`.

    A line without a name and a colon is dropped, as browsers drop it. A folded line is joined, NUL and a bare
    CR become blanks (RFC 9112 2.2 and 5.2, RFC 9110 5.5). A reason with a control character is left out.
    """
    text = raw.replace(b"\r\n", b"\n").rstrip(b"\n")
    if text.count(b"\n") > _MOST_FIELDS:
        raise invalid(f"it has more than {_MOST_FIELDS} fields")
    if b"\n " in text or b"\n\t" in text or b"\r" in text or b"\x00" in text:
        text = _TO_SPACE.sub(b" ", text)
    first_line, _, lines = text.partition(b"\n")
    status = _STATUS_LINE.fullmatch(first_line)
    if status is None:
        raise invalid(_NO_STATUS_LINE)
    reason = (status[2] or b"").strip(b" \t")
    if not _REASON.fullmatch(reason):
        reason = b""
    headers = [(name, value.strip(b" \t")) for name, value in _FIELD.findall(lines)]
    head = ResponseHead(int(status[1]), reason, headers)
    if head.status == SWITCHING_PROTOCOLS and not _names_a_protocol(head):
        raise invalid("it switches protocols and names none")
    lengths = head.get_all(b"content-length")
    if not lengths:
        return head
    chunked = _is_chunked(head)
    if not chunked and len(lengths) == 1 and _is_number(lengths[0]):
        return head
    others = [field for field in headers if field[0].lower() != b"content-length"]
    length = None if chunked else _one_length(lengths)
    if length is not None:
        others.append((b"Content-Length", length))
    return ResponseHead(head.status, reason, others)


def body_size(head: ResponseHead) -> int:
    """Return the size of the body in bytes, or `CHUNKED` or `UNTIL_CLOSE` (RFC 9112 6.3). Raises
    `UpstreamInvalid` for a transfer coding that was not asked for.
    """
    if head.status in _NO_BODY:
        return 0
    if _is_chunked(head):
        return CHUNKED
    length = head.get(b"content-length")
    return int(length) if length else UNTIL_CLOSE


def _is_chunked(head: ResponseHead) -> bool:
    """Return whether the body is chunked. Other words, such as `identity`, mean nothing. Raises
    `UpstreamInvalid` for a compression, which was not asked for.
    """
    codings = head.get_all(b"transfer-encoding")
    if not codings or codings == [b"chunked"]:
        return bool(codings)
    found = False
    for word in b",".join(codings).lower().split(b","):
        coding = word.partition(b";")[0].strip(b' \t"')
        if coding in _COMPRESSED:
            raise invalid("it uses a transfer coding that was not asked for")
        found = found or coding == b"chunked"
    return found


def _is_number(value: bytes) -> bool:
    return value.isdigit() and len(value) <= _MOST_DIGITS


def _one_length(values: list[bytes]) -> bytes | None:
    """Return the length that `values` agree on, or None if there is no number in them, as in `-1`. Raises
    `UpstreamInvalid` for two different ones.
    """
    found = {value.strip(b" \t") for value in b",".join(values).split(b",")}
    if len(found) > 1:
        raise invalid("it has two different lengths")
    value = found.pop()
    return value if _is_number(value) else None


def _names_a_protocol(head: ResponseHead) -> bool:
    return bool(head.get(b"upgrade")) and b"upgrade" in connection_tokens(head.headers)
