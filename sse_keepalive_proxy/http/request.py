"""Validate a client's request after aiohttp's parser.

The parser (llhttp, strict) refuses most forms of request smuggling. This module refuses the rest: requests
that another server could read differently (behaviour.md#doubtful-requests). Upstream gets one new request,
written from the validated values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from aiohttp import EMPTY_PAYLOAD, HttpVersion10, StreamReader, web

from sse_keepalive_proxy.http.head import MOST_FIELDS, RequestHead
from sse_keepalive_proxy.http.headers import Header, connection_tokens
from sse_keepalive_proxy.http.response import by_name

__all__ = ["ClientRequest", "Refusal", "admit"]

_TARGET = re.compile(rb"/[\x21\x22\x24-\x7e\x80-\xff]*")
_ABSOLUTE = re.compile(
    rb"(?i:https?)://([^/?#]+)(/[\x21\x22\x24-\x7e\x80-\xff]*|\?[\x21\x22\x24-\x7e\x80-\xff]*|)"
)
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|(?!.*\.\.)[A-Za-z0-9._~!$&'()*+;=%-]+)(:[0-9]{1,5})?")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_DIGITS = re.compile(rb"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer to a request that is not forwarded: the status, and the reason in one line."""

    status: int
    text: str


@dataclass(slots=True)
class ClientRequest:
    """One validated request. `target` is in origin form, as received; a byte of UTF-8 is one character of it
    (Latin-1). `host` is the client's value.
    """

    method: str
    target: str
    http10: bool
    host: bytes
    headers: tuple[Header, ...]
    has_body: bool
    length: int | None
    peer: str
    scheme: bytes
    upgrade: bool
    content: StreamReader = field(default=EMPTY_PAYLOAD, repr=False, compare=False)
    named: dict[bytes, list[bytes]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.named:
            self.named = by_name(self.headers)

    @property
    def path(self) -> str:
        """The target without its query, not decoded."""
        return self.target.partition("?")[0]

    @property
    def is_repeatable(self) -> bool:
        """Whether it may be sent again: a GET without a body and without an upgrade."""
        return self.method == "GET" and not self.has_body and not self.upgrade

    @property
    def is_encoded(self) -> bool:
        """Whether `Content-Encoding` says that the body has to be decoded before it can be read."""
        codings = b",".join(self.named.get(b"content-encoding", [])).lower().split(b",")
        return any(coding.strip() not in (b"", b"identity") for coding in codings)


def admit(
    request: web.BaseRequest, head: RequestHead, *, peer: str, scheme: bytes
) -> ClientRequest | Refusal:
    """Return the validated request of `peer`, or the answer that refuses it. aiohttp has made `request` of
    `head`. `scheme`: `http` or `https`.
    """
    headers = (*request.raw_headers, *head.repeated)
    http10 = request.version == HttpVersion10
    values = b"".join([value for _, value in headers])
    if not _VALUE.fullmatch(values):
        return Refusal(400, "a header field holds a control character")
    named = by_name(headers)
    if not http10 and b"host" not in named:
        return Refusal(400, "an HTTP/1.1 request has a Host header")
    if b"connection" in named and b",".join(named[b"connection"]).count(b",") >= MOST_FIELDS:
        return Refusal(400, f"Connection names more than {MOST_FIELDS} fields")
    placed = _target_and_host(request.method, head.target, named.get(b"host", []))
    if isinstance(placed, Refusal):
        return placed
    target, host = placed
    framing = _framing(named, http10=http10)
    if isinstance(framing, Refusal):
        return framing
    chunked, length = framing
    return ClientRequest(
        method=request.method,
        target=target,
        http10=http10,
        host=host,
        headers=headers,
        has_body=chunked or bool(length),
        length=length,
        peer=peer,
        scheme=scheme,
        upgrade=not http10 and not (chunked or length) and _wants_websocket(request.method, named),
        content=request.content,
        named=named,
    )


def _target_and_host(method: str, target: bytes, hosts: list[bytes]) -> tuple[str, bytes] | Refusal:
    """Return the target in origin form, and the host. Absolute form contains the host (RFC 9112 3.2.2)."""
    if len(hosts) > 1 or (hosts and not _HOST.fullmatch(hosts[0])):
        return Refusal(400, "the Host header is not one valid host")
    host = hosts[0] if hosts else b""
    if _TARGET.fullmatch(target) or (target == b"*" and method == "OPTIONS"):
        return target.decode("latin-1"), host
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        return Refusal(400, "the request target is not valid")
    authority, rest = absolute.groups()
    if not _HOST.fullmatch(authority):
        return Refusal(400, "the request target names no valid host")
    return ("" if rest.startswith(b"/") else "/") + rest.decode("latin-1"), authority


def _framing(named: dict[bytes, list[bytes]], *, http10: bool) -> tuple[bool, int | None] | Refusal:
    """Return whether the body is chunked, and its length or None (RFC 9112 6.1 to 6.3)."""
    codings = named.get(b"transfer-encoding", [])
    lengths = named.get(b"content-length", [])
    if codings:
        if http10 or lengths or codings == [b""]:
            return Refusal(400, "Transfer-Encoding has no place in this request")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            return Refusal(501, "the only supported transfer coding is chunked")
        return True, None
    if not lengths:
        return False, None
    if len(lengths) > 1 or not _DIGITS.fullmatch(lengths[0]):
        return Refusal(400, "Content-Length is not one number")
    return False, int(lengths[0])


def _wants_websocket(method: str, named: dict[bytes, list[bytes]]) -> bool:
    if method != "GET" or [value.strip().lower() for value in named.get(b"upgrade", [])] != [b"websocket"]:
        return False
    return b"upgrade" in connection_tokens([(b"connection", value) for value in named.get(b"connection", [])])
