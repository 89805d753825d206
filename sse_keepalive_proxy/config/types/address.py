"""The addresses of listeners and upstreams.

Owns their syntax, and the check whether two listeners collide. It resolves no name and opens no socket.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Annotated

from sse_keepalive_proxy.config.types.fields import Fault, Text, refuse

__all__ = [
    "Listen",
    "ListenAddress",
    "UpstreamAddress",
    "UpstreamUrl",
    "parse_listen",
    "parse_upstream",
]

_LISTEN_HINT = "write host:port, :port, [::1]:port or unix:/path"
_URL_HINT = "write http://host:port, https://host or unix:/path"
_DEFAULT_PORTS = {"http": 80, "https": 443}

_HOST = re.compile(
    r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*", re.IGNORECASE
)
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[^\]/]*\]|[^:/\[\]]*)(?::(?P<port>[0-9]{1,5}))?(?P<prefix>/.*)?"
)
_PREFIX = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")

# `sun_path` of Linux has 108 bytes, including the final NUL.
_LONGEST_UNIX_PATH = 107


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """An address to listen on: `unix_path`, or `port` on `host`.

    `host` None means every interface. With port 0 the kernel chooses the port. `str()` is its syntax.
    """

    host: str | None
    port: int | None
    unix_path: str | None = None

    def __str__(self) -> str:
        if self.unix_path is not None:
            return f"unix:{self.unix_path}"
        return f"{_bracketed(self.host or '')}:{self.port}"

    def collides_with(self, other: ListenAddress) -> bool:
        """Whether the kernel cannot bind both addresses. Two ports 0 never collide."""
        if self.unix_path is not None or other.unix_path is not None:
            return self.unix_path == other.unix_path
        if self.port != other.port or self.port == 0:
            return False
        return self.host == other.host or _covers(self.host, other.host) or _covers(other.host, self.host)


def _covers(host: str | None, other: str | None) -> bool:
    """Whether `host` means every interface of `other`'s address family."""
    if host is None:
        return True
    six = other is not None and ":" in other
    return host == ("::" if six else "0.0.0.0")  # noqa: S104 - compared with, not bound


@dataclass(frozen=True, slots=True)
class UpstreamAddress:
    """The address of an upstream. For `unix`, `host` and `port` are None; otherwise `unix_path` is None.

    `prefix` is put before every path. It is empty, or `/…` without a slash at its end.
    """

    scheme: str
    host: str | None
    port: int | None
    unix_path: str | None
    prefix: str

    def __str__(self) -> str:
        return f"unix:{self.unix_path}" if self.host is None else f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """The value of the `Host` header for this upstream, without a default port."""
        if self.host is None:
            return "localhost"
        host = _bracketed(self.host)
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def parse_listen(value: object) -> ListenAddress:
    """Parse an address to listen on. Raises `ValueError` with the right syntax."""
    if not isinstance(value, str):
        raise refuse(Fault("must be an address", _LISTEN_HINT))
    if value.startswith("unix:"):
        return ListenAddress(None, None, _unix_path(value))
    host, colon, port = value.rpartition(":")
    if not colon:
        raise refuse(Fault("an address needs a port", _LISTEN_HINT))
    return ListenAddress(_host(host, _LISTEN_HINT) if host else None, _port(port, lowest=0))


def parse_upstream(value: object) -> UpstreamAddress:
    """Parse the URL of an upstream. Raises `ValueError` with the right syntax."""
    if not isinstance(value, str):
        raise refuse(Fault("must be a URL", _URL_HINT))
    if value.startswith("unix:"):
        return UpstreamAddress("unix", None, None, _unix_path(value), "")
    if not value.startswith(("http://", "https://")):
        raise refuse(Fault("must begin with http://, https:// or unix:/", _URL_HINT))
    _refuse_extras(value)
    found = _URL.fullmatch(value)
    if found is None or not found["host"]:
        raise refuse(Fault("not a URL", _URL_HINT))
    port = _port(found["port"], lowest=1) if found["port"] else _DEFAULT_PORTS[found["scheme"]]
    prefix = found["prefix"] or ""
    if not _PREFIX.fullmatch(prefix):
        raise refuse(Fault("its path has a character that must be percent-encoded", "e.g. %20 for a space"))
    return UpstreamAddress(found["scheme"], _host(found["host"], _URL_HINT), port, None, prefix.rstrip("/"))


def _refuse_extras(url: str) -> None:
    """Refuse parts of a URL that are not supported. Never quote the value: it may contain a password."""
    authority = re.split(r"[/?#]", url.split("://", 1)[1], maxsplit=1)[0]
    if "@" in authority:
        raise refuse(Fault("credentials in the URL are not supported", "remove everything up to the @"))
    if "?" in url:
        raise refuse(Fault("a query in the URL is not supported", "remove the ? and what follows"))
    if "#" in url:
        raise refuse(Fault("a fragment in the URL is not supported", "remove the # and what follows"))


def _host(text: str, hint: str) -> str:
    """Parse a name or an address, IPv6 in brackets. Return it in lower case, without brackets."""
    if text.startswith("[") and text.endswith("]"):
        return _ipv6(text[1:-1], hint)
    if ":" in text:
        raise refuse(Fault("an IPv6 address needs brackets", "e.g. [::1]:8080"))
    if not _HOST.fullmatch(text):
        raise refuse(Fault("not a host name or an address", hint))
    if re.fullmatch(r"[0-9.]+", text):
        return _ipv4(text, hint)
    return text.lower()


def _ipv4(text: str, hint: str) -> str:
    try:
        return str(IPv4Address(text))
    except AddressValueError:
        raise refuse(Fault("not an IPv4 address", hint)) from None


def _ipv6(text: str, hint: str) -> str:
    try:
        return str(IPv6Address(text))
    except AddressValueError:
        raise refuse(Fault("not an IPv6 address", hint)) from None


def _port(text: str, *, lowest: int) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not lowest <= int(text) <= 65535:
        raise refuse(Fault(f"a port is a number from {lowest} to 65535"))
    return int(text)


def _unix_path(value: str) -> str:
    path = value.removeprefix("unix:")
    if not path.startswith("/") or path.endswith("/"):
        raise refuse(Fault("a Unix socket is an absolute path", "write unix:/run/proxy.sock"))
    if "\0" in path:
        raise refuse(Fault("a path cannot contain NUL"))
    if len(path.encode()) > _LONGEST_UNIX_PATH:
        raise refuse(Fault(f"a Unix socket's path is at most {_LONGEST_UNIX_PATH} bytes"))
    return path


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _checked_url(value: object) -> str:
    parse_upstream(value)
    return str(value)


Listen = Annotated[ListenAddress, Text("address", parse_listen, pattern=r"^(.*:[0-9]{1,5}|unix:/.+)$")]
UpstreamUrl = Annotated[str, Text("URL", _checked_url, pattern=r"^(https?://[^?#]+|unix:/.+)$")]
