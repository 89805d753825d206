"""Request smuggling and splitting: what two readers could take differently never passes
(behaviour.md#doubtful-requests).

A table. Every row is the bytes of a client and what becomes of them: a refusal, after which the
connection is closed and upstream has heard of no whole request, or exactly one request written anew,
compared byte for byte, after which the next request on the same connection is answered in turn.
Each row is sent at once, on both loops, and piece by piece.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from tests.support.raw_client import RawClient
from tests.support.raw_upstream import RawUpstream, UpstreamConnection, response
from tests.support.running import Running, on_loop, plain, soon

_BIG = 32 << 10  # the default of limits.max_request_header


@dataclass(frozen=True, slots=True)
class Refused:
    """Answered with `status` and closed."""

    status: int = 400


@dataclass(frozen=True, slots=True)
class Passed:
    """Upstream gets this one request: `fields` besides those that every request of this table gets; `body`
    has no chunked coding, whose chunks are as the client's bytes came.
    """

    line: bytes = b"GET /a HTTP/1.1"
    fields: tuple[bytes, ...] = ()
    framing: bytes = b""
    body: bytes = b""
    host: bytes = b"a"
    closes: bool = field(default=False, kw_only=True)

    @property
    def head(self) -> bytes:
        """The request's head as upstream receives it."""
        lines = [
            self.line,
            b"Host: " + self.host,
            *self.fields,
            b"X-Forwarded-For: 127.0.0.1",
            b"X-Forwarded-Proto: http",
            b"X-Forwarded-Host: " + self.host,
            *([self.framing] if self.framing else []),
        ]
        return b"\r\n".join(lines) + b"\r\n\r\n"


Row = tuple[str, bytes, Refused | Passed]


def get(*lines: bytes) -> bytes:
    """`GET /a` with these lines behind its `Host: a`."""
    return b"\r\n".join([b"GET /a HTTP/1.1", b"Host: a", *lines, b"", b""])


def post(*lines: bytes, body: bytes = b"") -> bytes:
    """`POST /a` with these lines behind its `Host: a`, and bytes behind its head."""
    return b"\r\n".join([b"POST /a HTTP/1.1", b"Host: a", *lines, b"", b""]) + body


def chunked(body: bytes) -> bytes:
    """`POST /a`, chunked, with `body` as its coded body."""
    return post(b"Transfer-Encoding: chunked", body=body)


def posted(body: bytes = b"", *fields: bytes) -> Passed:
    """`POST /a` with a Content-Length."""
    return Passed(b"POST /a HTTP/1.1", fields, b"Content-Length: %d" % len(body), body)


def posted_chunked(body: bytes = b"") -> Passed:
    """`POST /a`, chunked."""
    return Passed(b"POST /a HTTP/1.1", (), b"Transfer-Encoding: chunked", body)


SMUGGLED = b"GET /hidden HTTP/1.1\r\nHost: hidden\r\n\r\n"
ABC = b"3\r\nabc\r\n0\r\n\r\n"
TE = b"Transfer-Encoding: chunked"

LENGTH_AND_CODING: list[Row] = [
    ("CL.TE", post(b"Content-Length: 44", TE, body=b"0\r\n\r\n" + SMUGGLED), Refused()),
    ("TE.CL", post(TE, b"Content-Length: 4", body=ABC), Refused()),
    ("CL 0 and TE", post(b"Content-Length: 0", TE, body=ABC), Refused()),
    ("TE twice", post(TE, TE, body=ABC), Refused()),
    ("TE twice, the second void", post(TE, b"Transfer-Encoding: x", body=ABC), Refused()),
    ("TE twice, the first void", post(b"Transfer-Encoding: x", TE, body=ABC), Refused()),
    ("TE xchunked", post(b"Transfer-Encoding: xchunked", body=ABC), Refused()),
    ("TE identity", post(b"Transfer-Encoding: identity", body=ABC), Refused()),
    ("TE empty", post(b"Transfer-Encoding:"), Refused()),
    ("TE chunked, identity", post(b"Transfer-Encoding: chunked, identity", body=ABC), Refused()),
    ("TE identity, chunked", post(b"Transfer-Encoding: identity, chunked", body=ABC), Refused(501)),
    ("TE gzip, chunked", post(b"Transfer-Encoding: gzip, chunked", body=ABC), Refused(501)),
    ("TE chunked, chunked", post(b"Transfer-Encoding: chunked, chunked", body=ABC), Refused()),
    ("TE chunked;q=1", post(b"Transfer-Encoding: chunked;q=1", body=ABC), Refused()),
    ("TE quoted", post(b'Transfer-Encoding: "chunked"', body=ABC), Refused()),
    ("TE after a tab", post(b"Transfer-Encoding:\tchunked", body=ABC), posted_chunked(b"abc")),
    ("TE without a space", post(b"Transfer-Encoding:chunked", body=ABC), posted_chunked(b"abc")),
    ("TE in another case", post(b"tRANSFER-eNCODING: cHUNKED", body=ABC), posted_chunked(b"abc")),
    ("TE with a space behind", post(b"Transfer-Encoding: chunked ", body=ABC), posted_chunked(b"abc")),
    ("TE with a tab behind", post(b"Transfer-Encoding: chunked\t", body=ABC), Refused()),
    ("TE after a vertical tab", post(b"Transfer-Encoding:\x0bchunked", body=ABC), Refused()),
    ("TE with a vertical tab behind", post(b"Transfer-Encoding: chunked\x0b", body=ABC), Refused()),
    ("TE with a form feed behind", post(b"Transfer-Encoding: chunked\x0c", body=ABC), Refused()),
    ("TE after a NUL", post(b"Transfer-Encoding: \x00chunked", body=ABC), Refused()),
    ("TE after a no-break space", post(b"Transfer-Encoding: \xa0chunked", body=ABC), Refused()),
    ("space before the colon of TE", post(b"Transfer-Encoding : chunked", body=ABC), Refused()),
    ("tab before the colon of TE", post(b"Transfer-Encoding\t: chunked", body=ABC), Refused()),
    ("space before TE", post(b" Transfer-Encoding: chunked", body=ABC), Refused()),
    ("TE folded", post(b"Transfer-Encoding:\r\n chunked", body=ABC), Refused()),
    ("TE in a fold", post(b"X: y", b" Transfer-Encoding: chunked", body=ABC), Refused()),
    ("TE behind a bare LF", post(b"X: y\nTransfer-Encoding: chunked", body=ABC), Refused()),
    ("TE behind a bare CR", post(b"X: y\rTransfer-Encoding: chunked", body=ABC), Refused()),
    (
        "TE with an underscore",
        post(b"Transfer_Encoding: chunked", b"Content-Length: 3", body=b"abc"),
        posted(b"abc"),
    ),
    ("TE in HTTP/1.0", b"POST /a HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + ABC, Refused()),
    ("TE: chunked in a GET", get(TE) + ABC, Passed(framing=TE, body=b"abc")),
]


def _empty(row: Row, method: bytes) -> Row:
    """The row with another method and, if it has a chunked body or is refused, an empty one
    (facts.md#empty-chunked-bodies).
    """
    name, raw, outcome = row
    head, end, body = raw.partition(b"\r\n\r\n")
    line = b"%b /a HTTP/1.1" % method
    if isinstance(outcome, Refused) or body == ABC:
        body = b"0\r\n\r\n"
    if isinstance(outcome, Passed):
        outcome = Passed(line) if body == b"0\r\n\r\n" else replace(outcome, line=line)
    return f"{name}, empty {method.decode()}", method + head[head.index(b" ") :] + end + body, outcome


EMPTY: list[Row] = [_empty(row, method) for row in LENGTH_AND_CODING for method in (b"GET", b"HEAD")]

LENGTHS: list[Row] = [
    ("CL", post(b"Content-Length: 3", body=b"abc"), posted(b"abc")),
    ("CL 0", post(b"Content-Length: 0"), posted()),
    ("no CL", post(), Passed(b"POST /a HTTP/1.1")),
    ("CL with zeros in front", post(b"Content-Length: 003", body=b"abc"), posted(b"abc")),
    ("CL twice", post(b"Content-Length: 3", b"Content-Length: 3", body=b"abc"), Refused()),
    ("CL twice, different", post(b"Content-Length: 3", b"Content-Length: 0", body=b"abc"), Refused()),
    ("CL list", post(b"Content-Length: 3, 3", body=b"abc"), Refused()),
    ("CL +3", post(b"Content-Length: +3", body=b"abc"), Refused()),
    ("CL -3", post(b"Content-Length: -3", body=b"abc"), Refused()),
    ("CL 0x3", post(b"Content-Length: 0x3", body=b"abc"), Refused()),
    ("CL 3.0", post(b"Content-Length: 3.0", body=b"abc"), Refused()),
    ("CL 1e1", post(b"Content-Length: 1e1", body=b"abc"), Refused()),
    ("CL 1_0", post(b"Content-Length: 1_0", body=b"abc"), Refused()),
    ("CL with a space inside", post(b"Content-Length: 3 3", body=b"abc"), Refused()),
    ("CL empty", post(b"Content-Length:", body=b"abc"), Refused()),
    ("CL blank", post(b"Content-Length:  ", body=b"abc"), Refused()),
    ("CL fullwidth", post("Content-Length: \uff13".encode(), body=b"abc"), Refused()),
    ("CL of 19 digits", post(b"Content-Length: 1000000000000000000", body=b"abc"), Refused()),
    ("CL of 30 digits", post(b"Content-Length: " + b"9" * 30, body=b"abc"), Refused()),
    ("CL with NUL", post(b"Content-Length: 3\x00", body=b"abc"), Refused()),
    ("space before the colon of CL", post(b"Content-Length : 3", body=b"abc"), Refused()),
    ("CL with an underscore", post(b"Content_Length: 9", b"Content-Length: 3", body=b"abc"), posted(b"abc")),
    ("request in a body", post(b"Content-Length: 38", body=SMUGGLED), posted(SMUGGLED)),
    (
        "request in the body of a GET",
        get(b"Content-Length: 38") + SMUGGLED,
        Passed(framing=b"Content-Length: 38", body=SMUGGLED),
    ),
]

CHUNKS: list[Row] = [
    ("chunks", chunked(ABC), posted_chunked(b"abc")),
    ("no chunk", chunked(b"0\r\n\r\n"), posted_chunked()),
    ("many zeros for the last chunk", chunked(b"3\r\nabc\r\n000\r\n\r\n"), posted_chunked(b"abc")),
    ("chunk extension", chunked(b"3;a=b;c\r\nabc\r\n0;d\r\n\r\n"), posted_chunked(b"abc")),
    ("trailer", chunked(b"3\r\nabc\r\n0\r\nX-After: 1\r\n\r\n"), posted_chunked(b"abc")),
    ("trailer CL", chunked(b"3\r\nabc\r\n0\r\nContent-Length: 9\r\n\r\n"), Refused()),
    ("trailer TE", chunked(b"3\r\nabc\r\n0\r\nTransfer-Encoding: gzip\r\n\r\n"), Refused()),
    ("trailer Host", chunked(b"3\r\nabc\r\n0\r\nHost: b\r\n\r\n"), posted_chunked(b"abc")),
    ("request for a trailer", chunked(b"3\r\nabc\r\n0\r\n" + SMUGGLED), Refused()),
    ("bare LF behind a trailer", chunked(b"3\r\nabc\r\n0\r\nX: 1\n\r\n"), Refused()),
    ("chunk size -3", chunked(b"-3\r\nabc\r\n0\r\n\r\n"), Refused()),
    ("chunk size +3", chunked(b"+3\r\nabc\r\n0\r\n\r\n"), Refused()),
    ("chunk size 0x3", chunked(b"0x3\r\nabc\r\n0\r\n\r\n"), Refused()),
    ("chunk size g", chunked(b"g\r\nabc\r\n0\r\n\r\n"), Refused()),
    ("chunk size empty", chunked(b"\r\nabc\r\n0\r\n\r\n"), Refused()),
    ("chunk size over 64 bits", chunked(b"1" + b"0" * 15 + b"3\r\nabc\r\n0\r\n\r\n"), Refused()),
    ("chunk size with a space behind", chunked(b"3 \r\nabc\r\n0\r\n\r\n"), Refused()),
    ("chunk size with a space in front", chunked(b" 3\r\nabc\r\n0\r\n\r\n"), Refused()),
    ("chunk size with a tab behind", chunked(b"3\t\r\nabc\r\n0\r\n\r\n"), Refused()),
    ("chunk size with NUL", chunked(b"3\x00\r\nabc\r\n0\r\n\r\n"), Refused()),
    ("bare LF behind a chunk size", chunked(b"3\nabc\r\n0\r\n\r\n"), Refused()),
    ("bare CR behind a chunk size", chunked(b"3\rabc\r\n0\r\n\r\n"), Refused()),
    ("bare LF in a chunk extension", chunked(b"3;a\nabc\r\n0\r\n\r\n"), Refused()),
    ("bare CR in a chunk extension", chunked(b"3;a\rb\r\nabc\r\n0\r\n\r\n"), Refused()),
    ("NUL in a chunk extension", chunked(b"3;a\x00b\r\nabc\r\n0\r\n\r\n"), Refused()),
    ("chunk longer than its size", chunked(b"3\r\nabcd\r\n0\r\n\r\n"), Refused()),
    ("no CRLF behind a chunk", chunked(b"3\r\nabc0\r\n\r\n"), Refused()),
    ("bare LF behind a chunk", chunked(b"3\r\nabc\n0\r\n\r\n"), Refused()),
    ("bare CR behind a chunk", chunked(b"3\r\nabc\r0\r\n\r\n"), Refused()),
    ("bare LF behind the last chunk", chunked(b"3\r\nabc\r\n0\n\n"), Refused()),
    ("bare LF at the end", chunked(b"3\r\nabc\r\n0\r\n\n"), Refused()),
]

LINES: list[Row] = [
    ("bare LF behind the request line", b"GET /a HTTP/1.1\nHost: a\r\n\r\n", Refused()),
    ("bare CR behind the request line", b"GET /a HTTP/1.1\rHost: a\r\n\r\n", Refused()),
    ("CR CR LF behind the request line", b"GET /a HTTP/1.1\r\r\nHost: a\r\n\r\n", Refused()),
    ("bare LF behind a field", b"GET /a HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", Refused()),
    ("bare CR behind a field", b"GET /a HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", Refused()),
    ("bare LF ends the head", b"GET /a HTTP/1.1\r\nHost: a\r\n\n", Refused()),
    ("bare LF everywhere", b"GET /a HTTP/1.1\nHost: a\n\n", Refused()),
    ("CR in a value", get(b"X: a\rb"), Refused()),
    ("CR at the end of a value", get(b"X: a\r"), Refused()),
    ("NUL in a value", get(b"X: a\x00b"), Refused()),
    ("control character in a value", get(b"X: a\x01b"), Refused()),
    ("escape in a value", get(b"X: a\x1bb"), Refused()),
    ("DEL in a value", get(b"X: a\x7fb"), Refused()),
    ("latin-1 in a value", get(b"X: \xe9"), Passed(fields=(b"X: \xe9",))),
    ("tab in a value", get(b"X: a\tb"), Passed(fields=(b"X: a\tb",))),
    ("blanks around a value", get(b"X: \t a \t "), Passed(fields=(b"X: a",))),
    ("empty value", get(b"X:", b"Y: 1"), Passed(fields=(b"X: ", b"Y: 1"))),
    ("folded value", get(b"X: a", b" b"), Refused()),
    ("folded by a tab", get(b"X: a", b"\tb"), Refused()),
    ("folded after nothing", get(b"X:", b" b"), Refused()),
    ("space at the start of the first field", b"GET /a HTTP/1.1\r\n Host: a\r\n\r\n", Refused()),
    ("space before a colon", get(b"X : a"), Refused()),
    ("tab before a colon", get(b"X\t: a"), Refused()),
    ("space in a name", get(b"X Y: a"), Refused()),
    ("NUL in a name", get(b"X\x00: a"), Refused()),
    ("control character in a name", get(b"X\x01: a"), Refused()),
    ("latin-1 in a name", get(b"X\xe9: a"), Refused()),
    ("parentheses in a name", get(b"X(): a"), Refused()),
    ("no name", get(b": a"), Refused()),
    ("no colon", get(b"X"), Refused()),
    ("CRLF in front", b"\r\n" + get(), Passed()),
    ("LF in front", b"\n" + get(), Passed()),
    ("space in front", b" " + get(), Refused()),
]

TARGETS: list[Row] = [
    ("absolute-form", b"GET http://a/a?b HTTP/1.1\r\nHost: a\r\n\r\n", Passed(b"GET /a?b HTTP/1.1")),
    (
        "absolute-form without a path",
        b"GET http://a?b HTTP/1.1\r\nHost: a\r\n\r\n",
        Passed(b"GET /?b HTTP/1.1"),
    ),
    ("absolute-form, another host", b"GET http://b/a HTTP/1.1\r\nHost: a\r\n\r\n", Passed(host=b"b")),
    ("absolute-form with credentials", b"GET http://u:p@a/a HTTP/1.1\r\nHost: a\r\n\r\n", Refused()),
    ("absolute-form without a host", b"GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n", Refused()),
    ("absolute-form, another scheme", b"GET ftp://a/a HTTP/1.1\r\nHost: a\r\n\r\n", Refused()),
    ("absolute-form with a bad Host beside it", b"GET http://a/a HTTP/1.1\r\nHost: a/b\r\n\r\n", Refused()),
    ("authority-form", b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", Refused(501)),
    ("authority-form of a GET", b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", Refused()),
    ("asterisk-form", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Passed(b"OPTIONS * HTTP/1.1")),
    ("asterisk-form of a GET", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", Refused()),
    ("no slash in front", b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", Refused()),
    ("no target", b"GET HTTP/1.1\r\nHost: a\r\n\r\n", Refused()),
    (
        "another's authority in the path",
        b"GET //b/a HTTP/1.1\r\nHost: a\r\n\r\n",
        Passed(b"GET //b/a HTTP/1.1"),
    ),
    ("fragment", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Refused()),
    ("fragment behind a query", b"GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n", Refused()),
    ("latin-1 in a target", b"GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n", Passed(b"GET /\xe9 HTTP/1.1")),
    ("UTF-8 in a path", "GET /é HTTP/1.1\r\nHost: a\r\n\r\n".encode(), Passed("GET /é HTTP/1.1".encode())),
    (
        "UTF-8 in a query",
        "GET /a?é HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
        Passed("GET /a?é HTTP/1.1".encode()),
    ),
    (
        "UTF-8 in an absolute form",
        "GET http://b/é HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
        Passed("GET /é HTTP/1.1".encode(), host=b"b"),
    ),
    ("UTF-8 in a host", "GET http://é/ HTTP/1.1\r\nHost: a\r\n\r\n".encode(), Refused()),
    ("NUL in a target", b"GET /a\x00b HTTP/1.1\r\nHost: a\r\n\r\n", Refused()),
    ("control character in a target", b"GET /a\x01b HTTP/1.1\r\nHost: a\r\n\r\n", Refused()),
    ("DEL in a target", b"GET /a\x7fb HTTP/1.1\r\nHost: a\r\n\r\n", Refused()),
    ("CR in a target", b"GET /a\rb HTTP/1.1\r\nHost: a\r\n\r\n", Refused()),
    ("LF in a target", b"GET /a\nb HTTP/1.1\r\nHost: a\r\n\r\n", Refused()),
    ("tab in a target", b"GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n", Refused()),
    ("space in a target", b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", Refused()),
    ("request line in a target", b"GET /a HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n", Refused()),
    ("two spaces before the target", b"GET  /a HTTP/1.1\r\nHost: a\r\n\r\n", Passed()),
    ("two spaces behind the target", b"GET /a  HTTP/1.1\r\nHost: a\r\n\r\n", Passed()),
    ("tab before the target", b"GET\t/a HTTP/1.1\r\nHost: a\r\n\r\n", Refused()),
    ("encoded CRLF", b"GET /a%0d%0aX:1 HTTP/1.1\r\nHost: a\r\n\r\n", Passed(b"GET /a%0d%0aX:1 HTTP/1.1")),
]

HOSTS: list[Row] = [
    ("no Host", b"GET /a HTTP/1.1\r\n\r\n", Refused()),
    ("two Hosts", b"GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Refused()),
    ("the same Host twice", b"GET /a HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Refused()),
    ("an empty Host", b"GET /a HTTP/1.1\r\nHost:\r\n\r\n", Refused()),
    ("an empty Host of HTTP/1.0", b"GET /a HTTP/1.0\r\nHost: \r\n\r\n", Refused()),
    ("an empty Host beside an absolute-form", b"GET http://a/a HTTP/1.1\r\nHost:\r\n\r\n", Refused()),
    ("Host with two dots", b"GET /a HTTP/1.1\r\nHost: a..b\r\n\r\n", Refused()),
    (
        "two User-Agents",
        get(b"User-Agent: b", b"User-Agent: c"),
        Passed(fields=(b"User-Agent: b", b"User-Agent: c")),
    ),
    (
        "two Content-Types",
        post(b"Content-Type: b", b"content-type: c"),
        Passed(b"POST /a HTTP/1.1", (b"Content-Type: b", b"content-type: c")),
    ),
    ("two Servers, one folded", get(b"Server: b", b"Server: c\r\n d"), Refused()),
    ("Host with @", b"GET /a HTTP/1.1\r\nHost: a@b\r\n\r\n", Refused()),
    ("Host with a slash", b"GET /a HTTP/1.1\r\nHost: a/b\r\n\r\n", Refused()),
    ("Host with a space", b"GET /a HTTP/1.1\r\nHost: a b\r\n\r\n", Refused()),
    ("Host with a comma", b"GET /a HTTP/1.1\r\nHost: a,b\r\n\r\n", Refused()),
    ("Host with a query", b"GET /a HTTP/1.1\r\nHost: a?b\r\n\r\n", Refused()),
    ("Host with a fragment", b"GET /a HTTP/1.1\r\nHost: a#b\r\n\r\n", Refused()),
    ("Host with a control character", b"GET /a HTTP/1.1\r\nHost: a\x01\r\n\r\n", Refused()),
    ("Host in latin-1", b"GET /a HTTP/1.1\r\nHost: \xe9\r\n\r\n", Refused()),
    ("Host with two ports", b"GET /a HTTP/1.1\r\nHost: a:1:2\r\n\r\n", Refused()),
    ("Host with a named port", b"GET /a HTTP/1.1\r\nHost: a:http\r\n\r\n", Refused()),
    ("Host with an open bracket", b"GET /a HTTP/1.1\r\nHost: [::1\r\n\r\n", Refused()),
    ("Host of IPv6", b"GET /a HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Passed(host=b"[::1]:80")),
    ("space before the colon of Host", b"GET /a HTTP/1.1\r\nHost : a\r\n\r\n", Refused()),
    ("Host named in Connection", get(b"Connection: host"), Passed()),
]

VERSIONS: list[Row] = [
    ("HTTP/0.9", b"GET /a\r\n\r\n", Refused()),
    ("HTTP/0.9, said", b"GET /a HTTP/0.9\r\nHost: a\r\n\r\n", Refused()),
    ("HTTP/1.0", b"GET /a HTTP/1.0\r\nHost: a\r\n\r\n", Passed(closes=True)),
    ("HTTP/1.0 kept alive", b"GET /a HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", Passed()),
    ("HTTP/1.2", b"GET /a HTTP/1.2\r\nHost: a\r\n\r\n", Refused()),
    ("HTTP/1.10", b"GET /a HTTP/1.10\r\nHost: a\r\n\r\n", Refused()),
    ("HTTP/01.1", b"GET /a HTTP/01.1\r\nHost: a\r\n\r\n", Refused()),
    ("HTTP/1", b"GET /a HTTP/1\r\nHost: a\r\n\r\n", Refused()),
    ("HTTP/2.0", b"GET /a HTTP/2.0\r\nHost: a\r\n\r\n", Refused()),
    ("http/1.1", b"GET /a http/1.1\r\nHost: a\r\n\r\n", Refused()),
    ("space behind the version", b"GET /a HTTP/1.1 \r\nHost: a\r\n\r\n", Refused()),
    ("RTSP", b"GET /a RTSP/1.0\r\nHost: a\r\n\r\n", Refused()),
    ("HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refused()),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Refused()),
    ("unknown method", b"FOO /a HTTP/1.1\r\nHost: a\r\n\r\n", Refused()),
    ("lower-case method", b"get /a HTTP/1.1\r\nHost: a\r\n\r\n", Refused()),
    ("method with a letter more", b"GETT /a HTTP/1.1\r\nHost: a\r\n\r\n", Refused()),
]

HOPS: list[Row] = [
    (
        "Connection names what is not the client's",
        post(b"Connection: host, content-length, x-forwarded-for", b"Content-Length: 3", body=b"abc"),
        posted(b"abc"),
    ),
    (
        "Connection names TE",
        chunked(ABC).replace(b"Host", b"Connection: transfer-encoding\r\nHost"),
        posted_chunked(b"abc"),
    ),
    ("Connection names a field", get(b"Connection: X-One, x-two", b"X-One: 1", b"X-Two: 2"), Passed()),
    ("two Connections", get(b"Connection: x-one", b"Connection: x-two", b"X-One: 1", b"X-Two: 2"), Passed()),
    ("Connection: close", get(b"Connection: close"), Passed(closes=True)),
    (
        "hop-by-hop fields",
        get(
            b"Keep-Alive: 5",
            b"Proxy-Connection: x",
            b"TE: trailers",
            b"Trailer: X",
            b"Proxy-Authorization: x",
        ),
        Passed(),
    ),
    ("Upgrade without Connection", get(b"Upgrade: websocket"), Passed()),
    ("Connection: Upgrade without Upgrade", get(b"Connection: Upgrade"), Passed()),
    (
        "Upgrade to h2c",
        get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AA"),
        Passed(),
    ),
    (
        "Upgrade with a body",
        post(b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 38", body=SMUGGLED),
        posted(SMUGGLED),
    ),
    (
        "Upgrade of a GET with a body",
        get(b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 38") + SMUGGLED,
        Passed(framing=b"Content-Length: 38", body=SMUGGLED),
    ),
    (
        "Upgrade in HTTP/1.0",
        get(b"Connection: Upgrade", b"Upgrade: websocket").replace(b"1.1", b"1.0"),
        Passed(closes=True),
    ),
    ("forwarding field with underscores", get(b"X_Forwarded_For: 1.2.3.4"), Passed()),
    ("Expect without a body", get(b"Expect: 100-continue"), Passed(fields=(b"Expect: 100-continue",))),
    ("Expect of something else", get(b"Expect: 200-ok"), Passed(fields=(b"Expect: 200-ok",))),
    (
        "Expect and a body at once",
        post(b"Expect: 100-Continue", b"Content-Length: 3", body=b"abc"),
        posted(b"abc", b"Expect: 100-Continue"),
    ),
]

LARGE: list[Row] = [
    ("large target", b"GET /" + b"a" * _BIG + b" HTTP/1.1\r\nHost: a\r\n\r\n", Refused(431)),
    ("large value", get(b"X: " + b"a" * _BIG), Refused(431)),
    ("large name", get(b"X" * _BIG + b": a"), Refused(431)),
    ("many small fields", get(*[b"X: a"] * (_BIG // 4)), Refused(431)),
    ("101 fields", get(*[b"X: a"] * 100), Refused(431)),
    ("a few large fields", get(*[b"X: " + b"a" * 8000] * 5), Refused(431)),
    ("many small fields without an end", get(*[b"X: a"] * 50_000)[:-2], Refused(431)),
    ("nearly as large as may be", get(b"X: " + b"a" * 32_000), Passed(fields=(b"X: " + b"a" * 32_000,))),
    ("endless chunk extension", chunked(b"3;" + b"a" * 4 * _BIG), Refused()),
    ("endless trailers", chunked(b"0\r\n" + b"X: a\r\n" * 4 * _BIG), Refused()),
]

TABLE = [*LENGTH_AND_CODING, *EMPTY, *LENGTHS, *CHUNKS, *LINES, *TARGETS, *HOSTS, *VERSIONS, *HOPS, *LARGE]


def test_the_table_names_each_case_once() -> None:
    names = [name for name, _, _ in TABLE]
    assert len(set(names)) == len(names) >= 60


@pytest.mark.parametrize(
    ("split", "loop"),
    [(False, "asyncio"), (False, "uvloop"), (True, "uvloop")],
    ids=["at once, asyncio", "at once, uvloop", "in pieces, uvloop"],
)
@pytest.mark.parametrize(("raw", "outcome"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_a_request_is_refused_or_passed_on_as_exactly_one(
    raw: bytes, outcome: Refused | Passed, split: bool, loop: str
) -> None:
    on_loop(loop, _check(raw, outcome, split=split))


async def _check(raw: bytes, outcome: Refused | Passed, *, split: bool) -> None:
    async with (
        RawUpstream(_name_the_target) as upstream,
        Running(plain(upstream.url)) as proxy,
        await proxy.client() as client,
    ):
        if raw.startswith(b"HEAD "):
            client.send(b"", method="HEAD")
        if split:
            await _send_pieces(client, raw)
        else:
            client.send(raw)
        match outcome:
            case Refused(status):
                await client.wait_end()
                assert [answer.status for answer in client.responses] == [status]
                assert client.response.header("connection") == "close"
                assert client.response.complete
                refused = {"route": "_none", "method": "other", "code": str(status)}
                routed = {
                    "route": "all",
                    "method": "POST",
                    "code": str(status),
                }  # its body was what was wrong
                count = "sse_proxy_requests_total"
                assert proxy.metric(count, **refused) + proxy.metric(count, **routed) == 1
                await soon(lambda: proxy.idle and not proxy.upstream_connections)
                assert not [request for request in _heard(upstream) if request.complete]
                if not split and len(raw) < _BIG:  # it was known to be invalid when it was read
                    assert not upstream.connections
            case Passed():
                await client.wait_response()
                assert client.response.status == 200
                await soon(lambda: all(request.complete for request in _heard(upstream)))
                (request,) = _heard(upstream)
                assert (request.raw_head, bytes(request.body)) == (outcome.head, outcome.body)
                await _expect_next(client, upstream, closes=outcome.closes)


async def _expect_next(client: RawClient, upstream: RawUpstream, *, closes: bool) -> None:
    """The connection is closed, or its next request is answered as if nothing had been before it."""
    if closes:
        await client.wait_end()
        return
    client.send(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n", method="GET")
    await client.wait_for(lambda client: len(client.responses) == 2 and client.response.complete)
    assert client.body == b"/next"
    assert bytes(upstream.connections[-1].received) == Passed(b"GET /next HTTP/1.1").head
    assert len(upstream.connections) == 2


async def _send_pieces(client: RawClient, raw: bytes) -> None:
    """Small requests byte by byte; large ones in a hundred pieces."""
    size = max(1, len(raw) // 200)
    for start in range(0, len(raw), size):
        if client.ending is not None:
            return
        await client.send_split(raw[start : start + size], size)


async def _name_the_target(connection: UpstreamConnection) -> None:
    request = await connection.next_request(within=60)
    await connection.send(response(body=request.target.encode()))


def _heard(upstream: RawUpstream) -> list:
    return [request for connection in upstream.connections for request in connection.requests]
