"""The configuration: what may be written, what it means, and what is wrong with it.

`load` and `from_upstream` are the ways in; everything they return is frozen and valid.
"""

from __future__ import annotations

from sse_keepalive_proxy.config.address import ListenAddress, UpstreamAddress
from sse_keepalive_proxy.config.client import Cors
from sse_keepalive_proxy.config.dump import effective, to_yaml
from sse_keepalive_proxy.config.load import Loaded, from_upstream, load
from sse_keepalive_proxy.config.model import (
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
from sse_keepalive_proxy.config.overrides import (
    ADMIN_LISTEN_VARIABLE,
    CONFIG_VARIABLE,
    UPSTREAM_VARIABLE,
    VARIABLES,
    Overrides,
)
from sse_keepalive_proxy.config.paths import PathTable
from sse_keepalive_proxy.config.stream_section import Stream

__all__ = [
    "ADMIN_LISTEN_VARIABLE",
    "CONFIG_VARIABLE",
    "UPSTREAM_VARIABLE",
    "VARIABLES",
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
    "Settings",
    "Stream",
    "Upstream",
    "UpstreamAddress",
    "effective",
    "from_upstream",
    "load",
    "to_yaml",
]
