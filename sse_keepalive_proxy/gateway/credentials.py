"""Where a client's credentials are in a request, and a mark by which they are known again.

Owns the reading of `query:NAME` and `header:name`, and the keyed hash: the only thing that is ever
remembered of a credential (behaviour.md#credentials-stay-secret). Whether a credential is
any good only upstream knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from urllib.parse import unquote_to_bytes

from sse_keepalive_proxy.http.request import ClientRequest

__all__ = ["FINGERPRINT_SIZE", "fingerprint", "values"]

FINGERPRINT_SIZE = 16
"""Bytes: enough that no two credentials meet, by chance or by design (2**64 tries for any two)."""


def values(request: ClientRequest, place: str) -> list[bytes]:
    """Every value at `place`, in order; an empty one is a value.

    `query:NAME` is read as forms write it (WHATWG URL 5.1): names and values percent-decoded, `+` a space.
    NAME itself is written as in a URL. `header:name` gives each field's value as it came.
    """
    kind, _, name = place.partition(":")
    if kind == "query":
        wanted = _decoded(name)
        return [value for found, value in _query(request.target) if found == wanted]
    lower = name.lower().encode()
    return [value for field, value in request.headers if field.lower() == lower]


def fingerprint(key: bytes, route: str, request: ClientRequest, places: Sequence[str], client: str) -> bytes:
    """16 bytes by which the credentials of `request` are known again on `route`, and on it alone.

    It covers every value at every one of `places`. Where they hold nothing, `client`, an address, stands
    in. `key` is secret, at most 64 bytes: without it nobody can try credentials against a fingerprint.
    """
    found = [(place, values(request, place)) for place in places]
    parts = [route.encode()]
    if any(value for _, given in found for value in given):
        for place, given in found:
            parts += [place.encode(), len(given).to_bytes(8), *given]
    else:
        parts.append(client.encode("utf-8", "surrogateescape"))
    mark = blake2b(digest_size=FINGERPRINT_SIZE, key=key)
    for part in parts:  # each with its length before it, so that none can pose as the end of another
        mark.update(len(part).to_bytes(8))
        mark.update(part)
    return mark.digest()


def _query(target: str) -> Iterator[tuple[bytes, bytes]]:
    for part in target.partition("?")[2].split("&"):
        name, _, value = part.partition("=")
        yield _decoded(name), _decoded(value)


def _decoded(text: str) -> bytes:
    return unquote_to_bytes(text.replace("+", " "))
