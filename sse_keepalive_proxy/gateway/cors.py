"""CORS headers: they allow pages of other origins to read the answers of a route.

On a route with `cors`, the proxy alone sets these headers. A route without it passes upstream's headers on.
This module works on header fields only. WHATWG Fetch 3.3 (CORS protocol).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sse_keepalive_proxy.http.headers import Header

__all__ = ["Cors", "preflight_method"]

_ANY_ORIGIN = "*"
_MAX_AGE = b"600"
"""Seconds for which a browser may cache a preflight. Chromium caches it for two hours at most."""

_TOKEN = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_NAMES = re.compile(rb"%b(?:[ \t]*,[ \t]*%b)*" % (_TOKEN.pattern, _TOKEN.pattern))

_OWNED = frozenset(
    {
        b"access-control-allow-origin",
        b"access-control-allow-credentials",
        b"access-control-allow-methods",
        b"access-control-allow-headers",
        b"access-control-max-age",
    }
)
"""Without `Access-Control-Expose-Headers`, which lists fields of the application."""


def preflight_method(method: str, headers: Iterable[Header]) -> bytes | None:
    """Return the requested method of a CORS preflight, or None if this is no preflight (Fetch 3.3.2).

    A preflight is an OPTIONS request with exactly one `Origin` and one `Access-Control-Request-Method`.
    """
    if method != "OPTIONS":
        return None
    fields = list(headers)
    asked = _all(fields, b"access-control-request-method")
    if len(_all(fields, b"origin")) != 1 or len(asked) != 1 or not _TOKEN.fullmatch(asked[0]):
        return None
    return asked[0]


class Cors:
    """The CORS settings of one route.

    `origins`: the allowed origins as browsers send them, in lower case, or `*` for all. `credentials`:
    whether cookies are allowed. It has no effect with `*`, because browsers reject the combination.
    """

    __slots__ = ("_any_origin", "_credentials", "_origins")

    def __init__(self, origins: Sequence[str], credentials: bool) -> None:
        self._any_origin = _ANY_ORIGIN in origins
        self._credentials = credentials
        self._origins = frozenset(origin.lower().encode() for origin in origins)

    def preflight(self, headers: Sequence[Header]) -> list[Header]:
        """Return the fields of the 204 answer to a preflight with these `headers` (Fetch 3.3.3).

        An allowed origin may use every method and every header: upstream decides about the request. An origin
        that is not allowed gets no CORS headers.
        """
        varies = b"Access-Control-Request-Method, Access-Control-Request-Headers"
        vary: Header = (b"Vary", varies if self._any_origin else b"Origin, " + varies)
        allowed = self._allowed(headers)
        method = preflight_method("OPTIONS", headers)
        if not allowed or method is None:
            return [vary]
        fields = [*allowed, (b"Access-Control-Allow-Methods", method)]
        names = b", ".join(_all(headers, b"access-control-request-headers"))
        if _NAMES.fullmatch(names):
            fields.append((b"Access-Control-Allow-Headers", names))
        return [*fields, (b"Access-Control-Max-Age", _MAX_AGE), vary]

    def own(self, request_headers: Sequence[Header], fields: Iterable[Header]) -> list[Header]:
        """Return the `fields` of an answer to a request with `request_headers`, with the CORS headers of the
        proxy in place of upstream's. `Vary` contains `Origin` unless all origins are allowed.
        """
        kept = [field for field in fields if field[0].lower() not in _OWNED]
        if not self._any_origin:
            kept = _varied_by_origin(kept)
        return [*kept, *self._allowed(request_headers)]

    def _allowed(self, headers: Iterable[Header]) -> list[Header]:
        """Return the fields that allow the origin to read. They contain configured values only."""
        if self._any_origin:
            return [(b"Access-Control-Allow-Origin", b"*")]
        sent = _all(headers, b"origin")
        if len(sent) != 1 or (origin := sent[0].lower()) not in self._origins:
            return []
        credentials = [(b"Access-Control-Allow-Credentials", b"true")] if self._credentials else []
        return [(b"Access-Control-Allow-Origin", origin), *credentials]


def _all(headers: Iterable[Header], name: bytes) -> list[bytes]:
    """Return the values of all fields called `name`, which is in lower case."""
    return [value for field, value in headers if field.lower() == name]


def _varied_by_origin(fields: Sequence[Header]) -> list[Header]:
    """Return `fields` with one `Vary` at the end, which contains `Origin` (RFC 9110 12.5.5)."""
    members = [item.strip() for value in _all(fields, b"vary") for item in value.split(b",")]
    members = list(dict.fromkeys(item for item in members if item))
    if not {b"*", b"origin"} & {item.lower() for item in members}:
        members.append(b"Origin")
    return [*(field for field in fields if field[0].lower() != b"vary"), (b"Vary", b", ".join(members))]
