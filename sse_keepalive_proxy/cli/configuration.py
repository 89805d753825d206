"""What the commands that read a configuration share: finding it, and saying what is wrong with it.

Imports `config`, and with it pydantic: a command imports this when it runs.
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
    """The configuration that flags and environment lead to, or an exit code once every problem has been
    said on stderr: 78, or 2 with `otherwise` when they name none.
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
    """The configuration that flags and environment lead to, None when they name none.

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
    """The configuration file that the flag, else the environment names."""
    path = file or os.environ.get(CONFIG_VARIABLE)
    return Path(path) if path else None


def report(problems: Iterable[Problem]) -> None:
    """One line each, on stderr."""
    for problem in problems:
        print(problem, file=sys.stderr)
