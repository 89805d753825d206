"""Fill the placeholders of the proxy's events, such as `{claim.user.id}`, a claim of the client's token.

Templates are JSON text from `encode.json_line`. A claim comes from outside, so it is always inserted as
JSON on one line, and placeholders inside it are not filled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sse_keepalive_proxy.wire import encode

__all__ = ["claim", "fill", "missing", "names"]

_CLAIM = r"claim((?:\.[A-Za-z0-9_-]+)+)"
_PLACE = re.compile(
    # A whole string value: its opening quote begins a value, and no colon follows that makes it a key.
    # A quote inside a string has a backslash before it.
    rf'(?:(?<=[\[:,])|^)"\{{{_CLAIM}\}}"(?!:)'
    rf"|\{{(?:{_CLAIM}|([a-z_]+))\}}"
)


def names(data: Any) -> bool:
    """Whether any string of `data` contains a placeholder of a claim."""
    return any(found[1] or found[2] for found in _PLACE.finditer(encode.json_line(data)))


def missing(data: Any, claims: Mapping[str, Any]) -> bool:
    """Whether any claim that `data` names is null or not in `claims`."""
    places = _PLACE.finditer(encode.json_line(data))
    named = [path[1:] for found in places if (path := found[1] or found[2])]
    return any(claim(claims, path) is None for path in named)


def claim(claims: Mapping[str, Any], path: str) -> Any:
    """Return the claim at the dotted `path` (`user.id`), or None."""
    value: Any = claims
    for name in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def fill(template: str, values: Mapping[str, str], claims: Mapping[str, Any]) -> str:
    """Replace the placeholders of `template`, compact JSON. Return compact JSON, on one line of ASCII.

    `{name}` becomes its text in `values`; an unknown name stays. A string value that is only
    `{claim.user.id}` becomes the claim with its JSON type, or null. In a longer string or a key it becomes
    the claim's text: empty for null, compact JSON for a value that is not a string.
    """

    def replaced(found: re.Match[str]) -> str:
        whole, inner, name = found.groups()
        if whole is not None:
            return _json(claim(claims, whole[1:]))
        if inner is not None:
            return _escaped(_text(claim(claims, inner[1:])))
        return _escaped(values[name]) if name in values else found[0]

    return _PLACE.sub(replaced, template)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if (text := _json(value)) == "null" else text


def _json(value: Any) -> str:
    """Encode a claim. One that JSON cannot encode becomes null: infinity (`1e999`), or too deep nesting."""
    try:
        return encode.json_line(value)
    except (ValueError, RecursionError):
        return "null"


def _escaped(text: str) -> str:
    return encode.json_line(text)[1:-1]
