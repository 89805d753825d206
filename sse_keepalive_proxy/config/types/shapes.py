"""Single values of a certain shape: counts, names, header fields, paths, hosts, origins, networks, claims.

Owns the syntax of single values. The data of events is in `event_data`. `config.reading.check` checks values
against each other.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from sse_keepalive_proxy.config.types.fields import Fault, Text, refuse
from sse_keepalive_proxy.config.types.words import did_you_mean, one_of

__all__ = [
    "ALGORITHMS",
    "CREDENTIAL",
    "Algorithm",
    "Count",
    "CredentialPlace",
    "EventName",
    "FilePath",
    "HeaderName",
    "HostPattern",
    "Label",
    "Method",
    "Name",
    "Network",
    "Origin",
    "PathPattern",
    "PlainLine",
    "QueryName",
    "ServerName",
    "ShareKey",
    "Word",
]

_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # noqa: S105 - RFC 9110 5.6.2, not a secret
_PATH = re.compile(r"/[!-~]*")
_LABEL = r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}$)(\*\.)?{_LABEL}(\.{_LABEL})*|[0-9a-f:.]+|\[[0-9a-f:.]+\]", re.IGNORECASE)
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\]))(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}

CREDENTIAL = "credential"
_SHARE_KEY = rf"{CREDENTIAL}|claim:[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*"

_HASHES = ("256", "384", "512")
ALGORITHMS = ("EdDSA", *(f"{family}{size}" for family in ("ES", "RS", "PS") for size in _HASHES))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise refuse(Fault("must be text", "put it in quotes"))
    return value


def _name(value: object) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", name := _text(value)):
        hint = "use lower-case letters, digits, - and _; begin with a letter"
        raise refuse(Fault("not a valid name", hint))
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
    """Parse a path pattern. Paths are compared as received, so it must be encoded already."""
    path = _text(value)
    if not path.startswith("/"):
        raise refuse(Fault("a path begins with /"))
    for forbidden, what in (("?", "a query"), ("#", "a fragment")):
        if forbidden in path:
            raise refuse(Fault(f"{what} is not part of a path", f"remove the {forbidden} and what follows"))
    if "*" in path.removesuffix("/*"):
        raise refuse(Fault("a * is allowed only at the end, after a /", "e.g. /events/*"))
    if not _PATH.fullmatch(path):
        raise refuse(Fault("paths are compared as received", "write this character percent-encoded"))
    return path


def _host(value: object) -> str:
    host = _text(value)
    if not _HOST.fullmatch(host):
        hint = "write it without scheme, port and path, e.g. example.com or *.example.com"
        raise refuse(Fault("not a host name", hint))
    return host.strip("[]").lower()


def _server_name(value: object) -> str:
    name = _host(value)
    if name.startswith("*"):
        raise refuse(Fault("a server has one name", "write the name in its certificate, without *"))
    return name


def _credential(value: object) -> str:
    place, colon, name = _text(value).partition(":")
    if not colon or place.lower() not in ("query", "header"):
        raise refuse(Fault("not a place for a credential", "write query:NAME or header:name"))
    if place.lower() == "header":
        return f"header:{_token(name).lower()}"
    return f"query:{_parameter(name, 'query:access_token')}"


def _query_name(value: object) -> str:
    return _parameter(_text(value), "lastEventId")


def _parameter(name: str, example: str) -> str:
    """Parse the name of a query parameter, written as in a URL."""
    if not re.fullmatch(r"[!-~]+", name) or set(name) & set("&=#?"):
        raise refuse(Fault("not the name of a query parameter", f"e.g. {example}"))
    return name


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


def _origin(value: object) -> str:
    """Parse an origin. Return it as browsers serialize it (WHATWG HTML 7.1.1).

    That is in lower case and without a default port.
    """
    hint = "write it as browsers send it, e.g. https://app.example.com"
    origin = _text(value).lower()
    if origin == "*":
        return origin
    if origin == "null":
        raise refuse(Fault("`null` is the origin of every sandboxed page, so it names no page", hint))
    scheme, separator, rest = origin.partition("://")
    if separator and "/" in rest:
        raise refuse(Fault("an origin has no path", "remove the / after the host and what follows"))
    found = _ORIGIN.fullmatch(origin)
    port = int(found[2] or 0) if found else 0
    if found is None or (found[2] and not 1 <= port <= 65535):
        raise refuse(Fault("not an origin", hint))
    return found[1] if not port or port == _DEFAULT_PORTS.get(scheme) else f"{found[1]}:{port}"


def _algorithm(value: object) -> str:
    """Parse a signature algorithm of RFC 7518 or RFC 8037 that uses a public key."""
    algorithm = _text(value)
    if algorithm in ALGORITHMS:
        return algorithm
    if algorithm.upper() in ("HS256", "HS384", "HS512", "NONE"):
        message = "proves nothing: anyone with the public key could make such a token"
        raise refuse(Fault(message, f"write {one_of(ALGORITHMS)}", subject=algorithm))
    near = did_you_mean(algorithm, ALGORITHMS)
    raise refuse(Fault(f"must be {one_of(ALGORITHMS)}", near))


def _file(value: object) -> str:
    path = _word(value)
    if path.endswith("/"):
        raise refuse(Fault("must be a file, not a directory"))
    return path


def _share_key(value: object) -> str:
    """Parse what the clients of a group have in common: `credential`, or the path of a claim."""
    key = _text(value)
    if not re.fullmatch(_SHARE_KEY, key):
        hint = "a claim is written with a colon, and dots between its names: claim:user.id"
        raise refuse(Fault("must be credential, claim:PATH or off", hint))
    return key


def _shape(kind: str, parse: Any, pattern: str = "") -> Text:
    return Text(kind, parse, pattern=pattern)


Name = Annotated[str, _shape("name", _name, r"^[a-z][a-z0-9_-]*$")]
Label = Annotated[str, AfterValidator(_name)]
HeaderName = Annotated[str, _shape("header name", _token, rf"^{_TOKEN}$")]
Method = Annotated[str, _shape("method", _method, r"^[^a-z\s]+$")]
PathPattern = Annotated[str, _shape("path", _path, r"^/([^*?#\s]*/)?\*$|^/[^*?#\s]*$")]
HostPattern = Annotated[str, _shape("host", _host)]
ServerName = Annotated[str, _shape("host", _server_name)]
Count = Annotated[int, Field(ge=1)]
CredentialPlace = Annotated[str, _shape("credential", _credential, r"^(query|header):.+$")]
ShareKey = Annotated[str, _shape("`credential`, `claim:PATH`", _share_key, rf"^({_SHARE_KEY})$")]
PlainLine = Annotated[str, _shape("text", _line)]
EventName = Annotated[str, _shape("event name", _word)]
QueryName = Annotated[str, _shape("parameter name", _query_name, r"^[^&=#?\s]+$")]
Origin = Annotated[str, _shape("origin", _origin, r"^(\*|[A-Za-z][A-Za-z0-9+.-]*://[^/?#@\s]+)$")]
Algorithm = Annotated[str, _shape("algorithm", _algorithm, rf"^({'|'.join(ALGORITHMS)})$")]
FilePath = Annotated[str, _shape("file", _file)]
Word = Annotated[str, _shape("text", _word)]
Network = Annotated[IPv4Network | IPv6Network, _shape("network", _network)]
