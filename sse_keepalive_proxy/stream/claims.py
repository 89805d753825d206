"""The claims of a client's token in the events we write: `{claim.user.id}` and the other placeholders.

Works on JSON text with its placeholders still in it, as `encode.json_line` wrote it. A claim comes from
outside, so it is put in as JSON at all times, on one line, and what it holds is not looked at again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sse_keepalive_proxy.wire import encode

__all__ = ["claim", "fill", "names"]

_CLAIM = r"claim((?:\.[A-Za-z0-9_-]+)+)"
_PLACE = re.compile(
    # A whole string: its opening quote stands where a value begins, and no colon makes it a key. A quote
    # inside a string has a backslash before it.
    rf'(?:(?<=[\[:,])|^)"\{{{_CLAIM}\}}"(?!:)'
    rf"|\{{(?:{_CLAIM}|([a-z_]+))\}}"
)


def names(data: Any) -> bool:
    """Whether a placeholder of a claim stands anywhere in the strings of `data`."""
    return any(found[1] or found[2] for found in _PLACE.finditer(encode.json_line(data)))


def claim(claims: Mapping[str, Any], path: str) -> Any:
    """The claim at `path`, names with dots between them (`user.id`), or None when there is none."""
    value: Any = claims
    for name in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def fill(template: str, values: Mapping[str, str], claims: Mapping[str, Any]) -> str:
    """`template`, compact JSON, with its placeholders replaced: still compact JSON, on one line, ASCII.

    `{name}` becomes the text in `values`; a name that is not in it stays. A string that is nothing but
    `{claim.user.id}` becomes that claim, its JSON type kept, null when there is none; in a longer string,
    or a key, the claim's text is put in: nothing for null, compact JSON for what is no text.
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
    """A claim that JSON cannot write again counts as none: an infinite number (`1e999` is read as one), or
    what is nested too deeply.
    """
    try:
        return encode.json_line(value)
    except (ValueError, RecursionError):
        return "null"


def _escaped(text: str) -> str:
    return encode.json_line(text)[1:-1]
