"""The configuration as a value: every key, its type, its default and what it does.

Owns the shape; reads like the reference, which is generated from it (`config.reference`).
What several keys must agree on is in `config.check`, how a file becomes this in `config.load`.
A concern that is off is None; durations are seconds, sizes bytes.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field, Strict

from sse_keepalive_proxy.config.sections.client import Cors
from sse_keepalive_proxy.config.sections.stream import Stream
from sse_keepalive_proxy.config.sections.tls import ServerTls, UpstreamTls
from sse_keepalive_proxy.config.types.address import (
    Listen,
    ListenAddress,
    UpstreamAddress,
    UpstreamUrl,
    parse_upstream,
)
from sse_keepalive_proxy.config.types.fields import NULL_IS_DEFAULTS, OFF, ONE_OR_MANY, Section
from sse_keepalive_proxy.config.types.shapes import (
    HeaderName,
    HostPattern,
    Label,
    Method,
    Name,
    Network,
    PathPattern,
)
from sse_keepalive_proxy.config.types.units import Duration, ShortDuration, Size

__all__ = [
    "Admin",
    "Drain",
    "Limits",
    "LogFormat",
    "LogLevel",
    "Logging",
    "Match",
    "Pages",
    "Route",
    "Settings",
    "Upstream",
]

_Count = Annotated[int, Field(ge=1)]


class Pages(StrEnum):
    """Who may see the admin pages that tell about single streams."""

    LOOPBACK = "loopback"
    ALL = "all"
    OFF = "off"


class LogLevel(StrEnum):
    """The least important message that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """One line for people, or one JSON object for machines."""

    TEXT = "text"
    JSON = "json"


class Admin(Section):
    """The admin listener: metrics and health for everybody who reaches it, pages for people."""

    listen: Listen = Field(
        default=ListenAddress("127.0.0.1", 9090),
        description="The address of the admin listener. "
        "Prometheus and probes from elsewhere need one that they can reach, e.g. `0.0.0.0:9090`.",
    )
    pages: Annotated[Pages, Strict(False)] = Field(
        default=Pages.LOOPBACK,
        description="Who may see `/streams`, `/config` and the status page. "
        "They show client addresses, so `all` is for a port that only operators reach.",
    )


class Logging(Section):
    """What is written to standard error, and how."""

    level: Annotated[LogLevel, Strict(False)] = Field(
        default=LogLevel.INFO,
        description="The least important message that is written. "
        "A stall is a `warning`, a stream that opens or ends an `info`.",
    )
    format: Annotated[LogFormat, Strict(False)] = Field(
        default=LogFormat.TEXT,
        description="Lines for people or JSON for machines. JSON has the same facts, each under its own key.",
    )
    access: bool = Field(
        default=True,
        description="Writes one line for each request, and one when a stream opens and one when it ends. "
        "Credentials are left out of it.",
    )


class Limits(Section):
    """How much this instance takes on before it says no."""

    max_streams: _Count = Field(
        default=10000,
        description="How many streams may be open at once. "
        "The next one is refused with 503 and a `Retry-After` that differs from client to client; "
        "none that is open is ever given up for it.",
    )
    max_streams_per_client: Annotated[_Count | None, OFF] = Field(
        default=None,
        description="How many streams one client address may have open at once. "
        "Many people can share an address, so choose it generously.",
    )
    max_connections: _Count = Field(
        default=20000,
        description="How many client connections may be open at once, streams and others. "
        "It bounds the descriptors and the memory that clients can claim.",
    )
    request_header_timeout: Duration = Field(
        default=10.0,
        description="How long a client may take to send a whole request head. "
        "It ends attacks that send one byte at a time.",
    )
    max_request_header: Size = Field(
        default=32 << 10,
        description="The largest request head, all its lines together. A larger one is refused.",
    )
    max_request_body: Annotated[Size | None, OFF] = Field(
        default=None,
        description="The largest request body. "
        "Bodies are streamed and never held in memory, so off costs nothing here.",
    )


class Drain(Section):
    """How open streams are let go when the proxy is told to stop."""

    timeout: Duration = Field(
        default=25.0,
        description="How long a shutdown may take before what is still open is cut. "
        "Keep it under the grace period of whatever stops the process.",
    )
    spread: ShortDuration = Field(
        default=10.0,
        description="Over how long the closing of open streams is spread. "
        "It keeps clients from coming back all at once, and must not exceed `timeout`.",
    )
    idle_grace: ShortDuration = Field(
        default=2.0,
        description="How long a kept connection may stay idle during a drain before it is closed. "
        "Until then a request on it is answered, with `Connection: close`.",
    )


class Upstream(Section):
    """A server that requests are passed on to."""

    url: UpstreamUrl = Field(
        description="Where the server is: `http://host:port`, `https://host` or `unix:/path`. "
        "A path in it is put in front of the request's, and the name is resolved anew for every stream.",
    )
    connect_timeout: Duration = Field(
        default=5.0,
        description="How long a connection may take to come about. It is about the network alone.",
    )
    response_timeout: Annotated[Duration | None, OFF] = Field(
        default=None,
        description="How long a plain request may wait for response headers. "
        "Streams have their own `open_timeout`.",
    )
    tls: Annotated[UpstreamTls, NULL_IS_DEFAULTS] = Field(
        default=UpstreamTls(),
        description="How an `https://` server is verified, and what it sees of the proxy. "
        "Its certificate is always checked; left out, the system's authorities count.",
    )

    @property
    def address(self) -> UpstreamAddress:
        """`url` taken apart."""
        return parse_upstream(self.url)


class Match(Section):
    """Which requests a route takes. What is left out matches everything."""

    path: PathPattern = Field(
        description="The path, exact or a prefix that ends in `/*`; `/*` alone is every path. "
        "It is compared as received: percent-encoding, dots and doubled slashes are left as they are.",
    )
    methods: Annotated[tuple[Method, ...], Strict(False), Field(min_length=1)] | None = Field(
        default=None,
        description="The methods, in upper case. Left out, every method matches.",
    )
    host: Annotated[
        Annotated[tuple[HostPattern, ...], Strict(False), Field(min_length=1)] | None,
        ONE_OR_MANY,
    ] = Field(
        default=None,
        description="The host names, one or a list, without a port. "
        "`*.example.com` matches every name below example.com; left out, every host matches.",
    )

    def takes(self, *, method: str, host: str) -> bool:
        """Whether a request to a path that `takes_path` takes belongs here: its method, and `Host` without
        port.
        """
        return (self.methods is None or method in self.methods) and (
            self.host is None or any(_host_takes(pattern, host.lower()) for pattern in self.host)
        )

    def takes_path(self, path: str) -> bool:
        """Whether `path`, as received, is the exact one or begins with the prefix; `/*` alone takes also
        the `*` of OPTIONS, which is no path.
        """
        if self.path.endswith("/*"):
            return path.startswith(self.path[:-1]) or (path == "*" and self.path == "/*")
        return path == self.path

    def covers(self, other: Match) -> bool:
        """Whether every request that `other` takes would be taken by this one."""
        return (
            self._covers_path(other)
            and (self.methods is None or set(other.methods or ("",)) <= set(self.methods))
            and (
                self.host is None
                or all(
                    any(_host_covers(mine, theirs) for mine in self.host) for theirs in other.host or ("",)
                )
            )
        )

    def _covers_path(self, other: Match) -> bool:
        if other.path.endswith("/*") and not self.path.endswith("/*"):
            return False
        return self.takes_path(other.path.removesuffix("*"))


def _host_takes(pattern: str, host: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def _host_covers(mine: str, theirs: str) -> bool:
    return mine == theirs or (mine.startswith("*.") and theirs.endswith(mine[1:]))


class Route(Section):
    """One rule: which requests, where to, and whether they may be streams."""

    name: Name = Field(
        description="What the route is called in metrics, logs and `/streams`. No two routes share a name.",
    )
    match: Match = Field(
        description="Which requests the route takes. The first route that matches wins.",
    )
    upstream: str = Field(
        description="The name of the upstream that requests go to. It must be one of `upstreams`.",
    )
    cors: Annotated[Cors | None, OFF, NULL_IS_DEFAULTS] = Field(
        default=None,
        description="Which pages of other origins may use the route; the proxy then owns the CORS headers. "
        "Off, preflights and headers are upstream's, or those of a hop in front: two answers break browsers.",
    )
    stream: Annotated[Stream | None, NULL_IS_DEFAULTS] = Field(
        default=None,
        description="How event streams of this route are treated. "
        "With nothing behind it every default holds; left out, everything passes through untouched.",
    )


class Settings(Section):
    """The whole configuration."""

    listen: Annotated[Annotated[tuple[Listen, ...], Strict(False), Field(min_length=1)], ONE_OR_MANY] = Field(
        default=(ListenAddress("0.0.0.0", 8080),),  # noqa: S104 - a proxy is there to be reached
        description="Where clients connect: one address or a list of them. "
        "Each is `host:port`, `:port`, `[::1]:port` or `unix:/path`.",
    )
    reuse_port: bool = Field(
        default=False,
        description="Lets another process listen on the same TCP ports, here and for `admin`. "
        "A new proxy can then start before the old one ends. Sockets of systemd need no such key.",
    )
    tls: Annotated[ServerTls | None, OFF] = Field(
        default=None,
        description="The certificate that clients see on every TCP address of `listen`. "
        "Off, the proxy speaks plain HTTP; on a Unix socket it always does.",
    )
    admin: Annotated[Admin | None, OFF, NULL_IS_DEFAULTS] = Field(
        default=Admin(),
        description="The admin listener with metrics, health and status pages, on a port of its own. "
        "Off, nothing can be scraped or probed.",
    )
    logging: Annotated[Logging, NULL_IS_DEFAULTS] = Field(
        default=Logging(),
        description="What is written to standard error, and how. Secrets are left out at every level.",
    )
    trusted_proxies: Annotated[tuple[Network, ...], Strict(False)] = Field(
        default=("127.0.0.0/8", "::1/128"),
        validate_default=True,
        description="Networks whose forwarding headers are believed. "
        "From anywhere else those headers are replaced, so that nobody can pretend to be another address.",
    )
    client_address: HeaderName = Field(
        default="X-Forwarded-For",
        description="The header in which trusted proxies name the client. "
        "The rightmost address in it that is not itself trusted counts.",
    )
    limits: Annotated[Limits, NULL_IS_DEFAULTS] = Field(
        default=Limits(),
        description="How much this instance takes on before it says no. Every one of them is a protection.",
    )
    drain: Annotated[Drain, NULL_IS_DEFAULTS] = Field(
        default=Drain(),
        description="How open streams are let go when the proxy is told to stop. "
        "A second signal stops it at once.",
    )
    watch: bool = Field(
        default=True,
        description="Reloads the configuration when its file changes, or a file that it names. "
        "A SIGHUP always does; what is wrong never replaces what is in force.",
    )
    upstreams: dict[Label, Upstream] = Field(
        min_length=1,
        description="The servers that requests are passed on to, by name. Routes refer to these names.",
    )
    defaults: Annotated[Stream, NULL_IS_DEFAULTS] = Field(
        default=Stream(),
        description="Values for `stream` that every stream route inherits unless it sets its own. "
        "They are merged key by key and alone make no route a stream route.",
    )
    routes: Annotated[tuple[Route, ...], Strict(False)] = Field(
        min_length=1,
        description="Which requests go where, first match first. A request that no route takes gets a 404.",
    )

    @property
    def files(self) -> dict[Path, str]:
        """The files that the configuration names and a change of which calls for a reload, each with the name
        of a key that names it.
        """
        named: list[tuple[str, str | None]] = [
            ("public_key_file", route.stream.identity.public_key_file)
            for route in self.routes
            if route.stream and route.stream.identity
        ]
        if self.tls is not None:
            named += [(f"tls.{key}", getattr(self.tls, key)) for key in ServerTls.model_fields]
        for name, upstream in self.upstreams.items():
            files = {"ca_file": upstream.tls.ca_file, "client_cert": upstream.tls.client_cert}
            named += [(f"upstreams.{name}.tls.{key}", file) for key, file in files.items()]
        found: dict[Path, str] = {}
        for key, file in named:
            if file is not None:
                found.setdefault(Path(file), key)
        return found
