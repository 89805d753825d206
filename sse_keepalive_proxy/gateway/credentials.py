"""Extract a request's credentials and fingerprint them (keyed BLAKE2b, 16 bytes).

A credential is at `query:NAME` or `header:name`. Only its fingerprint is ever stored
(behaviour.md#credentials-stay-secret). This module does not validate credentials: upstream does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from urllib.parse import unquote_to_bytes

from sse_keepalive_proxy.http.request import ClientRequest

__all__ = ["FINGERPRINT_SIZE", "digest", "fingerprint", "request_fingerprint", "values"]

_CREDENTIALS = ("header:authorization", "header:proxy-authorization", "header:cookie")
_SESSION = "header:mcp-session-id"
"""Upstream tells clients of one credential apart by it. It is no credential itself: a client may open several
streams of its session, and the server sends each message on one of them.
"""

FINGERPRINT_SIZE = 16
"""Bytes. A collision of two credentials takes about 2**64 tries."""


def values(request: ClientRequest, place: str) -> list[bytes]:
    """Return every value at `place`, in order, including empty values.

    `query:NAME` is parsed like a form (WHATWG URL 5.1): names and values are percent-decoded, and `+` is a
    space. NAME itself is written as in a URL. For `header:name` the result has the raw value of each field.
    """
    kind, _, name = place.partition(":")
    if kind == "query":
        query = b"&" + request.target.partition("?")[2].encode("latin-1")
        return [_decoded(value) for value in _parameter(name).findall(query)]
    lower = name.lower().encode()
    return [value for field, value in request.headers if field.lower() == lower]


def fingerprint(key: bytes, route: str, request: ClientRequest, places: Sequence[str], client: str) -> bytes:
    """Return a fingerprint of 16 bytes of the credentials in `request`. It differs between routes.

    It covers all values at all `places`. If there are none, it covers `client`, an address, instead. `key` is
    a secret of at most 64 bytes. Without it, guessed credentials cannot be compared with a fingerprint.
    """
    found = [(place, values(request, place)) for place in places]
    parts = [route.encode()]
    if any(value for _, given in found for value in given):
        for place, given in found:
            parts += [place.encode(), len(given).to_bytes(8), *given]
    else:
        parts.append(client.encode("utf-8", "surrogateescape"))
    return digest(key, *parts)


def request_fingerprint(
    key: bytes, route: str, request: ClientRequest, places: Sequence[str], *, but: str | None = None
) -> bytes | None:
    """Return a fingerprint of everything in `request` by which upstream can tell clients apart: the route,
    the method, the host, the target, all credentials and the session of MCP. None if it has no credential, or
    one of them twice.

    `but`: a place whose one value is left out. It still counts as a credential.
    """
    parts = [route.encode(), request.method.encode(), request.host]
    target, known = request.target.encode("latin-1"), False
    if but is not None and but.startswith("query:"):
        path, mark, query = target.partition(b"?")
        target = path + mark + _parameter(but[6:]).sub(b"&", b"&" + query)
    parts.append(target)
    for place in (*places, *(each for each in (*_CREDENTIALS, _SESSION) if each not in places)):
        given = values(request, place)
        if len(given) > 1:
            return None
        known = known or (any(given) and (place != _SESSION or place in places))
        if place != but:
            parts += [place.encode(), len(given).to_bytes(8), *given]
    return digest(key, *parts) if known else None


def digest(key: bytes, *parts: bytes) -> bytes:
    """Return a keyed fingerprint of `parts`, and of how they are split."""
    made = blake2b(digest_size=FINGERPRINT_SIZE, key=key)
    for part in parts:  # the length before each part makes the input unambiguous
        made.update(len(part).to_bytes(8))
        made.update(part)
    return made.digest()


@lru_cache(maxsize=64)
def _parameter(name: str) -> re.Pattern[bytes]:
    """Return a pattern of the parameter `name` after its `&`. Its group is the value.

    A query can have thousands of parameters, and this finds the wanted ones in one pass: each byte of the
    name is itself or percent-encoded.
    """
    written = b"".join(map(_byte, _decoded(name.encode())))
    return re.compile(rb"&" + written + rb"(?:=([^&]*)|(?=&|\Z))")


def _byte(byte: int) -> bytes:
    """Return a pattern of all forms of one byte of a name."""
    one = bytes([byte])
    own = {b"%": rb"%(?![0-9A-Fa-f]{2})|", b" ": rb"[+ ]|", b"+": b"", b"&": b"", b"=": b""}
    return b"(?:" + own.get(one, re.escape(one) + b"|") + b"%%(?i:%02x))" % byte


def _decoded(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))
