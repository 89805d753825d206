"""Header fields: remove hop-by-hop fields, encode heads, make the head of a stream.

Names and values stay raw bytes, in order, repeats kept. RFC 9110 7.6.1 (hop-by-hop fields),
RFC 9112 6 (framing), behaviour.md#status-sent-once (the head of a stream).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = [
    "Header",
    "connection_tokens",
    "encode_head",
    "end_to_end",
    "poses_as",
    "stream_head",
]

Header = tuple[bytes, bytes]

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_NEVER_NAMED = frozenset({b"host", b"content-length"})
"""`Connection` cannot remove these fields: the proxy decides about framing and routing."""

_OURS = _HOP_BY_HOP | _NEVER_NAMED

_STREAM_DROPS = frozenset({b"content-length", b"etag", b"content-encoding", b"x-accel-buffering"})
_NO_BUFFERING = (b"no-cache", b"no-transform")


def connection_tokens(headers: Iterable[Header]) -> frozenset[bytes]:
    """Return the names in every `Connection` field, in lower case (`keep-alive, Upgrade` is two)."""
    found: list[bytes] = []
    for name, value in headers:
        if name.lower() == b"connection":
            found += [token.strip() for token in value.lower().split(b",")]
    return frozenset(found)


def end_to_end(headers: Sequence[Header], also: frozenset[bytes] = frozenset()) -> list[Header]:
    """Return `headers` without hop-by-hop fields, fields named in `Connection`, and those in `also`."""
    named = connection_tokens(headers) - _NEVER_NAMED
    kept: list[Header] = []
    for field in headers:
        lower = field[0].lower()
        if lower in _HOP_BY_HOP or lower in also or lower in named:
            continue
        if b"_" not in lower or not poses_as(lower, _OURS):
            kept.append(field)
    return kept


def poses_as(lower: bytes, names: frozenset[bytes]) -> bool:
    """Return whether `lower` is one of `names` for a server that reads `_` as `-`, as CGI does."""
    return lower.replace(b"_", b"-") in names


def encode_head(first_line: bytes, headers: Iterable[Header]) -> bytes:
    """Return a request or response head in wire format."""
    parts = [first_line, b"\r\n"]
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)


def stream_head(headers: Sequence[Header]) -> list[Header]:
    """Return the fields of a stream's response head: upstream's, without those that are wrong for a body that
    the proxy adds to, and with those that stop hops from buffering (facts.md#cloudflare-compression).
    """
    kept: list[Header] = []
    directives: list[bytes] = []
    for name, value in end_to_end(headers):
        lower = name.lower()
        if lower == b"cache-control":
            directives += [item for part in value.split(b",") if (item := part.strip())]
        elif lower not in _STREAM_DROPS:
            kept.append((name, value))
    present = {item.lower() for item in directives}
    directives += [item for item in _NO_BUFFERING if item not in present]
    return [*kept, (b"Cache-Control", b", ".join(directives)), (b"X-Accel-Buffering", b"no")]
