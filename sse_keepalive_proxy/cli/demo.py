"""`demo`: the story of a healed stream, on loopback, with nothing to set up."""

from __future__ import annotations

import argparse

from sse_keepalive_proxy.cli.common import Commands

__all__ = ["add_to"]


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add this command to the parser."""
    parser = commands.add_parser("demo", help="see a silent stream healed", allow_abbrev=False)
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    raise NotImplementedError
