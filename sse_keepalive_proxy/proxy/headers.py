"""Header fields on their way through: hop-by-hop ones end here, forwarding ones are vouched for.

Names and values stay raw bytes, in order, repeats kept. RFC 9110 7.6.1 (hop-by-hop fields),
RFC 9112 6 (framing), DESIGN A2 (the head of a stream).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache

__all__ = [
    "Header",
    "Trust",
    "connection_tokens",
    "encode_head",
    "end_to_end",
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

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


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
        if b"_" not in lower or not _poses_as(lower, _OURS):
            kept.append(field)
    return kept


def _poses_as(lower: bytes, names: frozenset[bytes]) -> bool:
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
    add to, plus what keeps hops from holding it back (FACTS 2).
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


class Trust:
    """Whose forwarding headers are believed, and who the client is.

    `networks`: the peers that are believed. `client_header`: the field that names the client, read
    from its right end, past trusted addresses.
    """

    def __init__(self, networks: Sequence[Network], client_header: str) -> None:
        self._networks = tuple(networks)
        self._client_header = client_header.lower().encode()
        self._claims = frozenset(
            {b"forwarded", b"x-real-ip", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"}
            | {b"x-forwarded-port", b"x-forwarded-prefix", self._client_header}
        )
        self.believes = lru_cache(maxsize=4096)(self._believes)

    def _believes(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return not address  # a unix socket has no address: who can open it is trusted
        mapped = getattr(parsed, "ipv4_mapped", None) or parsed
        return any(mapped in network for network in self._networks)

    def client(self, peer: str, headers: Sequence[Header]) -> str:
        """The address of the client: the peer, or what a trusted peer says of it."""
        if not self.believes(peer):
            return peer
        named = [value for name, value in headers if name.lower() == self._client_header]
        hops = [hop.strip().decode("latin-1") for value in named for hop in value.split(b",")]
        for hop in reversed(hops):
            if not _is_address(hop):
                break
            peer = hop
            if not self.believes(hop):
                break
        return peer

    def forward(self, peer: str, scheme: bytes, host: bytes, headers: list[Header]) -> list[Header]:
        """`headers` with `X-Forwarded-For`, `-Proto` and `-Host` that upstream may believe."""
        believed = self.believes(peer)
        kept: list[Header] = []
        chain: list[bytes] = []
        has_proto = has_host = False
        for field in headers:
            lower = field[0].lower()
            if (lower in self._claims and not believed) or (b"_" in lower and _poses_as(lower, self._claims)):
                continue
            if lower == b"x-forwarded-for":
                chain.append(field[1])
                continue
            has_proto = has_proto or lower == b"x-forwarded-proto"
            has_host = has_host or lower == b"x-forwarded-host"
            kept.append(field)
        if peer:
            chain.append(peer.encode())
        if chain:
            kept.append((b"X-Forwarded-For", b", ".join(chain)))
        if not has_proto:
            kept.append((b"X-Forwarded-Proto", scheme))
        if not has_host:
            kept.append((b"X-Forwarded-Host", host))
        return kept


@lru_cache(maxsize=4096)
def _is_address(text: str) -> bool:
    """An address as a hop may name it: without an IPv6 zone, which means nothing to anybody else."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text
