"""Just enough HTTP/1.1 to read what went over a socket, strictly (RFC 9112), and to write test bytes.

Readers are fed bytes as they come and keep everything they saw. What is not HTTP raises ValueError.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = [
    "LAST_CHUNK",
    "Dechunker",
    "Request",
    "RequestReader",
    "Response",
    "ResponseReader",
    "chunk",
    "joined",
    "request",
    "response",
    "stream_head",
]

LAST_CHUNK = b"0\r\n\r\n"

Headers = list[tuple[bytes, bytes]]


def chunk(data: bytes) -> bytes:
    """`data` as one chunk of the chunked coding. No data gives no bytes: an empty chunk is the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def stream_head(*headers: str, status: str = "200 OK", chunked: bool = True) -> bytes:
    """The response head of an event stream.

    `headers` are whole lines (`retry-after: 3`); one with the name of a default replaces it.
    """
    defaults = ["content-type: text/event-stream", "cache-control: no-cache"]
    if chunked:
        defaults.append("transfer-encoding: chunked")
    given = {line.partition(":")[0].lower() for line in headers}
    lines = [line for line in defaults if line.partition(":")[0] not in given]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, *headers, "", ""]).encode()


def response(status: str = "200 OK", body: bytes = b"", *headers: str) -> bytes:
    """A whole response with a Content-Length."""
    return (
        "\r\n".join([f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]).encode() + body
    )


def request(target: str, *headers: str, method: str = "GET", host: str = "test", body: bytes = b"") -> bytes:
    """A whole request. Without a `Host:` line of its own it gets `host`; a body gets its Content-Length."""
    lines = [f"{method} {target} HTTP/1.1", *headers]
    if not any(line.lower().startswith("host:") for line in headers):
        lines.insert(1, f"Host: {host}")
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class Dechunker:
    """Takes the chunked coding off. `ended` is true after the last chunk; what follows is in `rest`."""

    def __init__(self) -> None:
        self.ended = False
        self.chunk_sizes: list[int] = []
        self.trailers = b""
        self._buffer = b""
        self._left = 0  # bytes of the current chunk still to come, its CRLF included

    @property
    def rest(self) -> bytes:
        """Bytes after the end of the body."""
        return self._buffer if self.ended else b""

    def feed(self, data: bytes) -> bytes:
        """Return the payload in `data`; a partly received chunk counts. ValueError when it is malformed."""
        self._buffer += data
        out = bytearray()
        while not self.ended:
            if self._left:
                payload = self._buffer[: max(self._left - 2, 0)]
                out += payload
                self._left -= len(payload)
                self._buffer = self._buffer[len(payload) :]
                if self._left > 2 or len(self._buffer) < 2:
                    break
                if self._buffer[:2] != b"\r\n":
                    raise ValueError(f"a chunk must end in CRLF, not {self._buffer[:2]!r}")
                self._buffer = self._buffer[2:]
                self._left = 0
            elif not self._size_line():
                break
        return bytes(out)

    def _size_line(self) -> bool:
        line, crlf, after = self._buffer.partition(b"\r\n")
        if not crlf:
            return False
        digits = line.partition(b";")[0].strip()
        if not digits or digits.strip(b"0123456789abcdefABCDEF"):
            raise ValueError(f"not a chunk size: {line!r}")
        size = int(digits, 16)
        if size == 0:
            return self._trailers(after)
        self.chunk_sizes.append(size)
        self._buffer = after
        self._left = size + 2
        return True

    def _trailers(self, after: bytes) -> bool:
        if after.startswith(b"\r\n"):
            self._buffer = after[2:]
        else:
            trailers, end, rest = after.partition(b"\r\n\r\n")
            if not end:
                return False
            self.trailers = trailers
            self._buffer = rest
        self.ended = True
        return True


def _head(raw: bytes) -> tuple[bytes, Headers]:
    first, *lines = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
    headers: Headers = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise ValueError(f"not a header line: {line!r}")
        headers.append((name, value.strip(b" \t")))
    return first, headers


def _values(headers: Headers, name: str) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key.lower() == name.lower().encode()]


@dataclass(slots=True)
class Request:
    """One request as it came. `raw_head` is byte-exact; `body` has the chunked coding taken off."""

    raw_head: bytes
    method: str
    target: str
    version: str
    headers: Headers
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False

    def header(self, name: str) -> str | None:
        """All values of a header joined with `, `; None when it is not there."""
        return ", ".join(_values(self.headers, name)) if _values(self.headers, name) else None


@dataclass(slots=True)
class Response:
    """One response, growing as it comes. `complete` is true once the body has ended as announced."""

    raw_head: bytes
    version: str
    status: int
    reason: str
    headers: Headers
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False

    def header(self, name: str) -> str | None:
        """All values of a header joined with `, `; None when it is not there."""
        return ", ".join(_values(self.headers, name)) if _values(self.headers, name) else None

    @property
    def header_names(self) -> list[str]:
        """The names as they were written, in their order."""
        return [name.decode("latin-1") for name, _ in self.headers]


class _Body:
    """How a message's body is delimited (RFC 9112, 6.3)."""

    def __init__(self, headers: Headers, *, none: bool, until_close: bool) -> None:
        self.dechunker: Dechunker | None = None
        self.left: int | None = 0
        if none:
            return
        if any("chunked" in value.lower() for value in _values(headers, "transfer-encoding")):
            self.dechunker = Dechunker()
        elif lengths := set(_values(headers, "content-length")):
            self.left = int(lengths.pop())
            if lengths:
                raise ValueError("Content-Length values that differ")
        elif until_close:
            self.left = None

    def feed(self, data: bytes) -> tuple[bytes, bytes, bool]:
        """Return payload, what belongs to the next message, and whether the body has ended."""
        if self.dechunker is not None:
            payload = self.dechunker.feed(data)
            return payload, self.dechunker.rest, self.dechunker.ended
        if self.left is None:
            return data, b"", False
        payload, rest = data[: self.left], data[self.left :]
        self.left -= len(payload)
        return payload, rest, self.left == 0


class RequestReader:
    """The requests of one connection."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._buffer = b""
        self._body: _Body | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes in. A request is listed as soon as its head is whole."""
        self._buffer += data
        while self._buffer or self._body is not None:
            if self._body is None:
                raw, end, rest = self._buffer.partition(b"\r\n\r\n")
                if not end:
                    return
                self._begin(raw + end)
                self._buffer = rest
            assert self._body is not None
            payload, self._buffer, ended = self._body.feed(self._buffer)
            self.requests[-1].body += payload
            if not ended:
                self._buffer = b""
                return
            self.requests[-1].complete = True
            self._body = None

    def _begin(self, raw: bytes) -> None:
        first, headers = _head(raw)
        parts = first.decode("latin-1").split(" ")
        if len(parts) != 3:
            raise ValueError(f"not a request line: {first!r}")
        self.requests.append(Request(raw, parts[0], parts[1], parts[2], headers))
        self._body = _Body(headers, none=False, until_close=False)


class ResponseReader:
    """The responses of one connection.

    `methods` are those of the requests sent, in order: the answer to HEAD has no body. 1xx answers
    are kept in `informational`.
    """

    def __init__(self) -> None:
        self.responses: list[Response] = []
        self.informational: list[Response] = []
        self.methods: list[str] = []
        self._buffer = b""
        self._body: _Body | None = None

    def feed(self, data: bytes) -> bytes:
        """Take bytes in; return the body bytes among them."""
        self._buffer += data
        out = bytearray()
        while self._buffer or self._body is not None:
            if self._body is None and not self._begin():
                break
            if self._body is None:
                continue
            payload, rest, ended = self._body.feed(self._buffer)
            self._buffer = rest if ended else b""
            self.responses[-1].body += payload
            out += payload
            if not ended:
                break
            self.responses[-1].complete = True
            self._body = None
        return bytes(out)

    def end(self) -> None:
        """The connection ended cleanly: a body that ends with the connection is complete now."""
        if self._body is not None and self._body.dechunker is None and self._body.left is None:
            self.responses[-1].complete = True
            self._body = None

    def _begin(self) -> bool:
        raw, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        first, headers = _head(raw + end)
        version, status, reason = _status_line(first)
        answer = Response(raw + end, version, status, reason, headers)
        self._buffer = rest
        if 100 <= status < 200 and status != 101:
            self.informational.append(answer)
            return True
        method = self.methods[len(self.responses)] if len(self.methods) > len(self.responses) else "GET"
        self.responses.append(answer)
        self._body = _Body(headers, none=method == "HEAD" or status in {204, 304}, until_close=True)
        return True


def _status_line(first: bytes) -> tuple[str, int, str]:
    version, _, rest = first.decode("latin-1").partition(" ")
    status, _, reason = rest.partition(" ")
    if not version.startswith("HTTP/1.") or not status.isdigit() or len(status) != 3:
        raise ValueError(f"not a status line: {first!r}")
    return version, int(status), reason


def joined(parts: Iterable[bytes]) -> bytes:
    """The chunked coding of `parts`, one chunk each, without the last chunk."""
    return b"".join(map(chunk, parts))
