"""Which pages of other origins may read a route's answers: the CORS headers, owned by the proxy alone.

Works on header fields only. Which routes have it says the configuration; a route without it keeps whatever
upstream sends. WHATWG Fetch 3.3 (CORS protocol).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sse_keepalive_proxy.http.headers import Header

__all__ = ["Cors", "preflight_method"]

_ANYBODY = "*"
_MAX_AGE = b"600"
"""Seconds a browser may remember a preflight; Chromium forgets it after two hours at the latest."""

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
"""`Access-Control-Expose-Headers` is not among them: it speaks of the application's own fields."""


def preflight_method(method: str, headers: Iterable[Header]) -> bytes | None:
    """The method that a CORS-preflight request asks for; None when the request is none (Fetch 3.3.2).

    One is an OPTIONS with an `Origin` and an `Access-Control-Request-Method`, each there exactly once.
    """
    if method != "OPTIONS":
        return None
    fields = list(headers)
    asked = _all(fields, b"access-control-request-method")
    if len(_all(fields, b"origin")) != 1 or len(asked) != 1 or not _TOKEN.fullmatch(asked[0]):
        return None
    return asked[0]


class Cors:
    """What one route lets pages of other origins do.

    `origins`: each as browsers send it, lower case, or `*` for every page. `credentials`: whether their
    cookies may come along; with `*` browsers would not have it, so it counts for nothing there.
    """

    __slots__ = ("_credentials", "_everybody", "_origins")

    def __init__(self, origins: Sequence[str], credentials: bool) -> None:
        self._everybody = _ANYBODY in origins
        self._credentials = credentials
        self._origins = frozenset(origin.lower().encode() for origin in origins)

    def preflight(self, headers: Sequence[Header]) -> list[Header]:
        """The fields of the 204 that answers a preflight with these `headers` (Fetch 3.3.3).

        A page that may ask at all may ask with every method and header: what is done with the request
        is upstream's business. An origin that is not allowed learns nothing.
        """
        varies = b"Access-Control-Request-Method, Access-Control-Request-Headers"
        vary: Header = (b"Vary", varies if self._everybody else b"Origin, " + varies)
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
        """The `fields` of an answer, upstream's or our own, to a request with `request_headers`: as they
        were, but for the CORS headers, which are ours and there once; and `Vary`, which names `Origin`
        unless the answer is the same for everybody.
        """
        kept = [field for field in fields if field[0].lower() not in _OWNED]
        if not self._everybody:
            kept = _varied_by_origin(kept)
        return [*kept, *self._allowed(request_headers)]

    def _allowed(self, headers: Iterable[Header]) -> list[Header]:
        """The fields that let the page read. They hold what was configured, never what was sent."""
        if self._everybody:
            return [(b"Access-Control-Allow-Origin", b"*")]
        sent = _all(headers, b"origin")
        if len(sent) != 1 or (origin := sent[0].lower()) not in self._origins:
            return []
        credentials = [(b"Access-Control-Allow-Credentials", b"true")] if self._credentials else []
        return [(b"Access-Control-Allow-Origin", origin), *credentials]


def _all(headers: Iterable[Header], name: bytes) -> list[bytes]:
    """The values of every field of that name, which is lower case."""
    return [value for field, value in headers if field.lower() == name]


def _varied_by_origin(fields: Sequence[Header]) -> list[Header]:
    """`fields` with `Origin` in their `Vary`, which stands at the end and once (RFC 9110 12.5.5)."""
    members = [item.strip() for value in _all(fields, b"vary") for item in value.split(b",")]
    members = list(dict.fromkeys(item for item in members if item))
    if not {b"*", b"origin"} & {item.lower() for item in members}:
        members.append(b"Origin")
    return [*(field for field in fields if field[0].lower() != b"vary"), (b"Vary", b", ".join(members))]
