"""Forwarding header fields: trusted peers, the client's address, and the fields for upstream."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence
from functools import lru_cache, partial

from sse_keepalive_proxy.http.headers import Header, poses_as

__all__ = ["Trust"]

logger = logging.getLogger("sse_keepalive_proxy.gateway")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MOST_HOPS = 32
"""The most addresses that are read of a chain of trusted hops, from the right. Each costs time."""

_MOST_REPORTED = 100
"""The most peers whose replaced headers are logged, until the configuration is read again."""


class Trust:
    """Find the client's address, and write forwarding headers.

    `networks`: the trusted peers. `client_header`: the field with the client's address. It is read from the
    right, skipping trusted addresses.
    """

    def __init__(self, networks: Sequence[Network], client_header: str) -> None:
        self._client_header = client_header.lower().encode()
        self._claims = frozenset(
            {b"forwarded", b"x-real-ip", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"}
            | {b"x-forwarded-port", b"x-forwarded-prefix", self._client_header}
        )
        # Not of a method: the cycle would outlive its configuration (`gc.freeze`).
        self.believes = lru_cache(maxsize=4096)(partial(_within, tuple(networks)))
        self._reported: set[str] = set()

    def client(self, peer: str, headers: Sequence[Header]) -> str:
        """Return the address of the client: `peer`, or the address that a trusted peer reports."""
        if not self.believes(peer):
            return peer
        named = [value for name, value in headers if name.lower() == self._client_header]
        last = b",".join(named).rsplit(b",", _MOST_HOPS)[-_MOST_HOPS:] if named else []
        for hop in (each.strip().decode("latin-1") for each in reversed(last)):
            if not _is_address(hop):
                break
            peer = hop
            if not self.believes(hop):
                break
        return peer

    def forward(self, peer: str, scheme: bytes, host: bytes, headers: list[Header]) -> list[Header]:
        """Return `headers` with `X-Forwarded-For`, `-Proto` and `-Host` that upstream can trust."""
        believed = self.believes(peer)
        kept: list[Header] = []
        chain: list[bytes] = []
        has_proto = has_host = False
        for field in headers:
            lower = field[0].lower()
            if lower in self._claims and not believed:
                self._report(peer)
                continue
            if b"_" in lower and poses_as(lower, self._claims):
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

    def _report(self, peer: str) -> None:
        """Log once that the forwarding headers of `peer` are not believed."""
        if peer not in self._reported and len(self._reported) < _MOST_REPORTED:
            self._reported.add(peer)
            logger.warning(
                "forwarding headers are replaced, because their sender is not trusted: "
                "if it is your own proxy, add its address to `trusted_proxies`",
                extra={"fields": {"peer": peer}},
            )


def _within(networks: tuple[Network, ...], address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return not address  # a Unix socket has no address; its peers are trusted
    mapped = getattr(parsed, "ipv4_mapped", None) or parsed
    return any(mapped in network for network in networks)


@lru_cache(maxsize=4096)
def _is_address(text: str) -> bool:
    """Return whether `text` is an IP address without a zone. A zone is valid on its own host only."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text
