"""`healthcheck`: for a container's HEALTHCHECK."""

from __future__ import annotations

import argparse
import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping

from sse_keepalive_proxy.cli.common import FAILED, OK, Commands
from sse_keepalive_proxy.config import ADMIN_LISTEN_VARIABLE
from sse_keepalive_proxy.config.address import parse_listen

__all__ = ["add_to"]

_DEFAULT = "http://127.0.0.1:9090/livez"
_TIMEOUT = 3.0
_EVERYWHERE = {None: "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (asked at, not bound)


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add this command to the parser."""
    parser = commands.add_parser(
        "healthcheck",
        help="ask a running proxy whether it lives",
        description="Ask the admin listener of a running proxy whether it lives.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--url", metavar="URL", help=f"what to ask ({_DEFAULT}, or where {ADMIN_LISTEN_VARIABLE} says)"
    )
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Exit code 0 for an answer with status 200, 1 for anything else."""
    url: str = default_url(os.environ) if args.url is None else args.url
    if not url.startswith(("http://", "https://")):
        print(f"healthcheck: not an http URL: {url}", file=sys.stderr)
        return FAILED
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_TIMEOUT) as response:
            status = response.status
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(f"healthcheck: {url}: {_why(error)}", file=sys.stderr)
        return FAILED
    if status != 200:
        print(f"healthcheck: {url}: status {status}", file=sys.stderr)
        return FAILED
    return OK


def default_url(environ: Mapping[str, str]) -> str:
    """Where the admin listener is when only the environment says it: a container's case."""
    try:
        address = parse_listen(environ.get(ADMIN_LISTEN_VARIABLE))
    except ValueError:
        return _DEFAULT
    if address.unix_path is not None:
        return _DEFAULT
    host = _EVERYWHERE.get(address.host, address.host)
    return f"http://{f'[{host}]' if host and ':' in host else host}:{address.port}/livez"


def _why(error: Exception) -> str:
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, OSError):
        return "what answers there does not speak HTTP"  # the error itself is what it said
    return str(error)
