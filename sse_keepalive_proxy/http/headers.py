"""Header fields on their way through: hop-by-hop ones end here, forwarding ones are vouched for.

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
"""Naming these in `Connection` does not take them out: framing and routing are not the client's."""

_OURS = _HOP_BY_HOP | _NEVER_NAMED

_STREAM_DROPS = frozenset({b"content-length", b"etag", b"content-encoding", b"x-accel-buffering"})
_NO_BUFFERING = (b"no-cache", b"no-transform")


def connection_tokens(headers: Iterable[Header]) -> frozenset[bytes]:
    """The names in every `Connection` field, lower case (`keep-alive, Upgrade` is two)."""
    found: list[bytes] = []
    for name, value in headers:
        if name.lower() == b"connection":
            found += [token.strip() for token in value.lower().split(b",")]
    return frozenset(found)


def end_to_end(headers: Sequence[Header], also: frozenset[bytes] = frozenset()) -> list[Header]:
    """The fields that may pass: without hop-by-hop ones, those named in `Connection`, and those `also`."""
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
    """Whether a server that takes the `_` in it for `-`, as CGI does, would read one of `names`."""
    return lower.replace(b"_", b"-") in names


def encode_head(first_line: bytes, headers: Iterable[Header]) -> bytes:
    """A request or response head as it goes on the wire."""
    parts = [first_line, b"\r\n"]
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)


def stream_head(headers: Sequence[Header]) -> list[Header]:
    """The fields of a stream's response head: upstream's, minus what would be a lie about a body we
    add to, plus what keeps hops from holding it back (facts.md#cloudflare-compression).
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
