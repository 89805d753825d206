"""The reference of the command line, from its parser."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from sse_keepalive_proxy.cli import build_parser
from sse_keepalive_proxy.cli.common import Commands

__all__ = ["markdown"]

_INTRODUCTION = """\
# Command line

<!-- Written by `make docs` from the parser. Do not edit. -->

Run `sse-keepalive-proxy COMMAND` or `python -m sse_keepalive_proxy COMMAND`. Flags override the environment,
and the environment overrides the file.

| exit code | meaning |
|---|---|
| 0 | success |
| 1 | the command failed: an address is not available, no route matches the URL, the proxy is not alive |
| 2 | wrong command line |
| 78 | wrong configuration |

With a file, `--upstream` replaces the URL of the file's upstream. If the file has several upstreams, this is
an error.
"""


def markdown() -> str:
    """Return the page."""
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
