"""The configuration: its keys, its meaning, and the report of its problems.

Use `load` and `from_upstream`. They return only frozen, valid values.
"""

from __future__ import annotations

from sse_keepalive_proxy.config.dump import effective, to_yaml
from sse_keepalive_proxy.config.notes import notes
from sse_keepalive_proxy.config.reading.load import Loaded, from_upstream, load
from sse_keepalive_proxy.config.reading.overrides import Overrides
from sse_keepalive_proxy.config.sections.client import Cors
from sse_keepalive_proxy.config.sections.settings import (
    Admin,
    Drain,
    Limits,
    LogFormat,
    Logging,
    LogLevel,
    Match,
    Pages,
    Route,
    Settings,
    Upstream,
)
from sse_keepalive_proxy.config.sections.stream import Stream
from sse_keepalive_proxy.config.sections.tls import ServerTls, UpstreamTls
from sse_keepalive_proxy.config.types.address import ListenAddress, UpstreamAddress
from sse_keepalive_proxy.config.types.paths import PathTable

__all__ = [
    "Admin",
    "Cors",
    "Drain",
    "Limits",
    "ListenAddress",
    "Loaded",
    "LogFormat",
    "LogLevel",
    "Logging",
    "Match",
    "Overrides",
    "Pages",
    "PathTable",
    "Route",
    "ServerTls",
    "Settings",
    "Stream",
    "Upstream",
    "UpstreamAddress",
    "UpstreamTls",
    "effective",
    "from_upstream",
    "load",
    "notes",
    "to_yaml",
]
