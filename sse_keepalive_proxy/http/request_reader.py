"""One request off the wire: is fed bytes, gives the head, pushes the body, and leaves what is behind it.

httptools (llhttp, strict) parses. No byte that is behind a request reaches its parser: the requests of a
connection are read one at a time, however many come at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import httptools

from sse_keepalive_proxy.errors import BodyInvalid, RequestInvalid
from sse_keepalive_proxy.http.body import BufferedBody, Source
from sse_keepalive_proxy.http.headers import Header

__all__ = ["Request", "RequestReader"]

_HEAD_END = b"\r\n\r\n"
_MOST_CODING = 16
"""Bytes of chunked coding for each byte of data, beside a head's worth: endless chunk extensions and
trailers are an attack."""


@dataclass(slots=True)
class Request:
    """A request as the parser read it. `version` is what follows `HTTP/`; `keep_alive`: whether by its head
    the connection may carry another one; `body` is None where it has none.
    """

    method: str
    target: str
    version: str
    headers: Sequence[Header]
    keep_alive: bool
    body: BufferedBody | None = None

    @property
    def whole(self) -> bool:
        """Whether all of it has come."""
        return self.body is None or self.body.whole


class RequestReader:
    """Reads one request. `source` is told to pause while its body waits; `max_head`: bytes of a head.

    `head_size`: bytes of the head so far. `request` is there once its head is whole; `whole` tells that
    all of it is.
    """

    __slots__ = (
        "_body_size", "_headers", "_last", "_left", "_max_head", "_parser", "_source", "_target",
        "_upgrades_with_body", "head_size", "request", "whole",
    )  # fmt: skip
    __deletable__ = ("_parser",)  # says so to the compiler

    def __init__(self, source: Source, max_head: int) -> None:
        self._source, self._max_head = source, max_head
        self._parser = httptools.HttpRequestParser(self)
        self._target = self._last = b""
        self._headers: list[Header] = []
        self._left: int | None = None  # bytes of the body still to come, where its length is known
        self._body_size = 0  # its coding included
        self.head_size = 0
        self.request: Request | None = None
        self.whole = self._upgrades_with_body = False

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; returns those behind the request.

        Raises `RequestInvalid` when they are no head, `BodyInvalid` when they are no body.
        """
        while self.request is None and data:
            data = self._feed_head(data)
        if self.whole or not data:
            return data
        if self._left is not None:
            piece, data = data[: self._left], data[self._left :]
            self._left -= len(piece)
            self._feed_body(piece)
            return data
        self._feed_body(data)
        return b""  # nobody can tell where in a read a chunked body ended: no other request is taken then

    def drop(self) -> None:
        """Nothing more is fed. Lets go of the parser, which holds this: cycles of requests are a fiftieth of
        what opening a stream costs.
        """
        del self._parser

    def _feed_head(self, data: bytes) -> bytes:
        """Give the parser what belongs to the head; returns the rest."""
        end = 0
        if self._last:
            found = (self._last + data[:3]).find(_HEAD_END)
            end = found + len(_HEAD_END) - len(self._last) if found >= 0 else 0
        if not end:
            found = data.find(_HEAD_END)
            end = found + len(_HEAD_END) if found >= 0 else len(data)
        head = data[:end]
        self.head_size += end
        self._last = (self._last + head)[-3:] if found < 0 else b""
        try:
            self._parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            if self._upgrades_with_body:
                self._read_body_anew()
        except httptools.HttpParserError as error:
            raise RequestInvalid(str(error)) from None
        return data[end:]

    def _feed_body(self, data: bytes) -> None:
        self._body_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if not self.whole:
                raise BodyInvalid("the request's body is not valid") from None
        body = self._body
        if not self.whole and self._body_size > self._max_head + _MOST_CODING * body.size:
            raise BodyInvalid("the request's body has more chunked coding than data")

    def _read_body_anew(self) -> None:
        """For this parser a request for an upgrade ends with its head. Its body is there all the same, and is
        no other request: another parser reads it, which knows of the body alone.
        """
        self._upgrades_with_body = False
        self._parser = httptools.HttpRequestParser(self)
        framing = b"Transfer-Encoding: chunked" if self._left is None else b"Content-Length: %d" % self._left
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)

    @property
    def _body(self) -> BufferedBody:
        request = self.request
        if request is None or request.body is None:
            raise AssertionError("a body is read only where the head announces one")
        return request.body

    # httptools' callbacks.

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.request is None:  # else it is a trailer's
            self._headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        if self.request is not None:
            return  # of what follows a chunked body
        parser = self._parser
        self.request = Request(
            parser.get_method().decode("latin-1"),
            self._target.decode("latin-1"),
            parser.get_http_version(),
            self._headers,
            parser.should_keep_alive(),
        )
        for name, value in self._headers:
            lower = name.lower()
            if lower == b"content-length":
                self._left = int(value)  # one number: the parser has seen to it
            if lower in (b"content-length", b"transfer-encoding") and self.request.body is None:
                self.request.body = BufferedBody(self._source)
        has_body = self.request.body is not None and self._left != 0
        self._upgrades_with_body = has_body and parser.should_upgrade()

    def on_body(self, data: bytes) -> None:
        if not self.whole:
            self._body.data(data)

    def on_message_complete(self) -> None:
        if not self.whole and not self._upgrades_with_body:
            self.whole = True
            request = self.request
            if request is not None and request.body is not None:
                request.body.end()
