"""Shared by the commands: the exit codes, the type of the parser's commands, and a flag."""

from __future__ import annotations

import argparse

from sse_keepalive_proxy.environment import CONFIG_VARIABLE

__all__ = ["CONFIGURATION", "FAILED", "OK", "USAGE", "Commands", "add_config_flag"]

OK = 0
FAILED = 1
USAGE = 2
CONFIGURATION = 78
"""Exit code for a configuration error (EX_CONFIG of sysexits.h)."""

Commands = argparse._SubParsersAction  # noqa: SLF001 (argparse gives the type no other name)


def add_config_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag that names the configuration file."""
    parser.add_argument(
        "-c", "--config", metavar="FILE", help=f"the configuration file (default: {CONFIG_VARIABLE})"
    )
