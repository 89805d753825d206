"""The names of the environment variables that take the place of flags and of keys of the configuration.

Here, and not in `config`, so that a command that reads nothing else need not load that.
"""

from __future__ import annotations

__all__ = [
    "ADMIN_LISTEN_VARIABLE",
    "CONFIG_VARIABLE",
    "LISTEN_VARIABLE",
    "LOG_FORMAT_VARIABLE",
    "LOG_LEVEL_VARIABLE",
    "UPSTREAM_VARIABLE",
]

_PREFIX = "SSE_KEEPALIVE_PROXY_"
CONFIG_VARIABLE = f"{_PREFIX}CONFIG"
UPSTREAM_VARIABLE = f"{_PREFIX}UPSTREAM"
LISTEN_VARIABLE = f"{_PREFIX}LISTEN"
ADMIN_LISTEN_VARIABLE = f"{_PREFIX}ADMIN_LISTEN"
LOG_LEVEL_VARIABLE = f"{_PREFIX}LOG_LEVEL"
LOG_FORMAT_VARIABLE = f"{_PREFIX}LOG_FORMAT"
