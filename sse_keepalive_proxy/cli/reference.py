"""The reference of the command line, out of its parser.

    python -m sse_keepalive_proxy.cli.reference

writes `docs/reference/cli.md`; a test fails when the committed file differs.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from sse_keepalive_proxy.cli import build_parser
from sse_keepalive_proxy.cli.common import Commands

__all__ = ["markdown"]

_FILE = Path(__file__).parent.parent.parent / "docs" / "reference" / "cli.md"

_INTRODUCTION = """\
# Command line

<!-- Written by `python -m sse_keepalive_proxy.cli.reference` from the parser. Do not edit. -->

`sse-keepalive-proxy COMMAND`, or `python -m sse_keepalive_proxy COMMAND`. Flags override the environment,
which overrides the file. Exit code 2 is a wrong command line, 78 a wrong configuration, 1 a failure in a
command's own terms: an address that cannot be listened on, a URL that no route answers, a proxy that
does not live.

`--upstream` with a file takes the place of the url of its only upstream; with several it is an error.
"""


def markdown() -> str:
    """The page."""
    return _INTRODUCTION + "".join(_sections(build_parser()))


def _sections(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:  # noqa: SLF001 (argparse shows its parsers nowhere else)
        if isinstance(action, Commands):
            for name, command in action.choices.items():
                yield _section(name, command)


def _section(name: str, command: argparse.ArgumentParser) -> str:
    usage = re.sub(r"\s+", " ", command.format_usage().removeprefix("usage: ")).strip()
    lines = [f"\n## {name}\n", f"```\n{usage}\n```\n", f"{command.description}\n"]
    rows = [
        f"| `{', '.join(action.option_strings) or action.metavar or action.dest}` | {action.help or ''} |"
        for action in command._actions  # noqa: SLF001
        if action.dest != "help"
    ]
    if rows:
        lines.append("| argument | meaning |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(lines)


if __name__ == "__main__":
    _FILE.write_text(markdown(), encoding="utf-8")
