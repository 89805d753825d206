"""`healthcheck`: for a container's HEALTHCHECK."""

from __future__ import annotations

import argparse
import os
import sys

from sse_keepalive_proxy.cli.common import FAILED, OK, Commands
from sse_keepalive_proxy.environment import ADMIN_LISTEN_VARIABLE, CONFIG_VARIABLE

__all__ = ["add_to"]

_LISTEN = "127.0.0.1:9090"
"""Where the admin listener is by default."""

_DEFAULT = f"http://{_LISTEN}/livez"
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
        "--url", metavar="URL", help=f"what to ask ({_DEFAULT}, or what environment and configuration say)"
    )
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Exit code 0 for an answer with status 200, 1 for anything else."""
    url: str | None = default_url() if args.url is None else args.url
    if url is None:
        print("healthcheck: the admin listener cannot be asked over TCP: give --url", file=sys.stderr)
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
    """Return the URL of the admin listener that the environment, else its configuration names; None when that
    is off or a Unix socket. Without a usable one, return the default's.
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
    """Return where the configuration file of the environment, if any, puts the admin listener.

    Reading it costs as much as `check`: a container sets the variable instead.
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
    """Return in one line what is wrong with the answer to a GET of `url`, None when its status is 200."""
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
        return "what answers there does not speak HTTP"  # the error itself is what it said
    except http.client.HTTPException as error:
        return str(error)
