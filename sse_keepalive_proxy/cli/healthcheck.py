"""`healthcheck`: the check for a container's HEALTHCHECK."""

from __future__ import annotations

import argparse
import http.client
import os
import sys
import urllib.error
import urllib.request

from sse_keepalive_proxy.cli.common import FAILED, OK, Commands, find_configuration
from sse_keepalive_proxy.config import ADMIN_LISTEN_VARIABLE, Admin, Overrides
from sse_keepalive_proxy.config.types.address import parse_listen
from sse_keepalive_proxy.errors import ConfigurationError

__all__ = ["add_to"]

_DEFAULT = "http://127.0.0.1:9090/livez"
_TIMEOUT = 3.0
_EVERYWHERE = {None: "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (asked at, not bound)


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add this command to the parser."""
    parser = commands.add_parser(
        "healthcheck",
        help="check that a running proxy is alive",
        description="Request `/livez` from the admin listener of a running proxy.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--url",
        metavar="URL",
        help=f"the URL to request (default: from environment and configuration, or {_DEFAULT})",
    )
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Return exit code 0 for status 200, 1 for any other result."""
    url: str | None = default_url() if args.url is None else args.url
    if url is None:
        print("healthcheck: the admin listener has no TCP address: give --url", file=sys.stderr)
        return FAILED
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


def default_url() -> str | None:
    """Return the URL of the admin listener, from the configuration that the environment names.

    None if the listener is off or a Unix socket. The default URL if there is no valid configuration.
    """
    try:
        loaded = find_configuration(None, Overrides())
        admin = Admin() if loaded is None else loaded.settings.admin
        listen = parse_listen(os.environ[ADMIN_LISTEN_VARIABLE]) if loaded is None else None
    except (ConfigurationError, ValueError, KeyError):
        return _DEFAULT
    if admin is None:
        return None
    address = listen or admin.listen
    if address.unix_path is not None:
        return None
    host = _EVERYWHERE.get(address.host, address.host)
    return f"http://{f'[{host}]' if host and ':' in host else host}:{address.port}/livez"


def _why(error: Exception) -> str:
    if isinstance(error, urllib.error.URLError):
        reason = error.reason
        return (reason.strerror if isinstance(reason, OSError) else None) or str(reason)
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, OSError):
        return "the answer is not HTTP"  # the text of the error would quote the answer
    return str(error)
