"""The JSON data of the proxy's own events and messages, with placeholders in its strings.

Owns the names of the placeholders and the check of their places. `stream.frames` fills them in.
`config.reading.check_route` checks that a claim has an `identity`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

from sse_keepalive_proxy.config.types.fields import Fault, refuse
from sse_keepalive_proxy.config.types.words import did_you_mean

__all__ = ["PLACEHOLDERS", "ClaimsData", "EventData", "claims_in"]

PLACEHOLDERS = ("stream_id", "now", "route")

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
_CLAIM = re.compile(r"claim(\.[A-Za-z0-9_-]+)+")

_At = tuple[str | int, ...]


def claims_in(data: Any) -> Iterator[_At]:
    """Yield the path of each string of `data` that contains a claim such as `{claim.user.id}`."""
    for at, text in _strings(data, ()):
        if any(word is not None and _CLAIM.fullmatch(word) for word in _words(text)):
            yield at


def _strings(value: Any, at: _At) -> Iterator[tuple[_At, str]]:
    """Yield every string in `value` with its path. Keys are included, because they are filled in, too."""
    match value:
        case str():
            yield at, value
        case Mapping():
            for key, inner in value.items():
                yield (*at, key), str(key)
                yield from _strings(inner, (*at, key))
        case list() | tuple():
            for index, inner in enumerate(value):
                yield from _strings(inner, (*at, index))
        case _:
            return


def _words(text: str) -> Iterator[str | None]:
    """Yield the content of each pair of braces, None for doubled braces."""
    yield from (found[1] for found in _BRACES.finditer(text))


def _check_with_claims(data: dict[str, Any]) -> dict[str, Any]:
    return _checked(data, claims=True)


def _check(data: dict[str, Any]) -> dict[str, Any]:
    return _checked(data, claims=False)


def _checked(data: dict[str, Any], *, claims: bool) -> dict[str, Any]:
    """Return `data` if every placeholder in it is known. Otherwise raise every fault."""
    found = ((at, _fault(word, claims=claims)) for at, text in _strings(data, ()) for word in _words(text))
    faults = [replace(fault, at=at) for at, fault in found if fault is not None]
    if faults:
        raise refuse(*faults)
    return data


def _fault(word: str | None, *, claims: bool) -> Fault | None:
    """Return the fault of a placeholder, or None."""
    words = (*PLACEHOLDERS, "claim.NAME") if claims else PLACEHOLDERS
    known = f"known: {' '.join(f'{{{each}}}' for each in words)}"
    if word is None:
        return Fault("doubled braces have no meaning here", known)
    if word in PLACEHOLDERS or (claims and _CLAIM.fullmatch(word)):
        return None
    if _CLAIM.fullmatch(word):
        hint = f"a claim is allowed only in `confirm.data` and `leave.publish.data`; {known}"
    elif word.partition(".")[0] == "claim" and claims:
        hint = "write names with dots between them, e.g. {claim.user.id}"
    else:
        hint = f"{did_you_mean(word, PLACEHOLDERS)} {known}".strip()
    return Fault("is not a placeholder", hint, subject=f"{{{word}}}")


_JSON_OBJECT = WithJsonSchema({"type": "object", "title": "JSON object"})

EventData = Annotated[dict[str, Any], AfterValidator(_check), _JSON_OBJECT]
ClaimsData = Annotated[dict[str, Any], AfterValidator(_check_with_claims), _JSON_OBJECT]
