"""`check`: report every problem of a configuration."""

from __future__ import annotations

import argparse
import sys

from sse_keepalive_proxy.cli.common import CONFIGURATION, OK, Commands, add_config_flag

__all__ = ["add_to"]


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add this command to the parser."""
    parser = commands.add_parser(
        "check",
        help="validate a configuration",
        description="Validate a configuration as `run` does. Report every problem on stderr, one per line, "
        "with file and line. Open no socket and no connection.",
        allow_abbrev=False,
    )
    add_config_flag(parser)
    parser.add_argument("--strict", action="store_true", help="treat warnings as errors")
    parser.add_argument(
        "--print", action="store_true", dest="show", help="print the effective configuration without secrets"
    )
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Return exit code 0 if the configuration is valid, 78 if not, 2 without a configuration."""
    from dataclasses import replace

    from sse_keepalive_proxy.cli.configuration import load_or_say, report
    from sse_keepalive_proxy.config import Overrides, notes, to_yaml

    loaded = load_or_say(args.config, Overrides(), "check: no configuration: give -c FILE")
    if isinstance(loaded, int):
        return loaded
    if args.strict and loaded.warnings:
        report(replace(problem, warning=False) for problem in loaded.warnings)
        return CONFIGURATION
    report(loaded.warnings)
    for note in notes(loaded.settings):
        print(note, file=sys.stderr)
    if args.show:
        print(to_yaml(loaded.settings), end="")
    return OK
