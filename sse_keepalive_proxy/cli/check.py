"""`check`: every problem of a configuration, without opening anything."""

from __future__ import annotations

import argparse

from sse_keepalive_proxy.cli.common import CONFIGURATION, OK, Commands
from sse_keepalive_proxy.environment import CONFIG_VARIABLE

__all__ = ["add_to"]


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add this command to the parser."""
    parser = commands.add_parser(
        "check",
        help="validate a configuration",
        description="The same validation as `run`: all problems at once, one a line on stderr, with file "
        "and line. Nothing is opened or connected to.",
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--config", metavar="FILE", help=f"the configuration (or {CONFIG_VARIABLE})")
    parser.add_argument("--strict", action="store_true", help="warnings are errors")
    parser.add_argument(
        "--print", action="store_true", dest="show", help="show the effective configuration, redacted"
    )
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Exit code 0 when valid, 78 when not, 2 when no file was named."""
    from dataclasses import replace

    from sse_keepalive_proxy.cli.configuration import load_or_say, report
    from sse_keepalive_proxy.config import Overrides, to_yaml

    loaded = load_or_say(args.config, Overrides(), "check: nothing to check: give -c FILE")
    if isinstance(loaded, int):
        return loaded
    if args.strict and loaded.warnings:
        report(replace(problem, warning=False) for problem in loaded.warnings)
        return CONFIGURATION
    report(loaded.warnings)
    if args.show:
        print(to_yaml(loaded.settings), end="")
    return OK
