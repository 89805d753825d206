"""`healthcheck`: the check for a container's HEALTHCHECK."""

from __future__ import annotations

import argparse
import os
import sys

from sse_keepalive_proxy.cli.common import FAILED, OK, Commands
from sse_keepalive_proxy.environment import ADMIN_LISTEN_VARIABLE, CONFIG_VARIABLE

__all__ = ["add_to"]

_LISTEN = "127.0.0.1:9090"
"""The default address of the admin listener."""

_DEFAULT = f"http://{_LISTEN}/livez"
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
    fault = _ask(url)
    if fault is not None:
        print(f"healthcheck: {url}: {fault}", file=sys.stderr)
        return FAILED
    return OK


def default_url() -> str | None:
    """Return the URL of the admin listener, from the environment or from the configuration that it names.

    None if the listener is off or a Unix socket. The default URL if there is no valid address.
    """
    from urllib.parse import urlsplit

    listen = os.environ.get(ADMIN_LISTEN_VARIABLE) or _configured()
    if listen == "off" or listen.startswith("unix:"):
        return None
    try:
        address = urlsplit(f"//{listen}")
        host, port = address.hostname, address.port
    except ValueError:
        return _DEFAULT
    if port is None:
        return _DEFAULT
    host = _EVERYWHERE.get(host, host)
    return f"http://{f'[{host}]' if host and ':' in host else host}:{port}/livez"


def _configured() -> str:
    """Return the address of the admin listener in the configuration file that the environment names.

    This costs as much as `check`. So a container sets the variable with the address.
    """
    file = os.environ.get(CONFIG_VARIABLE)
    if not file:
        return _LISTEN
    from pathlib import Path

    from sse_keepalive_proxy.config import load
    from sse_keepalive_proxy.errors import ConfigurationError

    try:
        admin = load(Path(file), environ=os.environ).settings.admin
    except ConfigurationError:
        return _LISTEN
    return "off" if admin is None else str(admin.listen)


def _ask(url: str) -> str | None:
    """Send a GET to `url`. Return None for status 200, otherwise the fault in one line."""
    import http.client
    import urllib.error
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_TIMEOUT) as response:
            return None if response.status == 200 else f"status {response.status}"
    except urllib.error.URLError as error:
        reason = error.reason
        return (reason.strerror if isinstance(reason, OSError) else None) or str(reason)
    except (OSError, ValueError) as error:
        return str(error)
    except http.client.BadStatusLine:
        return "the answer is not HTTP"  # the text of the error would quote the answer
    except http.client.HTTPException as error:
        return str(error)
