"""The top level of the configuration and the sections that belong to no stream.

`make docs` generates the reference page from these classes. `config.reading.check` checks keys against each
other, and `config.reading.load` reads the file. A concern that is off is None. Durations are in seconds,
sizes in bytes.
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
    Count,
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


class Pages(StrEnum):
    """The clients that may see the admin pages about single streams."""

    LOOPBACK = "loopback"
    ALL = "all"
    OFF = "off"


class LogLevel(StrEnum):
    """The lowest level that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """A log record as a line of text or as a JSON object."""

    TEXT = "text"
    JSON = "json"


class Admin(Section):
    """The admin listener: metrics, health checks and status pages."""

    listen: Listen = Field(
        default=ListenAddress("127.0.0.1", 9090),
        description="The address of the admin listener. If Prometheus or probes run on another host, use "
        "an address that they can reach, e.g. `0.0.0.0:9090`.",
    )
    pages: Annotated[Pages, Strict(False)] = Field(
        default=Pages.LOOPBACK,
        description="The clients that may see `/streams`, `/config` and the status page. These pages show "
        "client addresses, so use `all` only on a port that only operators can reach.",
    )


class Logging(Section):
    """The log on standard error."""

    level: Annotated[LogLevel, Strict(False)] = Field(
        default=LogLevel.INFO,
        description="The lowest level that is written. A stall is a `warning`; the start and the end of a "
        "stream are `info`.",
    )
    format: Annotated[LogFormat, Strict(False)] = Field(
        default=LogFormat.TEXT,
        description="The format of the log lines: text for people or JSON for machines. Both have the same "
        "fields.",
    )
    access: bool = Field(
        default=True,
        description="Writes one line for each request, and one line each for the start and the end of a "
        "stream. The lines contain no credentials.",
    )


class Limits(Section):
    """The limits of this instance."""

    max_streams: Count = Field(
        default=10000,
        description="The largest number of open streams. A further request gets 503 and a random "
        "`Retry-After`; no open stream is closed for it.",
    )
    max_streams_per_client: Annotated[Count | None, OFF] = Field(
        default=None,
        description="The largest number of open streams for one client address. Many people can share one "
        "address, so choose a generous number.",
    )
    max_connections: Count = Field(
        default=20000,
        description="The largest number of open client connections, streams included. It limits the "
        "descriptors and the memory that clients can use.",
    )
    request_header_timeout: Duration = Field(
        default=10.0,
        description="The time in which a client must send the whole request head. It stops attacks that "
        "send one byte at a time.",
    )
    max_request_header: Size = Field(
        default=32 << 10,
        description="The largest request head, all lines together. A larger one is refused.",
    )
    max_request_body: Annotated[Size | None, OFF] = Field(
        default=None,
        description="The largest request body. Bodies are streamed and never held in memory, so off needs "
        "no memory.",
    )
    max_buffered: Size = Field(
        default=256 << 20,
        description="The most bytes that all streams may hold for slow clients and unfinished events. "
        "Above it the stream whose client is stuck for the longest time is closed "
        "(reason `client_stalled`), or the stream with the largest unfinished event (`event_too_large`).",
    )
    max_replay: Size = Field(
        default=64 << 20,
        description="The most bytes that the logs of all groups may hold (`share.replay`). Above it the log "
        "that got its last event the longest time ago is emptied first.",
    )
    max_held: Count = Field(
        default=1000,
        description="The largest number of upstream streams that are kept open without a client "
        "(`leave.hold`, and groups for `share.linger`). For a further one the oldest is closed.",
    )
    max_opening: Count = Field(
        default=64,
        description="The largest number of streams that are being opened at one upstream at the same time. "
        "The others wait, first come, first served. So clients that all come back together do not overload a "
        "server for which an opening is expensive.",
    )


class Drain(Section):
    """The shutdown: how open streams are closed."""

    timeout: Duration = Field(
        default=25.0,
        description="The longest time of a shutdown. Then all remaining connections are cut. Keep it "
        "shorter than the grace period of your process manager.",
    )
    spread: ShortDuration = Field(
        default=10.0,
        description="The time over which the streams of browsers are closed, each at a random moment. It "
        "keeps clients from coming back together, and must not exceed `timeout`. Other streams may run to "
        "their own end until shortly before `timeout`.",
    )
    idle_grace: ShortDuration = Field(
        default=2.0,
        description="How long an idle client connection stays open during a drain. A request on it is "
        "still answered, with `Connection: close`.",
    )


class Upstream(Section):
    """A server that receives requests."""

    url: UpstreamUrl = Field(
        description="The address of the server: `http://host:port`, `https://host` or `unix:/path`. A path "
        "in it is put before the path of the request. The name is resolved again for every connection, and "
        "its next address is tried when one fails or has not answered after 0.25 s.",
    )
    connect_timeout: Duration = Field(
        default=5.0,
        description="The time limit for opening a connection. It does not include the wait for an answer.",
    )
    response_timeout: Annotated[Duration | None, OFF] = Field(
        default=None,
        description="The time limit for the response headers of a plain request. Streams have their own "
        "`open_timeout`.",
    )
    frozen_after: Annotated[Duration | None, OFF] = Field(
        default=15.0,
        description="A server that accepts streams and answers none for so long counts as frozen. Then "
        "`/upstreams/NAME` of the admin listener is 503, for a liveness probe of the server. Choose a time "
        "longer than its slowest opening, and `off` if it sends the head only with the first event.",
    )
    tls: Annotated[UpstreamTls, NULL_IS_DEFAULTS] = Field(
        default=UpstreamTls(),
        description="The TLS settings for an `https://` server. Its certificate is always verified. If "
        "left out, the certificate authorities of the system are used.",
    )

    @property
    def address(self) -> UpstreamAddress:
        """The parts of `url`."""
        return parse_upstream(self.url)


class Match(Section):
    """The requests that a route handles. A key that is left out matches everything."""

    path: PathPattern = Field(
        description="The path: exact, or a prefix that ends in `/*`; `/*` alone matches every path. It is "
        "compared as received: percent-encoding, dots and doubled slashes are not changed.",
    )
    methods: Annotated[tuple[Method, ...], Strict(False), Field(min_length=1)] | None = Field(
        default=None,
        description="The methods, in upper case. If left out, every method matches.",
    )
    host: Annotated[
        Annotated[tuple[HostPattern, ...], Strict(False), Field(min_length=1)] | None,
        ONE_OR_MANY,
    ] = Field(
        default=None,
        description="The host names, one or a list, without a port. `*.example.com` matches every name "
        "below example.com. If left out, every host matches.",
    )

    def takes(self, *, method: str, host: str) -> bool:
        """Whether `method` and `host` match. `host` is the `Host` header without its port."""
        return (self.methods is None or method in self.methods) and (
            self.host is None or any(_host_takes(pattern, host.lower()) for pattern in self.host)
        )

    def takes_path(self, path: str) -> bool:
        """Whether `path`, as received, matches. The pattern `/*` also matches the `*` of `OPTIONS *`."""
        if self.path.endswith("/*"):
            return path.startswith(self.path[:-1]) or (path == "*" and self.path == "/*")
        return path == self.path

    def covers(self, other: Match) -> bool:
        """Whether this match includes every request that `other` matches."""
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
    """One route: its requests, their upstream, and the treatment of event streams."""

    name: Name = Field(
        description="The name of the route in metrics, logs and `/streams`. Every route needs a different "
        "name.",
    )
    match: Match = Field(
        description="The requests that this route handles. The first route that matches is used.",
    )
    upstream: str = Field(
        description="The name of the upstream for these requests. It must be one of `upstreams`.",
    )
    cors: Annotated[Cors | None, OFF, NULL_IS_DEFAULTS] = Field(
        default=None,
        description="The pages of other origins that may use the route; the proxy then owns the CORS "
        "headers. With off, upstream or a hop in front answers preflights and sets the headers. Only one "
        "of them may do so, because browsers refuse doubled headers.",
    )
    stream: Annotated[Stream | None, NULL_IS_DEFAULTS] = Field(
        default=None,
        description="The treatment of this route's event streams. An empty section has every default. If "
        "left out, event streams pass through unchanged.",
    )


class Settings(Section):
    """The whole configuration."""

    listen: Annotated[Annotated[tuple[Listen, ...], Strict(False), Field(min_length=1)], ONE_OR_MANY] = Field(
        default=(ListenAddress("0.0.0.0", 8080),),  # noqa: S104 - a proxy is there to be reached
        description="The addresses for clients: one address or a list. Each is `host:port`, `:port`, "
        "`[::1]:port` or `unix:/path`.",
    )
    reuse_port: bool = Field(
        default=False,
        description="Allows another process to listen on the same addresses, also for `admin`. "
        "So a new proxy can start before the old one ends, also on Unix sockets. Sockets of systemd do not "
        "need this key.",
    )
    tls: Annotated[ServerTls | None, OFF] = Field(
        default=None,
        description="The TLS certificate for clients, on every TCP address of `listen`. With off, the "
        "proxy uses plain HTTP. Unix sockets always use plain HTTP.",
    )
    admin: Annotated[Admin | None, OFF, NULL_IS_DEFAULTS] = Field(
        default=Admin(),
        description="The admin listener for metrics, health and status pages, on its own port. With off "
        "there are no metrics and no probes.",
    )
    logging: Annotated[Logging, NULL_IS_DEFAULTS] = Field(
        default=Logging(),
        description="The log on standard error. No level writes secrets.",
    )
    trusted_proxies: Annotated[tuple[Network, ...], Strict(False)] = Field(
        default=("127.0.0.0/8", "::1/128"),
        validate_default=True,
        description="The networks whose forwarding headers are trusted. Forwarding headers from other "
        "addresses are replaced, so that a client cannot forge its address.",
    )
    client_address: HeaderName = Field(
        default="X-Forwarded-For",
        description="The header in which trusted proxies name the client. The rightmost address that is "
        "not a trusted proxy counts.",
    )
    limits: Annotated[Limits, NULL_IS_DEFAULTS] = Field(
        default=Limits(),
        description="The limits of this instance. They protect it against overload.",
    )
    drain: Annotated[Drain, NULL_IS_DEFAULTS] = Field(
        default=Drain(),
        description="The shutdown after SIGTERM or SIGINT: how open streams are closed. A second signal "
        "stops the proxy at once.",
    )
    watch: bool = Field(
        default=True,
        description="Reloads the configuration when its file or a file named in it changes. SIGHUP always "
        "reloads it. An invalid configuration never replaces a valid one.",
    )
    upstreams: dict[Label, Upstream] = Field(
        min_length=1,
        description="The servers that receive the requests, by name. Routes refer to these names.",
    )
    defaults: Annotated[Stream, NULL_IS_DEFAULTS] = Field(
        default=Stream(),
        description="Values of `stream` for every stream route that does not set its own. They are merged "
        "key by key. They do not make a route a stream route.",
    )
    routes: Annotated[tuple[Route, ...], Strict(False)] = Field(
        min_length=1,
        description="The routes, first match first. A request without a matching route gets a 404.",
    )

    @property
    def files(self) -> dict[Path, str]:
        """The files that the configuration names, each with one of its keys. A change triggers a reload."""
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
