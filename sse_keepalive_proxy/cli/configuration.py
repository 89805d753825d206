"""Shared by the commands with a configuration: find it and report its problems.

It imports `config` and so pydantic. Therefore a command imports this module only when it runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from sse_keepalive_proxy.cli.common import CONFIGURATION, USAGE
from sse_keepalive_proxy.config import Loaded, Overrides, from_upstream, load
from sse_keepalive_proxy.environment import CONFIG_VARIABLE, UPSTREAM_VARIABLE
from sse_keepalive_proxy.errors import ConfigurationError, Problem

__all__ = ["configuration_file", "load_or_say", "report"]


def load_or_say(file: str | None, overrides: Overrides, otherwise: str) -> Loaded | int:
    """Return the configuration that flags and environment name, or an exit code.

    With exit code 78 every problem has been reported on stderr. With exit code 2 there is no configuration,
    and `otherwise` has been printed.
    """
    try:
        loaded = _find(file, overrides)
    except ConfigurationError as error:
        report(error.problems)
        return CONFIGURATION
    if loaded is None:
        print(otherwise, file=sys.stderr)
        return USAGE
    return loaded


def _find(file: str | None, overrides: Overrides) -> Loaded | None:
    """Return the configuration that flags and environment name, or None.

    Raises `ConfigurationError`.
    """
    path = configuration_file(file)
    if path is not None:
        return load(path, environ=os.environ, overrides=overrides)
    upstream = overrides.upstream or os.environ.get(UPSTREAM_VARIABLE)
    if upstream:
        return from_upstream(upstream, environ=os.environ, overrides=overrides)
    return None


def configuration_file(file: str | None) -> Path | None:
    """Return the configuration file from the flag or, without it, from the environment."""
    path = file or os.environ.get(CONFIG_VARIABLE)
    return Path(path) if path else None


def report(problems: Iterable[Problem]) -> None:
    """Print each problem as a line on stderr."""
    for problem in problems:
        print(problem, file=sys.stderr)
