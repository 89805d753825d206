"""`healthcheck`: for a container's HEALTHCHECK."""

from __future__ import annotations

import argparse
import http.client
import sys
import urllib.error
import urllib.request

from sse_keepalive_proxy.cli.common import FAILED, OK, Commands

__all__ = ["add_to"]

_DEFAULT = "http://127.0.0.1:9090/livez"
_TIMEOUT = 3.0


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add this command to the parser."""
    parser = commands.add_parser(
        "healthcheck",
        help="ask a running proxy whether it lives",
        description="Ask the admin listener of a running proxy whether it lives.",
        allow_abbrev=False,
    )
    parser.add_argument("--url", default=_DEFAULT, metavar="URL", help=f"what to ask ({_DEFAULT})")
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Exit code 0 for an answer with status 200, 1 for anything else."""
    if not args.url.startswith(("http://", "https://")):
        print(f"healthcheck: not an http URL: {args.url}", file=sys.stderr)
        return FAILED
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(args.url, timeout=_TIMEOUT) as response:
            status = response.status
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(f"healthcheck: {args.url}: {_why(error)}", file=sys.stderr)
        return FAILED
    if status != 200:
        print(f"healthcheck: {args.url}: status {status}", file=sys.stderr)
        return FAILED
    return OK


def _why(error: Exception) -> str:
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, OSError):
        return "what answers there does not speak HTTP"  # the error itself is what it said
    return str(error)
