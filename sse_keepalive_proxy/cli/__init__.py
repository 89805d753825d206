"""The command line: one file for each command.

A command imports its modules when it runs. So a health check does not load the other commands.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sse_keepalive_proxy import __version__
from sse_keepalive_proxy.build import BUILD
from sse_keepalive_proxy.cli import check, demo, healthcheck, routes, run

__all__ = ["build_parser", "main"]

_COMMANDS = (run, check, routes, healthcheck, demo)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line. The CLI reference is generated from it."""
    parser = argparse.ArgumentParser(
        prog="sse-keepalive-proxy",
        description="A reverse proxy that keeps server-sent event streams alive.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"sse-keepalive-proxy {__version__} ({BUILD})")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_to(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` and return its exit code. A wrong command line exits with 2."""
    args = build_parser().parse_args(argv)
    try:
        code: int = args.execute(args)
    except KeyboardInterrupt:
        return 130
    return code
