"""Text of a certain shape: names, header fields, path patterns, hosts, networks, event data.

Owns the syntax of single values. What several values must agree on is in `config.check`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

from sse_keepalive_proxy.config.fields import Fault, Text, refuse
from sse_keepalive_proxy.config.words import did_you_mean

__all__ = [
    "PLACEHOLDERS",
    "CredentialPlace",
    "EventData",
    "EventName",
    "HeaderName",
    "HostPattern",
    "Label",
    "Method",
    "Name",
    "Network",
    "PathPattern",
    "PlainLine",
    "Word",
]

PLACEHOLDERS = ("stream_id", "now", "route")

_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # noqa: S105 - RFC 9110 5.6.2, not a secret
_PATH = re.compile(r"/[!-~]*")
_LABEL = r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}$)(\*\.)?{_LABEL}(\.{_LABEL})*|[0-9a-f:.]+|\[[0-9a-f:.]+\]", re.IGNORECASE)
_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise refuse(Fault("must be text", "put it in quotes"))
    return value


def _name(value: object) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name := _text(value)):
        hint = "lower-case letters, digits, - and _, beginning with a letter"
        raise refuse(Fault("not a usable name", hint))
    return name


def _token(value: object) -> str:
    if not re.fullmatch(_TOKEN, token := _text(value)):
        raise refuse(Fault("not the name of a header", "e.g. X-Forwarded-For"))
    return token


def _method(value: object) -> str:
    method = _text(value)
    if not re.fullmatch(_TOKEN, method):
        raise refuse(Fault("not an HTTP method", "e.g. GET"))
    if method != method.upper():
        raise refuse(Fault("methods are upper-case", "e.g. GET"))
    return method


def _path(value: object) -> str:
    """A path as it is received: nothing is decoded, so nothing may need encoding."""
    path = _text(value)
    if not path.startswith("/"):
        raise refuse(Fault("a path begins with /"))
    for forbidden, what in (("?", "a query"), ("#", "a fragment")):
        if forbidden in path:
            raise refuse(Fault(f"{what} is not part of a path", f"remove the {forbidden} and what follows"))
    if "*" in path.removesuffix("/*"):
        raise refuse(Fault("a * may only stand at the end, after a /", "e.g. /events/*"))
    if not _PATH.fullmatch(path):
        raise refuse(Fault("paths are compared as received", "write this character percent-encoded"))
    return path


def _host(value: object) -> str:
    host = _text(value)
    if not _HOST.fullmatch(host):
        hint = "write it without scheme, port and path, e.g. example.com or *.example.com"
        raise refuse(Fault("not a host name", hint))
    return host.strip("[]").lower()


def _credential(value: object) -> str:
    place, colon, name = _text(value).partition(":")
    if not colon or place.lower() not in ("query", "header"):
        raise refuse(Fault("not a place of a credential", "write query:NAME or header:name"))
    if place.lower() == "header":
        return f"header:{_token(name).lower()}"
    if not re.fullmatch(r"[!-~]+", name) or set(name) & set("&=#?"):
        raise refuse(Fault("not the name of a query parameter", "e.g. query:access_token"))
    return f"query:{name}"


def _line(value: object) -> str:
    line = _text(value)
    if re.search(r"[\r\n\0]", line):
        raise refuse(Fault("must be one line", "a line break would break the event stream's frame"))
    return line


def _word(value: object) -> str:
    if not (word := _line(value)):
        raise refuse(Fault("must not be empty"))
    return word


def _network(value: object) -> IPv4Network | IPv6Network:
    hint = "write an address or a network, e.g. 10.0.0.0/8"
    try:
        return ip_network(_text(value))
    except ValueError:
        pass
    try:
        ip_interface(_text(value))
    except ValueError:
        raise refuse(Fault("not a network", hint)) from None
    raise refuse(Fault("the address has bits beyond its mask", "set those bits to zero"))


def _check_data(data: dict[str, Any]) -> dict[str, Any]:
    """Data as given, when every placeholder in it is known. Keys are not expanded."""
    faults = [fault for at, text in _strings(data, ()) for fault in _placeholder_faults(at, text)]
    if faults:
        raise refuse(*faults)
    return data


def _strings(value: Any, at: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Every string in `value` with the way to it."""
    match value:
        case str():
            yield at, value
        case Mapping():
            for key, inner in value.items():
                yield from _strings(inner, (*at, key))
        case list() | tuple():
            for index, inner in enumerate(value):
                yield from _strings(inner, (*at, index))
        case _:
            return


def _placeholder_faults(at: tuple[str | int, ...], text: str) -> Iterator[Fault]:
    known = f"known: {' '.join(f'{{{word}}}' for word in PLACEHOLDERS)}"
    for found in _BRACES.finditer(text):
        word = found[1]
        if word is None:
            yield Fault("doubled braces have no meaning here", known, at=at)
        elif word not in PLACEHOLDERS:
            near = did_you_mean(word, PLACEHOLDERS)
            hint = f"{near} {known}".strip()
            yield Fault("is not a placeholder", hint, subject=f"{{{word}}}", at=at)


def _shape(kind: str, parse: Any, pattern: str = "") -> Text:
    return Text(kind, parse, pattern=pattern)


Name = Annotated[str, _shape("name", _name, r"^[a-z][a-z0-9_-]*$")]
Label = Annotated[str, AfterValidator(_name)]
HeaderName = Annotated[str, _shape("header name", _token, rf"^{_TOKEN}$")]
Method = Annotated[str, _shape("method", _method, r"^[^a-z\s]+$")]
PathPattern = Annotated[str, _shape("path", _path, r"^/([^*?#\s]*/)?\*$|^/[^*?#\s]*$")]
HostPattern = Annotated[str, _shape("host", _host)]
CredentialPlace = Annotated[str, _shape("credential", _credential, r"^(query|header):.+$")]
PlainLine = Annotated[str, _shape("text", _line)]
EventName = Annotated[str, _shape("event name", _word)]
Word = Annotated[str, _shape("text", _word)]
Network = Annotated[IPv4Network | IPv6Network, _shape("network", _network)]
EventData = Annotated[
    dict[str, Any],
    AfterValidator(_check_data),
    WithJsonSchema({"type": "object", "title": "JSON object"}),
]
